//! `pilothouse task`: run one, list them, read their logs, stop one.

mod list;
mod logs;
mod run;

use std::process::ExitCode;

use clap::Subcommand;
use kube::ResourceExt;
use serde_json::json;

use super::{
    Global, output,
    target::{self, Named},
};
use crate::api::{Task, names::annotation::STOP};

/// Flags of `pilothouse task`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pilothouse task run --agent coder 'Review the open change.' --follow
  pilothouse task list -n agents --agent coder
  pilothouse task logs review-42 -f
  pilothouse task stop review-42")]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do with Tasks.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Give an agent something to do, or a pod of its own
    Run(run::Args),
    /// Show Tasks, in the order in which they are next
    List(list::Args),
    /// Print what a Task says; what is kept of it where its pod is gone
    Logs(logs::Args),
    /// Stop a Task; its session is aborted
    Stop(Named),
}

/// Does it.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Run(args) => run::run(global, args).await,
        Command::List(args) => list::run(global, args).await,
        Command::Logs(args) => logs::run(global, args).await,
        Command::Stop(args) => stop(global, args).await,
    }
}

async fn stop(global: &Global, args: &Named) -> anyhow::Result<ExitCode> {
    let (api, task): (_, Task) = args.find(global).await?;
    let namespace = task.namespace().unwrap_or_default();
    let outcome = json!({ "namespace": namespace, "name": args.name, "stopped": !crate::task::is_finished(&task) });
    let text = if crate::task::is_finished(&task) {
        format!("Task {namespace}/{} has ended already", args.name)
    } else {
        target::annotate(&api, &task, STOP, Some("true")).await?;
        format!("Task {namespace}/{}: asked to stop", args.name)
    };
    output::print(global.output, &outcome, || text)?;
    Ok(ExitCode::SUCCESS)
}
