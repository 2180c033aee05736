//! From a push to the commit, and what the receiver may do on the way.

use std::time::{Duration, Instant};

use k8s_openapi::api::{core::v1::Secret, events::v1::Event, rbac::v1::RoleBinding};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use pilothouse::api::{Forge, Repository};
use serde_json::{Value, json};

use super::{
    forges,
    world::{TOKEN, World},
};
use crate::common::{controller::eventually, git_server::Asked};

fn condition(status: &pilothouse::api::RepositoryStatus, kind: &str) -> String {
    let found = status.conditions.iter().find(|c| c.type_ == kind);
    found.map(|c| format!("{} {}", c.status, c.reason)).unwrap_or_default()
}

#[tokio::test]
async fn a_push_is_there_at_once_though_the_interval_is_an_hour() {
    let mut world = World::new().await;
    let audit = world.cluster.audit().later();
    let git = world.server.repository("r.git");
    let first = git.commit("main", &[("a", "1")]);
    world.repository("r", "GitHub", json!({"branch": "main"})).await;

    // Without the Secret the remote is followed all the same, and a condition says what is missing.
    world.fetched("r", &first).await;
    let missing =
        |s: pilothouse::api::RepositoryStatus| (condition(&s, "WebhookReady") == "False SecretNotFound").then_some(s);
    let status = world.status("r", "SecretNotFound", missing).await;
    assert_eq!((condition(&status, "Ready").as_str(), status.webhook_path), ("True Fetched", None));
    world.secret("hook", "too short").await;
    let short =
        |s: pilothouse::api::RepositoryStatus| (condition(&s, "WebhookReady") == "False SecretInvalid").then_some(());
    world.status("r", "SecretInvalid", short).await;
    world.secret("hook", TOKEN).await;
    let path = world.path("r", None).await;

    // Pushes, and a delivery of each.
    let mut times = vec![];
    for n in 0..5 {
        let commit = git.commit("main", &[("a", &format!("2{n}"))]);
        let start = Instant::now();
        let signed = forges::push(Forge::GitHub, "main", &commit).signed(TOKEN);
        assert_eq!(world.deliver(&path, &signed).await.0, 202);
        world.fetched("r", &commit).await;
        times.push(start.elapsed());
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    times.sort();
    println!("delivery to commit in the status: median {:?}, longest {:?}", times[2], times[4]);

    // The receiver wrote the annotation and nothing else, and read no more than its rights say.
    let user = world.receiver_user();
    let object = format!("{}/repositories/r", world.namespace);
    let writes: Vec<_> = audit.writes(&user).iter().map(|w| (w.verb.clone(), w.object(), w.code())).collect();
    assert_eq!(writes, vec![("patch".to_owned(), object, 200); 5]);
    let mut asked: Vec<_> = audit.requests(&user).iter().map(|r| format!("{} {}", r.verb, r.object())).collect();
    asked.sort();
    asked.dedup();
    let namespace = &world.namespace;
    let all = ["get", "list", "patch", "watch"].map(|verb| match verb {
        "get" => format!("get {namespace}/secrets/hook"),
        "patch" => format!("patch {namespace}/repositories/r"),
        _ => format!("{verb} {namespace}/repositories"),
    });
    assert!(asked.iter().all(|one| all.contains(one)), "{asked:?}");
    let fields: Vec<Value> = world
        .api()
        .get("r")
        .await
        .unwrap()
        .metadata
        .managed_fields
        .unwrap()
        .into_iter()
        .filter(|m| m.manager.as_deref() == Some("pilothouse-receiver"))
        .map(|m| m.fields_v1.unwrap().0)
        .collect();
    let own = json!({"f:metadata": {"f:annotations": {".": {}, "f:pilothouse.dev/reconcile-at": {}}}});
    assert_eq!(fields, [own]);

    // Another token, another path: the old one is nobody's.
    world.secret("hook", "another horse battery staple").await;
    let next = world.status("r", "another path", |s| s.webhook_path.filter(|p| *p != path)).await;
    let signed = |n: u8| forges::push(Forge::GitHub, "main", &n.to_string()).signed("another horse battery staple");
    eventually("the new path", 30, || async { (world.deliver(&next, &signed(1)).await.0 == 202).then_some(()) }).await;
    assert_eq!(world.deliver(&path, &signed(2)).await.0, 404);

    // Suspended: nothing is asked for. Without a webhook: nobody's path.
    world.patch("r", json!({"spec": {"suspend": true}})).await;
    let suspended = "the Repository is suspended";
    let mut n = 10;
    eventually(suspended, 30, || {
        n += 1;
        let delivery = signed(n);
        let (world, next) = (&world, &next);
        async move { (world.deliver(next, &delivery).await.1 == suspended).then_some(()) }
    })
    .await;
    world.patch("r", json!({"spec": {"webhook": null}})).await;
    world.status("r", "no path", |s| s.webhook_path.is_none().then_some(())).await;
    let status = world.api().get("r").await.unwrap().status.unwrap();
    assert_eq!(condition(&status, "WebhookReady"), "");
    assert_eq!(world.deliver(&next, &signed(3)).await.0, 404);
    for log in [world.receiver.log(), world.controller.log()] {
        assert!(!log.contains(TOKEN) && !log.contains("another horse") && !log.contains(&path), "a secret is shown");
    }
    assert!(world.receiver.stop(), "{}", world.receiver.log());
}

#[tokio::test]
async fn a_flood_is_few_writes_and_one_listing_at_a_time() {
    let world = World::new().await;
    let git = world.server.repository("r.git");
    let first = git.commit("main", &[("a", "1")]);
    world.secret("hook", TOKEN).await;
    // Two Repositories of one remote: one poller.
    world.repository("r", "GitHub", json!({"branch": "main"})).await;
    world.repository("twin", "GitLab", json!({"branch": "main"})).await;
    for name in ["r", "twin"] {
        world.fetched(name, &first).await;
    }
    let path = world.path("r", None).await;
    // A greeting and a listing take 400 ms each.
    world.server.behave(|b| b.delay = Duration::from_millis(400));
    world.server.forget();
    let audit = world.cluster.audit().later();
    let start = Instant::now();
    let mut last = String::new();
    for round in 0..4 {
        let commits: Vec<_> = (0..50).map(|n| format!("{round:02x}{n:02x}").repeat(10)).collect();
        let pushes: Vec<_> = commits.iter().map(|c| forges::push(Forge::GitHub, "main", c).signed(TOKEN)).collect();
        last = git.commit("main", &[("a", &format!("x{round}"))]);
        let sent = pushes.iter().map(|signed| world.deliver(&path, signed));
        for (status, words) in futures::future::join_all(sent).await {
            assert_eq!(status, 202, "{words}");
        }
    }
    // The last push is never lost, and what polls for one tells the other.
    for name in ["r", "twin"] {
        world.fetched(name, &last).await;
    }
    let seconds = usize::try_from(start.elapsed().as_secs()).unwrap();
    let writes = audit.writes(&world.receiver_user()).len();
    let listings = world.server.count(Asked::Listing);
    println!("200 deliveries in {seconds} s: {writes} writes, {listings} listings");
    assert!((4..=seconds + 2).contains(&writes), "{writes} writes in {seconds} s");
    assert!(listings <= writes + 1, "{listings} listings for {writes} writes");
    let most = start.elapsed().as_millis() / 800 + 1;
    assert!((listings as u128) <= most, "{listings} listings one after the other need more than {:?}", start.elapsed());
}

#[tokio::test]
async fn the_receiver_s_account_can_do_nothing_else() {
    let world = World::new().await;
    world.server.repository("r.git").commit("main", &[("a", "1")]);
    world.secret("hook", TOKEN).await;
    world.repository("r", "GitHub", Value::Null).await;
    world.path("r", None).await;
    world.patch("r", json!({"metadata": {"annotations": {"of": "another"}, "labels": {"team": "a"}}})).await;
    let client = world.as_receiver().await;
    let repositories: Api<Repository> = Api::namespaced(client.clone(), &world.namespace);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &world.namespace);
    let patch = |body: Value| {
        let repositories = repositories.clone();
        async move { repositories.patch("r", &PatchParams::default(), &Patch::Merge(body)).await }
    };
    // A policy works some moments after it was made; until then each attempt must be a change.
    let mut attempt = 0;
    eventually("the policy works", 60, || {
        attempt += 1;
        let refused = patch(json!({"spec": {"url": format!("https://evil.example.com/{attempt}")}}));
        async { refused.await.is_err().then_some(()) }
    })
    .await;
    world.patch("r", json!({"spec": {"url": world.server.url("r.git")}})).await;
    for (body, words) in [
        (json!({"spec": {"url": "https://evil.example.com/r"}}), "may not change spec"),
        (json!({"spec": {"suspend": true}}), "may not change spec"),
        (json!({"metadata": {"annotations": {"other": "x"}}}), "may only set the annotation"),
        (json!({"metadata": {"annotations": {"of": "x"}}}), "may only set the annotation"),
        (json!({"metadata": {"annotations": {"of": null}}}), "may only set the annotation"),
        (json!({"metadata": {"labels": {"team": "b"}}}), "may not change labels"),
        (json!({"metadata": {"finalizers": ["example.com/hold"]}}), "may not change labels"),
    ] {
        let error = patch(body.clone()).await.unwrap_err().to_string();
        assert!(error.contains(words), "{body}: {error}");
    }
    patch(json!({"metadata": {"annotations": {"pilothouse.dev/reconcile-at": "now"}}})).await.unwrap();
    let status = Patch::Merge(json!({"status": {"webhookPath": "/hooks/x"}}));
    let forbidden = [
        repositories.patch_status("r", &PatchParams::default(), &status).await.map(drop),
        repositories.delete("r", &kube::api::DeleteParams::default()).await.map(drop),
        secrets.list(&ListParams::default()).await.map(drop),
        secrets.patch("hook", &PatchParams::default(), &Patch::Merge(json!({}))).await.map(drop),
        Api::<Event>::namespaced(client.clone(), &world.namespace).list(&ListParams::default()).await.map(drop),
        Api::<Secret>::namespaced(client.clone(), &world.release.namespace).get("hook").await.map(drop),
        Api::<Secret>::namespaced(client, &world.namespace)
            .create(&PostParams::default(), &Secret::default())
            .await
            .map(drop),
    ];
    for (n, result) in forbidden.into_iter().enumerate() {
        let error = result.unwrap_err().to_string();
        assert!(error.contains("orbidden") || error.contains("cannot"), "{n}: {error}");
    }
}

