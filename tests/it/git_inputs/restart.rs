//! A new process with an empty disk: what was applied stays, and is fetched again.

use std::{path::Path, time::Duration};

use k8s_openapi::api::core::v1::ConfigMap;
use pilothouse::agent::{pieces::to_json, state};
use serde_json::json;

use super::{World, context, synced};
use crate::common::{git_server::Asked, wait::eventually};

fn artifact(data: &Path, digest: &str) -> std::path::PathBuf {
    let hex = digest.strip_prefix("sha256:").unwrap();
    data.join("artifacts/sha256").join(&hex[..2]).join(format!("{hex}.tar"))
}

#[tokio::test]
async fn a_restart_while_the_forge_is_down_changes_nothing() {
    let mut world = World::new().await;
    let repository = world.server.repository("r.git");
    let first = repository.commit("main", &[("d/a", "1"), ("e/a", "1")]);
    let url = world.server.url("r.git");
    let contexts = json!([
        context("hot", &url, "d", &json!({"sync": synced("HotReload")})),
        context("rolls", &url, "d", &json!({"sync": synced("Rollout")})),
        context("fixed", &url, "e", &json!({})),
    ]);
    world.agent("a", contexts, json!([])).await;
    for id in ["contexts/hot", "contexts/rolls", "contexts/fixed"] {
        world.at("a", id, &first).await;
    }
    let before = world.applied("a").await;
    world.told("a", "fixed", "its commit", |s| s["commitHash"] == first.as_str()).await;
    world.calm().await;

    assert!(world.controller.stop());
    world.server.behave(|b| b.status = Some(503));
    let audit = world.cluster.audit().later();
    world.controller = world.release.start(&[]);
    world.told("a", "hot", "the forge is down", |s| s["message"].as_str().is_some_and(|m| m.contains("503"))).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(world.writes(&audit), Vec::<String>::new());
    assert_eq!(world.applied("a").await, before);

    // The branch has moved meanwhile: of what is not synced the same commit is fetched again.
    let second = repository.commit("main", &[("d/a", "2"), ("e/a", "2")]);
    world.server.behave(|b| b.status = None);
    world.at("a", "contexts/hot", &second).await;
    world.at("a", "contexts/rolls", &second).await;
    let fixed = before["contexts/fixed"].clone();
    let archive = artifact(world.controller.data.path(), &fixed.digest);
    eventually("the artifact is back", 60, || async { archive.is_file().then_some(()) }).await;
    assert_eq!(world.applied("a").await["contexts/fixed"], fixed);
}

/// Whoever may write objects in a namespace names no artifact of somebody else to its agents' pods.
#[tokio::test]
async fn what_somebody_else_wrote_is_not_what_was_applied() {
    let mut world = World::new().await;
    let repository = world.server.repository("r.git");
    let first = repository.commit("main", &[("d/a", "1")]);
    let contexts = json!([context("hot", &world.server.url("r.git"), "d", &json!({"sync": synced("HotReload")}))]);
    world.agent("a", contexts, json!([])).await;
    world.at("a", "contexts/hot", &first).await;
    assert!(world.controller.stop());
    world.server.behave(|b| b.status = Some(503));
    let foreign = format!("sha256:{}", "a".repeat(64));
    let mut pieces = world.applied("a").await;
    for resolved in pieces.values_mut() {
        resolved.digest.clone_from(&foreign);
    }
    let forged = json!({"metadata": {"annotations": {state::PIECES: to_json(&pieces)}}});
    world.merge::<ConfigMap>("a-server-content", forged).await;
    world.controller = world.release.start(&[]);
    world.ready("a", "nothing is known", |reason, message| reason == "Unreachable" && message.contains("503")).await;
    let map = world.api::<ConfigMap>().get("a-server-content").await.unwrap();
    assert!(!map.data.unwrap()["content.json"].contains(&foreign));
    world.server.behave(|b| b.status = None);
    world.ready("a", "it is read again", |reason, _| reason != "Unreachable").await;
}

#[tokio::test]
async fn a_restart_with_everything_up_writes_nothing() {
    let mut world = World::new().await;
    let repository = world.server.repository("r.git");
    let first = repository.commit("main", &[("d/a", "1"), ("other", "1")]);
    let url = world.server.url("r.git");
    let contexts = json!([context("hot", &url, "d", &json!({"sync": synced("HotReload")}))]);
    world.agent("a", contexts, json!([])).await;
    let before = world.at("a", "contexts/hot", &first).await;
    // The commit that is observed is another one than the one whose name is kept.
    repository.commit("main", &[("other", "2")]);
    eventually("the commit is fetched", 30, || async { (world.server.count(Asked::Fetch) == 2).then_some(()) }).await;
    world.calm().await;
    assert!(world.controller.stop());
    let audit = world.cluster.audit().later();
    world.controller = world.release.start(&[]);
    let archive = artifact(world.controller.data.path(), &before.digest);
    eventually("the artifact is made again", 60, || async { archive.is_file().then_some(()) }).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(world.all_writes(&audit), Vec::<String>::new());
    assert_eq!(world.applied("a").await["contexts/hot"], before);
}
