//! Repositories on a real control plane with a real Git server.

mod last_good;
mod transports;

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use pilothouse::api::{Repository, RepositoryStatus};
use serde_json::{Value, json};

use crate::common::{
    cluster::{Cluster, control_plane},
    controller::{Controller, Release},
    git_server::{Asked, GitServer, basic},
    wait::eventually,
};

struct World {
    cluster: &'static Cluster,
    client: Client,
    namespace: String,
    release: Release,
    controller: Controller,
    server: GitServer,
}

impl World {
    async fn new() -> Self {
        let namespace = control_plane().namespace("repo").await;
        Self::among(&[namespace], &[]).await
    }

    /// In the first of `namespaces`, with a controller that works in all of them.
    async fn among(namespaces: &[String], arguments: &[&str]) -> Self {
        let cluster = control_plane();
        let release = Release::install(cluster, namespaces).await;
        let controller = release.start(arguments);
        let client = cluster.client().await;
        Self { cluster, client, namespace: namespaces[0].clone(), release, controller, server: GitServer::http() }
    }

    /// What happens now happens in this namespace.
    fn go_to(&mut self, namespace: &str) {
        namespace.clone_into(&mut self.namespace);
    }

    fn api(&self) -> Api<Repository> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn create(&self, name: &str, spec: Value) {
        let mut object = Repository::new(name, serde_json::from_value(spec).unwrap());
        object.metadata.namespace = Some(self.namespace.clone());
        self.api().create(&PostParams::default(), &object).await.unwrap();
    }

    async fn patch(&self, name: &str, patch: Value) {
        self.api().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    async fn secret(&self, name: &str, data: &[(&str, &str)]) {
        let data = data.iter().map(|(k, v)| ((*k).to_owned(), ByteString(v.as_bytes().to_vec()))).collect();
        let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
        let secret = Secret { metadata, data: Some(data), ..Secret::default() };
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        api.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(secret)).await.unwrap();
    }

    /// Waits until the Ready condition is what `check` wants.
    async fn ready(
        &self,
        name: &str,
        what: &str,
        check: impl Fn(&RepositoryStatus, &str, &str) -> bool,
    ) -> RepositoryStatus {
        eventually(what, 30, || async {
            let status = self.api().get(name).await.unwrap().status?;
            let ready = status.conditions.iter().find(|c| c.type_ == "Ready").cloned()?;
            check(&status, &ready.reason, &ready.message).then_some(status)
        })
        .await
    }

    async fn fetched(&self, name: &str, commit: &str) -> RepositoryStatus {
        let revision = format!("main@sha1:{commit}");
        self.ready(name, &revision, |status, reason, _| {
            reason == "Fetched" && status.artifact.as_ref().is_some_and(|a| a.revision == revision)
        })
        .await
    }
}

/// A namespace that has taken its share of the disk for artifacts is told so, keeps what it has, and stops nobody else.
#[tokio::test]
async fn one_namespace_leaves_disk_for_others() {
    let namespaces = [control_plane().namespace("greedy").await, control_plane().namespace("modest").await];
    // Three eighths of it are for artifacts.
    let mut world = World::among(&namespaces, &["--data-size", "8Mi"]).await;
    let large = |name: &str, letter: &str| {
        let text = letter.repeat(900 << 10);
        let commit = world.server.repository(&format!("{name}.git")).commit("main", &[("big", &text), ("a", letter)]);
        (commit, json!({"url": world.server.url(&format!("{name}.git")), "interval": "1h"}))
    };
    let [one, two, other] = [("one", "1"), ("two", "2"), ("other", "3")].map(|(name, letter)| large(name, letter));
    world.create("one", one.1).await;
    world.fetched("one", &one.0).await;
    world.create("two", two.1).await;
    let refused = world
        .ready("two", "StorageFailed", |_, reason, message| {
            reason == "StorageFailed" && message.contains("no room for an artifact of 1 MiB")
        })
        .await;
    assert!(!stalled(&refused) && refused.artifact.is_none(), "{refused:?}");

    world.go_to(&namespaces[1]);
    world.create("other", other.1).await;
    world.fetched("other", &other.0).await;

    world.go_to(&namespaces[0]);
    world.fetched("one", &one.0).await;
    world.patch("two", json!({"spec": {"ignore": "/big"}})).await;
    world.fetched("two", &two.0).await;
}

