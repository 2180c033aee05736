//! Whether an object does what it was applied for, by the rules of kstatus.
//!
//! See the README of `sigs.k8s.io/cli-utils/pkg/kstatus` for the contract that generic objects keep.

use serde_json::Value;

use crate::api::{
    self,
    names::annotation::{WAIT, WAIT_COMPLETED},
};

/// How an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// As it should be.
    Current,
    /// On its way; what it waits for.
    InProgress(String),
    /// It will not get better by itself; why.
    Failed(String),
}

use Health::{Current, Failed, InProgress};

/// Judges an object as the API server gives it.
pub fn health(object: &Value) -> Health {
    if object.pointer("/metadata/deletionTimestamp").is_some() {
        return InProgress("is being deleted".into());
    }
    let (group, kind) = identity(object);
    match (group, kind) {
        (api::GROUP, "Task") => task(object),
        (api::GROUP, "CronTask") => observed(object).unwrap_or_else(|| crontask(object)),
        // These are not done before their controller has said so.
        (api::GROUP, "Agent" | "Sync" | "Repository") => observed(object).unwrap_or_else(|| ready(object)),
        _ => observed(object).or_else(|| failing(object)).unwrap_or_else(|| match (group, kind) {
            ("apps", "Deployment") => deployment(object),
            ("apps", "StatefulSet") => stateful_set(object),
            ("apps", "DaemonSet") => daemon_set(object),
            ("apps", "ReplicaSet") => replica_set(object),
            ("batch", "Job") => job(object),
            ("", "Pod") => pod(object),
            ("", "PersistentVolumeClaim") => phase(object, "Bound"),
            ("", "Service") => service(object),
            ("apiextensions.k8s.io", "CustomResourceDefinition") => definition(object),
            _ => generic(object),
        }),
    }
}

/// Whether an object of this kind can ever be anything but [`Current`]; others need no look after the apply.
pub fn has_health(group: &str, kind: &str) -> bool {
    !matches!(
        (group, kind),
        ("", "ConfigMap" | "Secret" | "ServiceAccount" | "LimitRange" | "Namespace")
            | ("rbac.authorization.k8s.io", _)
            | ("scheduling.k8s.io", "PriorityClass")
            | ("networking.k8s.io", "NetworkPolicy")
    )
}

fn identity(object: &Value) -> (&str, &str) {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    (text("apiVersion").split_once('/').map_or("", |(group, _)| group), text("kind"))
}

/// The status must be about the present spec.
fn observed(object: &Value) -> Option<Health> {
    let generation = object.pointer("/metadata/generation").and_then(Value::as_i64)?;
    let seen = object.pointer("/status/observedGeneration").and_then(Value::as_i64)?;
    (seen < generation).then(|| InProgress("its controller has not seen the change yet".into()))
}

/// `Stalled` and `Reconciling` of the kstatus contract.
fn failing(object: &Value) -> Option<Health> {
    if let Some(message) = is_true(object, "Stalled") {
        return Some(Failed(message));
    }
    is_true(object, "Reconciling").map(InProgress)
}

fn generic(object: &Value) -> Health {
    match condition(object, "Ready") {
        None | Some(("True", _)) => Current,
        Some((_, message)) => InProgress(message),
    }
}

fn ready(object: &Value) -> Health {
    match condition(object, "Ready") {
        None => InProgress("its controller has not seen it yet".into()),
        Some(("True", _)) => Current,
        Some((_, message)) => match is_true(object, "Stalled") {
            Some(why) => Failed(why),
            None => InProgress(message),
        },
    }
}

/// A `CronTask` does what it was applied for once it is known to be valid; what becomes of its Tasks is another matter.
fn crontask(object: &Value) -> Health {
    match (is_true(object, "Stalled"), condition(object, "Ready")) {
        (Some(why), _) => Failed(why),
        (None, None) => InProgress("its controller has not seen it yet".into()),
        (None, Some(_)) => Current,
    }
}

