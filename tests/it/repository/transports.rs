//! Every transport, credential and kind of reference, through the object; and who shares a look.

use pilothouse::api::Agent;

use super::*;
use crate::common::git_server::{Repository as Bare, SshServer};

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn utf8(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

impl World {
    /// A Repository that names a Secret of its own name with these keys, if there are any.
    async fn follow(&self, name: &str, url: &str, reference: Value, secret: &[(&str, &str)]) {
        let mut spec = json!({"url": url, "interval": "1h", "ref": reference});
        if !secret.is_empty() {
            self.secret(name, secret).await;
            spec["secretRef"] = json!({"name": name});
        }
        self.create(name, spec).await;
    }

    async fn refused(&self, name: &str, reason: &str) {
        let status = self.ready(name, reason, |_, found, _| found == reason).await;
        assert_eq!(status.artifact, None, "{name} got something");
    }
}

#[tokio::test]
async fn each_transport_and_each_reference() {
    let namespace = control_plane().namespace("transports").await;
    let world = World::among(&[namespace], &["--allow-file-repositories"]).await;
    let (tls, folder) = (GitServer::https(), tempfile::tempdir().unwrap());
    let bare = Bare::create(&folder.path().join("r.git"));
    let (plain, secure) = (world.server.repository("r.git"), tls.repository("r.git"));
    let on_disk = bare.commit("main", &[("a", "disk")]);
    let over_tls = secure.commit("main", &[("a", "tls")]);
    let first = plain.commit("main", &[("a", "1")]);
    let second = plain.commit("feature/main", &[("a", "2")]);
    let tip = plain.commit("main", &[("a", "3")]);
    plain.tag("v1", &first);
    plain.set_ref("refs/pull/7/head", &second);
    world.server.behave(|b| b.authorization = Some(bearer("t0ken")));
    let token = [("bearerToken", "t0ken")];
    let file = format!("file://{}", bare.path().display());
    let http = world.server.url("r.git");
    let mut cases = vec![
        ("branch", http.clone(), json!({"branch": "main"}), vec![token[0]], format!("main@sha1:{tip}")),
        (
            "slash",
            http.clone(),
            json!({"branch": "feature/main"}),
            vec![token[0]],
            format!("feature/main@sha1:{second}"),
        ),
        ("tag", http.clone(), json!({"tag": "v1"}), vec![token[0]], format!("v1@sha1:{first}")),
        (
            "name",
            http.clone(),
            json!({"name": "refs/pull/7/head"}),
            vec![token[0]],
            format!("refs/pull/7/head@sha1:{second}"),
        ),
        ("commit", http.clone(), json!({"commit": first}), vec![token[0]], format!("sha1:{first}")),
        ("ca", tls.url("r.git"), json!(null), vec![("ca.crt", tls.ca())], format!("main@sha1:{over_tls}")),
        ("file", file, json!(null), vec![], format!("main@sha1:{on_disk}")),
    ];
    let ssh = SshServer::start();
    let (key, hosts, wrong) = ssh.as_ref().map_or_else(Default::default, |ssh| {
        (utf8(&ssh.identity()), utf8(&ssh.known_hosts()), utf8(&ssh.wrong_known_hosts()))
    });
    if let Some(ssh) = &ssh {
        let secret = vec![("identity", key.as_str()), ("known_hosts", hosts.as_str())];
        cases.push(("ssh", ssh.url(bare.path()), json!({"branch": "main"}), secret, format!("main@sha1:{on_disk}")));
    }
    for (name, url, reference, secret, _) in &cases {
        world.follow(name, url, reference.clone(), secret).await;
    }
    // The same without what lets it in.
    world.follow("no-token", &http, json!(null), &[]).await;
    world.follow("no-ca", &tls.url("r.git"), json!(null), &[]).await;
    for (name, _, _, _, revision) in &cases {
        let fetched = |s: &RepositoryStatus, reason: &str, _: &str| {
            reason == "Fetched" && s.artifact.as_ref().is_some_and(|a| a.revision.ends_with(revision.as_str()))
        };
        world.ready(name, &format!("{name}: {revision}"), fetched).await;
    }
    world.refused("no-token", "AuthenticationFailed").await;
    world.refused("no-ca", "TLSFailed").await;
    if let Some(ssh) = &ssh {
        let secret = [("identity", key.as_str()), ("known_hosts", wrong.as_str())];
        world.follow("no-host", &ssh.url(bare.path()), json!(null), &secret).await;
        world.refused("no-host", "HostKeyMismatch").await;
    }
    let shown = world.controller.log() + &serde_json::to_string(&world.statuses().await).unwrap();
    assert!(!shown.contains("t0ken") && !shown.contains("OPENSSH PRIVATE KEY"), "a secret is shown");
}

impl World {
    async fn statuses(&self) -> Vec<Option<RepositoryStatus>> {
        self.api().list(&kube::api::ListParams::default()).await.unwrap().items.into_iter().map(|r| r.status).collect()
    }
}

/// Who shows the same credential shares a look; who shows none gets nothing, though the content lies in the store.
#[tokio::test]
async fn a_look_is_shared_by_who_has_the_credential_and_by_nobody_else() {
    let cluster = control_plane();
    let namespaces = [cluster.namespace("share-one").await, cluster.namespace("share-two").await];
    let mut world = World::among(&namespaces, &[]).await;
    let repository = world.server.repository("r.git");
    let first = repository.commit("main", &[("d/a", "1")]);
    world.server.behave(|b| b.authorization = Some(bearer("t0ken")));
    let url = world.server.url("r.git");
    let spec = |secret: &str| json!({"url": url, "interval": "2s", "secretRef": {"name": secret}});
    for namespace in &namespaces {
        world.go_to(namespace);
        world.secret("git", &[("bearerToken", "t0ken")]).await;
        world.create("r", spec("git")).await;
        world.fetched("r", &first).await;
    }
    assert_eq!(world.server.count(Asked::Fetch), 1, "one fetch for both");
    // An agent's own `git` is the same remote.
    let git = json!({"repository": url, "path": "d", "secretRef": {"name": "git"},
        "sync": {"enabled": true, "interval": "2s", "policy": "HotReload"}});
    let agent = json!({"metadata": {"name": "a"}, "spec": {"workspaceDir": "/w", "serviceAccountName": "default",
        "agentImage": "i:1", "executorImage": "i:1",
        "contexts": [{"name": "c", "type": "Git", "mountPath": "/content/c", "git": git}]}});
    let agents: Api<Agent> = Api::namespaced(world.client.clone(), &world.namespace);
    agents.create(&PostParams::default(), &serde_json::from_value(agent).unwrap()).await.unwrap();
    let at = async |commit: &str| {
        eventually("the agent's commit", 30, || async {
            let status = serde_json::to_value(agents.get("a").await.unwrap().status?).unwrap();
            (status["gitSyncStatuses"][0]["observedCommit"] == commit).then_some(())
        })
        .await;
    };
    at(&first).await;
    assert_eq!(world.server.count(Asked::Fetch), 1, "nor one for the agent");
    world.server.forget();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let listings = world.server.count(Asked::Listing);
    // Fewer on a slow machine, never more.
    assert!((2..=6).contains(&listings), "{listings} listings in five intervals");
    let second = repository.commit("main", &[("d/a", "2")]);
    for namespace in &namespaces {
        world.go_to(namespace);
        world.fetched("r", &second).await;
    }
    at(&second).await;
    assert_eq!(world.server.count(Asked::Fetch), 1, "one fetch a push");

    // Strangers, one without a credential and one with another.
    world.create("none", json!({"url": url, "interval": "1h"})).await;
    world.secret("wrong", &[("bearerToken", "t0ken2")]).await;
    world.create("wrong", spec("wrong")).await;
    for name in ["none", "wrong"] {
        world.refused(name, "AuthenticationFailed").await;
    }
}
