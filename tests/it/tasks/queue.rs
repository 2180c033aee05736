//! Who is next, and how often somebody may start.

use std::time::Duration;

use kube::api::DeleteParams;
use pilothouse::api::TaskPhase;
use serde_json::json;

use super::{WORDS, stage::Stage};

#[tokio::test]
async fn the_most_urgent_goes_first_and_all_know_their_place() {
    let stage = Stage::with("urgent", json!({"maxConcurrentTasks": 1})).await;
    stage.task("runs", json!({})).await;
    stage.phase("runs", TaskPhase::Running).await;
    for (name, priority) in [("old", 0), ("young", 0), ("least", -5)] {
        stage.task(name, json!({"priority": priority})).await;
        stage.queued(name, "AgentAtCapacity").await;
    }
    stage.tells("young", "place 2 to 5 in its queue").await;
    stage.task("urgent", json!({"priority": 10})).await;
    // Whoever it passes is told so.
    for (name, place) in [("urgent", "1"), ("old", "2 to 5"), ("young", "2 to 5"), ("least", "2 to 5")] {
        stage.tells(name, &format!("(maxConcurrentTasks: 1); place {place} in its queue")).await;
    }
    // One that becomes more urgent moves.
    stage.set_spec("least", json!({"priority": 50})).await;
    stage.tells("urgent", "place 2 to 5 in its queue").await;
    stage.tells("least", "place 1 in its queue").await;
    stage.set_spec("least", json!({"priority": 5})).await;
    stage.tells("urgent", "place 1 in its queue").await;
    for (ends, next) in [("runs", "urgent"), ("urgent", "least"), ("least", "old"), ("old", "young")] {
        stage.end_pod(ends, 0, WORDS).await;
        stage.phase(next, TaskPhase::Running).await;
        assert_eq!(stage.running().await.iter().filter(|n| *n != ends).count(), 1);
    }
    stage.nothing_is_written_for(Duration::from_secs(2)).await;
}

/// The window is in the Agent's status: neither a restart nor a burst of Tasks starts one too many.
#[tokio::test]
async fn a_quota_is_kept_by_bursts_and_by_restarts() {
    let mut stage = Stage::new("quota").await;
    // A template's quota counts like the agent's own.
    let base = json!({"workspaceDir": "/w", "serviceAccountName": "default",
        "quota": {"maxTaskStarts": 3, "windowSeconds": 60}});
    stage.template("base", base).await;
    stage.agent(json!({"templateRef": {"name": "base"}})).await;
    stage.serve().await;
    let names: Vec<String> = (0..8).map(|n| format!("t{n}")).collect();
    futures::future::join_all(names.iter().map(|name| stage.task(name, json!({})))).await;
    stage.starts_are(3).await;
    stage.some_tell(&names, "its quota allows (3 within 60 s); place 1 in its queue").await;
    let waiting = stage.waiting(&names).await;
    assert_eq!(waiting.len(), 5, "{waiting:?}");
    stage.queued(&waiting[0], "QuotaExceeded").await;
    // Ends make no room in the window.
    for name in names.iter().filter(|n| !waiting.contains(n)) {
        stage.end_pod(name, 0, WORDS).await;
        stage.phase(name, TaskPhase::Completed).await;
    }
    stage.restart();
    stage.nothing_starts_for(Duration::from_secs(3)).await;
    assert_eq!(stage.waiting(&names).await, waiting);
    // What the window has left behind counts no more.
    stage.kill();
    stage.shift_starts(57).await;
    stage.resume();
    stage.starts_are(3).await;
    let now = stage.waiting(&names).await;
    assert_eq!(now.len(), 2, "the next three started, and no more: {now:?}");
    assert_eq!(stage.pods_of_tasks().await, 6);
    // Without a quota all go on.
    stage.change_template("base", json!({"quota": null})).await;
    for name in &now {
        stage.phase(name, TaskPhase::Running).await;
    }
}

/// A controller that begins to lead waits for what its caches lack, but not for the pod of a Task that is gone: on a node
/// that does not answer it stays for long.
#[tokio::test]
async fn the_pod_of_a_deleted_task_keeps_nobody_from_starting() {
    let mut stage = Stage::with("orphan", json!({"maxConcurrentTasks": 2})).await;
    for name in ["old", "other"] {
        stage.task(name, json!({})).await;
        stage.phase(name, TaskPhase::Running).await;
        stage.bind_pod(name).await;
    }
    stage.kill();
    stage.tasks.delete("old", &DeleteParams::background()).await.unwrap();
    stage.leaving("old").await;
    stage.resume();
    stage.task("new", json!({})).await;
    stage.phase("new", TaskPhase::Running).await;
    assert!(stage.pods.get_opt("old-pod").await.unwrap().is_some(), "it is still on its way out");
    stage.task("full", json!({})).await;
    stage.queued("full", "AgentAtCapacity").await;
}