fn task(object: &Value) -> Health {
    let annotation = object.pointer("/metadata/annotations").and_then(|a| a.get(WAIT)).and_then(Value::as_str);
    match (object.pointer("/status/phase").and_then(Value::as_str), annotation) {
        (None, _) => InProgress("its controller has not accepted it yet".into()),
        (Some("Completed"), _) => Current,
        (Some("Failed"), Some(WAIT_COMPLETED)) => Failed(condition(object, "Ready").map_or("failed".into(), |c| c.1)),
        (Some(phase), Some(WAIT_COMPLETED)) => InProgress(format!("is {phase}; its completion is waited for")),
        _ => Current,
    }
}

/// Status and message (the reason where there is none) of a condition.
fn condition<'a>(object: &'a Value, kind: &str) -> Option<(&'a str, String)> {
    let condition = object
        .pointer("/status/conditions")?
        .as_array()?
        .iter()
        .find(|c| c.get("type").and_then(Value::as_str) == Some(kind))?;
    let text = |key: &str| condition.get(key).and_then(Value::as_str).unwrap_or_default();
    let message = if text("message").is_empty() { text("reason") } else { text("message") };
    Some((text("status"), if message.is_empty() { format!("condition {kind} is not True") } else { message.into() }))
}

fn is_true(object: &Value, kind: &str) -> Option<String> {
    condition(object, kind).filter(|(status, _)| *status == "True").map(|(_, message)| message)
}

fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

fn replicas(object: &Value) -> i64 {
    object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1)
}

/// The workload's controller writes `observedGeneration` with its first status.
fn seen(object: &Value) -> bool {
    object.pointer("/status/observedGeneration").is_some()
}

const UNSEEN: &str = "its controller has not seen it yet";

fn deployment(object: &Value) -> Health {
    if condition(object, "Progressing").is_some_and(|(status, _)| status == "False") {
        return Failed(condition(object, "Progressing").map(|c| c.1).unwrap_or_default());
    }
    let (want, n) = (replicas(object), |field: &str| number(object, &format!("/status/{field}")));
    if !seen(object) {
        InProgress(UNSEEN.into())
    } else if n("updatedReplicas") < want {
        InProgress(format!("{} of {want} replicas are updated", n("updatedReplicas")))
    } else if n("replicas") > n("updatedReplicas") {
        InProgress("old replicas are being removed".into())
    } else if n("availableReplicas") < want {
        InProgress(format!("{} of {want} replicas are available", n("availableReplicas")))
    } else {
        Current
    }
}

fn replica_set(object: &Value) -> Health {
    let (want, have) = (replicas(object), number(object, "/status/availableReplicas"));
    match (seen(object), have >= want) {
        (false, _) => InProgress(UNSEEN.into()),
        (_, false) => InProgress(format!("{have} of {want} replicas are available")),
        _ => Current,
    }
}

fn stateful_set(object: &Value) -> Health {
    if object.pointer("/spec/updateStrategy/type").and_then(Value::as_str) == Some("OnDelete") {
        return Current;
    }
    let (want, ready) = (replicas(object), number(object, "/status/readyReplicas"));
    let partition = number(object, "/spec/updateStrategy/rollingUpdate/partition");
    let revision = |key: &str| object.pointer(&format!("/status/{key}")).and_then(Value::as_str);
    if !seen(object) {
        InProgress(UNSEEN.into())
    } else if ready < want {
        InProgress(format!("{ready} of {want} replicas are ready"))
    } else if partition > 0 {
        let (updated, expected) = (number(object, "/status/updatedReplicas"), want - partition);
        if updated < expected { InProgress(format!("{updated} of {expected} replicas are updated")) } else { Current }
    } else if revision("currentRevision") == revision("updateRevision") {
        Current
    } else {
        InProgress("replicas are being updated".into())
    }
}

