//! The configuration of opencode.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{Invalid, hash::canonical};
use crate::api::names::reasons;

/// `opencode.json` as it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Canonical JSON: the same bytes for an object and for a string that says the same.
    pub json: String,
    /// The same of what the user wrote alone; `None` where nothing was written.
    pub own: Option<String>,
    /// Whether it sets `permission`, so that the default (everything allowed) must stay away.
    pub has_permission: bool,
}

/// Reads `spec.config`: an object, or a string that holds a JSON object. `skills` are added to its `skills.paths`, after
/// what is there.
pub fn config(value: Option<&Value>, skills: &[String]) -> Result<Option<Config>, Invalid> {
    let own = match value {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(parse(text)?),
        Some(value) => Some(value.clone()),
    };
    if own.is_none() && skills.is_empty() {
        return Ok(None);
    }
    let mut object = own.clone().unwrap_or_else(|| json!({}));
    let Some(map) = object.as_object_mut() else {
        return Err(invalid("spec.config must be an object, or a string that holds a JSON object".into()));
    };
    if !skills.is_empty() {
        add_paths(map, skills)?;
    }
    let has_permission = map.contains_key("permission");
    Ok(Some(Config { json: canonical(&object), own: own.as_ref().map(canonical), has_permission }))
}

fn add_paths(config: &mut Map<String, Value>, skills: &[String]) -> Result<(), Invalid> {
    let wrong = |what: &str| Err(invalid(format!("spec.config.{what}, because paths of skills are added to it")));
    let block = config.entry("skills").or_insert_with(|| json!({}));
    if block.is_null() {
        *block = json!({});
    }
    let Some(block) = block.as_object_mut() else { return wrong("skills must be an object") };
    let paths = block.entry("paths").or_insert_with(|| json!([]));
    if paths.is_null() {
        *paths = json!([]);
    }
    let Some(paths) = paths.as_array_mut() else { return wrong("skills.paths must be a list") };
    let mut seen = BTreeSet::new();
    let ours = skills.iter().map(|path| json!(path));
    let all: Vec<Value> = paths.drain(..).chain(ours).filter(|path| seen.insert(path.to_string())).collect();
    *paths = all;
    Ok(())
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
        let json = r#"{"a":{"b":2,"c":1},"model":"m"}"#.to_string();
        let expected = Config { own: Some(json.clone()), json, has_permission: false };
        assert_eq!(config(Some(&object), &[]).unwrap().unwrap(), expected);
        assert_eq!(config(Some(&text), &[]).unwrap().unwrap(), expected);
        assert_eq!(config(None, &[]).unwrap(), None);
        assert!(config(Some(&json!({"permission": {}})), &[]).unwrap().unwrap().has_permission);
    }

    #[test]
    fn bad_text_names_the_position() {
        let failure = config(Some(&json!("{\n  \"model\": }")), &[]).unwrap_err();
        assert_eq!(failure.reason, "InvalidConfig");
        assert_eq!(
            failure.message,
            "spec.config is a string that is no valid JSON: expected value at line 2 column 12"
        );
        assert!(config(Some(&json!([1])), &[]).is_err() && config(Some(&json!("3")), &[]).is_err());
    }

    #[test]
    fn paths_of_skills_come_after_those_of_the_user() {
        let ours = ["/skills/a".to_string(), "/skills/b/x".to_string()];
        let table = [
            (json!(null), json!({"skills": {"paths": ["/skills/a", "/skills/b/x"]}})),
            (json!({"model": "m"}), json!({"model": "m", "skills": {"paths": ["/skills/a", "/skills/b/x"]}})),
            (
                json!("{\"skills\": {\"urls\": [\"https://u\"], \"paths\": [\"/z\", \"/skills/b/x\", \"/z\"]}}"),
                json!({"skills": {"urls": ["https://u"], "paths": ["/z", "/skills/b/x", "/skills/a"]}}),
            ),
            (json!({"skills": null}), json!({"skills": {"paths": ["/skills/a", "/skills/b/x"]}})),
            (json!({"skills": {"paths": null}}), json!({"skills": {"paths": ["/skills/a", "/skills/b/x"]}})),
        ];
        for (own, expected) in table {
            let found = config(Some(&own), &ours).unwrap().unwrap();
            assert_eq!(found.json, canonical(&expected), "{own}");
            let alone = config(Some(&own), &[]).unwrap().map(|c| c.json);
            assert_eq!(found.own, alone, "{own}: paths of ours are no part of the user's");
        }
        for (own, text) in [
            (json!({"skills": ["a"]}), "spec.config.skills must be an object"),
            (json!({"skills": {"paths": "a"}}), "spec.config.skills.paths must be a list"),
            (json!("3"), "spec.config must be an object"),
        ] {
            let failure = config(Some(&own), &ours).unwrap_err();
            assert!(failure.message.contains(text), "{}", failure.message);
        }
    }
}
