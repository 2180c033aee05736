//! `pilothouse sidecar`, run in agent pods.

use std::process::ExitCode;

use crate::pod::sidecar::{self, SidecarArgs};

/// Runs until the pod ends.
pub async fn run(args: &SidecarArgs) -> anyhow::Result<ExitCode> {
    sidecar::run(args).await?;
    Ok(ExitCode::SUCCESS)
}
