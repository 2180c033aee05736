//! The contexts of a Task: knowledge that goes to the session with the prompt, and stays nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use super::build::MAX_PROMPT;
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

/// What of a ConfigMap's texts the contexts need. The rest of it is dropped as soon as it is read.
pub fn needed(task: &Task, name: &str, mut texts: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let of = || items(task).filter_map(|item| item.config_map.as_ref()).filter(|map| map.name == name);
    if of().all(|map| map.key.is_some()) {
        texts.retain(|key, _| of().any(|map| map.key.as_ref() == Some(key)));
    }
    texts
}

/// The text of all contexts, in their order; empty where there is none. What is missing is an error that names it, and so is
/// what is longer than `most` bytes: never more than that is held, however often the same ConfigMap is named.
pub fn gather(task: &Task, maps: &Maps, most: usize) -> Result<String, String> {
    let mut all = Text { text: String::new(), most };
    for (index, item) in items(task).enumerate() {
        let at = |message| format!("spec.contexts[{index}]: {message}");
        let files = match (item.kind, &item.config_map) {
            (ContextType::ConfigMap, Some(map)) => files(map, maps).map_err(at)?,
            (ContextType::Text, _) => item.text.iter().map(|text| (None, text.as_str())).collect(),
            _ => vec![],
        };
        if files.iter().any(|(key, text)| key.is_some() || !text.trim().is_empty()) {
            all.context(item, &files).map_err(|TooLong| too_long())?;
        }
    }
    Ok(all.text)
}

/// Why contexts are refused that together with the prompt are longer than it may be.
pub fn too_long() -> String {
    format!("they are longer than {} KiB", MAX_PROMPT / 1024)
}

fn items(task: &Task) -> impl Iterator<Item = &ContextItem> {
    task.spec.contexts.iter().flatten()
}

/// A text, and the key that is its name where all of a ConfigMap is meant.
type File<'a> = (Option<&'a str>, &'a str);

/// The texts from a ConfigMap; none where it is optional and missing.
fn files<'a>(from: &ConfigMapContext, maps: &'a Maps) -> Result<Vec<File<'a>>, String> {
    let optional = from.optional == Some(true);
    let Some(map) = maps.get(&from.name) else {
        return if optional { Ok(vec![]) } else { Err(format!("ConfigMap {} does not exist", from.name)) };
    };
    match &from.key {
        None => Ok(map.iter().map(|(key, text)| (Some(key.as_str()), text.as_str())).collect()),
        Some(key) => match map.get(key) {
            Some(text) => Ok(vec![(None, text)]),
            None if optional => Ok(vec![]),
            None => Err(format!("ConfigMap {} has no key {key} with text", from.name)),
        },
    }
}

/// A text that is never longer than this.
struct Text {
    text: String,
    most: usize,
}

/// It would have been.
struct TooLong;

impl Text {
    fn push(&mut self, parts: &[&str]) -> Result<(), TooLong> {
        let more: usize = parts.iter().map(|part| part.len()).sum();
        if self.text.len().saturating_add(more) > self.most {
            return Err(TooLong);
        }
        self.text.extend(parts.iter().copied());
        Ok(())
    }

    /// The same form as an agent's own contexts have.
    fn context(&mut self, item: &ContextItem, files: &[File<'_>]) -> Result<(), TooLong> {
        let attribute = |name: &str, value: &Option<String>| {
            value.as_ref().map(|value| format!(" {name}=\"{}\"", quoted(value))).unwrap_or_default()
        };
        let (name, description) = (attribute("name", &item.name), attribute("description", &item.description));
        let between = if self.text.is_empty() { "" } else { "\n" };
        self.push(&[between, "<context", &name, &description, ">\n"])?;
        for (key, text) in files {
            match key {
                Some(key) => self.push(&["<file name=\"", &quoted(key), "\">\n", text.trim_end(), "\n</file>\n"])?,
                None => self.push(&[text.trim_end(), "\n"])?,
            }
        }
        self.push(&["</context>\n"])
    }
}

fn quoted(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('\n', " ")
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
        assert_eq!(gather(&task, &maps(), expected.len()).unwrap(), expected);
        assert_eq!(gather(&task, &maps(), expected.len() - 1).unwrap_err(), too_long());
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
            assert_eq!(gather(&task, &maps(), MAX_PROMPT).unwrap_err(), expected);
        }
    }

    /// What the contexts hold is counted before it is copied: 256 times the same MiB is never held.
    #[test]
    fn the_same_large_text_many_times_is_refused_before_it_is_held() {
        let large = [("k".to_owned(), "x".repeat(600 << 10)), ("l".to_owned(), "y".repeat(400 << 10))];
        let maps: Maps = [("books".to_owned(), large.into())].into();
        let all = json!({"type": "ConfigMap", "configMap": {"name": "books"}});
        let one = json!({"type": "ConfigMap", "configMap": {"name": "books", "key": "k"}});
        for contexts in [vec![all; 256], vec![one.clone(); 2]] {
            assert_eq!(gather(&task(json!(contexts)), &maps, MAX_PROMPT).unwrap_err(), "they are longer than 900 KiB");
        }
        let mut text = Text { text: String::new(), most: 10 };
        assert!(text.push(&["123456"]).is_ok() && text.push(&["7890", "1"]).is_err());
        assert_eq!(
            (text.text.as_str(), text.text.capacity() < 100),
            ("123456", true),
            "nothing of what is too long is taken"
        );
        assert!(gather(&task(json!([one])), &maps, MAX_PROMPT).is_ok());
    }

    #[test]
    fn of_a_config_map_only_what_is_needed_is_kept() {
        let books = || maps().remove("books").unwrap();
        let keys = |contexts: Value| needed(&task(contexts), "books", books()).into_keys().collect::<Vec<_>>();
        let key = |key: &str| json!({"type": "ConfigMap", "configMap": {"name": "books", "key": key}});
        let all = json!({"type": "ConfigMap", "configMap": {"name": "books"}});
        let other = json!({"type": "ConfigMap", "configMap": {"name": "other"}});
        assert_eq!(keys(json!([key("team"), key("none"), other])), ["team"]);
        assert_eq!(keys(json!([key("team"), all])), ["oncall", "team"]);
    }
}
