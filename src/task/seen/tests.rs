use serde_json::{Value, json};

use super::*;

#[allow(clippy::needless_pass_by_value, reason = "a table reads better")]
fn pod(status: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {
            "name": "t-pod", "uid": "pod-uid", "creationTimestamp": "1970-01-01T00:16:40Z",
            "annotations": {"pilothouse.dev/revision": "main@1a2b3c4"},
            "ownerReferences": [
                {"apiVersion": "pilothouse.dev/v1alpha1", "kind": "Task", "name": "t", "uid": "u", "controller": true},
            ],
        },
        "status": status,
    }))
    .unwrap()
}

fn view(status: Value) -> PodView {
    match read(Some(&pod(status)), "u") {
        PodState::Ours(view) => *view,
        other => panic!("{other:?}"),
    }
}

fn ended(phase: &str, exit: i32, reason: &str, message: &str) -> Value {
    let terminated =
        json!({"exitCode": exit, "reason": reason, "message": message, "finishedAt": "1970-01-01T00:17:00Z"});
    json!({"phase": phase, "containerStatuses": [container_status(json!({"terminated": terminated}))]})
}

#[allow(clippy::needless_pass_by_value, reason = "a table reads better")]
fn container_status(state: Value) -> Value {
    json!({"name": "task", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state})
}

fn waiting(reason: &str) -> Value {
    let state = json!({"waiting": {"reason": reason, "message": "what the kubelet says"}});
    json!({"phase": "Pending", "containerStatuses": [container_status(state)]})
}

#[test]
fn whose_pod_it_is() {
    assert_eq!(read(None, "u"), PodState::Absent);
    assert!(matches!(read(Some(&pod(json!({}))), "u"), PodState::Ours(_)));
    assert_eq!(read(Some(&pod(json!({}))), "another"), PodState::Foreign);
    let mut orphan = pod(json!({}));
    orphan.metadata.owner_references.as_mut().unwrap()[0].controller = None;
    assert_eq!(read(Some(&orphan), "u"), PodState::Foreign);
}

#[test]
fn how_it_ended() {
    let broken = |reason, message: &str| Some((reason, message.to_owned()));
    let words = r#"{"reason": "AgentError", "message": "no credit", "session": {"id": "ses_1"}}"#;
    let invented = r#"{"reason": "Invented", "message": "m"}"#;
    let evicted = json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."});
    let failed = json!({"phase": "Failed", "reason": "DeadlineExceeded", "message": "too long"});
    let table = [
        ("pending", json!({"phase": "Pending"}), None),
        ("running", json!({"phase": "Running"}), None),
        ("unknown", json!({"phase": "Unknown"}), None),
        ("no status", json!({}), None),
        ("succeeded", json!({"phase": "Succeeded"}), broken("done", "")),
        ("container done, pod not yet", ended("Running", 0, "Completed", ""), broken("done", "")),
        ("container failed, pod not yet", ended("Running", 10, "Error", words), broken("AgentError", "no credit")),
        ("agent error", ended("Failed", 10, "Error", words), broken("AgentError", "no credit")),
        (
            "memory wins over words",
            ended("Failed", 137, "OOMKilled", words),
            broken("OOMKilled", "the Task's pod was killed because it used more memory than its limit"),
        ),
        (
            "a reason that we do not have",
            ended("Failed", 3, "Error", invented),
            broken("PodFailed", "the Task's pod ended with exit code 3: m"),
        ),
        (
            "words that are none",
            ended("Failed", 3, "Error", "panicked at"),
            broken("PodFailed", "the Task's pod ended with exit code 3"),
        ),
        ("evicted", evicted, broken("PodEvicted", "The node was low on memory.")),
        ("failed", failed, broken("PodFailed", "the Task's pod failed: DeadlineExceeded: too long")),
    ];
    for (name, status, expected) in table {
        let found = view(status).ending.map(|ending| match ending {
            Ending::Done { .. } => ("done", String::new()),
            Ending::Broken { reason, message, .. } => (reason, message),
        });
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn what_the_end_says_is_taken_over() {
    let words = r#"{"session": {"id": "ses_1", "summary": {"messageCount": 2}}}"#;
    let view = view(ended("Succeeded", 0, "Completed", words));
    assert_eq!(view.session.unwrap().id.as_deref(), Some("ses_1"));
    assert_eq!(view.ending, Some(Ending::Done { at: Some(Timestamp::from_second(1_020).unwrap()) }));
    assert_eq!((view.uid.as_str(), view.revision.as_deref()), ("pod-uid", Some("main@1a2b3c4")));
}

#[test]
fn why_it_does_not_start() {
    let unscheduled = json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"},
    ]});
    let table = [
        (waiting("ImagePullBackOff"), Some(("ImagePullFailed", "what the kubelet says"))),
        (waiting("ErrImagePull"), Some(("ImagePullFailed", "what the kubelet says"))),
        (waiting("CreateContainerConfigError"), Some(("ContainerNotCreated", "what the kubelet says"))),
        (waiting("ContainerCreating"), None),
        (unscheduled, Some(("PodUnschedulable", "0/1 nodes"))),
        (json!({"phase": "Running"}), None),
    ];
    for (status, expected) in table {
        let found = view(status.clone()).held_up;
        assert_eq!(found.as_ref().map(|(r, m)| (*r, m.as_str())), expected, "{status}");
    }
}

#[test]
fn words_are_cut() {
    let words = json!({"reason": "AgentError", "message": "x".repeat(4000)}).to_string();
    let Some(Ending::Broken { message, .. }) = view(ended("Failed", 10, "Error", &words)).ending else {
        panic!("it failed");
    };
    assert!(message.len() <= MESSAGE);
}

/// Whoever reads a status may do so in a terminal.
#[test]
fn words_steer_no_terminal() {
    let steering = "\u{1b}]52;c;aGk=\u{7}the \u{1b}[31manswer\r\n";
    let session = json!({"id": "ses\u{7}_1", "title": steering});
    let words =
        json!({"reason": "AgentError", "message": steering, "result": steering, "log": steering, "session": session});
    let view = view(ended("Failed", 10, "Error", &words.to_string()));
    let clean = Some("the answer\n".to_owned());
    assert_eq!(view.said, Said { result: clean.clone(), log: clean.clone() });
    let session = view.session.unwrap();
    assert_eq!((session.id.as_deref(), session.title), (Some("ses_1"), clean));
    let Some(Ending::Broken { message, .. }) = view.ending else { panic!("it failed") };
    assert_eq!(message, "the answer\n");
}
