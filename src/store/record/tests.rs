use serde_json::{Value, json};

use super::*;

fn task(patch: &Value) -> Task {
    let mut whole = json!({
        "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Task",
        "metadata": {"name": "t", "namespace": "team", "uid": "u-1", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"agentRef": {"name": "coder"}, "description": "d"},
        "status": {
            "phase": "Completed", "agentRef": {"name": "coder"},
            "startTime": "2026-01-01T00:01:00Z", "completionTime": "2026-01-01T00:02:00Z",
            "result": "done", "logTail": "the end",
            "revisions": [{"revision": "main@1a2b3c4", "since": "2026-01-01T00:01:00Z"}],
            "conditions": [{"type": "Ready", "status": "True", "reason": "Completed", "message": "the agent has answered",
                "lastTransitionTime": "2026-01-01T00:02:00Z"}],
            "session": {"id": "s-2", "summary": {"cost": "0.020000", "tokenUsage": {"input": 10, "output": 5, "cache": 85}}},
        },
    });
    merge(&mut whole, patch);
    serde_json::from_value(whole).unwrap()
}

fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

#[test]
fn what_is_kept_of_a_task() {
    let record = TaskRecord::of(&task(&json!({}))).unwrap();
    assert_eq!((record.uid.as_str(), record.name.as_str(), record.agent.as_str()), ("u-1", "t", "coder"));
    assert_eq!((record.phase.as_str(), record.reason.as_str()), ("Completed", "Completed"));
    assert_eq!((record.cost.as_str(), record.tokens), ("0.020000", 100));
    assert_eq!(record.ended.to_string(), "2026-01-01T00:02:00Z");
    assert_eq!(record.detail.result.as_deref(), Some("done"));
    assert_eq!(record.detail.log_tail.as_deref(), Some("the end"));
    assert_eq!(record.detail.revisions, ["main@1a2b3c4"]);
    let read: TaskRecord = serde_json::from_value(serde_json::to_value(&record).unwrap()).unwrap();
    assert_eq!(read, record);
    for unfinished in ["Pending", "Queued", "Running"] {
        assert_eq!(TaskRecord::of(&task(&json!({"status": {"phase": unfinished}}))), None);
    }
}

#[test]
fn why_it_ended_is_what_says_most() {
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": reason,
            "lastTransitionTime": "2026-01-01T00:02:00Z"})
    };
    for (conditions, reason) in [
        (json!([condition("Ready", "True", "Completed"), condition("Stopped", "True", "Timeout")]), "Timeout"),
        (json!([condition("Ready", "False", "Failed"), condition("Stalled", "True", "PodLost")]), "PodLost"),
        (json!([condition("Ready", "False", "Failed")]), "Failed"),
        (json!([condition("Queued", "False", "NoLimits")]), "Completed"),
    ] {
        let record = TaskRecord::of(&task(&json!({"status": {"conditions": conditions}}))).unwrap();
        assert_eq!(record.reason, reason);
    }
}

/// A further try that goes on with the session of the one before has its cost too; one with another session has its own.
#[test]
fn a_session_counts_once() {
    let tried = |id: &str, cost: &str| {
        json!({"reason": "PodLost", "startTime": "2026-01-01T00:00:30Z",
            "session": {"id": id, "summary": {"cost": cost, "tokenUsage": {"input": 1}}}})
    };
    let status = json!({"status": {"tries": [tried("s-1", "0.500000"), tried("s-2", "0.010000")]}});
    let record = TaskRecord::of(&task(&status)).unwrap();
    assert_eq!((record.cost.as_str(), record.tokens), ("0.520000", 101));
    assert_eq!(record.started.unwrap().to_string(), "2026-01-01T00:00:30Z", "of the first try");
}

#[test]
fn only_the_owner_says_which_crontask_it_was() {
    let owner = |kind: &str, group: &str, controls: bool| {
        json!({"metadata": {"labels": {"pilothouse.dev/crontask": "other"}, "ownerReferences": [
            {"apiVersion": group, "kind": kind, "name": "nightly", "uid": "c", "controller": controls}]}})
    };
    for (patch, name) in [
        (owner("CronTask", "pilothouse.dev/v1alpha1", true), "nightly"),
        (owner("CronTask", "pilothouse.dev/v1alpha1", false), ""),
        (owner("CronTask", "example.org/v1", true), ""),
        (owner("Sync", "pilothouse.dev/v1alpha1", true), ""),
    ] {
        assert_eq!(TaskRecord::of(&task(&patch)).unwrap().crontask, name, "{patch}");
    }
}

#[test]
fn commits_are_those_that_it_was_started_with() {
    let inputs = json!([{"id": "contexts/docs", "commit": "1"}, {"id": "skills/team", "commit": "2"}]);
    for of in [json!({"inputs": inputs}), json!({"inputs": inputs, "agentRef": null, "templateRef": {"name": "base"}})]
    {
        let record = TaskRecord::of(&task(&json!({ "status": of }))).unwrap();
        let expected =
            [("contexts/docs", "1"), ("skills/team", "2")].map(|(id, commit)| (id.to_owned(), commit.to_owned()));
        assert_eq!(record.detail.content, BTreeMap::from(expected));
    }
    assert!(TaskRecord::of(&task(&json!({}))).unwrap().detail.content.is_empty());
}

#[test]
fn what_is_kept_of_a_sync() {
    let sync: Sync = serde_json::from_value(json!({
        "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Sync",
        "metadata": {"name": "s", "namespace": "team", "uid": "u-2"},
        "spec": {"repositoryRef": {"name": "r"}},
        "status": {"history": [
            {"revision": "main@2", "appliedAt": "2026-01-02T00:00:00Z", "result": "RenderFailed", "message": "line 3"},
            {"revision": "main@1", "appliedAt": "2026-01-01T00:00:00Z", "result": "Applied", "digest": "sha256:1"},
        ]},
    }))
    .unwrap();
    let records = SyncRecord::of(&sync);
    let told: Vec<_> = records.iter().map(|r| (r.revision.as_str(), r.result.as_str())).collect();
    assert_eq!(told, [("main@2", "RenderFailed"), ("main@1", "Applied")]);
    assert_eq!((records[0].message.as_deref(), records[1].digest.as_deref()), (Some("line 3"), Some("sha256:1")));
}
