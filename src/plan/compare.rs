//! Whether an apply would change a live object.

use serde_json::{Map, Value};

use crate::api::names::annotation::REVISION;

/// Whether a dry run of the apply gave something else than what is live.
///
/// Comparing with a dry run rather than with the manifest lets defaults, webhooks and fields of other managers be no
/// drift. Left out: what each write changes by itself, the status, and the revision annotation, which never causes a
/// write alone.
pub fn differs(live: &Value, dry_run: &Value) -> bool {
    content(live) != content(dry_run)
}

/// The object without what [`differs`] leaves out; also what `diff` shows.
pub fn content(object: &Value) -> Value {
    let Value::Object(map) = object else { return object.clone() };
    let mut out: Map<String, Value> =
        map.iter().filter(|(key, _)| *key != "status").map(|(k, v)| (k.clone(), v.clone())).collect();
    if let Some(Value::Object(meta)) = out.get_mut("metadata") {
        for key in ["managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink"] {
            meta.remove(key);
        }
        drop_annotation(meta, REVISION);
    }
    Value::Object(out)
}

fn drop_annotation(meta: &mut Map<String, Value>, key: &str) {
    let emptied = meta.get_mut("annotations").and_then(Value::as_object_mut).is_some_and(|annotations| {
        annotations.remove(key);
        annotations.is_empty()
    });
    if emptied {
        meta.remove("annotations");
    }
}

/// What was true when an object was last applied or compared, kept in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Digest of the rendered object.
    pub digest: String,
    /// `resourceVersion` of the live object at which it was as rendered.
    pub resource_version: String,
}

/// How much has to be asked about an object before it is known whether it must be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Nothing: it was as rendered, and nothing asks to look again.
    None,
    /// Its `resourceVersion`.
    Version,
    /// A dry run and the live object.
    Compare,
    /// Nothing: the content is new, it is applied.
    Apply,
}

/// How an object with `digest` is brought about. `look` asks to find changes made by others.
pub fn effort(digest: &str, remembered: Option<&Remembered>, owned: bool, look: bool) -> Effort {
    match remembered {
        Some(r) if r.digest == digest => {
            if look {
                Effort::Version
            } else {
                Effort::None
            }
        }
        // After a restart nothing is remembered of an object in the inventory; most are as they should be.
        None if owned => Effort::Compare,
        Some(_) | None => Effort::Apply,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_content_counts() {
        let live = json!({
            "metadata": {"name": "a", "resourceVersion": "1", "generation": 1, "managedFields": [1],
                "annotations": {REVISION: "main@sha1:1"}},
            "spec": {"replicas": 1}, "status": {"x": 1},
        });
        let mut same = json!({
            "metadata": {"name": "a", "resourceVersion": "1", "generation": 2, "managedFields": [2],
                "annotations": {REVISION: "main@sha1:2"}},
            "spec": {"replicas": 1}, "status": {"x": 2},
        });
        assert!(!differs(&live, &same));
        same["metadata"]["annotations"]["other"] = json!("x");
        assert!(differs(&live, &same));
        let bare = json!({"metadata": {"name": "a"}, "spec": {"replicas": 1}});
        assert!(!differs(&live, &bare), "a missing revision alone is no drift");
        assert!(differs(&live, &json!({"metadata": {"name": "a"}, "spec": {"replicas": 2}})));
    }

    #[test]
    fn the_least_effort_that_is_sure() {
        let known = Remembered { digest: "d".into(), resource_version: "7".into() };
        for (digest, remembered, owned, look, want) in [
            ("d", Some(&known), true, false, Effort::None),
            ("d", Some(&known), true, true, Effort::Version),
            ("e", Some(&known), true, false, Effort::Apply),
            ("e", None, true, false, Effort::Compare),
            ("e", None, false, true, Effort::Apply),
        ] {
            assert_eq!(effort(digest, remembered, owned, look), want);
        }
    }
}
