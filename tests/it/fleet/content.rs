//! Content from Git that is exchanged in the running pod goes at the same pace.

use pilothouse::{agent::state, api::agent::GitSyncStatus};

use super::*;
use crate::common::git_server::GitServer;

/// Says in the statuses of an agent's pods that their server runs, or has ended.
async fn server(town: &Town, name: &str, runs: bool) {
    let pods = town.place.api::<Pod>();
    let now = jiff::Timestamp::now().to_string();
    let state = if runs { json!({"running": {"startedAt": now}}) } else { json!({"terminated": {"exitCode": 0}}) };
    let container = json!({"name": "opencode-server", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
        "state": state});
    let patch = Patch::Merge(json!({"status": {"containerStatuses": [container]}}));
    let list = ListParams::default().labels(&format!("pilothouse.dev/agent={name}"));
    for pod in pods.list(&list).await.unwrap().items {
        pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.unwrap();
    }
}

/// The commit that is decided for the running pods.
async fn commit(town: &Town, name: &str) -> String {
    let map = town.place.api::<ConfigMap>().get(&format!("{name}-server-content")).await.unwrap();
    let pieces = state::applied_pieces(None, Some(map.annotations())).1;
    pieces["contexts/docs"].revision.rsplit(':').next().unwrap().to_string()
}

#[tokio::test]
async fn content_waits_for_its_turn_and_says_so() {
    let mut town = Town::start("pace-content").await;
    let git = GitServer::http();
    let repository = git.repository("r.git");
    let one = repository.commit("main", &[("docs/a", "1")]);
    let docs = json!({"name": "docs", "type": "Git", "mountPath": "/content/docs", "git": {
        "repository": git.url("r.git"), "path": "docs", "ref": "main",
        "sync": {"enabled": true, "policy": "HotReload", "interval": "1s"}}});
    town.names = vec!["a".into(), "b".into()];
    for name in &town.names {
        let spec = json!({"executorImage": "devbox:1", "contexts": [docs], "rollout": {"live": "Immediately"}});
        town.place.agent(name, spec).await;
    }
    for name in &town.names {
        town.ready(name, 1).await;
        server(&town, name, true).await;
        assert_eq!(commit(&town, name).await, one);
    }
    town.set(json!({"fleet": {"maxConcurrent": 1}})).await;
    let two = repository.commit("main", &[("docs/a", "2")]);
    let of = |a: &Agent| -> GitSyncStatus { a.status.as_ref().unwrap().git_sync_statuses[0].clone() };
    let said = "the newest commit waits for the pace of the fleet";
    let waits =
        |a: &Agent| reason(a, "GitSyncPending") == "True WaitingForFleet" && of(a).message.as_deref() == Some(said);
    let (first, second) = eventually("one of them goes, the other says why not", 60, || async {
        let agents =
            [town.place.api::<Agent>().get("a").await.unwrap(), town.place.api::<Agent>().get("b").await.unwrap()];
        let [a, b] = [commit(&town, "a").await == two, commit(&town, "b").await == two];
        assert!(!(a && b), "both go at a time");
        (a && waits(&agents[1])).then_some(("a", "b")).or((b && waits(&agents[0])).then_some(("b", "a")))
    })
    .await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(commit(&town, second).await, one, "the first one's pod has not said that it has it");
    // Nothing runs there any more that it could reach.
    server(&town, first, false).await;
    eventually("the second one's turn", 60, || async { (commit(&town, second).await == two).then_some(()) }).await;

    // A freeze is for content too.
    server(&town, first, true).await;
    server(&town, second, false).await;
    town.set(json!({"fleet": {"maxConcurrent": 1, "freeze": true}})).await;
    let three = repository.commit("main", &[("docs/a", "3")]);
    for name in ["a", "b"] {
        let frozen = |a: &Agent| {
            reason(a, "GitSyncPending") == "True FleetClosed" && of(a).observed_commit.as_ref() == Some(&three)
        };
        town.place.agent_where("it is frozen", name, frozen).await;
        assert_eq!(commit(&town, name).await, two);
    }
    town.set(json!({})).await;
}
