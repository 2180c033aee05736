//! A rollout of an agent that has work all the time: `spec.rollout.drain`.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use pilothouse::api::TaskPhase;
use serde_json::json;

use super::{WORDS, stage::Stage};
use crate::common::wait::eventually;

const PATIENCE: u64 = 60;

async fn image_is(stage: &Stage, image: &str) {
    eventually(&format!("{image} is applied"), PATIENCE, || async { (stage.rollout().await.1 == image).then_some(()) })
        .await;
}

async fn pending(stage: &Stage) {
    eventually("the rollout waits", PATIENCE, || async {
        let conditions = stage.rollout().await.0.status?.conditions;
        let waits = |c: &&Condition| c.type_ == "RolloutPending" && c.reason == "WaitingForTasks" && c.status == "True";
        conditions.iter().find(waits).map(|_| ())
    })
    .await;
}

#[tokio::test]
async fn new_tasks_wait_for_the_rollout_and_running_ones_are_left_alone() {
    let mut stage = Stage::with("drain", json!({"rollout": {"drain": true}})).await;
    stage.roll_out().await;
    for name in ["a", "b"] {
        stage.task(name, json!({})).await;
        stage.phase(name, TaskPhase::Running).await;
    }
    stage.change_agent(json!({"executorImage": "localhost/executor:2"})).await;
    pending(&stage).await;
    for name in ["c", "d"] {
        stage.task(name, json!({})).await;
        stage.queued(name, "AgentDraining").await;
    }
    let message = stage.message("c", "Queued").await;
    assert!(message.contains("waits for running work (changed: image)"), "{message}");

    // Somebody holds the rollout: nobody waits for it.
    let (code, _, error) = stage.pilothouse(&["rollout", "agent", "coder", "--hold"]);
    assert_eq!(code, 0, "{error}");
    stage.phase("d", TaskPhase::Running).await;
    stage.pilothouse(&["rollout", "agent", "coder", "--resume"]);
    pending(&stage).await;
    stage.end_pod("c", 0, WORDS).await;
    stage.end_pod("d", 0, WORDS).await;
    stage.task("e", json!({})).await;
    stage.queued("e", "AgentDraining").await;

    // Running work ends as it would have, across a crash of the controller.
    stage.end_pod("a", 0, WORDS).await;
    stage.phase("a", TaskPhase::Completed).await;
    stage.restart();
    assert_eq!(stage.rollout().await.1, "localhost/executor:1", "b runs");
    stage.nothing_is_written_for(Duration::from_secs(1)).await;
    stage.queued("e", "AgentDraining").await;
    assert_eq!(stage.get("b").await.status.unwrap().phase, Some(TaskPhase::Running));
    stage.end_pod("b", 0, WORDS).await;
    image_is(&stage, "localhost/executor:2").await;
    // The pod of the new revision is not ready yet, so work would go to the old one.
    stage.tells("e", "until the pod of its new revision is ready; place 1 in its queue").await;
    stage.queued("e", "AgentDraining").await;
    stage.roll_out().await;
    stage.phase("e", TaskPhase::Running).await;
}

#[tokio::test]
async fn without_drain_new_tasks_start_and_the_rollout_waits_to_its_end() {
    let stage = Stage::with("no-drain", json!({"rollout": {"timeout": "1h"}})).await;
    stage.roll_out().await;
    stage.task("t0", json!({})).await;
    stage.phase("t0", TaskPhase::Running).await;
    stage.change_agent(json!({"executorImage": "localhost/executor:2"})).await;
    pending(&stage).await;
    // One comes before the last one ends, again and again.
    for n in 1..4 {
        stage.task(&format!("t{n}"), json!({})).await;
        stage.phase(&format!("t{n}"), TaskPhase::Running).await;
        stage.end_pod(&format!("t{}", n - 1), 0, WORDS).await;
        stage.phase(&format!("t{}", n - 1), TaskPhase::Completed).await;
    }
    assert_eq!(stage.rollout().await.1, "localhost/executor:1");
    // The next one waits once drain is asked for, and the one that runs is the last.
    stage.change_agent(json!({"rollout": {"timeout": "1h", "drain": true}})).await;
    stage.agent_is_seen().await;
    stage.task("t4", json!({})).await;
    stage.queued("t4", "AgentDraining").await;
    stage.end_pod("t3", 0, WORDS).await;
    image_is(&stage, "localhost/executor:2").await;
    stage.roll_out().await;
    stage.phase("t4", TaskPhase::Running).await;
}

/// A Task that comes while the agent's pods are being replaced is woken by the end of that: it does not ask again and again.
#[tokio::test]
async fn a_task_that_comes_while_pods_are_replaced_waits_without_asking() {
    let mut stage = Stage::with("switch", json!({"quota": {"maxTaskStarts": 50, "windowSeconds": 3600}})).await;
    stage.roll_out().await;
    let between = stage.release.between().await;
    stage.restart();
    stage.agent_is_seen().await;
    between.hold(&[("/deployments/coder-server", "fieldManager=pilothouse-agent")]);
    stage.change_agent(json!({"executorImage": "localhost/executor:2"})).await;
    eventually("the pods are being replaced", PATIENCE, || async { between.all_wait().then_some(()) }).await;
    let audit = stage.audit.later();
    let (user, agent) = (stage.release.user(), format!("{}/agents/coder", stage.namespace));
    let looks = || audit.requests(&user).iter().filter(|r| r.verb == "get" && r.object() == agent).count();
    stage.task("t", json!({})).await;
    // With a quota it reads the Agent as it is before it starts.
    eventually("the Task would start", PATIENCE, || async { (looks() > 0).then_some(()) }).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(looks() <= 2, "{} looks at the Agent while nothing changes", looks());
    assert!(stage.get("t").await.status.is_none_or(|status| status.phase != Some(TaskPhase::Running)));
    between.hold(&[]);
    image_is(&stage, "localhost/executor:2").await;
    stage.roll_out().await;
    stage.phase("t", TaskPhase::Running).await;
}
