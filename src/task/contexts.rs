//! The contexts of a Task: knowledge that goes to the session with the prompt, and stays nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::{ContextItem, ContextType, Task, context::ConfigMapContext};

/// ConfigMaps of the Task's namespace by name: their keys and texts.
pub type Maps = BTreeMap<String, BTreeMap<String, String>>;

/// Names of the ConfigMaps that the contexts of a Task need.
pub fn config_maps(task: &Task) -> BTreeSet<&str> {
    items(task).filter_map(|item| item.config_map.as_ref()).map(|map| map.name.as_str()).collect()
}

/// Names of those without which it cannot start.
pub fn required(task: &Task) -> BTreeSet<&str> {
    let needed = items(task).filter_map(|item| item.config_map.as_ref()).filter(|map| map.optional != Some(true));
    needed.map(|map| map.name.as_str()).collect()
}

/// The text of all contexts, in their order; empty where there is none. What is missing is an error that names it.
pub fn gather(task: &Task, maps: &Maps) -> Result<String, String> {
    let mut all = vec![];
    for (index, item) in items(task).enumerate() {
        let body = match (item.kind, &item.config_map) {
            (ContextType::ConfigMap, Some(map)) => {
                body(map, maps).map_err(|m| format!("spec.contexts[{index}]: {m}"))?
            }
            (ContextType::Text, _) => item.text.clone(),
            _ => None,
        };
        if let Some(body) = body.filter(|body| !body.trim().is_empty()) {
            all.push(wrapped(item, &body));
        }
    }
    Ok(all.join("\n"))
}

fn items(task: &Task) -> impl Iterator<Item = &ContextItem> {
    task.spec.contexts.iter().flatten()
}

/// The text from a ConfigMap; none where it is optional and missing.
fn body(from: &ConfigMapContext, maps: &Maps) -> Result<Option<String>, String> {
    let optional = from.optional == Some(true);
    let Some(map) = maps.get(&from.name) else {
        return if optional { Ok(None) } else { Err(format!("ConfigMap {} does not exist", from.name)) };
    };
    match &from.key {
        None => Ok(Some(map.iter().map(|(key, text)| file(key, text)).collect::<Vec<_>>().join("\n"))),
        Some(key) => match map.get(key) {
            Some(text) => Ok(Some(text.clone())),
            None if optional => Ok(None),
            None => Err(format!("ConfigMap {} has no key {key} with text", from.name)),
        },
    }
}

fn file(key: &str, text: &str) -> String {
    format!("<file name=\"{}\">\n{}\n</file>", quoted(key), text.trim_end())
}

fn quoted(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('\n', " ")
}

/// The same form as an agent's own contexts have.
fn wrapped(item: &ContextItem, body: &str) -> String {
    let attribute = |name: &str, value: &Option<String>| {
        value.as_ref().map(|value| format!(" {name}=\"{}\"", quoted(value))).unwrap_or_default()
    };
    let (name, description) = (attribute("name", &item.name), attribute("description", &item.description));
    format!("<context{name}{description}>\n{}\n</context>\n", body.trim_end())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[allow(clippy::needless_pass_by_value, reason = "written where it is called")]
    fn task(contexts: Value) -> Task {
        serde_json::from_value(json!({
            "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Task", "metadata": {"name": "t"},
            "spec": {"agentRef": {"name": "a"}, "description": "d", "contexts": contexts},
        }))
        .unwrap()
    }

    fn maps() -> Maps {
        let books = [("oncall".to_owned(), "Wake up.\n".to_owned()), ("team".to_owned(), "Ask Jo.".to_owned())];
        [("books".to_owned(), books.into())].into()
    }

    #[test]
    fn contexts_are_gathered_in_their_order() {
        let task = task(json!([
            {"type": "ConfigMap", "name": "all", "configMap": {"name": "books"}},
            {"type": "Text", "name": "a \"b\"", "description": "rules", "text": "Be kind.\n\n"},
            {"type": "ConfigMap", "configMap": {"name": "books", "key": "oncall"}},
            {"type": "ConfigMap", "configMap": {"name": "none", "optional": true}},
            {"type": "ConfigMap", "configMap": {"name": "books", "key": "none", "optional": true}},
            {"type": "Text", "text": ""},
        ]));
        let expected = "<context name=\"all\">\n<file name=\"oncall\">\nWake up.\n</file>\n<file name=\"team\">\nAsk Jo.\n</file>\n</context>\n\n\
            <context name=\"a &quot;b&quot;\" description=\"rules\">\nBe kind.\n</context>\n\n\
            <context>\nWake up.\n</context>\n";
        assert_eq!(gather(&task, &maps()).unwrap(), expected);
        assert_eq!(config_maps(&task), ["books", "none"].into());
        assert_eq!(required(&task), ["books"].into());
    }

    #[test]
    fn what_is_missing_is_named() {
        let table = [
            (json!({"name": "none"}), "spec.contexts[1]: ConfigMap none does not exist"),
            (json!({"name": "books", "key": "k"}), "spec.contexts[1]: ConfigMap books has no key k with text"),
        ];
        for (map, expected) in table {
            let task = task(json!([{"type": "Text", "text": "t"}, {"type": "ConfigMap", "configMap": map}]));
            assert_eq!(gather(&task, &maps()).unwrap_err(), expected);
        }
    }
}
