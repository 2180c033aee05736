//! Contexts without a path, as one text that the agent reads for every prompt.

use std::{borrow::Cow, collections::BTreeMap, iter};

use super::{Invalid, Raw, Sizes, Source};
use crate::api::{ContextItem, ContextType, names::reasons};

/// Collects the text.
pub(super) struct Gathered<'a> {
    namespace: &'a str,
    /// As far as there is room for them.
    parts: Vec<(String, String)>,
    sizes: Sizes,
}

impl<'a> Gathered<'a> {
    pub(super) fn new(namespace: &'a str) -> Self {
        Self { namespace, parts: vec![], sizes: Sizes::default() }
    }

    pub(super) fn add(&mut self, item: &ContextItem, name: &str, source: Source<'_>) -> Result<(), Invalid> {
        let bodies = match source {
            Source::One(raw) => vec![text(raw, name)?],
            Source::Keys(keys) => files(&keys, name)?,
            Source::Nothing => return Ok(()),
        };
        let (kind, namespace) = (kind(item.kind), attribute(self.namespace));
        let name_text = attribute(name);
        let head = format!("<context name=\"{name_text}\" namespace=\"{namespace}\" type=\"{kind}\">\n");
        let pieces = || iter::once(&*head).chain(bodies.iter().map(|body| &**body)).chain(iter::once("\n</context>\n"));
        if self.sizes.add(name, pieces().map(str::len).sum()) {
            self.parts.push((name.into(), pieces().collect()));
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.parts.iter().map(|(_, part)| part.len()).sum()
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
        self.sizes.check("contexts without a mountPath")?;
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

fn text<'a>(raw: Raw<'a>, name: &str) -> Result<Cow<'a, str>, Invalid> {
    match raw {
        Raw::Text(text) => Ok(text.trim_end_matches('\n').into()),
        Raw::Binary(_) => Err(Invalid::stalled(
            reasons::INVALID_SPEC,
            format!("context {name:?} holds binary data, which cannot be gathered into text; give it a mountPath"),
        )),
    }
}

fn files<'a>(keys: &BTreeMap<&'a str, Raw<'a>>, name: &str) -> Result<Vec<Cow<'a, str>>, Invalid> {
    let mut pieces = vec![];
    for (key, raw) in keys {
        let separator = if pieces.is_empty() { "" } else { "\n" };
        pieces.push(format!("{separator}<file name=\"{}\">\n", attribute(key)).into());
        pieces.push(text(*raw, name)?);
        pieces.push("\n</file>".into());
    }
    Ok(pieces)
}

fn attribute(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('\n', " ")
}
