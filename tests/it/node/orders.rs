//! Rollouts that people steer, and one that fails: drain, hold, resume, now, and the last good revision.

use std::process::Command;

use serde_json::{Value, json};

use super::{
    jobs::{ended, running, submit},
    world::{NEXT_EXECUTOR, Place, condition, place, ran, uid},
};

/// An image that is nowhere.
const MISSING: &str = "localhost/opencode:missing";

/// `pilothouse rollout agent coder`; what it prints.
fn rollout(place: &Place, flags: &[&str]) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_pilothouse"));
    program.env("KUBECONFIG", &place.node.cluster.ready.kubeconfig);
    ran(program.args(["rollout", "agent", "coder", "-n", &place.namespace, "--log", "warn"]).args(flags))
}

/// A variable of the agent's environment: another value is another pod.
fn team(spec: &mut Value, name: &str) {
    spec["podSpec"] = json!({"extraEnv": [{"name": "TEAM", "value": name}]});
}

fn env(place: &Place) -> String {
    place.exec(&["sh", "-c", "printf %s \"$TEAM\""])
}

async fn pending(place: &Place, reason: &str) -> String {
    let is = |agent: &Value| condition(agent, "RolloutPending")[..2] == ["True", reason];
    let agent = place.until(&format!("the rollout waits: {reason}"), "agent/coder", is).await;
    condition(&agent, "RolloutPending")[2].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn rollouts_drain_are_held_hurried_and_taken_back() {
    let Some(place) = place("orders").await else { return };
    let mut spec = place.spec();
    spec["rollout"] = json!({"drain": true, "autoRollback": true});
    place.push(&spec, &[]);
    let pod = place.ready("").await;
    let pod = drain(&place, &mut spec, &pod).await;
    let pod = orders(&place, &mut spec, &pod).await;
    failure(&place, &mut spec, &pod).await;
}

/// New Tasks wait for the rollout, which waits for those that run.
async fn drain(place: &Place, spec: &mut Value, pod: &Value) -> Value {
    running(place, "first", "Begun before. [[words=4 hold]]").await;
    team(spec, "blue");
    place.push(spec, &[]);
    place.pending(&["env"]).await;
    submit(place, "second", "Begun after. [[words=2]]");
    let drained = |task: &Value| condition(task, "Queued")[..2] == ["True", "AgentDraining"];
    let task = place.until("a new Task waits", "task/second", drained).await;
    assert_eq!(task["status"]["phase"], "Queued");
    place.stays(pod, 2).await;
    assert_eq!(place.asked("Begun after."), 0, "a Task began while the agent drains");
    place.model.release();
    assert_eq!(ended(place, "first").await["status"]["phase"], "Completed");
    let next = place.ready(uid(pod)).await;
    let task = ended(place, "second").await;
    assert_eq!(task["status"]["phase"], "Completed", "{task:#}\n{}", place.story());
    assert_eq!(env(place), "blue");
    next
}

/// Held although nothing goes on; released, it waits for work; now, it does not.
async fn orders(place: &Place, spec: &mut Value, pod: &Value) -> Value {
    rollout(place, &["--hold", "--because", "ask Jo"]);
    team(spec, "green");
    place.push(spec, &[]);
    let said = pending(place, "Held").await;
    assert!(said.contains("(ask Jo)") && said.contains("--resume"), "{said}");
    place.stays(pod, 3).await;
    assert!(rollout(place, &[]).contains("hold: ask Jo"));

    let answer = place.ask("While it is held. [[words=4 hold]]").await;
    rollout(place, &["--resume"]);
    pending(place, "WaitingForTasks").await;
    place.stays(pod, 2).await;
    rollout(place, &["--now"]);
    let next = place.ready(uid(pod)).await;
    assert_eq!(env(place), "green");
    let told = |events: &Value| {
        let events = events["items"].as_array().cloned().unwrap_or_default();
        events
            .iter()
            .any(|e| e["reason"] == "RolloutForced" && e["note"].as_str().unwrap_or_default().contains("busy sessions"))
    };
    place.until("it is told what was not waited for", "events.events.k8s.io", told).await;
    // The pod that took the prompt keeps it: the Service has moved, the session has not.
    assert!(!answer.is_finished());
    place.model.release();
    assert_eq!(answer.await.unwrap().trim(), "word0 word1 word2 word3");
    next
}

/// A revision that cannot start; the pod of the last good one serves all the while.
async fn failure(place: &Place, spec: &mut Value, pod: &Value) {
    // The image of the first container to start: that of a later one is asked for when the others are ready.
    spec["agentImage"] = json!(MISSING);
    spec["rollout"]["progressDeadline"] = json!("30s");
    place.push(spec, &[]);
    let back = |agent: &Value| {
        condition(agent, "RolloutFailed")[..2] == ["True", "RolledBack"] && agent["status"]["ready"] == true
    };
    let agent = place.until("the last good revision is back", "agent/coder", back).await;
    let said = condition(&agent, "RolloutFailed")[2];
    assert!(said.contains(&format!("the image {MISSING} of container opencode-init cannot be pulled")), "{said}");
    let only = |pods: &Value| {
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        let agents: Vec<_> = pods.iter().filter(|p| p["metadata"]["labels"]["pilothouse.dev/task"].is_null()).collect();
        agents.len() == 1 && uid(agents[0]) == uid(pod)
    };
    place.until("the good pod is alone", "pods", only).await;
    place.stays(pod, 1).await;
    let answer = place.ask("Still there? [[words=2]]").await;
    assert_eq!(answer.await.unwrap().trim(), "word0 word1");
    // What comes next is tried.
    spec.as_object_mut().unwrap().remove("agentImage");
    spec["executorImage"] = json!(NEXT_EXECUTOR);
    spec["rollout"]["progressDeadline"] = json!("2m");
    place.push(spec, &[]);
    place.ready(uid(pod)).await;
    let well = |agent: &Value| condition(agent, "RolloutFailed")[0] != "True";
    place.until("nothing has failed any more", "agent/coder", well).await;
}
