//! `pilothouse receiver`.

use std::process::ExitCode;

use tracing::info;

use super::{
    Global,
    controller::{client, stop_on_signal},
};
use crate::controller::receiver::{self, Settings};

/// Runs until SIGTERM or SIGINT.
pub async fn run(global: &Global, settings: Settings) -> anyhow::Result<ExitCode> {
    let stop = stop_on_signal()?;
    let client = client(global).await?;
    info!(version = env!("CARGO_PKG_VERSION"), "pilothouse receiver starts");
    receiver::run(settings, client, stop).await?;
    info!("stopped");
    Ok(ExitCode::SUCCESS)
}
