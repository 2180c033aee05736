//! What a Repository has published stays in use while its remote refuses, is silent, or is gone.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use pilothouse::api::{Sync, SyncStatus};

use super::*;

impl World {
    fn syncs(&self) -> Api<Sync> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn sync(&self, name: &str, path: &str) {
        let spec = json!({"repositoryRef": {"name": "r"}, "path": path, "interval": "1h"});
        let mut sync = Sync::new(name, serde_json::from_value(spec).unwrap());
        sync.metadata.namespace = Some(self.namespace.clone());
        self.syncs().create(&PostParams::default(), &sync).await.unwrap();
    }

    async fn sync_where(&self, name: &str, what: &str, check: impl Fn(&SyncStatus) -> bool) {
        eventually(what, 30, || async { check(&self.syncs().get(name).await.unwrap().status?).then_some(()) }).await;
    }
}

fn is_applied(status: &SyncStatus) -> bool {
    status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True" && c.reason == "Applied")
}

#[tokio::test]
async fn a_repository_that_is_not_ready_is_applied_and_kept_applied() {
    let world = World::new().await;
    let repository = world.server.repository("r.git");
    let map = |name: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{key: git}}\n");
    let commit = repository.commit("main", &[("a/a.yaml", &map("a")), ("b/b.yaml", &map("b"))]);
    world.server.behave(|b| b.authorization = Some(basic("me", "s3cret")));
    world.secret("git", &[("username", "me"), ("password", "s3cret")]).await;
    let spec = json!({"url": world.server.url("r.git"), "interval": "1h", "secretRef": {"name": "git"}});
    world.create("r", spec).await;
    world.fetched("r", &commit).await;
    world.sync("a", "a").await;
    world.sync_where("a", "the first Sync applies", is_applied).await;

    world.secret("git", &[("username", "me"), ("password", "wrong")]).await;
    world.ready("r", "AuthenticationFailed", |_, reason, _| reason == "AuthenticationFailed").await;
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), &world.namespace);
    let value = async |name: &str| maps.get_opt(name).await.unwrap()?.data?.remove("key");

    // What somebody has changed is changed back.
    let by_hand = Patch::Merge(json!({"data": {"key": "by hand"}}));
    maps.patch("a", &PatchParams::default(), &by_hand).await.unwrap();
    let asked = json!({"metadata": {"annotations": {"pilothouse.dev/reconcile-at": "now"}}});
    world.syncs().patch("a", &PatchParams::default(), &Patch::Merge(asked)).await.unwrap();
    let handled = |s: &SyncStatus| s.last_handled_reconcile_at.as_deref() == Some("now") && is_applied(s);
    world.sync_where("a", "it has looked", handled).await;
    assert_eq!(value("a").await.as_deref(), Some("git"));

    // Who comes now gets the same commit.
    world.sync("b", "b").await;
    world.sync_where("b", "a second Sync applies", is_applied).await;
    assert_eq!(value("b").await.as_deref(), Some("git"));
    let revision = world.syncs().get("b").await.unwrap().status.unwrap().last_applied_revision;
    assert_eq!(revision, Some(format!("main@sha1:{commit}")));
    let status = world.api().get("r").await.unwrap().status.unwrap();
    assert!(status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "False"), "{status:?}");
    assert_eq!(maps.get("b").await.unwrap().labels()["pilothouse.dev/sync-name"], "b");
}

/// `spec.timeout` is that of the exchange with the remote: with any other limit there is, this one gets its commit.
#[tokio::test]
async fn a_remote_that_is_slow_is_given_up_when_the_spec_says() {
    let world = World::new().await;
    let commit = world.server.repository("r.git").commit("main", &[("a", "1")]);
    world.server.behave(|b| b.delay = Duration::from_secs(8));
    world.create("r", json!({"url": world.server.url("r.git"), "interval": "1h", "timeout": "1s"})).await;
    let told =
        |_: &RepositoryStatus, reason: &str, message: &str| reason == "Timeout" && message.contains("see spec.timeout");
    let status = world.ready("r", "Timeout", told).await;
    assert_eq!(status.artifact, None);
    world.server.behave(|b| b.delay = Duration::ZERO);
    world.patch("r", json!({"metadata": {"annotations": {"pilothouse.dev/reconcile-at": "one"}}})).await;
    world.fetched("r", &commit).await;
}
