use serde_json::{Value, json};

use super::*;

fn task(name: &str, created: &str, status: &Value) -> Task {
    serde_json::from_value(json!({
        "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Task",
        "metadata": {"name": name, "namespace": "ns", "uid": name, "creationTimestamp": created},
        "spec": {"agentRef": {"name": "a"}, "description": "d"},
        "status": status,
    }))
    .unwrap()
}

fn queued(name: &str) -> Task {
    task(name, "2026-01-01T00:00:00Z", &json!({"phase": "Queued"}))
}

fn running(name: &str) -> Task {
    task(name, "2026-01-01T00:00:00Z", &json!({"phase": "Running"}))
}

fn finished(name: &str, at: &str) -> Task {
    task(name, "2026-01-01T00:00:00Z", &json!({"phase": "Completed", "completionTime": at}))
}

fn names(index: &Index) -> Vec<String> {
    index.queue("ns", "a").into_iter().map(|t| t.name).collect()
}

#[test]
fn a_task_is_where_it_was_seen_last() {
    let index = Index::default();
    assert_eq!(index.update(&queued("x"), false).0, ["a"]);
    assert_eq!(index.update(&queued("x"), false).0, [""; 0], "nothing is new");
    assert_eq!(index.update(&running("x"), false).0, ["a"], "it is still in the queue, and waits no more");
    assert!(index.queue("ns", "a")[0].running);
    assert_eq!(index.update(&finished("x", "2026-01-01T00:00:01Z"), false).0, ["a"]);
    assert_eq!(names(&index), [""; 0]);
    assert_eq!(index.surplus("ns", 0), ["x"]);
    assert_eq!(index.update(&finished("x", "2026-01-01T00:00:01Z"), true).0, [""; 0]);
    assert_eq!(index.surplus("ns", 0), [""; 0]);
    let inner = index.0.lock();
    assert!(inner.queues.is_empty() && inner.finished.is_empty() && inner.places.is_empty(), "nothing is left behind");
}

#[test]
fn a_task_that_moves_to_another_agent_leaves_the_first() {
    let index = Index::default();
    index.update(&queued("x"), false);
    let mut moved = queued("x");
    moved.spec.agent_ref = Some("b".into());
    assert_eq!(index.update(&moved, false).0, ["a", "b"]);
    assert_eq!((names(&index).len(), index.queue("ns", "b").len()), (0, 1));
}

#[test]
fn who_cannot_start_is_not_in_the_queue() {
    let index = Index::default();
    let mut stopped = queued("stopped");
    stopped.metadata.annotations = Some([("pilothouse.dev/stop".to_owned(), "true".to_owned())].into());
    let mut refused = queued("refused");
    refused.spec.description = None;
    let mut leaving = queued("leaving");
    leaving.metadata.deletion_timestamp = leaving.metadata.creation_timestamp.clone();
    for task in [&stopped, &refused, &leaving, &queued("good")] {
        index.update(task, false);
    }
    assert_eq!(names(&index), ["good"]);
    assert_eq!(index.unfinished("ns", "a").len(), 4, "but a change of the agent concerns all");
}

#[test]
fn the_oldest_ends_are_too_many_first() {
    let index = Index::default();
    for (name, second) in [("b", 2), ("a", 2), ("z", 1), ("c", 3)] {
        index.update(&finished(name, &format!("2026-01-01T00:00:0{second}Z")), false);
    }
    assert_eq!(index.surplus("ns", 2), ["z", "a"]);
    assert_eq!(index.surplus("ns", 9), [""; 0]);
    let surplus = |max| ["a", "b", "c", "z"].map(|name| index.is_surplus("ns", name, max));
    assert_eq!(surplus(4), [false; 4]);
    assert_eq!(surplus(3), [false, false, false, true]);
    assert_eq!(surplus(1), [true, true, false, true]);
    assert_eq!(surplus(0), [true; 4]);
    assert!(!index.is_surplus("ns", "unknown", 0));
}

#[test]
fn a_task_with_a_pod_of_its_own_stands_in_no_queue_and_is_kept_count_of() {
    let index = Index::default();
    let alone = |task: Task| {
        let spec = serde_json::from_value(json!({"templateRef": {"name": "a"}, "description": "d"})).unwrap();
        Task { spec, ..task }
    };
    let finished = || alone(finished("x", "2026-01-01T00:00:01Z"));
    assert_eq!(index.update(&alone(queued("x")), false), (vec![], false));
    assert_eq!((names(&index).len(), index.unfinished("ns", "a").len()), (0, 0));
    assert_eq!(index.update(&finished(), false), (vec![], true), "who is kept is another question now");
    assert_eq!(index.update(&finished(), false), (vec![], false));
    assert_eq!(index.surplus("ns", 0), ["x"]);
    assert_eq!(index.update(&finished(), true), (vec![], true));
    assert!(index.0.lock().places.is_empty());
}