fn daemon_set(object: &Value) -> Health {
    let n = |field: &str| number(object, &format!("/status/{field}"));
    let want = n("desiredNumberScheduled");
    if !seen(object) {
        InProgress(UNSEEN.into())
    } else if n("updatedNumberScheduled") < want {
        InProgress(format!("{} of {want} pods are updated", n("updatedNumberScheduled")))
    } else if n("numberReady") < want {
        InProgress(format!("{} of {want} pods are ready", n("numberReady")))
    } else {
        Current
    }
}

fn job(object: &Value) -> Health {
    if let Some(message) = is_true(object, "Failed") {
        return Failed(message);
    }
    // As in kstatus, a Job is current once it runs: it may run for days.
    let begun = object.pointer("/status/startTime").is_some();
    if is_true(object, "Complete").is_some() || begun { Current } else { InProgress("has not started".into()) }
}

fn pod(object: &Value) -> Health {
    match object.pointer("/status/phase").and_then(Value::as_str) {
        Some("Succeeded") => Current,
        Some("Failed") => Failed("the pod failed".into()),
        Some("Running") if is_true(object, "Ready").is_some() => Current,
        Some("Running") => InProgress("is not ready".into()),
        _ => InProgress(
            condition(object, "PodScheduled").filter(|c| c.0 == "False").map_or("is pending".into(), |c| c.1),
        ),
    }
}

fn phase(object: &Value, want: &str) -> Health {
    match object.pointer("/status/phase").and_then(Value::as_str) {
        Some(phase) if phase == want => Current,
        Some(phase) => InProgress(format!("is {phase}")),
        None => InProgress("is pending".into()),
    }
}

fn service(object: &Value) -> Health {
    let waits = object.pointer("/spec/type").and_then(Value::as_str) == Some("LoadBalancer")
        && object.pointer("/status/loadBalancer/ingress").and_then(Value::as_array).is_none_or(Vec::is_empty);
    if waits { InProgress("has no address of a load balancer".into()) } else { Current }
}

