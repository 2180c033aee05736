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

#[test]
fn a_commands_last_words_are_its_log() {
    let of_command = |message: &str, exit: i32| {
        let mut pod = pod(ended(if exit == 0 { "Succeeded" } else { "Failed" }, exit, "Error", message));
        let annotations = pod.metadata.annotations.as_mut().unwrap();
        annotations.insert(annotation::COMMAND.into(), "true".into());
        match read(Some(&pod), "u") {
            PodState::Ours(view) => *view,
            other => panic!("{other:?}"),
        }
    };
    let log = |view: PodView| view.said.log.unwrap_or_default();
    assert_eq!(log(of_command("one\ntwo\n", 0)), "one\ntwo");
    let words = r#"{"reason": "AgentError", "message": "m", "session": {"id": "ses_1"}}"#;
    let lookalike = of_command(words, 3);
    assert_eq!((lookalike.session.clone(), lookalike.said.result.clone()), (None, None));
    assert!(matches!(&lookalike.ending, Some(Ending::Broken { reason: reasons::POD_FAILED, message, .. })
        if message == "the Task's pod ended with exit code 3"));
    assert_eq!(log(lookalike), words);
    // The kubelet gives more where it takes the words from the log itself.
    for text in ["x".repeat(2000), "\u{e9}".repeat(1000), format!("cut\n{}", "line\n".repeat(300))] {
        let kept = log(of_command(&text, 1));
        assert!(kept.len() <= LOG && text.trim_end().ends_with(&kept) && !kept.is_empty(), "{}", kept.len());
    }
}

#[test]
fn what_a_pod_was_made_with_is_read_back() {
    let mut pod = pod(json!({}));
    let inputs = |pod: &Pod| match read(Some(pod), "u") {
        PodState::Ours(view) => view.inputs,
        other => panic!("{other:?}"),
    };
    assert!(inputs(&pod).is_empty());
    let text = r#"{"skills/team": "2", "contexts/docs": "1"}"#;
    pod.metadata.annotations.as_mut().unwrap().insert(annotation::INPUTS.into(), text.into());
    let read: Vec<_> = inputs(&pod).into_iter().map(|input| (input.id, input.commit)).collect();
    let expected =
        [("contexts/docs", "1"), ("skills/team", "2")].map(|(id, commit)| (id.to_owned(), commit.to_owned()));
    assert_eq!(read, expected, "sorted");
    pod.metadata.annotations.as_mut().unwrap().insert(annotation::INPUTS.into(), "no json".into());
    assert!(inputs(&pod).is_empty());
}

#[test]
fn what_comes_before_the_container_says_what_is_wrong() {
    let status = |name: &str, state: Value| {
        json!({"phase": "Pending", "initContainerStatuses": [
            {"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 2, "state": state}],
            "containerStatuses": [container_status(json!({"waiting": {"reason": "PodInitializing"}}))]})
    };
    let held = |state| view(status("opencode-server", state)).held_up;
    let waiting = |reason: &str| json!({"waiting": {"reason": reason, "message": "back-off 10s"}});
    assert_eq!(held(waiting("ImagePullBackOff")), Some((reasons::IMAGE_PULL_FAILED, "back-off 10s".into())));
    let again = "container opencode-server ends again and again; its log says why";
    assert_eq!(held(waiting("CrashLoopBackOff")), Some((reasons::CONTAINER_NOT_CREATED, again.into())));
    assert_eq!(held(json!({"running": {}})), None);
    // Not for ever: unless the Task's own container has begun, which then says what is wrong.
    let crash = |restarts: i32, begun: bool| {
        let mut status = status("opencode-server", waiting("CrashLoopBackOff"));
        status["initContainerStatuses"][0]["restartCount"] = json!(restarts);
        status["initContainerStatuses"][0]["lastState"] = json!({"terminated": {"exitCode": 1}});
        if begun {
            status["containerStatuses"][0]["state"] = json!({"running": {}});
        }
        view(status).ending
    };
    let message = "container opencode-server ends again and again, with exit code 1".to_owned();
    let broken = Some(Ending::Broken { reason: reasons::CRASH_LOOP, message, at: None });
    assert_eq!([crash(4, false), crash(5, false), crash(5, true)], [None, broken, None]);
    let mut failed = status("opencode-init", json!({"terminated": {"exitCode": 4}}));
    failed["phase"] = json!("Failed");
    let Some(Ending::Broken { message, .. }) = view(failed).ending else { panic!("it has failed") };
    assert_eq!(message, "the Task's pod failed: its container opencode-init ended with exit code 4");
}
