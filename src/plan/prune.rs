//! What may be deleted.

use serde_json::Value;

use super::once::LiveTask;
use crate::{
    api::names::{annotation::PRUNE, label, label_value, manager},
    object::ObjectId,
};

/// Whether an object of the inventory is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is deleted, if it still has this uid.
    Delete {
        /// The live object's uid.
        uid: String,
    },
    /// It is left alone and leaves the inventory.
    Keep(Why),
    /// It is deleted later: a Task that runs, or an object that is on its way out.
    Later(Why),
}

/// Why an object is not deleted now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its annotation says so.
    Annotated,
    /// Deleting this kind takes data or other objects along.
    Guarded,
    /// Pilothouse never applied it.
    Foreign,
    /// Another Sync applied it last.
    OfAnotherSync,
    /// It is a Task that runs.
    Running,
}

impl Why {
    /// For messages.
    pub fn text(self) -> &'static str {
        match self {
            Self::Annotated => "annotated pilothouse.dev/prune: disabled",
            Self::Guarded => {
                "its deletion would take data along; annotate it pilothouse.dev/prune: enabled before it leaves the files, or delete it by hand"
            }
            Self::Foreign => "it was not applied by Pilothouse",
            Self::OfAnotherSync => "another Sync has applied it since",
            Self::Running => "the Task runs; it is deleted when it has ended",
        }
    }
}

/// Decides from the live object's metadata (and for a Task its status). `ours` is the Sync's namespace and name, and `uid`
/// what its inventory says that it made.
pub fn verdict(id: &ObjectId, live: &Value, ours: Option<(&str, &str)>, uid: Option<&str>) -> Verdict {
    let annotation = live.pointer("/metadata/annotations").and_then(|a| a.get(PRUNE)).and_then(Value::as_str);
    match annotation {
        Some("disabled") => return Verdict::Keep(Why::Annotated),
        Some("enabled") => {}
        _ if guarded(id) => return Verdict::Keep(Why::Guarded),
        _ => {}
    }
    if !applied_by_us(live) {
        return Verdict::Keep(Why::Foreign);
    }
    let made = uid.is_some() && live.pointer("/metadata/uid").and_then(Value::as_str) == uid;
    if !made && ours.is_some_and(|ours| is_of_another(live, ours)) {
        return Verdict::Keep(Why::OfAnotherSync);
    }
    if super::is_task(id) && LiveTask::read(live).running {
        return Verdict::Later(Why::Running);
    }
    let uid = live.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
    Verdict::Delete { uid: uid.into() }
}

/// Kinds whose deletion destroys more than the object: all objects of a kind, all of a namespace, stored data.
pub fn guarded(id: &ObjectId) -> bool {
    matches!(
        (id.group.as_str(), id.kind.as_str()),
        ("apiextensions.k8s.io", "CustomResourceDefinition")
            | ("", "Namespace" | "PersistentVolumeClaim" | "PersistentVolume")
    )
}

/// The inventory is written before an object is applied; where the apply then failed, an object of that name may be
/// somebody else's.
fn applied_by_us(live: &Value) -> bool {
    live.pointer("/metadata/managedFields").and_then(Value::as_array).is_some_and(|managers| {
        managers.iter().any(|m| m.get("manager").and_then(Value::as_str) == Some(manager::SYNC))
    })
}

/// Whether the live object says that the Sync of this namespace and name applied it last.
pub fn is_of(live: &Value, (namespace, name): (&str, &str)) -> bool {
    stamped(live) == Some((label_value(namespace).as_str(), label_value(name).as_str()))
}

fn is_of_another(live: &Value, ours: (&str, &str)) -> bool {
    stamped(live).is_some() && !is_of(live, ours)
}

/// The labels that every apply of a Sync sets.
fn stamped(live: &Value) -> Option<(&str, &str)> {
    let labels = live.pointer("/metadata/labels")?;
    Some((labels.get(label::SYNC_NAMESPACE)?.as_str()?, labels.get(label::SYNC_NAME)?.as_str()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_ours_and_not_guarded() {
        let id = |text: &str| ObjectId::parse(text).unwrap();
        let live = |annotations: Value, manager: &str, phase: &str| {
            json!({"metadata": {"uid": "u", "annotations": annotations, "managedFields": [{"manager": manager}]},
                "status": {"phase": phase}})
        };
        let delete = Verdict::Delete { uid: "u".into() };
        for (text, annotations, manager, phase, want) in [
            ("n_a__ConfigMap", json!({}), manager::SYNC, "", delete.clone()),
            ("n_a__ConfigMap", json!({}), "kubectl", "", Verdict::Keep(Why::Foreign)),
            ("n_a__ConfigMap", json!({PRUNE: "enabled"}), "kubectl", "", Verdict::Keep(Why::Foreign)),
            ("n_a__ConfigMap", json!({PRUNE: "disabled"}), manager::SYNC, "", Verdict::Keep(Why::Annotated)),
            ("_a__Namespace", json!({}), manager::SYNC, "", Verdict::Keep(Why::Guarded)),
            ("_a__Namespace", json!({PRUNE: "enabled"}), manager::SYNC, "", delete.clone()),
            ("n_a__PersistentVolumeClaim", json!({}), manager::SYNC, "", Verdict::Keep(Why::Guarded)),
            (
                "_a_apiextensions.k8s.io_CustomResourceDefinition",
                json!({}),
                manager::SYNC,
                "",
                Verdict::Keep(Why::Guarded),
            ),
            ("n_a_pilothouse.dev_Task", json!({}), manager::SYNC, "Running", Verdict::Later(Why::Running)),
            ("n_a_pilothouse.dev_Task", json!({}), manager::SYNC, "Queued", delete.clone()),
        ] {
            assert_eq!(
                verdict(&id(text), &live(annotations, manager, phase), Some(("n", "s")), None),
                want,
                "{text} {manager} {phase}"
            );
        }
    }
    #[test]
    fn what_another_sync_applied_since_is_kept() {
        let id = ObjectId::parse("n_a__ConfigMap").unwrap();
        let of = |namespace: &str, name: &str| {
            json!({"metadata": {"uid": "u", "managedFields": [{"manager": manager::SYNC}],
                "labels": {label::SYNC_NAMESPACE: namespace, label::SYNC_NAME: name}}})
        };
        let delete = Verdict::Delete { uid: "u".into() };
        let kept = Verdict::Keep(Why::OfAnotherSync);
        for (live, uid, want) in [
            (of("n", "s"), None, &delete),
            (of("n", "t"), None, &kept),
            (of("m", "s"), None, &kept),
            (of("n", "t"), Some("u"), &delete),
            (of("n", "t"), Some("older"), &kept),
        ] {
            assert_eq!(&verdict(&id, &live, Some(("n", "s")), uid), want, "{live} {uid:?}");
        }
        assert_eq!(verdict(&id, &of("n", "t"), None, None), delete);
    }
}