fn definition(object: &Value) -> Health {
    match (condition(object, "NamesAccepted"), condition(object, "Established")) {
        (Some(("False", message)), _) => Failed(message),
        (_, Some(("True", _))) => Current,
        _ => InProgress("is not established".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(api_version: &str, kind: &str, rest: Value) -> Value {
        let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x", "generation": 2}});
        if let (Value::Object(into), Value::Object(from)) = (&mut object, rest) {
            into.extend(from);
        }
        object
    }

    fn letter(health: &Health) -> char {
        match health {
            Current => 'C',
            InProgress(_) => 'P',
            Failed(_) => 'F',
        }
    }

    #[test]
    fn table() {
        let cond = |kind: &str, status: &str| json!({"status": {"observedGeneration": 2, "conditions": [{"type": kind, "status": status, "message": "m"}]}});
        let deploy = |updated: i64, all: i64, available: i64, generation: i64| {
            json!({"spec": {"replicas": 2}, "status": {"observedGeneration": generation, "updatedReplicas": updated,
                "replicas": all, "availableReplicas": available}})
        };
        let stateful = |ready: i64, current: &str| json!({"status": {"observedGeneration": 2, "readyReplicas": ready, "currentRevision": current, "updateRevision": "b"}});
        let daemon = |ready: i64| json!({"status": {"observedGeneration": 2, "desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberReady": ready}});
        let phase = |p: &str| json!({"status": {"phase": p}});
        let ours = "pilothouse.dev/v1alpha1";
        for (n, (version, kind, rest, want)) in [
            ("v1", "ConfigMap", json!({}), 'C'),
            ("apps/v1", "Deployment", json!({}), 'P'),
            ("apps/v1", "Deployment", deploy(2, 2, 2, 1), 'P'),
            ("apps/v1", "Deployment", deploy(1, 2, 2, 2), 'P'),
            ("apps/v1", "Deployment", deploy(2, 3, 2, 2), 'P'),
            ("apps/v1", "Deployment", deploy(2, 2, 1, 2), 'P'),
            ("apps/v1", "Deployment", deploy(2, 2, 2, 2), 'C'),
            ("apps/v1", "Deployment", cond("Progressing", "False"), 'F'),
            ("apps/v1", "StatefulSet", stateful(0, "b"), 'P'),
            ("apps/v1", "StatefulSet", stateful(1, "a"), 'P'),
            ("apps/v1", "StatefulSet", stateful(1, "b"), 'C'),
            ("apps/v1", "DaemonSet", daemon(1), 'P'),
            ("apps/v1", "DaemonSet", daemon(2), 'C'),
            ("batch/v1", "Job", json!({}), 'P'),
            ("batch/v1", "Job", json!({"status": {"startTime": "t"}}), 'C'),
            ("batch/v1", "Job", cond("Failed", "True"), 'F'),
            ("v1", "Pod", phase("Pending"), 'P'),
            ("v1", "Pod", phase("Succeeded"), 'C'),
            ("v1", "Pod", phase("Failed"), 'F'),
            (
                "v1",
                "Pod",
                json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}),
                'C',
            ),
            ("v1", "PersistentVolumeClaim", phase("Pending"), 'P'),
            ("v1", "PersistentVolumeClaim", phase("Bound"), 'C'),
            ("v1", "Service", json!({"spec": {"type": "LoadBalancer"}}), 'P'),
            ("v1", "Service", json!({"spec": {"type": "ClusterIP"}}), 'C'),
            ("apiextensions.k8s.io/v1", "CustomResourceDefinition", json!({}), 'P'),
            ("apiextensions.k8s.io/v1", "CustomResourceDefinition", cond("Established", "True"), 'C'),
            ("apiextensions.k8s.io/v1", "CustomResourceDefinition", cond("NamesAccepted", "False"), 'F'),
            ("example.com/v1", "Thing", json!({}), 'C'),
            ("example.com/v1", "Thing", json!({"status": {"observedGeneration": 1}}), 'P'),
            ("example.com/v1", "Thing", cond("Ready", "False"), 'P'),
            ("example.com/v1", "Thing", cond("Ready", "True"), 'C'),
            ("example.com/v1", "Thing", cond("Stalled", "True"), 'F'),
            ("example.com/v1", "Thing", cond("Reconciling", "True"), 'P'),
            (ours, "Agent", json!({}), 'P'),
            (ours, "Agent", cond("Ready", "False"), 'P'),
            (ours, "Agent", cond("Ready", "True"), 'C'),
            (ours, "AgentTemplate", json!({}), 'C'),
            (ours, "CronTask", json!({}), 'P'),
            (ours, "CronTask", cond("Ready", "True"), 'C'),
            (ours, "CronTask", cond("Ready", "False"), 'C'),
            (ours, "CronTask", cond("Stalled", "True"), 'F'),
            (ours, "Task", json!({}), 'P'),
            (ours, "Task", phase("Queued"), 'C'),
            (ours, "Task", phase("Failed"), 'C'),
        ]
        .into_iter()
        .enumerate()
        {
            let got = health(&object(version, kind, rest));
            assert_eq!(letter(&got), want, "row {n}: {version} {kind}: {got:?}");
        }
    }

    #[test]
    fn a_task_is_waited_for_on_demand() {
        for (phase, want) in [("Queued", 'P'), ("Running", 'P'), ("Completed", 'C'), ("Failed", 'F')] {
            let mut task = object("pilothouse.dev/v1alpha1", "Task", json!({"status": {"phase": phase}}));
            task["metadata"]["annotations"] = json!({WAIT: "completed"});
            assert_eq!(letter(&health(&task)), want, "{phase}");
        }
    }

    #[test]
    fn what_is_going_is_not_current() {
        let mut object = object("v1", "ConfigMap", json!({}));
        object["metadata"]["deletionTimestamp"] = json!("t");
        assert_eq!(letter(&health(&object)), 'P');
    }
}
