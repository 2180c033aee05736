//! Contexts without a path, as one text that the agent reads for every prompt.

use std::{collections::BTreeMap, fmt::Write};

use super::{Bytes, Invalid, LIMIT, Source, too_large};
use crate::api::{ContextItem, ContextType, names::reasons};

/// Collects the text.
pub(super) struct Gathered<'a> {
    namespace: &'a str,
    parts: Vec<(String, String)>,
}

impl<'a> Gathered<'a> {
    pub(super) fn new(namespace: &'a str) -> Self {
        Self { namespace, parts: vec![] }
    }

    pub(super) fn add(&mut self, item: &ContextItem, name: &str, source: Source) -> Result<(), Invalid> {
        let body = match source {
            Source::One(bytes) => text(bytes, name)?,
            Source::Keys(keys) => files(keys, name)?,
            Source::Nothing => return Ok(()),
        };
        let (kind, namespace) = (kind(item.kind), attribute(self.namespace));
        let name_text = attribute(name);
        let part =
            format!("<context name=\"{name_text}\" namespace=\"{namespace}\" type=\"{kind}\">\n{body}\n</context>\n");
        self.parts.push((name.into(), part));
        Ok(())
    }

    /// The parts by the name of their context.
    pub(super) fn by_name(&self) -> BTreeMap<String, String> {
        let mut named: BTreeMap<String, String> = BTreeMap::new();
        for (name, part) in &self.parts {
            named.entry(name.clone()).or_default().push_str(part);
        }
        named
    }

    /// The parts in the order of the spec, joined by an empty line.
    pub(super) fn into_text(self) -> Result<String, Invalid> {
        let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, part) in &self.parts {
            *sizes.entry(name).or_default() += part.len();
        }
        let total: usize = sizes.values().sum();
        if total > LIMIT {
            return Err(too_large("contexts without a mountPath", total, &sizes));
        }
        let parts: Vec<_> = self.parts.iter().map(|(_, part)| part.as_str()).collect();
        Ok(parts.join("\n"))
    }
}

fn kind(kind: ContextType) -> &'static str {
    match kind {
        ContextType::Text => "Text",
        ContextType::ConfigMap => "ConfigMap",
        ContextType::Git => "Git",
        ContextType::Runtime => "Runtime",
        ContextType::Url => "URL",
    }
}

fn text(bytes: Bytes, name: &str) -> Result<String, Invalid> {
    match bytes {
        Bytes::Text(text) => Ok(text.trim_end_matches('\n').into()),
        Bytes::Binary(_) => Err(Invalid::stalled(
            reasons::INVALID_SPEC,
            format!("context {name:?} holds binary data, which cannot be gathered into text; give it a mountPath"),
        )),
    }
}

fn files(keys: BTreeMap<String, Bytes>, name: &str) -> Result<String, Invalid> {
    let mut out = String::new();
    for (key, bytes) in keys {
        let body = text(bytes, name)?;
        let separator = if out.is_empty() { "" } else { "\n" };
        // Writing to a String cannot fail.
        let _ = write!(out, "{separator}<file name=\"{}\">\n{body}\n</file>", attribute(&key));
    }
    Ok(out)
}

fn attribute(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('\n', " ")
}
