//! `pilothouse drain`, run by the kubelet in the sidecar's container before a pod ends.

use std::process::ExitCode;

use anyhow::Context as _;

use crate::pod::sidecar::drain::{self, DrainArgs};

/// Tells the sidecar.
pub fn run(args: &DrainArgs) -> anyhow::Result<ExitCode> {
    drain::tell(args).with_context(|| format!("cannot tell the sidecar (process {})", args.pid))?;
    Ok(ExitCode::SUCCESS)
}
