//! The configuration of opencode.

use serde_json::{Value, json};

use super::{Invalid, hash::canonical};
use crate::api::names::reasons;

/// `opencode.json` as it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Canonical JSON: the same bytes for an object and for a string that says the same.
    pub json: String,
    /// Whether it sets `permission`, so that the default (everything allowed) must stay away.
    pub has_permission: bool,
}

/// Reads `spec.config`: an object, or a string that holds a JSON object.
pub fn config(value: Option<&Value>) -> Result<Option<Config>, Invalid> {
    let object = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => parse(text)?,
        Some(value) => value.clone(),
    };
    let Some(map) = object.as_object() else {
        return Err(invalid("spec.config must be an object, or a string that holds a JSON object".into()));
    };
    Ok(Some(Config { json: canonical(&object), has_permission: map.contains_key("permission") }))
}

fn parse(text: &str) -> Result<Value, Invalid> {
    serde_json::from_str(text).map_err(|error| {
        // The error's own text ends with the position; it never quotes the input, which may hold a secret.
        invalid(format!("spec.config is a string that is no valid JSON: {error}"))
    })
}

fn invalid(message: String) -> Invalid {
    Invalid::stalled(reasons::INVALID_CONFIG, message)
}

/// `OPENCODE_CONFIG_CONTENT`: the gathered text is read again for every prompt.
pub fn instructions(path: &str) -> String {
    canonical(&json!({ "instructions": [path] }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_and_its_text_are_the_same() {
        let object = json!({"model": "m", "a": {"c": 1, "b": 2}});
        let text = json!("{ \"model\": \"m\",\n \"a\": {\"b\": 2, \"c\": 1} }");
        let expected = Config { json: r#"{"a":{"b":2,"c":1},"model":"m"}"#.into(), has_permission: false };
        assert_eq!(config(Some(&object)).unwrap().unwrap(), expected);
        assert_eq!(config(Some(&text)).unwrap().unwrap(), expected);
        assert_eq!(config(None).unwrap(), None);
        assert!(config(Some(&json!({"permission": {}}))).unwrap().unwrap().has_permission);
    }

    #[test]
    fn bad_text_names_the_position() {
        let failure = config(Some(&json!("{\n  \"model\": }"))).unwrap_err();
        assert_eq!(failure.reason, "InvalidConfig");
        assert_eq!(
            failure.message,
            "spec.config is a string that is no valid JSON: expected value at line 2 column 12"
        );
        assert!(config(Some(&json!([1]))).is_err() && config(Some(&json!("3"))).is_err());
    }
}
