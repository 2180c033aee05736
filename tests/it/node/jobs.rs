//! Tasks on an agent: what is pushed waits for them, and a stopped one is stopped at the server.

use pilothouse::pod::opencode::Client;
use serde_json::{Value, json};

use super::world::{NEXT_EXECUTOR, Place, condition, place, uid};

pub(super) fn submit(place: &Place, name: &str, description: &str) {
    place.apply(&json!({
        "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Task", "metadata": {"name": name},
        "spec": {"agentRef": {"name": "coder"}, "description": description},
    }));
}

pub(super) async fn ended(place: &Place, name: &str) -> Value {
    let over = |task: &Value| ["Completed", "Failed"].contains(&task["status"]["phase"].as_str().unwrap_or_default());
    place.until(&format!("the Task {name} has ended"), &format!("task/{name}"), over).await
}

pub(super) async fn running(place: &Place, name: &str, description: &str) -> Value {
    submit(place, name, description);
    place.model_was_asked(description, 0).await;
    let object = format!("task/{name}");
    place.until("the Task runs", &object, |task| task["status"]["phase"] == "Running").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_survives_a_push_and_stops_when_told() {
    let Some(place) = place("jobs").await else { return };
    let mut spec = place.spec();
    place.push(&spec, &[]);
    let pod = place.ready("").await;

    running(&place, "long", "Think long. [[words=6 hold]]").await;
    spec["executorImage"] = json!(NEXT_EXECUTOR);
    spec["podSpec"] = json!({"extraEnv": [{"name": "TEAM", "value": "blue"}]});
    spec["config"]["username"] = json!("crew");
    place.push(&spec, &[]);
    place.pending(&["config", "env", "image"]).await;
    place.stays(&pod, 3).await;
    place.model.release();
    let task = ended(&place, "long").await;
    assert_eq!(task["status"]["phase"], "Completed", "{task:#}");
    let log = place.kubectl(&["logs", "long-pod"]);
    assert!(log.contains("word0 word1 word2 word3 word4 word5"), "{log}");
    let pod = place.ready(uid(&pod)).await;
    assert_eq!(place.exec(&["sh", "-c", "printf %s \"$TEAM\""]), "blue");

    let task = running(&place, "stopped", "Never end. [[words=6 hold]]").await;
    place.kubectl(&["annotate", "task/stopped", "pilothouse.dev/stop=true"]);
    let title = task["status"]["session"]["title"].as_str().unwrap().to_owned();
    let task = ended(&place, "stopped").await;
    assert_eq!(task["status"]["phase"], "Completed", "{task:#}");
    assert_eq!(condition(&task, "Stopped")[..2], ["True", "UserStopped"], "{task:#}");
    aborted(&place.client(), &title).await;
    place.stays(&pod, 1).await;
}

/// The server itself has let go of the session.
async fn aborted(client: &Client, title: &str) {
    let session = &client.find_session(title).await.unwrap().expect("the session is kept").id;
    let busy = client.status().await.unwrap();
    assert!(!busy.contains_key(session), "the server still works on it: {busy:?}");
    let messages = client.messages(session, 10).await.unwrap();
    let last = messages.last().unwrap();
    assert_eq!(last.info.error.as_ref().map(|e| e.name.as_str()), Some("MessageAbortedError"), "{messages:?}");
}
