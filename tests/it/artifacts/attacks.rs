//! What somebody gets who wants what is another's.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

struct Scene {
    fleet: Fleet,
    leader: Replica,
    ours: String,
    theirs: String,
    /// Of `coder` in our namespace, and of `spy` there, and of `coder` in theirs.
    agents: Vec<(Agent, Reader)>,
    /// One for each.
    stored: [Stored; 3],
}

impl Scene {
    async fn new() -> Self {
        let cluster = control_plane();
        let (ours, theirs) = (cluster.namespace("ours").await, cluster.namespace("theirs").await);
        let fleet = Fleet::new(&[ours.clone(), theirs.clone()]).await;
        let leader = fleet.replica("scene", None, None);
        leader.leads().await;
        let mut agents = vec![];
        for (namespace, name) in [(&ours, "coder"), (&ours, "spy"), (&theirs, "coder")] {
            agents.push(Box::pin(fleet.agent(namespace, name)).await);
        }
        let stored = ["1", "2", "3"].map(|text| leader.put(&[("a", text)]));
        for ((namespace, (agent, reader)), stored) in [&ours, &ours, &theirs].into_iter().zip(&agents).zip(&stored) {
            fleet.refer(namespace, agent, &[stored.digest]).await;
            fleet.served(&leader, &reader.token, &stored.digest).await;
        }
        Self { fleet, leader, ours, theirs, agents, stored }
    }

    async fn status(&self, token: &str, digest: &Digest) -> u16 {
        self.fleet.get(&self.leader, token, digest).await.0
    }

    /// Writes the spy's ConfigMap of content with this seal.
    async fn content(&self, spy: &Agent, digest: &Digest, seal: &str) {
        let name = format!("{}-server-content", spy.name_any());
        let mut body = map(&self.fleet.seal().await, &name, &spy.name_any(), spy, &[*digest]);
        body["metadata"]["annotations"]["pilothouse.dev/artifacts-seal"] = json!(seal);
        let maps = self.fleet.api::<ConfigMap>(&self.ours);
        maps.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(body)).await.unwrap();
    }

    /// Waits until the caches have what was written in our namespace so far: one watch brings all in order.
    async fn caches_are_new(&self, n: usize, mark: &str) {
        let later = self.leader.put(&[("mark", mark)]);
        self.fleet.refer(&self.ours, &self.agents[n].0, &[self.stored[n].digest, later.digest]).await;
        self.fleet.served(&self.leader, self.token(n), &later.digest).await;
    }

    fn token(&self, n: usize) -> &str {
        &self.agents[n].1.token
    }
}

fn rcgen_key() -> String {
    rcgen::KeyPair::generate().unwrap().serialize_pem()
}

