//! Side by side: a push of a new image over work. What was begun ends in the old pod, what is new is done by the new one.

use serde_json::{Value, json};

use super::{
    jobs::{ended, running},
    world::{CONTROLLER, NEXT_EXECUTOR, Place, condition, place, uid},
};

fn name(pod: &Value) -> &str {
    pod["metadata"]["name"].as_str().unwrap()
}

async fn told(place: &Place, reason: &str) {
    let check = |events: &Value| {
        let events = events["items"].as_array().cloned().unwrap_or_default();
        events.iter().any(|e| e["reason"] == reason)
    };
    place.until(reason, "events.events.k8s.io", check).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_ends_beside_a_new_image_that_takes_what_is_new() {
    let Some(place) = place("beside").await else { return };
    let mut spec = place.spec();
    spec["rollout"] = json!({"strategy": "SideBySide"});
    place.push(&spec, &[]);
    let old = place.ready("").await;
    assert_eq!(old["spec"]["terminationGracePeriodSeconds"], 3600);
    let answer = place.ask("A person asks. [[words=6 hold]]").await;
    let task = running(&place, "long", "Think through it. [[words=6 hold]]").await;
    let title = task["status"]["session"]["title"].as_str().unwrap().to_owned();
    let session = place.client().find_session(&title).await.unwrap().expect("its session");

    spec["executorImage"] = json!(NEXT_EXECUTOR);
    place.push(&spec, &[]);
    let new = place.ready(uid(&old)).await;
    assert_eq!(new["spec"]["containers"][0]["image"], NEXT_EXECUTOR);
    assert!(!answer.is_finished(), "what was begun is not cut");
    let agent = place
        .until("the old pod is named", "agent/coder", |a| a["status"]["rollout"]["finishing"] == json!([name(&old)]))
        .await;
    assert_eq!(agent["status"]["rollout"]["desiredRevision"], agent["status"]["rollout"]["rolledOutRevision"]);
    assert!(agent["status"]["rollout"]["pending"].is_null(), "nothing waits: {agent:#}");
    told(&place, "OldRevisionWorks").await;

    // What is new is the new pod's; the old pod's session is reached through the Service all the same.
    running(&place, "fresh", "Quick. [[words=60 delay_ms=100]]").await;
    let fresh = ended(&place, "fresh").await;
    assert_eq!(fresh["status"]["phase"], "Completed", "{fresh:#}");
    let title = fresh["status"]["session"]["title"].as_str().unwrap();
    let pod = place.client().pinned().await.unwrap();
    assert!(pod.find_session(title).await.unwrap().is_some(), "it ran in the pod that the Service leads to");
    assert!(pod.session(&session.id).await.is_err(), "which does not have the old one");
    assert_eq!(place.client().session(&session.id).await.unwrap().id, session.id);
    assert_eq!(place.get("task/long")["status"]["phase"], "Running");

    place.model.release();
    assert_eq!(answer.await.unwrap().trim(), "word0 word1 word2 word3 word4 word5");
    let task = ended(&place, "long").await;
    assert_eq!(task["status"]["phase"], "Completed", "{task:#}\n{}", place.story());
    let log = place.kubectl(&["logs", "long-pod"]);
    assert!(log.contains("word0 word1 word2 word3 word4 word5"), "{log}");
    place.until("the old pod goes", &format!("pod/{}", name(&old)), Value::is_null).await;
    place.until("nothing is left", "agent/coder", |a| a["status"]["rollout"]["finishing"].is_null()).await;
    told(&place, "OldRevisionLeft").await;
    place.stays(&new, 2).await;
}

/// An old pod has as long as the policy says; then it is stopped, which is said, and nothing of it is left.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_pod_is_stopped_when_its_time_is_over() {
    let Some(place) = place("cuts").await else { return };
    let mut spec = place.spec();
    spec["rollout"] = json!({"strategy": "SideBySide", "timeout": "30s"});
    place.push(&spec, &[]);
    let old = place.ready("").await;
    assert_eq!(old["spec"]["terminationGracePeriodSeconds"], 30);
    // It is told by a controller that runs when the time is over.
    let _alive = CONTROLLER.read().await;
    let answer = place.ask("Never ends. [[words=6 hold]]").await;
    spec["executorImage"] = json!(NEXT_EXECUTOR);
    place.push(&spec, &[]);
    let new = place.ready(uid(&old)).await;
    place
        .until("the old pod is named", "agent/coder", |a| a["status"]["rollout"]["finishing"] == json!([name(&old)]))
        .await;
    assert!(!answer.is_finished(), "it has its time");
    let cut = |events: &Value| {
        let events = events["items"].as_array().cloned().unwrap_or_default();
        events.iter().any(|e| {
            let note = e["note"].as_str().unwrap_or_default();
            e["reason"] == "WorkCut" && note.contains(name(&old)) && note.contains("the 30 s that it had")
        })
    };
    place.until("it is said that work is cut", "events.events.k8s.io", cut).await;
    place.until("the old pod is gone", &format!("pod/{}", name(&old)), Value::is_null).await;
    answer.abort();
    place.until("nothing is left", "agent/coder", |a| a["status"]["rollout"]["finishing"].is_null()).await;
    let agent = place.get("agent/coder");
    assert_eq!((condition(&agent, "Ready")[0], condition(&agent, "RolloutPending")[0] == "True"), ("True", false));
    place.model.release();
    assert_eq!(place.ask("And you? [[words=2]]").await.await.unwrap().trim(), "word0 word1");
    place.stays(&new, 1).await;
}
