//! Inputs from a Repository: by its branch, or by the commit that the agent's Sync has applied.

use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use pilothouse::api::{Agent, Repository, Sync as SyncObject};
use serde_json::json;

use super::World;
use crate::common::wait::eventually;

fn manifest(model: &str, follow: &str) -> String {
    format!(
        "apiVersion: pilothouse.dev/v1alpha1\nkind: Agent\nmetadata:\n  name: a\nspec:\n  workspaceDir: /workspace\n  \
         agentImage: agents:1\n  executorImage: devbox:{model}\n  contexts:\n    - name: docs\n      type: Git\n      \
         mountPath: /docs\n      git:\n        repositoryRef: {{name: repo{follow}}}\n        path: docs\n        \
         sync: {{enabled: true, policy: Rollout}}\n"
    )
}

impl World {
    async fn repository(&self) {
        let spec = json!({"url": self.server.url("r.git"), "interval": "1s"});
        self.apply::<Repository>("Repository", "repo", json!({}), spec).await;
    }

    async fn sync(&self) {
        let spec = json!({"repositoryRef": {"name": "repo"}, "path": "agents", "wait": false});
        self.apply::<SyncObject>("Sync", "app", json!({}), spec).await;
    }

    async fn stamp(&self) -> String {
        let agent = self.api::<Agent>().get("a").await.unwrap();
        agent.annotations().get("pilothouse.dev/revision").cloned().unwrap_or_default()
    }

    async fn applied_revision(&self, commit: &str) {
        eventually(commit, 60, || async {
            let status = self.api::<SyncObject>().get("app").await.unwrap().status?;
            status.last_applied_revision.filter(|revision| revision.ends_with(commit))
        })
        .await;
    }

    async fn image(&self) -> String {
        let deployment = self.api::<Deployment>().get("a-server").await.unwrap();
        let pod = deployment.spec.unwrap().template.spec.unwrap();
        pod.containers[0].image.clone().unwrap_or_default()
    }
}

#[tokio::test]
async fn definition_and_content_of_one_commit_are_one_decision() {
    let world = World::new().await;
    let repository = world.server.repository("r.git");
    let first = repository.commit("main", &[("agents/a.yaml", &manifest("1", "")), ("docs/a", "1"), ("other", "1")]);
    world.repository().await;
    world.sync().await;
    world.at("a", "contexts/docs", &first).await;
    world.applied_revision(&first).await;

    // A commit that touches neither writes nothing.
    world.calm().await;
    let audit = world.cluster.audit().later();
    let neither = repository.commit("main", &[("other", "2")]);
    world.applied_revision(&neither).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(world.writes(&audit), Vec::<String>::new());
    assert!(world.stamp().await.ends_with(&first));

    // The content alone: the Agent says so.
    let content = repository.commit("main", &[("docs/a", "2")]);
    world.at("a", "contexts/docs", &content).await;
    assert!(world.stamp().await.ends_with(&content));

    // Both change: the Deployment is written once.
    world.calm().await;
    let audit = world.cluster.audit().later();
    let both = repository.commit("main", &[("agents/a.yaml", &manifest("2", "")), ("docs/a", "3")]);
    world.at("a", "contexts/docs", &both).await;
    assert_eq!(world.image().await, "devbox:2");
    world.calm().await;
    let writes = world.writes(&audit);
    assert_eq!(writes.iter().filter(|w| w.contains("deployments/a-server")).count(), 1, "{writes:?}");
    assert!(world.stamp().await.ends_with(&both));

    // The definition alone: the content keeps its commit.
    let definition = repository.commit("main", &[("agents/a.yaml", &manifest("4", ""))]);
    eventually("the new image", 60, || async { (world.image().await == "devbox:4").then_some(()) }).await;
    assert!(world.stamp().await.ends_with(&definition));
    world.at("a", "contexts/docs", &both).await;
}

/// The Sync is suspended: who follows the branch moves on, who follows the Sync does not, and knows its commit after a
/// restart with an empty disk when the Repository has long been elsewhere.
#[tokio::test]
async fn branch_and_sync_part_where_the_sync_stands_still() {
    let mut world = World::new().await;
    let repository = world.server.repository("r.git");
    let first = repository.commit("main", &[("agents/a.yaml", &manifest("1", "")), ("docs/a", "1")]);
    let spec = json!({"workspaceDir": "/workspace", "agentImage": "agents:1", "executorImage": "devbox:1", "contexts": [
        {"name": "docs", "type": "Git", "mountPath": "/docs", "git": {"repositoryRef": {"name": "repo"}, "path": "docs",
            "sync": {"enabled": true, "policy": "Rollout"}}}]});
    world.apply::<Agent>("Agent", "b", json!({}), spec).await;
    world
        .ready("b", "no Repository", |reason, message| {
            reason == "RepositoryNotFound" && message == "contexts/docs: there is no Repository repo in this namespace"
        })
        .await;
    world.repository().await;
    world.sync().await;
    world.at("a", "contexts/docs", &first).await;
    world.at("b", "contexts/docs", &first).await;
    world.applied_revision(&first).await;
    // A definition alone: the stamp and the content have different commits from now on.
    let stamped = repository.commit("main", &[("agents/a.yaml", &manifest("2", ""))]);
    world.applied_revision(&stamped).await;
    eventually("the new image", 60, || async { (world.image().await == "devbox:2").then_some(()) }).await;
    world.merge::<SyncObject>("app", json!({"spec": {"suspend": true}})).await;
    let second = repository.commit("main", &[("docs/a", "2")]);
    world.at("b", "contexts/docs", &second).await;
    let before = world.at("a", "contexts/docs", &first).await;
    world.calm().await;

    assert!(world.controller.stop());
    let audit = world.cluster.audit().later();
    world.controller = world.release.start(&[]);
    let hex = before.digest.strip_prefix("sha256:").unwrap().to_owned();
    let archive = world.controller.data.path().join("artifacts/sha256").join(&hex[..2]).join(format!("{hex}.tar"));
    eventually("the content of the stamped commit is back", 60, || async { archive.is_file().then_some(()) }).await;
    world.calm().await;
    assert_eq!(world.writes(&audit), Vec::<String>::new());
    assert_eq!(world.applied("a").await["contexts/docs"], before);
    world.merge::<SyncObject>("app", json!({"spec": {"suspend": false}})).await;
    world.at("a", "contexts/docs", &second).await;
}
