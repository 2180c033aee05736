//! `-o text|json|yaml`.

use std::io::{self, ErrorKind, IsTerminal as _, Write as _};

use anyhow::Context as _;
use clap::ValueEnum;
use serde::Serialize;

use crate::status::plain;

/// How results are printed.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON document.
    Json,
    /// YAML.
    Yaml,
}

/// Prints `value` as JSON or YAML, or the text of `text`.
pub fn print(format: Format, value: &impl Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    match format {
        Format::Text => write(&format!("{}\n", text().trim_end())),
        Format::Json => write(&format!("{}\n", serde_json::to_string_pretty(value)?)),
        Format::Yaml => write(&serde_saphyr::to_string(value)?),
    }
}

/// Prints text of strangers: as it is to a file or a program, without what steers a terminal to one.
pub fn write_foreign(text: &str) -> anyhow::Result<()> {
    if io::stdout().is_terminal() { write(&plain(text)) } else { write(text) }
}

/// Prints `text` as it is. Whoever reads us may have had enough (`| head`): that is no failure.
pub fn write(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

/// Columns with two spaces between.
pub(super) fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let lines: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |cells: &[String; N]| {
        let padded: Vec<_> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}
