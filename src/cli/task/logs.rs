//! `pilothouse task logs`: what a Task says, and what came of it.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use futures::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::LogParams,
    runtime::{WatchStreamExt as _, watcher},
};

use crate::{
    api::{
        Task, TaskPhase,
        names::{self, condition},
    },
    cli::{Global, output, target::Named},
    status::plain,
    task::{self, build::CONTAINER},
};

/// Between two looks for the log of a pod that starts.
const AGAIN: Duration = Duration::from_secs(1);

/// Flags of `pilothouse task logs`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pilothouse task logs review-42
  pilothouse task logs review-42 -f -n agents

Where the pod is gone it prints the end of the log, which the Task keeps. With -f the exit code is 0 where the Task is completed,
and 1 where it failed.")]
pub struct Args {
    #[command(flatten)]
    task: Named,
    /// Go on until the Task ends
    #[arg(short, long, env = "PILOTHOUSE_FOLLOW")]
    pub follow: bool,
}

/// Prints.
pub(super) async fn run(global: &Global, args: &Args) -> anyhow::Result<ExitCode> {
    let (api, task) = args.task.find::<Task>(global).await?;
    let (client, namespace, name) = (api.into_client(), task.namespace().unwrap_or_default(), &args.task.name);
    if args.follow {
        return follow(&client, &namespace, name).await;
    }
    if !print(&client, &namespace, name, false).await? && !print_kept(&task)? {
        eprintln!("{}", state(&task));
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what the Task says until it ends; on stderr what happens to it.
pub(super) async fn follow(client: &Client, namespace: &str, name: &str) -> anyhow::Result<ExitCode> {
    let tasks: Api<Task> = Api::namespaced(client.clone(), namespace);
    let mut changes = Box::pin(watcher::watch_object(tasks, name).default_backoff());
    let (mut last, mut printed, mut seen) = (String::new(), None, None::<Task>);
    loop {
        let unprinted = seen.as_ref().is_some_and(|task| runs(task) && printed != Some(task::tries(task)));
        tokio::select! {
            change = changes.next() => match change {
                Some(Ok(Some(task))) => seen = Some(task),
                Some(Ok(None)) if seen.is_some() => bail!("Task {namespace}/{name} was deleted"),
                Some(Ok(None)) => {}
                Some(Err(error)) => tracing::debug!("watch: {error}"),
                None => bail!("the watch of Task {namespace}/{name} ended"),
            },
            // The pod is there, its container not yet.
            () = tokio::time::sleep(AGAIN), if unprinted => {}
        }
        let Some(task) = &seen else { continue };
        let now = state(task);
        if now != last {
            eprintln!("{now}");
            last = now;
        }
        let (finished, attempt) = (task::is_finished(task), Some(task::tries(task)));
        if (finished || runs(task)) && printed != attempt && print(client, namespace, name, true).await? {
            printed = attempt;
        }
        if finished {
            if printed != attempt {
                print_kept(task)?;
            }
            let failed = task::phase(task) == Some(TaskPhase::Failed);
            return Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
    }
}

fn runs(task: &Task) -> bool {
    task::phase(task) == Some(TaskPhase::Running)
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
        output::write_foreign(&format!("{line}\n"))?;
    }
    Ok(true)
}

/// The end of the log that the Task keeps. Whether there is one.
fn print_kept(task: &Task) -> anyhow::Result<bool> {
    let Some(kept) = task.status.as_ref().and_then(|s| s.log_tail.as_ref()) else { return Ok(false) };
    output::write_foreign(&format!("{}\n", kept.trim_end()))?;
    Ok(true)
}

fn state(task: &Task) -> String {
    let status = task.status.clone().unwrap_or_default();
    let name = task.metadata.name.clone().unwrap_or_default();
    let phase = status.phase.map_or_else(|| "not looked at yet".into(), |p| format!("{p:?}"));
    let ready = status.conditions.iter().find(|c| c.type_ == condition::READY);
    let message = ready.map(|c| c.message.as_str()).filter(|m| !m.is_empty());
    plain(&message.map_or_else(|| format!("{name}: {phase}"), |message| format!("{name}: {phase}: {message}")))
}
