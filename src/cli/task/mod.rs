//! `pilothouse task`: run one, list them, read their logs, stop one.

mod list;
mod logs;
mod run;

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use super::{Global, controller::client, output, reconcile::MANAGER};
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
    /// Give an agent something to do
    Run(run::Args),
    /// Show Tasks, in the order in which they are next
    List(list::Args),
    /// Print what a Task says; what is kept of it where its pod is gone
    Logs(logs::Args),
    /// Stop a Task; its session is aborted
    Stop(Named),
}

/// One Task.
#[derive(clap::Args, Debug)]
pub struct Named {
    /// Name of the Task
    #[arg(value_name = "NAME")]
    pub name: String,
    #[command(flatten)]
    place: Place,
}

/// Where Tasks are.
#[derive(clap::Args, Debug)]
pub struct Place {
    /// Namespace; default: the one of the kubeconfig's context
    #[arg(short, long, env = "PILOTHOUSE_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

impl Place {
    fn of(&self, client: &Client) -> String {
        self.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned())
    }
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
    let client = client(global).await?;
    let namespace = args.place.of(&client);
    let api: Api<Task> = Api::namespaced(client, &namespace);
    let task = find(&api, &namespace, &args.name).await?;
    let outcome = json!({ "namespace": namespace, "name": args.name, "stopped": !crate::task::is_finished(&task) });
    let text = if crate::task::is_finished(&task) {
        format!("Task {namespace}/{} has ended already", args.name)
    } else {
        annotate(&api, &task, STOP, "true").await?;
        format!("Task {namespace}/{}: asked to stop", args.name)
    };
    output::print(global.output, &outcome, || text)?;
    Ok(ExitCode::SUCCESS)
}

/// Reads a Task; where there is none, says which there are.
async fn find(api: &Api<Task>, namespace: &str, name: &str) -> anyhow::Result<Task> {
    let found = api.get_opt(name).await.with_context(|| format!("cannot read Task {namespace}/{name}"))?;
    if let Some(found) = found {
        return Ok(found);
    }
    let others = api.list_metadata(&ListParams::default().limit(10)).await.map(|list| list.items).unwrap_or_default();
    let names: Vec<_> = others.into_iter().filter_map(|o| o.metadata.name).collect();
    let others =
        if names.is_empty() { "there is none at all".into() } else { format!("there are: {}", names.join(", ")) };
    bail!("there is no Task {namespace}/{name}; {others}")
}

/// A merge patch of one annotation; the uid keeps it from meaning another Task.
async fn annotate(api: &Api<Task>, task: &Task, key: &str, value: &str) -> anyhow::Result<()> {
    let name = task.metadata.name.clone().unwrap_or_default();
    let patch = json!({ "metadata": { "uid": task.metadata.uid, "annotations": { key: value } } });
    let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    let written = api.patch_metadata(&name, &params, &Patch::Merge(patch)).await;
    written.with_context(|| format!("cannot set the annotation {key} of Task {name}"))?;
    Ok(())
}
