//! Logs on stderr.

use std::io::IsTerminal;

use anyhow::Context;
use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use super::{DEFAULT_LEVEL, Global};

/// How logs are written.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Human on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// Lines for people.
    Human,
    /// One JSON object a line.
    Json,
}

/// What the client library says of a request that fails: the command says it too, in words.
const ECHO: &str = "kube_client::client::builder=off";

/// Installs the subscriber. A command for people (`brief`) tells its failures itself.
pub fn init(global: &Global, brief: bool) -> anyhow::Result<()> {
    let echo = if brief && global.log == DEFAULT_LEVEL { format!("{},{ECHO}", global.log) } else { global.log.clone() };
    let filter = EnvFilter::try_new(&echo).with_context(|| format!("--log {:?} is no filter", global.log))?;
    let terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match global.log_format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Auto if !terminal => builder.json().flatten_event(true).init(),
        LogFormat::Auto | LogFormat::Human => builder.with_ansi(terminal).with_target(false).init(),
    }
    Ok(())
}
