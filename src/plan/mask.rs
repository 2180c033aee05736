//! Secret values never appear in a diff: the same value gives the same mask, another one another.

use serde_json::Value;

use super::digest;

/// Annotation in which kubectl keeps a whole manifest, values included.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Replaces the values of a Secret. `key` is drawn anew by the caller for each diff, so that a mask cannot be compared
/// with a list of guesses later.
pub fn mask(object: &mut Value, key: &str) {
    if object.get("kind").and_then(Value::as_str) != Some("Secret") || !is_core(object) {
        return;
    }
    for field in ["data", "stringData"] {
        if let Some(values) = object.get_mut(field).and_then(Value::as_object_mut) {
            values.values_mut().for_each(|value| *value = masked(value, key).into());
        }
    }
    if let Some(value) = object.pointer_mut("/metadata/annotations").and_then(|a| a.get_mut(LAST_APPLIED)) {
        *value = masked(value, key).into();
    }
}

fn is_core(object: &Value) -> bool {
    object.get("apiVersion").and_then(Value::as_str).is_none_or(|v| !v.contains('/'))
}

fn masked(value: &Value, key: &str) -> String {
    let digest = digest::of_value(&serde_json::json!([key, value]));
    format!("*** ({})", &digest[..8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_same_value_has_the_same_mask() {
        let secret = |a: &str, b: &str| {
            let mut object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"annotations": {LAST_APPLIED: "aGVsbG8="}},
                "data": {"a": a, "b": b}});
            mask(&mut object, "key");
            object
        };
        let masked = secret("aGVsbG8=", "aGVsbG8=");
        assert_eq!(masked["data"]["a"], masked["data"]["b"]);
        assert_ne!(masked["data"]["a"], secret("b3RoZXI=", "")["data"]["a"]);
        assert!(!masked.to_string().contains("aGVsbG8"), "{masked}");
    }

    #[test]
    fn other_kinds_stay() {
        let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "x"}});
        mask(&mut object, "key");
        assert_eq!(object["data"]["a"], "x");
    }
}
