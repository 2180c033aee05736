//! `-o text|json|yaml`.

use clap::ValueEnum;
use serde::Serialize;

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
        Format::Text => println!("{}", text().trim_end()),
        Format::Json => println!("{}", serde_json::to_string_pretty(value)?),
        Format::Yaml => print!("{}", serde_saphyr::to_string(value)?),
    }
    Ok(())
}
