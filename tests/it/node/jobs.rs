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

/// A pod that is taken away costs a try and no work; without a further try, nobody goes on unseen.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_lost_is_followed_by_another_or_its_session_ends() {
    let Some(place) = place("lost").await else { return };
    place.push(&place.spec(), &[]);
    place.ready("").await;

    place.apply(&json!({
        "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Task", "metadata": {"name": "again"},
        "spec": {
            "agentRef": {"name": "coder"}, "description": "Think long. [[words=6 hold]]",
            "retry": {"limit": 1, "backoff": "1s"}, "contexts": [{"type": "Text", "text": "The word is heron."}],
        },
    }));
    place.model_was_asked("Think long.", 0).await;
    place.until("the Task runs", "task/again", |task| task["status"]["phase"] == "Running").await;
    place.kubectl(&["delete", "pod/again-pod", "--wait=false"]);
    let tried = |task: &Value| task["status"]["tries"][0]["reason"] == "PodDeleted";
    place.until("the first try is over", "task/again", tried).await;
    place.until("the next one runs", "task/again", |task| task["status"]["phase"] == "Running").await;
    place.model_was_asked("Think long.", 1).await;
    place.model.release();
    let task = ended(&place, "again").await;
    assert_eq!(task["status"]["phase"], "Completed", "{task:#}");
    assert_eq!(task["status"]["result"], "word0 word1 word2 word3 word4 word5", "{task:#}");
    assert!(place.model.calls().iter().all(|call| call.body.to_string().contains("heron")), "its context is there");

    let task = running(&place, "lost", "Never end. [[words=6 hold]]").await;
    let title = task["status"]["session"]["title"].as_str().unwrap().to_owned();
    place.kubectl(&["delete", "pod/lost-pod", "--force", "--grace-period=0"]);
    let task = ended(&place, "lost").await;
    assert_eq!(task["status"]["phase"], "Failed", "{task:#}");
    assert_eq!(condition(&task, "Stalled")[..2], ["True", "PodLost"], "{task:#}");
    eventually_aborted(&place.client(), &title).await;
}

/// The order goes to the agent's pods while the status is written.
async fn eventually_aborted(client: &Client, title: &str) {
    let session = client.find_session(title).await.unwrap().expect("the session is kept").id;
    let rests = || async { (!client.status().await.unwrap().contains_key(&session)).then_some(()) };
    crate::common::wait::eventually("the server lets go of it", 30, rests).await;
    aborted(client, title).await;
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