#[tokio::test]
async fn what_the_cluster_did_not_take_may_be_delivered_again() {
    let world = World::new().await;
    world.server.repository("r.git").commit("main", &[("a", "1")]);
    world.secret("hook", TOKEN).await;
    world.repository("r", "GitHub", Value::Null).await;
    let path = world.path("r", None).await;
    // The right to write is taken away for a time.
    let bindings: Api<RoleBinding> = Api::namespaced(world.client.clone(), &world.namespace);
    let name = format!("{}:{}:receiver", world.release.name, world.release.namespace);
    let mut binding = bindings.get(&name).await.unwrap();
    bindings.delete(&name, &kube::api::DeleteParams::default()).await.unwrap();
    let mut n = 0;
    let signed = eventually("the right is gone", 30, || {
        n += 1;
        let signed = forges::push(Forge::GitHub, "main", &format!("{n:040}")).signed(TOKEN);
        let (world, path) = (&world, &path);
        async move { (world.deliver(path, &signed).await.0 == 503).then_some(signed) }
    })
    .await;
    binding.metadata.resource_version = None;
    binding.metadata.uid = None;
    bindings.create(&PostParams::default(), &binding).await.unwrap();
    eventually("the same delivery again", 30, || async {
        (world.deliver(&path, &signed).await.0 == 202).then_some(())
    })
    .await;
    assert_eq!(world.deliver(&path, &signed).await, (200, "seen before".into()));
}

