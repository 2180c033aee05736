//! `pilothouse version`.

use std::process::ExitCode;

use serde_json::json;

use super::{Global, output};

/// Prints the version and the API version served.
pub fn run(global: &Global) -> anyhow::Result<ExitCode> {
    let version = env!("CARGO_PKG_VERSION");
    let value = json!({ "version": version, "api": "pilothouse.dev/v1alpha1" });
    output::print(global.output, &value, || format!("pilothouse {version} (API pilothouse.dev/v1alpha1)"))?;
    Ok(ExitCode::SUCCESS)
}
