//! Tasks run once per content.
//!
//! A Task is not kept equal to its manifest like other objects: its existence starts work. So it is created once for
//! each content (spec and run id), never patched, and never created again after cleanup or a person deleted it.

use serde_json::Value;

use crate::api::{InventoryEntry, names::annotation::SPEC_HASH};

/// What is known about a Task in the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveTask {
    /// Its uid.
    pub uid: String,
    /// Content that it was created with, as the annotation says.
    pub hash: Option<String>,
    /// Whether it has reached its last phase.
    pub finished: bool,
    /// Whether work has begun and not ended.
    pub running: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
}

impl LiveTask {
    /// Reads a Task as the API server gives it.
    pub fn read(task: &Value) -> Self {
        let text = |pointer: &str| task.pointer(pointer).and_then(Value::as_str);
        let phase = text("/status/phase");
        Self {
            uid: text("/metadata/uid").unwrap_or_default().into(),
            hash: task
                .pointer("/metadata/annotations")
                .and_then(|a| a.get(SPEC_HASH))
                .and_then(Value::as_str)
                .map(Into::into),
            finished: matches!(phase, Some("Completed" | "Failed")),
            running: phase == Some("Running"),
            terminating: text("/metadata/deletionTimestamp").is_some(),
        }
    }
}

/// What is done about one Task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Once {
    /// It is created.
    Create,
    /// It exists with this content; it is left alone and remembered.
    Keep {
        /// The Task's uid.
        uid: String,
        /// Whether it has reached its last phase.
        finished: bool,
    },
    /// It ran and is gone; it is not created again.
    Done,
    /// An older content exists and does not run: it is deleted, then this one is created.
    Replace {
        /// The old Task's uid.
        uid: String,
    },
    /// An older content runs or is being deleted: this one comes after it.
    Wait,
    /// A Task of this name exists that no Sync made.
    Foreign,
}

/// Decides about a Task with content `hash`.
pub fn decide(hash: &str, known: Option<&InventoryEntry>, live: Option<&LiveTask>) -> Once {
    let same_content = known.is_some_and(|k| k.spec_hash.as_deref() == Some(hash));
    let Some(live) = live else {
        // Without a uid the entry was written before the Task was: the process ended in between.
        let ran = known.is_some_and(|k| k.uid.is_some() || k.finished == Some(true));
        return if same_content && ran { Once::Done } else { Once::Create };
    };
    let is_known = known.is_some_and(|k| k.uid.as_deref() == Some(live.uid.as_str()));
    if live.hash.as_deref() == Some(hash) || (is_known && same_content) {
        return Once::Keep { uid: live.uid.clone(), finished: live.finished || live.terminating };
    }
    let is_older = known.is_some() && live.hash.is_some();
    if !is_known && !is_older {
        return Once::Foreign;
    }
    if live.running || live.terminating { Once::Wait } else { Once::Replace { uid: live.uid.clone() } }
}

/// Whether a Task with content `hash` would be created again if it were gone: the inventory does not know yet that it was.
pub fn is_owed(entry: &InventoryEntry, hash: Option<&String>) -> bool {
    let unknown = entry.uid.is_none() && entry.finished != Some(true);
    unknown && entry.spec_hash.is_some() && entry.spec_hash.as_ref() == hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(hash: &str, uid: Option<&str>, finished: Option<bool>) -> InventoryEntry {
        let text = |t: &str| Some(t.to_owned());
        InventoryEntry { spec_hash: text(hash), uid: uid.and_then(text), finished, ..InventoryEntry::default() }
    }

    fn live(uid: &str, hash: Option<&str>, phase: &str) -> LiveTask {
        LiveTask {
            uid: uid.into(),
            hash: hash.map(Into::into),
            finished: phase == "Completed",
            running: phase == "Running",
            terminating: phase == "gone",
        }
    }

    #[test]
    fn once_per_content() {
        let keep = |uid: &str, finished| Once::Keep { uid: uid.into(), finished };
        let replace = |uid: &str| Once::Replace { uid: uid.into() };
        for (case, known, now, want) in [
            ("first seen", None, None, Once::Create),
            ("written down, then the process ended", Some(entry("h", None, None)), None, Once::Create),
            (
                "created, then the process ended",
                Some(entry("h", None, None)),
                Some(live("u", Some("h"), "")),
                keep("u", false),
            ),
            ("runs", Some(entry("h", Some("u"), None)), Some(live("u", Some("h"), "Running")), keep("u", false)),
            ("ended", Some(entry("h", Some("u"), None)), Some(live("u", Some("h"), "Completed")), keep("u", true)),
            ("cleaned up", Some(entry("h", Some("u"), Some(true))), None, Once::Done),
            ("deleted by a person before its end", Some(entry("h", Some("u"), None)), None, Once::Done),
            ("other content, old one gone", Some(entry("g", Some("u"), Some(true))), None, Once::Create),
            (
                "other content, old one ended",
                Some(entry("g", Some("u"), None)),
                Some(live("u", Some("g"), "Completed")),
                replace("u"),
            ),
            (
                "other content, old one queued",
                Some(entry("g", Some("u"), None)),
                Some(live("u", Some("g"), "Queued")),
                replace("u"),
            ),
            (
                "other content, old one runs",
                Some(entry("g", Some("u"), None)),
                Some(live("u", Some("g"), "Running")),
                Once::Wait,
            ),
            (
                "other content, old one is going",
                Some(entry("g", Some("u"), None)),
                Some(live("u", Some("g"), "gone")),
                Once::Wait,
            ),
            (
                "other content written down, old one still there",
                Some(entry("h", None, None)),
                Some(live("u", Some("g"), "Completed")),
                replace("u"),
            ),
            ("somebody else's", None, Some(live("u", None, "")), Once::Foreign),
            (
                "somebody else's, made after ours",
                Some(entry("h", Some("u"), None)),
                Some(live("v", None, "")),
                Once::Foreign,
            ),
            ("another Sync's", None, Some(live("u", Some("g"), "")), Once::Foreign),
            ("left by an earlier Sync", None, Some(live("u", Some("h"), "Completed")), keep("u", true)),
            ("annotation taken away", Some(entry("h", Some("u"), None)), Some(live("u", None, "")), keep("u", false)),
        ] {
            assert_eq!(decide("h", known.as_ref(), now.as_ref()), want, "{case}");
            // Cleanup takes nothing away that would come back.
            if let (Some(known), Some(now)) = (&known, now.filter(|now| now.hash.as_deref() == Some("h"))) {
                let again = decide("h", Some(known), None) == Once::Create;
                assert_eq!(is_owed(known, now.hash.as_ref()), again, "{case}");
            }
        }
    }
}
