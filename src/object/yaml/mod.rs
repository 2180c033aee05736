//! YAML with the meaning it has for `kubectl`: `0400` is 256, `yes` is a boolean, `1e3` is 1000.
//!
//! `kubectl` reads YAML through the Go library `sigs.k8s.io/yaml`. What its scanner and ours would read differently, and
//! what it would take silently although it is most likely a mistake (duplicate keys, content after `...`), is an error.

mod budget;
mod emit;
mod json;
mod lines;
mod parse;
mod resolve;
#[cfg(test)]
mod tests;

pub use budget::Budget;
pub use emit::{to_documents, to_string};
pub use lines::Lines;
pub use parse::{MAX_DEPTH, parse_documents, parse_within};

/// One document of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Line of its first node, from 1.
    pub line: usize,
    /// What it means.
    pub value: serde_json::Value,
    /// Where its fields are written.
    pub lines: Lines,
}

/// Why a text is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct YamlError {
    /// From 1.
    pub line: usize,
    /// From 1.
    pub column: usize,
    /// What is wrong and, where known, what to write instead.
    pub message: String,
    /// The [`Budget`] was exhausted; the text itself may be right.
    pub too_large: bool,
}

impl YamlError {
    fn new(line: usize, column: usize, message: impl Into<String>) -> Self {
        Self { line, column, message: message.into(), too_large: false }
    }

    fn too_large(line: usize, column: usize, budget: &Budget) -> Self {
        let message = format!(
            "what is read takes more than {} MiB of memory, aliases written out; make it smaller, or split it",
            budget.limit() >> 20
        );
        Self { too_large: true, ..Self::new(line, column, message) }
    }
}
