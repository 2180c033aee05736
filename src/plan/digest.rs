//! Digests of objects that do not depend on the order of keys.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Wanted;
use crate::{api::names::annotation::RUN_ID, object::Object};

/// Hex digits of a digest that are kept where one object is told from its next version.
const SHORT: usize = 32;

/// SHA-256 of `value` in canonical form (sorted keys), 64 hex digits.
pub fn of_value(value: &Value) -> String {
    let mut hasher = Sha256::new();
    feed(&mut hasher, value);
    hex(&hasher.finalize())
}

/// Digest of an object's rendered content, 32 hex digits.
pub fn of_object(object: &Object) -> String {
    short(of_value(object.value()))
}

/// Digest of everything that is rendered, whatever the order: 64 hex digits.
pub fn of_all(wanted: &[Wanted]) -> String {
    let mut each: Vec<(String, String)> =
        wanted.iter().map(|w| (w.object.id().to_string(), of_value(w.object.value()))).collect();
    each.sort();
    let mut hasher = Sha256::new();
    for (id, digest) in each {
        hasher.update(id.as_bytes());
        hasher.update([0]);
        hasher.update(digest.as_bytes());
    }
    hex(&hasher.finalize())
}

/// What makes a Task another piece of work: its spec, and the run id that asks for it again. 32 hex digits.
pub fn of_work(task: &Object) -> String {
    let spec = task.value().get("spec").cloned().unwrap_or(Value::Null);
    short(of_value(&serde_json::json!([spec, task.annotation(RUN_ID)])))
}

fn short(mut digest: String) -> String {
    digest.truncate(SHORT);
    digest
}

/// Length-prefixed, so that no two values give the same bytes.
fn feed(hasher: &mut Sha256, value: &Value) {
    match value {
        Value::Null => hasher.update(b"n"),
        Value::Bool(b) => hasher.update(if *b { b"t" } else { b"f" }),
        Value::Number(n) => text(hasher, b'#', &n.to_string()),
        Value::String(s) => text(hasher, b's', s),
        Value::Array(list) => {
            text(hasher, b'[', &list.len().to_string());
            for value in list {
                feed(hasher, value);
            }
        }
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            text(hasher, b'{', &keys.len().to_string());
            for key in keys {
                text(hasher, b'k', key);
                feed(hasher, &map[key]);
            }
        }
    }
}

fn text(hasher: &mut Sha256, tag: u8, text: &str) {
    hasher.update([tag]);
    hasher.update((text.len() as u64).to_be_bytes());
    hasher.update(text.as_bytes());
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn order_of_keys_does_not_count_and_structure_does() {
        assert_eq!(of_value(&json!({"a": 1, "b": [1, 2]})), of_value(&json!({"b": [1, 2], "a": 1})));
        for (a, b) in [
            (json!(["ab", "c"]), json!(["a", "bc"])),
            (json!({"a": {}}), json!({"a": []})),
            (json!("1"), json!(1)),
            (json!([[], []]), json!([[[]]])),
        ] {
            assert_ne!(of_value(&a), of_value(&b), "{a} {b}");
        }
    }

    #[test]
    fn a_run_id_is_another_piece_of_work() {
        let task = |annotations: Value, labels: Value| {
            Object::new(json!({
                "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Task",
                "metadata": {"name": "t", "annotations": annotations, "labels": labels}, "spec": {"description": "x"},
            }))
            .unwrap()
        };
        let plain = of_work(&task(json!({}), json!({})));
        assert_eq!(plain, of_work(&task(json!({"other": "1"}), json!({"l": "1"}))));
        assert_ne!(plain, of_work(&task(json!({RUN_ID: "2"}), json!({}))));
    }
}