#[tokio::test]
async fn a_repository_from_secret_to_push_to_failure_and_back() {
    let world = World::new().await;
    let repository = world.server.repository("r.git");
    let first = repository.commit("main", &[("a.yaml", "a: 1\n"), ("docs/x", "x")]);
    world.server.behave(|b| b.authorization = Some(basic("me", "s3cret")));

    // The Secret comes later than what names it.
    let spec =
        json!({"url": world.server.url("r.git"), "interval": "1h", "ignore": "/docs", "secretRef": {"name": "git"}});
    world.create("r", spec).await;
    world
        .ready("r", "SecretNotFound", |_, reason, message| reason == "SecretNotFound" && message.contains("git"))
        .await;
    world.secret("git", &[("username", "me")]).await;
    world.ready("r", "SecretInvalid", |s, reason, _| reason == "SecretInvalid" && stalled(s)).await;
    world.secret("git", &[("username", "me"), ("password", "s3cret")]).await;
    let status = world.fetched("r", &first).await;
    assert!(!stalled(&status));
    assert_eq!(status.conditions.len(), 1, "{status:?}");

    // A push and a poke.
    let second = repository.commit("main", &[("a.yaml", "a: 2\n")]);
    world.patch("r", json!({"metadata": {"annotations": {"pilothouse.dev/reconcile-at": "one"}}})).await;
    let status = world.fetched("r", &second).await;
    assert_eq!(status.last_handled_reconcile_at.as_deref(), Some("one"));

    // A commit that changes only ignored files: another revision, the same content.
    let third = repository.commit("main", &[("docs/x", "y")]);
    world.patch("r", json!({"metadata": {"annotations": {"pilothouse.dev/reconcile-at": "two"}}})).await;
    let after = world.fetched("r", &third).await;
    assert_eq!(after.artifact.as_ref().unwrap().digest, status.artifact.unwrap().digest);

    // The token is withdrawn: the artifact stays.
    world.server.behave(|b| b.authorization = Some(basic("me", "changed")));
    world.patch("r", json!({"metadata": {"annotations": {"pilothouse.dev/reconcile-at": "three"}}})).await;
    let failed = world
        .ready("r", "AuthenticationFailed", |_, reason, message| {
            reason == "AuthenticationFailed" && message.contains("HTTP 401") && message.contains("correct Secret git:")
        })
        .await;
    assert_eq!(failed.artifact, after.artifact);
    assert_eq!(failed.last_handled_reconcile_at.as_deref(), Some("three"));
    let text = serde_json::to_string(&failed).unwrap() + &world.controller.log();
    assert!(!text.contains("s3cret"), "a secret is shown");

    // The Secret follows: nobody has to ask.
    world.secret("git", &[("username", "me"), ("password", "changed")]).await;
    world.fetched("r", &third).await;

    // Other ignore rules, the same commit: other content.
    world.patch("r", json!({"spec": {"ignore": null}})).await;
    let digest = after.artifact.unwrap().digest;
    world
        .ready("r", "new content", |s, reason, _| {
            reason == "Fetched" && s.artifact.as_ref().is_some_and(|a| a.digest != digest)
        })
        .await;
}

fn stalled(status: &RepositoryStatus) -> bool {
    status.conditions.iter().any(|c| c.type_ == "Stalled" && c.status == "True")
}

