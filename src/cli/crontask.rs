//! `pilothouse crontask`: runs a `CronTask` by hand, suspends and resumes it, and says when it runs next.

use std::process::ExitCode;

use anyhow::anyhow;
use jiff::Timestamp;
use kube::ResourceExt;
use serde::Serialize;

use super::{
    Global,
    cron::Coming,
    output,
    target::{self, Named},
};
use crate::{
    api::{
        CronTask,
        names::{
            self,
            annotation::{SUSPEND_OVERRIDE, TRIGGER},
        },
    },
    schedule::{is_suspended, zone},
};

/// Flags of `pilothouse crontask`.
#[derive(clap::Args, Debug)]
#[command(
    visible_alias = "ct",
    after_help = "\
Examples:
  pilothouse crontask trigger nightly -n agents
  pilothouse crontask suspend nightly
  pilothouse crontask resume nightly
  pilothouse crontask next nightly --count 10"
)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Make a Task now, also while it is suspended
    #[command(after_help = "\
Examples:
  pilothouse crontask trigger nightly -n agents
  pilothouse crontask trigger nightly -o json | jq -r .task

The schedule goes on as it would, and concurrencyPolicy does not count. It sets the annotation pilothouse.dev/trigger,
which the controller takes away; kubectl annotate ct nightly pilothouse.dev/trigger=true does the same.")]
    Trigger(Named),
    /// Make no Tasks by schedule until resumed; those that run go on
    #[command(after_help = "\
Examples:
  pilothouse crontask suspend nightly -n agents

It sets the annotation pilothouse.dev/suspend-override, which wins over spec.suspend and which no Sync touches.")]
    Suspend(Named),
    /// Go on by schedule; what passed meanwhile is not made up for
    #[command(after_help = "\
Examples:
  pilothouse crontask resume nightly -n agents

Where Git says spec.suspend: true, this wins over it until crontask suspend.")]
    Resume(Named),
    /// Print when it runs next, one time a line
    #[command(after_help = "\
Examples:
  pilothouse crontask next nightly -n agents
  pilothouse crontask next nightly --count 10 -o yaml

These are the times of its schedule; spec.jitterSeconds makes each run later by up to that.")]
    Next(NextArgs),
}

/// Flags of `pilothouse crontask next`.
#[derive(clap::Args, Debug)]
pub struct NextArgs {
    /// The `CronTask`
    #[command(flatten)]
    pub one: Named,
    /// How many
    #[arg(long, env = "PILOTHOUSE_CRON_COUNT", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000), value_name = "N")]
    pub count: u16,
}

/// What is printed.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    namespace: String,
    name: String,
    /// The Task that is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<String>,
    /// Whether it is suspended now.
    suspended: bool,
}

/// Does what it says.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<ExitCode> {
    let one = match &args.command {
        Command::Trigger(one) | Command::Suspend(one) | Command::Resume(one) => one,
        Command::Next(args) => &args.one,
    };
    let (api, cron): (_, CronTask) = one.find(global).await?;
    let namespace = cron.namespace().unwrap_or_default();
    let mut outcome = Outcome { namespace, name: one.name.clone(), task: None, suspended: is_suspended(&cron) };
    match &args.command {
        Command::Next(args) => return next(global, &cron, args),
        Command::Trigger(_) => {
            let now = Timestamp::from_second(Timestamp::now().as_second())?;
            target::annotate(&api, &cron, TRIGGER, Some(&now.to_string())).await?;
            outcome.task = Some(names::crontask::task(&cron.name_any(), now.as_second()));
        }
        Command::Suspend(_) => {
            target::annotate(&api, &cron, SUSPEND_OVERRIDE, Some("true")).await?;
            outcome.suspended = true;
        }
        Command::Resume(_) => {
            target::annotate(&api, &cron, SUSPEND_OVERRIDE, resumed(&cron)).await?;
            outcome.suspended = false;
        }
    }
    output::print(global.output, &outcome, || outcome.text(&args.command))?;
    Ok(ExitCode::SUCCESS)
}

/// The annotation of one that goes on: none, unless the spec would hold it.
fn resumed(cron: &CronTask) -> Option<&'static str> {
    (cron.spec.suspend == Some(true)).then_some("false")
}

fn next(global: &Global, cron: &CronTask, args: &NextArgs) -> anyhow::Result<ExitCode> {
    if is_suspended(cron) {
        eprintln!("warning: it is suspended: at these times nothing is made until pilothouse crontask resume");
    }
    let name = cron.spec.time_zone.as_deref().unwrap_or("UTC");
    let zone = zone(name).map_err(|e| anyhow!("spec.timeZone: {e}"))?;
    Coming::of(&cron.spec.schedule, name, &zone, Timestamp::now(), args.count)?.print(global)
}

impl Outcome {
    fn text(&self, command: &Command) -> String {
        let whole = format!("CronTask {}/{}", self.namespace, self.name);
        match command {
            Command::Trigger(_) => format!(
                "{whole}: Task {} is being made; where it does not come, kubectl describe ct {} says why",
                self.task.as_deref().unwrap_or_default(),
                self.name
            ),
            Command::Suspend(_) => format!("{whole}: suspended; to go on: pilothouse crontask resume {}", self.name),
            Command::Resume(_) | Command::Next(_) => format!("{whole}: goes on by schedule"),
        }
    }
}
