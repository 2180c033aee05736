//! Which objects a patch is for.

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::{effective_namespace, file::Target};
use crate::{
    api::{GROUP, names::OLD_GROUP},
    render::manifest::Resource,
};

/// A target, compiled.
pub(super) struct Selector {
    group: Option<Regex>,
    version: Option<Regex>,
    kind: Option<Regex>,
    name: Option<Regex>,
    namespace: Option<Regex>,
    labels: Vec<Term>,
    annotations: Vec<Term>,
}

/// The error names the field of the target.
pub(super) fn compile(target: &Target) -> Result<Selector, (&'static str, String)> {
    let regex = |field: &'static str, text: &str| whole(text).map_err(|e| (field, e));
    let terms = |field: &'static str, text: &str| parse(text).map_err(|e| (field, e));
    // Manifests of the older API are mapped when they are read; targets that name it mean those.
    let old = target.group == OLD_GROUP;
    let group = if old { GROUP } else { &target.group };
    let kind = if old && target.kind == "KubeOpenCodeConfig" { "PilothouseConfig" } else { &target.kind };
    Ok(Selector {
        group: regex("group", group)?,
        version: regex("version", &target.version)?,
        kind: regex("kind", kind)?,
        name: regex("name", &target.name)?,
        namespace: regex("namespace", &target.namespace)?,
        labels: terms("labelSelector", &target.label_selector)?,
        annotations: terms("annotationSelector", &target.annotation_selector)?,
    })
}

/// A regular expression that must fit the whole text; `None` for an empty one, which fits everything.
fn whole(text: &str) -> Result<Option<Regex>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let built = RegexBuilder::new(&format!("^(?:{text})$")).size_limit(1 << 20).build();
    built.map(Some).map_err(|e| format!("{text:?} is no regular expression: {e}"))
}

impl Selector {
    /// Names and namespaces fit as they are now or as they were first.
    pub(super) fn matches(&self, resource: &Resource) -> bool {
        let fits = |regex: &Option<Regex>, text: &str| regex.as_ref().is_none_or(|r| r.is_match(text));
        let (name, namespace) = resource
            .former
            .first()
            .map_or((resource.name(), effective_namespace(resource)), |f| (f.name.as_str(), f.namespace.as_str()));
        (fits(&self.name, name) || fits(&self.name, resource.name()))
            && (fits(&self.namespace, namespace) || fits(&self.namespace, effective_namespace(resource)))
            && fits(&self.group, resource.group())
            && fits(&self.version, resource.version())
            && fits(&self.kind, resource.kind())
            && self.labels.iter().all(|term| term.matches(resource.value.pointer("/metadata/labels")))
            && self.annotations.iter().all(|term| term.matches(resource.value.pointer("/metadata/annotations")))
    }
}

/// One term of a label selector.
#[derive(Debug, PartialEq)]
struct Term {
    key: String,
    /// `None`: the key must be there (or not), whatever its value.
    values: Option<Vec<String>>,
    negated: bool,
}

impl Term {
    fn matches(&self, map: Option<&Value>) -> bool {
        let value = map.and_then(|map| map.get(&self.key)).and_then(Value::as_str);
        let found = match (&self.values, value) {
            (None, value) => value.is_some(),
            (Some(values), Some(value)) => values.iter().any(|v| v == value),
            (Some(_), None) => false,
        };
        found != self.negated
    }
}

/// Parses `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
fn parse(text: &str) -> Result<Vec<Term>, String> {
    let mut terms = vec![];
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = end_of_term(rest);
        terms.push(term(rest[..end].trim()).ok_or_else(|| {
            format!(
                "{:?} is no label selector; write a=b, a!=b, a in (b,c), a notin (b,c), a or !a",
                rest[..end].trim()
            )
        })?);
        rest = rest[end..].strip_prefix(',').unwrap_or_default().trim();
    }
    Ok(terms)
}

/// The next comma outside of parentheses.
fn end_of_term(text: &str) -> usize {
    let mut inside = false;
    for (at, c) in text.char_indices() {
        match c {
            '(' => inside = true,
            ')' => inside = false,
            ',' if !inside => return at,
            _ => {}
        }
    }
    text.len()
}

fn term(text: &str) -> Option<Term> {
    let made = |key: &str, values: Option<Vec<String>>, negated| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        (!key.is_empty() && key.chars().all(allowed)).then(|| Term { key: key.to_owned(), values, negated })
    };
    if let Some(key) = text.strip_prefix('!') {
        return made(key.trim(), None, true);
    }
    for (operator, negated) in [("!=", true), ("==", false), ("=", false)] {
        if let Some((key, value)) = text.split_once(operator) {
            return made(key.trim(), Some(vec![value.trim().to_owned()]), negated);
        }
    }
    if let Some((head, values)) = text.split_once('(') {
        let values = values.strip_suffix(')')?.split(',').map(|v| v.trim().to_owned()).collect();
        let (key, operator) = head.trim().rsplit_once(char::is_whitespace)?;
        return match operator {
            "in" => made(key.trim(), Some(values), false),
            "notin" => made(key.trim(), Some(values), true),
            _ => None,
        };
    }
    made(text, None, false)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn label_selectors() {
        let labels = json!({"a": "1", "b/c": "x"});
        for (text, want) in [
            ("", true),
            ("a=1", true),
            ("a==2", false),
            ("a!=2, b/c = x", true),
            ("z!=2", true),
            ("a in (1, 2),!z", true),
            ("a notin (1)", false),
            ("z notin (1)", true),
            ("b/c", true),
            ("!a", false),
            ("z", false),
        ] {
            let terms = parse(text).unwrap();
            assert_eq!(terms.iter().all(|t| t.matches(Some(&labels))), want, "{text}");
        }
        for bad in ["a in 1", "a in (1", "a b", "a>1", ",", "=1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
