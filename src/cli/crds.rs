//! `pilothouse crds`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;

use super::{
    Global,
    output::{self, Format},
};
use crate::api::crd;

/// Flags of `pilothouse crds`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  pilothouse crds | kubectl apply --server-side -f -\n  pilothouse crds --dir crds/"
)]
pub struct Args {
    /// Write one file a kind into this folder instead of printing
    #[arg(long, env = "PILOTHOUSE_CRDS_DIR", value_name = "FOLDER")]
    pub dir: Option<PathBuf>,
}

/// Prints the CustomResourceDefinitions, or writes them to files.
pub fn run(global: &Global, args: &Args) -> anyhow::Result<ExitCode> {
    let all = crd::all()?;
    if let Some(dir) = &args.dir {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        for one in &all {
            let path = dir.join(&one.file);
            std::fs::write(&path, one.yaml()?).with_context(|| format!("cannot write {}", path.display()))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    match global.output {
        Format::Json => {
            let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": all.iter().map(|c| &c.json).collect::<Vec<_>>() });
            output::write(&format!("{}\n", serde_json::to_string_pretty(&list)?))?;
        }
        Format::Text | Format::Yaml => {
            for one in &all {
                output::write(&format!("---\n{}", one.yaml()?))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