#[tokio::test]
async fn refusals_suspension_and_deletion() {
    let world = World::new().await;
    let repository = world.server.repository("r.git");
    let commit = repository.commit("main", &[("a", "1")]);
    let url = world.server.url("r.git");
    for (name, spec, reason, part) in [
        ("semver", json!({"url": url, "ref": {"semver": ">1"}}), "NotYetSupported", "spec.ref.semver"),
        ("file", json!({"url": "file:///etc"}), "InvalidSpec", "--allow-file-repositories"),
        ("lost", json!({"url": url, "ref": {"branch": "mian"}}), "ReferenceNotFound", "main"),
        ("none", json!({"url": world.server.url("none.git")}), "RepositoryNotFound", "404"),
        ("metadata", json!({"url": "http://169.254.169.254/x"}), "AddressRefused", "link-local"),
    ] {
        world.create(name, spec).await;
        world.ready(name, reason, |_, found, message| found == reason && message.contains(part)).await;
    }
    world.create("r", json!({"url": url, "interval": "1s"})).await;
    world.fetched("r", &commit).await;
    world.patch("r", json!({"spec": {"suspend": true}})).await;
    let suspended = world.ready("r", "Suspended", |_, reason, _| reason == "Suspended").await;
    assert!(suspended.artifact.is_some());
    let next = repository.commit("main", &[("a", "2")]);
    for name in ["lost", "none"] {
        world.api().delete(name, &DeleteParams::default()).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    world.server.forget();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(world.server.log().is_empty(), "nobody follows, nobody asks: {:?}", world.server.log());
    world.patch("r", json!({"spec": {"suspend": false}})).await;
    world.fetched("r", &next).await;
}

#[tokio::test]
async fn many_repositories_of_one_remote_are_quiet_also_over_a_restart() {
    let mut world = World::new().await;
    let commit = world.server.repository("r.git").commit("main", &[("a", "1")]);
    let names: Vec<String> = (0..20).map(|n| format!("r{n}")).collect();
    for name in &names {
        world.create(name, json!({"url": world.server.url("r.git"), "interval": "2s"})).await;
    }
    let mut before = BTreeMap::new();
    for name in &names {
        before.insert(name, world.fetched(name, &commit).await);
    }
    assert_eq!(world.server.count(Asked::Fetch), 1, "one fetch for all");
    // Events are written in the background.
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.server.forget();
    let audit = world.cluster.audit().later();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!((4..=6).contains(&world.server.count(Asked::Listing)), "{} listings", world.server.count(Asked::Listing));
    assert_eq!(world.server.count(Asked::Fetch), 0);
    assert!(world.controller.stop());
    // A new process with an empty disk makes the artifact anew and has nothing to write about it.
    world.server.forget();
    world.controller = world.release.start(&[]);
    eventually("the artifact is made anew", 30, || async { (world.server.count(Asked::Fetch) == 1).then_some(()) })
        .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let writes: Vec<_> =
        audit.writes(&world.release.user()).iter().map(crate::common::audit::Request::object).collect();
    assert!(writes.is_empty(), "{writes:?}");
    for name in &names {
        assert_eq!(world.api().get(name).await.unwrap().status.as_ref(), before.get(name));
    }
}

/// Whoever may write statuses cannot name an artifact: what the controller did not publish does not count, and is mended.
#[tokio::test]
async fn an_artifact_that_somebody_else_names_does_not_count() {
    let world = World::new().await;
    let repository = world.server.repository("r.git");
    let commit = repository.commit("main", &[("a.yaml", "a: 1\n")]);
    world.create("r", json!({"url": world.server.url("r.git"), "interval": "1h"})).await;
    let status = world.fetched("r", &commit).await;
    let good = status.artifact.unwrap();
    let forged = json!({"status": {"artifact": {"digest": format!("sha256:{}", "0".repeat(64))}}});
    let patch = Patch::Merge(forged);
    world.api().patch_status("r", &PatchParams::default(), &patch).await.unwrap();
    eventually("it is mended", 30, || async {
        let artifact = world.api().get("r").await.unwrap().status?.artifact?;
        ((&artifact.digest, &artifact.seal) == (&good.digest, &good.seal)).then_some(())
    })
    .await;
}
