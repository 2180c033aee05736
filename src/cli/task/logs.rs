//! `pilothouse task logs`: what a Task says, and what came of it.

use std::process::ExitCode;

use anyhow::{Context, bail};
use futures::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::LogParams,
    runtime::{WatchStreamExt as _, watcher},
};

use super::{Place, find};
use crate::{
    api::{
        Task, TaskPhase,
        names::{self, condition},
    },
    cli::{Global, controller::client, output},
    task::{self, build::CONTAINER},
};

/// Flags of `pilothouse task logs`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pilothouse task logs review-42
  pilothouse task logs review-42 -f -n agents

Where the pod is gone it prints the end of the log, which the Task keeps. With -f the exit code is 0 where the Task is completed,
and 1 where it failed.")]
pub struct Args {
    /// Name of the Task
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Go on until the Task ends
    #[arg(short, long, env = "PILOTHOUSE_FOLLOW")]
    pub follow: bool,
    #[command(flatten)]
    place: Place,
}

/// Prints.
pub(super) async fn run(global: &Global, args: &Args) -> anyhow::Result<ExitCode> {
    let client = client(global).await?;
    let namespace = args.place.of(&client);
    let tasks: Api<Task> = Api::namespaced(client.clone(), &namespace);
    let task = find(&tasks, &namespace, &args.name).await?;
    if args.follow {
        return follow(&client, &namespace, &args.name).await;
    }
    if !print(&client, &namespace, &args.name, false).await? {
        let kept = task.status.as_ref().and_then(|s| s.log_tail.clone());
        match kept {
            Some(kept) => output::write(&format!("{}\n", kept.trim_end()))?,
            None => eprintln!("{}", state(&task)),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what the Task says until it ends; on stderr what happens to it.
pub(super) async fn follow(client: &Client, namespace: &str, name: &str) -> anyhow::Result<ExitCode> {
    let tasks: Api<Task> = Api::namespaced(client.clone(), namespace);
    let mut changes = Box::pin(watcher::watch_object(tasks, name).default_backoff());
    let (mut last, mut printed) = (String::new(), None);
    let mut existed = false;
    while let Some(change) = changes.next().await {
        let task = match change {
            Ok(Some(task)) => task,
            Ok(None) if existed => bail!("Task {namespace}/{name} was deleted"),
            Ok(None) => continue,
            Err(error) => {
                tracing::debug!("watch: {error}");
                continue;
            }
        };
        existed = true;
        let finished = task::is_finished(&task);
        let attempt = Some(task::tries(&task));
        if (finished || task::phase(&task) == Some(TaskPhase::Running)) && printed != attempt {
            // Whatever is not printed by the end of the pod is in the status.
            if print(client, namespace, name, true).await? {
                printed = attempt;
            }
        }
        let state = state(&task);
        if state != last {
            eprintln!("{state}");
            last = state;
        }
        if finished {
            let failed = task::phase(&task) == Some(TaskPhase::Failed);
            return Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
    }
    bail!("the watch of Task {namespace}/{name} ended")
}

/// The pod's log, to its present end or to the pod's. Whether there was one.
async fn print(client: &Client, namespace: &str, name: &str, follow: bool) -> anyhow::Result<bool> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let params = LogParams { container: Some(CONTAINER.into()), follow, ..LogParams::default() };
    let log = match pods.log_stream(&names::task::pod(name), &params).await {
        Ok(log) => log,
        // There is no pod, or its container has not begun.
        Err(kube::Error::Api(s)) if s.code == 404 || s.code == 400 => return Ok(false),
        Err(error) => return Err(error).context("cannot read the log of the Task's pod"),
    };
    let mut lines = log.lines();
    while let Some(line) = lines.try_next().await.context("the log of the Task's pod broke off")? {
        output::write(&format!("{line}\n"))?;
    }
    Ok(true)
}

fn state(task: &Task) -> String {
    let status = task.status.clone().unwrap_or_default();
    let name = task.metadata.name.clone().unwrap_or_default();
    let phase = status.phase.map_or_else(|| "not looked at yet".into(), |p| format!("{p:?}"));
    let ready = status.conditions.iter().find(|c| c.type_ == condition::READY);
    let message = ready.map(|c| c.message.as_str()).filter(|m| !m.is_empty());
    message.map_or_else(|| format!("{name}: {phase}"), |message| format!("{name}: {phase}: {message}"))
}