#[tokio::test]
async fn a_pod_reads_what_its_own_agent_names_and_nothing_else() {
    let scene = Scene::new().await;
    let Scene { fleet, leader, stored, .. } = &scene;
    let unknown = Digest::of(b"nobody has this");
    let answer = |token: &str, digest: Digest| {
        let (token, port) = (token.to_owned(), leader.port);
        async move { fleet.ask(port, &token, Method::GET, &path(&digest)).await.unwrap() }
    };
    let none = answer(scene.token(0), unknown).await;
    assert_eq!(none.status(), 404);
    for (reader, stored) in [(1, 0), (2, 0), (0, 1), (0, 2)].map(|(reader, n)| (scene.token(reader), stored[n].digest))
    {
        let denied = answer(reader, stored).await;
        let but_date = |answer: &Response<Bytes>| {
            let mut headers = answer.headers().clone();
            headers.remove("date");
            (answer.status(), headers, answer.body().clone())
        };
        assert_eq!(but_date(&denied), but_date(&none), "nobody learns that it exists");
    }

    // A ConfigMap of the right name grants nothing unless the Agent owns it; nor does a right one in another namespace.
    let (victim, spy) = (&scene.agents[0].0, &scene.agents[1].0);
    let foreign = [
        ("spy-server-files-x", "spy", victim),
        ("spy-server-files-y", "coder", spy),
        ("other", "spy", spy),
        ("coder-server-content", "spy", spy),
    ];
    let seal = fleet.seal().await;
    for (name, label, owner) in foreign {
        let body = map(&seal, name, label, owner, &[stored[0].digest]);
        let maps = fleet.api::<ConfigMap>(&scene.ours);
        let _ = maps.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(body)).await.unwrap();
    }
    let mut ownerless = map(&seal, "spy-server-files-z", "spy", spy, &[stored[0].digest]);
    ownerless["metadata"]["ownerReferences"] = json!([]);
    fleet.create::<ConfigMap>(&scene.ours, ownerless).await;
    scene.caches_are_new(1, "foreign").await;
    assert_eq!(scene.status(scene.token(1), &stored[0].digest).await, 404);

    // Nor does one that somebody wrote who has seen the digest: without a seal, with one of a text of before, of
    // another agent, of another namespace, or of his own.
    let own = Seal::new(&rcgen_key()).unwrap();
    let (digests, uid) = (stored[0].digest.to_string(), spy.uid().unwrap());
    let forged = [
        String::new(),
        seal.of(Purpose::Artifacts, &scene.ours, &uid, &stored[1].digest.to_string()),
        seal.of(Purpose::Artifacts, &scene.ours, &victim.uid().unwrap(), &digests),
        seal.of(Purpose::Artifacts, &scene.theirs, &uid, &digests),
        seal.of(Purpose::Pieces, &scene.ours, &uid, &digests),
        own.of(Purpose::Artifacts, &scene.ours, &uid, &digests),
    ];
    let name = "spy-server-content";
    for (n, forged) in forged.into_iter().enumerate() {
        scene.content(spy, &stored[0].digest, &forged).await;
        scene.caches_are_new(1, &format!("forged {n}")).await;
        assert_eq!(scene.status(scene.token(1), &stored[0].digest).await, 404, "{n}");
    }
    let right = map(&seal, name, "spy", spy, &[stored[0].digest]);
    let right = right["metadata"]["annotations"]["pilothouse.dev/artifacts-seal"].as_str().unwrap().to_owned();
    scene.content(spy, &stored[0].digest, &right).await;
    fleet.served(leader, scene.token(1), &stored[0].digest).await; // so it was the seal

    // A pod that somebody gave the label is not the agent's.
    let labels = json!({"pilothouse.dev/agent": "coder", "app.kubernetes.io/component": "server"});
    let mut tokens = vec![];
    for name in ["labelled", "coder-server-6c9f-x1b2c"] {
        let body = json!({"metadata": {"name": name, "labels": labels},
            "spec": {"containers": [{"name": "c", "image": "none"}]}});
        let pod = fleet.create::<Pod>(&scene.ours, body).await;
        tokens.push(fleet.token(&pod, "pilothouse").await);
    }
    // The caches have them once they have what came later.
    let (late, reader) = fleet.agent(&scene.ours, "late").await;
    fleet.refer(&scene.ours, &late, &[stored[0].digest]).await;
    fleet.served(leader, &reader.token, &stored[0].digest).await;
    for token in tokens {
        assert_eq!(scene.status(&token, &stored[0].digest).await, 404);
    }
    // What an agent does not name any more it cannot read any more.
    fleet.refer(&scene.ours, victim, &[stored[1].digest]).await;
    fleet.served(leader, scene.token(0), &stored[1].digest).await;
    assert_eq!(scene.status(scene.token(0), &stored[0].digest).await, 404);
}

#[tokio::test]
async fn only_a_token_for_us_of_a_pod_that_lives_opens_anything() {
    let scene = Scene::new().await;
    let Scene { fleet, leader, stored, .. } = &scene;
    let digest = &stored[0].digest;
    let pod = &scene.agents[0].1.pod;
    let good = scene.token(0);
    assert_eq!(scene.status(good, digest).await, 200);
    let unbound = fleet.cluster.token_of(&scene.ours, "default").await;
    let foreign = fleet.token(pod, "https://kubernetes.default.svc").await;
    let cut = &good[..good.len() - 8];
    for token in ["", "garbage", &unbound, &foreign, cut, &format!("{cut}AAAAAAAA")] {
        assert_eq!(scene.status(token, digest).await, 401, "{} characters", token.len());
    }
    // The controller's own account reads everything; another account of its namespace does not.
    let own = std::fs::read_to_string(fleet.token_file()).unwrap();
    for stored in stored {
        assert_eq!(scene.status(&own, &stored.digest).await, 200);
    }
    assert_eq!(scene.status(&own, &Digest::of(b"nobody has this")).await, 404);
    let neighbour =
        json!({"metadata": {"name": "neighbour"}, "spec": {"containers": [{"name": "c", "image": "none"}]}});
    let neighbour = fleet.create::<Pod>(&fleet.release.namespace, neighbour).await;
    let neighbour = fleet.token(&neighbour, "pilothouse").await;
    assert_eq!(scene.status(&neighbour, digest).await, 404);
    // An account of the same name elsewhere is not the controller's.
    let account = json!({"metadata": {"name": fleet.release.name}});
    fleet.create::<ServiceAccount>(&scene.theirs, account).await;
    let body = json!({"metadata": {"name": "impostor"}, "spec": {
        "serviceAccountName": fleet.release.name, "containers": [{"name": "c", "image": "none"}]}});
    let impostor = fleet.create::<Pod>(&scene.theirs, body).await;
    let impostor = fleet.token(&impostor, "pilothouse").await;
    assert_eq!(scene.status(&impostor, digest).await, 404);
    leader.metric("pilothouse_artifact_requests_total{result=\"unauthenticated\"}", |n| n == 6).await;

    // A pod that is gone reads nothing more, although its token was believed a moment ago.
    let pods = fleet.api::<Pod>(&scene.theirs);
    let gone = &scene.agents[2].1;
    pods.delete(&gone.pod.name_any(), &kube::api::DeleteParams::default().grace_period(0)).await.unwrap();
    eventually("a pod that is gone is nobody", 30, || async {
        (scene.status(&gone.token, &stored[2].digest).await == 404).then_some(())
    })
    .await;
}