#[tokio::test]
async fn a_path_that_another_one_claims_stays_its_owner_s() {
    let mut world = World::new().await;
    world.server.repository("r.git").commit("main", &[("a", "1")]);
    world.secret("hook", TOKEN).await;
    for name in ["owner", "thief"] {
        world.repository(name, "GitHub", Value::Null).await;
    }
    world.secret("theirs", "the token of a thief").await;
    world.patch("thief", json!({"spec": {"webhook": {"secretRef": {"name": "theirs"}}}})).await;
    let path = world.path("owner", None).await;
    // Somebody writes the owner's path into another status, and no controller corrects it.
    assert!(world.controller.stop());
    let claim = Patch::Merge(json!({"status": {"webhookPath": path}}));
    world.api().patch_status("thief", &PatchParams::default(), &claim).await.unwrap();
    // The owner is taken up after the thief: order decides nothing.
    world.patch("owner", json!({"metadata": {"labels": {"touched": "yes"}}})).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let push = |n: u8| forges::push(Forge::GitHub, "main", &n.to_string());
    assert_eq!(world.deliver(&path, &push(1).signed("the token of a thief")).await.0, 404);
    assert_eq!(world.deliver(&path, &push(2).signed(TOKEN)).await.0, 202);
    let asked = |name: &'static str| {
        let api = world.api();
        async move { api.get(name).await.unwrap().metadata.annotations.unwrap_or_default() }
    };
    assert!(asked("owner").await.contains_key("pilothouse.dev/reconcile-at"));
    assert!(!asked("thief").await.contains_key("pilothouse.dev/reconcile-at"));
}
