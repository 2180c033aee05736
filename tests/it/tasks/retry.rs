//! Tries after a failure.

use std::time::Duration;

use kube::api::DeleteParams;
use pilothouse::api::TaskPhase;
use serde_json::json;

use super::{WORDS, stage::Stage};

const ERROR: &str = r#"{"reason": "AgentError", "message": "no credit", "session": {"id": "ses_1"}}"#;

#[tokio::test]
async fn a_failed_try_gives_its_place_away_and_is_followed_by_another() {
    let stage = Stage::with("again", json!({"maxConcurrentTasks": 1})).await;
    stage.task("a", json!({"retry": {"limit": 2, "backoff": "3s"}})).await;
    stage.phase("a", TaskPhase::Running).await;
    stage.task("b", json!({})).await;
    stage.queued("b", "AgentAtCapacity").await;
    let first = stage.pods.get("a-pod").await.unwrap().metadata.uid;
    stage.end_pod("a", 10, ERROR).await;
    stage.queued("a", "Retrying").await;
    assert_eq!(stage.message("a", "Queued").await, "try 2 of 3 follows; the last one failed: AgentError: no credit");
    // Meanwhile the place is another one's.
    stage.phase("b", TaskPhase::Running).await;
    stage.queued("a", "AgentAtCapacity").await;
    stage.end_pod("b", 0, WORDS).await;
    stage.phase("a", TaskPhase::Running).await;
    let second = stage.pods.get("a-pod").await.unwrap();
    assert_ne!(second.metadata.uid, first);
    let title = |pod: &k8s_openapi::api::core::v1::Pod| {
        let env = pod.spec.as_ref().unwrap().containers[0].env.clone().unwrap();
        env.into_iter().find(|e| e.name == "PILOTHOUSE_SESSION_TITLE").unwrap().value.unwrap()
    };
    assert!(title(&second).ends_with("/2"), "what failed in a session gets another one: {}", title(&second));

    // A pod that is lost may wake up and abort the session that it knows. Nobody here says that this one is over.
    stage.pods.delete("a-pod", &DeleteParams::default().grace_period(0)).await.unwrap();
    stage.tries_are("a", &["AgentError", "PodLost"]).await;
    stage.tells("a", "have stopped what the last try left behind").await;
    stage.phase("a", TaskPhase::Running).await;
    let third = title(&stage.pods.get("a-pod").await.unwrap());
    assert!(third.ends_with("/3"), "{third}");

    stage.end_pod("a", 137, "OOMKilled").await;
    let task = stage.phase("a", TaskPhase::Failed).await;
    assert_eq!(stage.condition("a", "Stalled").await, ("True".into(), "OOMKilled".into()));
    assert_eq!(task.status.unwrap().tries.len(), 2, "as many as there may be");
    stage.nothing_is_written_for(Duration::from_secs(2)).await;
}

/// A pod that has aborted its session on its way out is followed by one that goes on with it.
#[tokio::test]
async fn a_pod_that_was_told_to_end_leaves_its_session_to_the_next_one() {
    let stage = Stage::with_agent("deleted").await;
    stage.task("a", json!({"retry": {"limit": 1, "backoff": "1s"}})).await;
    stage.phase("a", TaskPhase::Running).await;
    stage.bind_pod("a").await;
    let title = || async {
        let pod = stage.pods.get("a-pod").await.unwrap();
        let env = pod.spec.unwrap().containers.remove(0).env.unwrap();
        env.into_iter().find(|e| e.name == "PILOTHOUSE_SESSION_TITLE").unwrap().value
    };
    let first = title().await;
    stage.pods.delete("a-pod", &DeleteParams::default()).await.unwrap();
    stage.end_pod("a", 30, r#"{"reason": "Aborted", "message": "aborted", "session": {"id": "ses_1"}}"#).await;
    stage.tries_are("a", &["PodDeleted"]).await;
    stage.pods.delete("a-pod", &DeleteParams::default().grace_period(0)).await.unwrap();
    stage.phase("a", TaskPhase::Running).await;
    assert_eq!(title().await, first);
}

#[tokio::test]
async fn a_crash_between_two_tries_neither_loses_nor_doubles_one() {
    let mut stage = Stage::with("between", json!({"maxConcurrentTasks": 1})).await;
    stage.task("a", json!({"retry": {"limit": 1, "backoff": "4s"}})).await;
    stage.phase("a", TaskPhase::Running).await;
    stage.kill();
    stage.end_pod("a", 10, ERROR).await;
    stage.resume();
    stage.queued("a", "Retrying").await;
    stage.restart();
    stage.phase("a", TaskPhase::Running).await;
    stage.tries_are("a", &["AgentError"]).await;
    // Stopped while it waits, it does not come again.
    stage.task("c", json!({"retry": {"limit": 1, "backoff": "1h"}})).await;
    stage.end_pod("a", 0, WORDS).await;
    stage.phase("c", TaskPhase::Running).await;
    stage.end_pod("c", 10, ERROR).await;
    stage.queued("c", "Retrying").await;
    stage.annotate("c", "pilothouse.dev/stop", "true").await;
    stage.phase("c", TaskPhase::Completed).await;
    assert_eq!(stage.condition("c", "Stopped").await, ("True".into(), "UserStopped".into()));
}