#[tokio::test]
async fn paths_and_methods_lead_nowhere_else() {
    let scene = Scene::new().await;
    let Scene { fleet, leader, stored, .. } = &scene;
    let (token, hex) = (scene.token(0), stored[0].digest.hex());
    let ask = async |method: Method, path: &str| fleet.ask(leader.port, token, method, path).await.unwrap();
    for path in [
        "/artifacts/".to_owned(),
        format!("/artifacts/{hex}/"),
        format!("/artifacts//{hex}"),
        format!("/artifacts/{hex}?"),
        format!("/artifacts/{hex}?x=1"),
        format!("/artifacts/{hex}.tar"),
        format!("/artifacts/{}", hex.to_uppercase()),
        format!("/artifacts/../artifacts/{hex}"),
        format!("/artifacts/%2e%2e/artifacts/{hex}"),
        format!("/artifacts/{}/{hex}.tar", &hex[..2]),
        "/artifacts/..%2f..%2f..%2fetc%2fpasswd".to_owned(),
        "/artifacts/../../git".to_owned(),
    ] {
        assert_eq!(ask(Method::GET, &path).await.status(), 404, "{path}");
    }
    for path in ["/", "/artifacts", &format!("//artifacts/{hex}"), "/metrics"] {
        assert_eq!(ask(Method::GET, path).await.status(), 426, "{path}: that is for sidecars");
    }
    let wanted = format!("/artifacts/{hex}");
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        assert_eq!(ask(method.clone(), &wanted).await.status(), 405, "{method}");
    }
    let (head, get) = (ask(Method::HEAD, &wanted).await, ask(Method::GET, &wanted).await);
    for name in ["content-length", "etag", "cache-control", "content-type"] {
        assert_eq!(head.headers()[name], get.headers()[name], "{name}");
    }
    assert_eq!(get.headers()["etag"], format!("\"{}\"", stored[0].digest));
    assert_eq!(get.headers()["content-length"], stored[0].size.to_string());
    assert!(head.body().is_empty() && Digest::of(get.body()) == stored[0].digest);
}

#[tokio::test]
async fn who_reads_slowly_is_cut_and_nobody_waits_for_him() {
    let scene = Scene::new().await;
    let Scene { fleet, leader, .. } = &scene;
    // More than the kernel takes for somebody who does not read.
    let text = "0123456789abcdef".repeat(1 << 20);
    let big = leader.put(&[("big", &text), ("more", &text)]);
    fleet.refer(&scene.ours, &scene.agents[0].0, &[big.digest]).await;
    eventually("it may be read", 30, || async {
        let head = fleet.ask(leader.port, scene.token(0), Method::HEAD, &path(&big.digest)).await?;
        (head.status() == 200).then_some(())
    })
    .await;
    let endpoint = fleet.endpoint(leader.port, scene.token(0)).await;
    let request = format!(
        "GET {} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\r\n",
        path(&big.digest),
        scene.token(0)
    );
    let mut slow = vec![];
    while slow.len() < 8 {
        // Connections that are about to say who they are have few places.
        let Ok(mut stream) = endpoint.dial(None).await else { continue };
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        slow.push(stream);
    }
    // This pod has all its places; other pods have theirs.
    assert_eq!(scene.status(scene.token(0), &big.digest).await, 503);
    let begun = std::time::Instant::now();
    assert_eq!(scene.status(scene.token(1), &scene.stored[1].digest).await, 200);
    assert!(begun.elapsed() < Duration::from_secs(10));
    // They are cut, not served to the end: then there is room again.
    eventually("a place is free again", 60, || async {
        let head = fleet.ask(leader.port, scene.token(0), Method::HEAD, &path(&big.digest)).await?;
        (head.status() == 200).then_some(())
    })
    .await;
    // Who began last may have time left: then it is served as fast as it reads from now on.
    let mut cut = 0;
    for mut stream in slow {
        let mut all = vec![];
        let _ = stream.read_to_end(&mut all).await; // cut without the word that ends TLS
        cut += usize::from((all.len() as u64) < big.size);
    }
    assert!(cut > 0, "the place that is free was served to the end");
}
