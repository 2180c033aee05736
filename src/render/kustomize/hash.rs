//! The hash that generated `ConfigMaps` and Secrets carry in their names.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::remember;
use crate::render::manifest::Resource;

/// Appends its content's hash to the name of everything that was generated so.
pub(super) fn add_suffixes(resources: &mut [Resource]) {
    for resource in resources.iter_mut().filter(|r| r.hash_suffix) {
        let name = format!("{}-{}", resource.name(), hash(&resource.value));
        remember(resource);
        resource.set_name(&name);
    }
}

/// kustomize's hash: ten characters, without those that could make a word.
fn hash(object: &Value) -> String {
    let field = |pointer: &str| object.pointer(pointer).cloned().unwrap_or_else(|| "".into());
    let mut hashed = Map::new();
    hashed.insert("kind".into(), field("/kind"));
    hashed.insert("data".into(), field("/data"));
    // kustomize looks for the name at a place where it never is, so it is always empty.
    hashed.insert("name".into(), "".into());
    let extra: &[&str] = if object["kind"] == "Secret" {
        hashed.insert("type".into(), field("/type"));
        &["stringData"]
    } else {
        &["binaryData"]
    };
    for key in extra {
        if let Some(map @ Value::Object(_)) = object.get(*key) {
            hashed.insert((*key).into(), map.clone());
        }
    }
    let digest = Sha256::digest(go_json(&Value::Object(hashed)).as_bytes());
    // Hex digits, with other letters for those that could make a word.
    let letters = b"gh2k456789mbcdtf";
    digest.iter().take(5).flat_map(|b| [b >> 4, b & 15]).map(|digit| char::from(letters[usize::from(digit)])).collect()
}

/// JSON as Go writes it: keys sorted, and what could hurt in HTML escaped.
fn go_json(value: &Value) -> String {
    value
        .to_string()
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

/// Base64 as kustomize writes it, and hashes it: lines of 70 characters where there is more than one.
pub(super) fn base64(bytes: &[u8]) -> String {
    let flat = STANDARD.encode(bytes);
    if flat.len() < 70 {
        return flat;
    }
    let lines = flat.as_bytes().chunks(70).map(|line| String::from_utf8_lossy(line) + "\n");
    lines.collect()
}

/// The API server gives base64 back without line breaks; sent with them it would never look the same.
pub(super) fn unwrap_base64(resources: &mut [Resource]) {
    for resource in resources.iter_mut().filter(|r| r.group().is_empty()) {
        let field = match resource.kind() {
            "Secret" => "data",
            "ConfigMap" => "binaryData",
            _ => continue,
        };
        let Some(Value::Object(map)) = resource.value.get_mut(field) else { continue };
        for text in map.values_mut() {
            if let Value::String(text) = text {
                text.retain(|c| c != '\n' && c != '\r');
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_hash_is_of_the_content_alone() {
        // As the real program writes it: `{"data":{"a":"1"},"kind":"ConfigMap","name":""}`.
        let map = json!({"kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "1"}});
        assert_eq!(hash(&map), "h29d89cmmt");
        let escaped = json!({"a": "<b> & \u{2028}"});
        assert_eq!(go_json(&escaped), r#"{"a":"\u003cb\u003e \u0026 \u2028"}"#);
    }

    #[test]
    fn base64_breaks_after_seventy() {
        assert_eq!(base64(b"x"), "eA==");
        assert_eq!(base64(&[0; 60]).lines().map(str::len).collect::<Vec<_>>(), [70, 10]);
    }
}
