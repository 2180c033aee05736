//! The commands.

pub mod agent;
pub mod completion;
pub mod controller;
pub mod cost;
pub mod crds;
pub mod cron;
pub mod crontask;
pub mod diff;
pub mod drain;
pub mod history;
mod line;
mod local_tree;
pub mod output;
pub mod plan;
pub mod receiver;
pub mod reconcile;
pub mod render;
pub mod rollback;
pub mod rollout;
pub mod sidecar;
pub mod target;
pub mod task;
pub mod task_run;
pub mod telemetry;
pub mod uninstall;
pub mod upgrade;
pub mod version;

use std::process::ExitCode;

use anyhow::Context;
use clap::{
    Args, CommandFactory as _, Parser, Subcommand,
    error::{ContextKind, ContextValue},
};

use output::Format;

/// Heading of the flags that every command has, so that its own stand together.
const COMMON: &str = "Options of every command";

/// What is logged unless told otherwise.
const DEFAULT_LEVEL: &str = "info";

/// Threads of the runtime in pods, beside the main one.
const POD_THREADS: usize = 1;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed; the reason is on stderr
  2  the command line is wrong
  3  diff: there are differences; plan: an agent is affected

Flags that show [env: …] in --help of their command can come from the environment.

Examples:
  pilothouse render overlays/prod --values overlays/prod/values.yaml
  pilothouse diff overlays/prod --values overlays/prod/values.yaml
  pilothouse reconcile repository team -n agents --wait
  pilothouse rollback agent coder --to main@1a2b3c4
  pilothouse task run --agent coder 'Review the open change.' --follow
  pilothouse crds | kubectl apply --server-side -f -";

const CONTROLLER_EXAMPLES: &str = "\
It runs until SIGTERM or SIGINT. The chart starts it with what it needs; by hand, with a kubeconfig:

Examples:
  pilothouse controller --watch-namespaces agents --data-dir /tmp/pilothouse --system-image pilothouse:dev
  pilothouse controller --leader-elect false --log debug --log-format human --listen 127.0.0.1:8080";

/// GitOps for AI coding agents on Kubernetes
#[derive(Parser, Debug)]
#[command(name = "pilothouse", version, propagate_version = true, after_long_help = EXIT_CODES)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Args, Debug, Clone)]
pub struct Global {
    /// How results are printed
    #[arg(short, long, global = true, help_heading = COMMON, value_enum, default_value_t, env = "PILOTHOUSE_OUTPUT")]
    pub output: Format,
    /// Least severity that is logged to stderr: error, warn, info, debug or trace; or a tracing filter
    #[arg(long, global = true, help_heading = COMMON, env = "PILOTHOUSE_LOG", default_value = DEFAULT_LEVEL, value_name = "FILTER")]
    pub log: String,
    /// How it is logged
    #[arg(long, global = true, help_heading = COMMON, env = "PILOTHOUSE_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: telemetry::LogFormat,
    /// Context of the kubeconfig to use
    #[arg(long, global = true, help_heading = COMMON, env = "PILOTHOUSE_CONTEXT", value_name = "NAME")]
    pub context: Option<String>,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the controller (in the cluster, or with a kubeconfig)
    #[command(after_help = CONTROLLER_EXAMPLES)]
    Controller(Box<crate::controller::Settings>),
    /// Run the receiver of webhooks (in the cluster, or with a kubeconfig)
    Receiver(Box<crate::controller::receiver::Settings>),
    /// Print what a folder renders to, without a cluster
    Render(render::Args),
    /// Show what applying a folder would change in the cluster
    Diff(diff::Args),
    /// Say what applying a folder does to each agent, and when
    Plan(plan::Args),
    /// Print the CustomResourceDefinitions
    Crds(crds::Args),
    /// Ask the controller to look at an object now
    Reconcile(reconcile::Args),
    /// See what waits at an agent, let it go out now, or hold it
    Rollout(rollout::Args),
    /// Take an agent back to a revision that was in use, and keep it there
    Rollback(rollback::Args),
    /// Let agents have pods of the release that runs
    Upgrade(upgrade::Args),
    /// Give agents something to do, and see what comes of it
    Task(task::Args),
    /// Suspend or resume an agent
    Agent(agent::Args),
    /// Run a `CronTask` now, suspend or resume it, and see when it runs next
    Crontask(crontask::Args),
    /// See what a cron expression means
    Cron(cron::Args),
    /// See what became of Tasks and Syncs, also when they are gone
    History(history::Args),
    /// See what Tasks cost, by agent, `CronTask` or day
    Cost(cost::Args),
    /// Release what waits for the controller, when it was removed
    Uninstall(uninstall::Args),
    /// Run beside an agent's server, in its pod
    #[command(hide = true)]
    Sidecar(Box<crate::pod::sidecar::SidecarArgs>),
    /// Tell the sidecar that its pod ends
    #[command(hide = true)]
    Drain(crate::pod::sidecar::drain::DrainArgs),
    /// Take a Task to its agent, in the Task's pod
    #[command(hide = true)]
    TaskRun(Box<crate::pod::task_run::TaskRunArgs>),
    /// Render templates that are read from stdin, within bounds; the controller starts this
    #[command(hide = true)]
    RenderTemplates,
    /// Print the version
    #[command(after_help = "Examples:\n  pilothouse version\n  pilothouse version -o json | jq -r .version")]
    Version,
    /// Print a completion script for a shell
    Completion(completion::Args),
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = match line::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => without_hidden(error).exit(),
    };
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", explain(&error));
            ExitCode::FAILURE
        }
    }
}

/// What went wrong, in one line. Of a refusal of the API server its own words, once, and what helps.
fn explain(error: &anyhow::Error) -> String {
    let mut words = vec![];
    for cause in error.chain() {
        if let Some(kube::Error::Api(status)) = cause.downcast_ref() {
            words.push(refusal(status));
            break;
        }
        words.push(cause.to_string());
    }
    words.join(": ")
}

fn refusal(status: &kube::core::Status) -> String {
    match status.code {
        401 => "the API server does not accept your credentials; see kubectl auth whoami".into(),
        // An object that is not there has this reason; a kind that is not there has no answer of its own.
        404 if status.reason != "NotFound" => NO_KIND.into(),
        _ if status.message.is_empty() => format!("the API server answered {}", status.code),
        _ => status.message.clone(),
    }
}

/// The definitions are not installed.
const NO_KIND: &str = "the cluster does not know the kind: pilothouse crds | kubectl apply --server-side -f -";

/// What only pods and the controller call is suggested to nobody.
fn without_hidden(mut error: clap::Error) -> clap::Error {
    let Some(ContextValue::Strings(mut names)) = error.remove(ContextKind::SuggestedSubcommand) else { return error };
    let cli = Cli::command();
    let hidden = |name: &String| cli.get_subcommands().any(|c| c.is_hide_set() && c.get_name() == name);
    names.retain(|name| !hidden(name));
    if !names.is_empty() {
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(names));
    }
    error
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let global = cli.global;
    // A log of its own would be one more thing inside its bounds; it says what it has to say to who started it.
    if !matches!(cli.command, Command::RenderTemplates) {
        let serves = matches!(
            cli.command,
            Command::Controller(_)
                | Command::Receiver(_)
                | Command::Sidecar(_)
                | Command::TaskRun(_)
                | Command::Drain(_)
        );
        telemetry::init(&global, !serves)?;
    }
    match cli.command {
        Command::Controller(settings) => wait(controller::run(&global, *settings)),
        Command::Receiver(settings) => wait(receiver::run(&global, *settings)),
        Command::Render(args) => render::run(&global, &args),
        Command::Diff(args) => wait(diff::run(&global, &args)),
        Command::Plan(args) => wait(plan::run(&global, &args)),
        Command::Crds(args) => crds::run(&global, &args),
        Command::Reconcile(args) => wait(reconcile::run(&global, &args)),
        Command::Crontask(args) => wait(crontask::run(&global, &args)),
        Command::Cron(args) => cron::run(&global, &args),
        Command::Rollout(args) => wait(rollout::run(&global, &args)),
        Command::Rollback(args) => wait(rollback::run(&global, &args)),
        Command::Upgrade(args) => wait(upgrade::run(&global, &args)),
        Command::Task(args) => wait(task::run(&global, &args)),
        Command::Agent(args) => wait(agent::run(&global, &args)),
        Command::History(args) => wait(history::run(&global, &args)),
        Command::Cost(args) => wait(cost::run(&global, &args)),
        Command::Uninstall(args) => wait(uninstall::run(&global, &args)),
        Command::Sidecar(args) => wait_small(sidecar::run(&args)),
        Command::Drain(args) => drain::run(&args),
        Command::TaskRun(args) => wait_small(async { Ok(task_run::run(&args).await) }),
        // No runtime: its threads would count against the bounds of this process.
        Command::RenderTemplates => Ok(crate::controller::sandbox::child::main()),
        Command::Version => version::run(&global),
        Command::Completion(args) => completion::run(&args),
    }
}

fn wait(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    block_on(&mut tokio::runtime::Builder::new_multi_thread(), work)
}

/// For what runs once a pod: two threads do for it on any node, and each one more costs memory in every pod.
fn wait_small(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    block_on(tokio::runtime::Builder::new_multi_thread().worker_threads(POD_THREADS), work)
}

fn block_on(
    builder: &mut tokio::runtime::Builder,
    work: impl Future<Output = anyhow::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    let runtime = builder.enable_all().build();
    runtime.context("cannot start the async runtime")?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_the_api_server_is_said_once_in_its_own_words() {
        let status = |code: u16, reason: &str, message: &str| {
            let status = serde_json::json!({"status": "Failure", "code": code, "reason": reason, "message": message});
            kube::Error::Api(Box::new(serde_json::from_value(status).unwrap()))
        };
        let table = [
            (status(404, "NotFound", "syncs \"a\" not found"), "syncs \"a\" not found"),
            (status(404, "Failed to parse error data", "404 page not found"), NO_KIND),
            (status(401, "Unauthorized", "Unauthorized"), "see kubectl auth whoami"),
            (status(403, "Forbidden", "user x cannot list tasks"), "user x cannot list tasks"),
            (status(500, "", ""), "answered 500"),
        ];
        for (error, expected) in table {
            let said = explain(&anyhow::Error::from(error).context("cannot read it"));
            assert!(said.starts_with("cannot read it: ") && said.ends_with(expected), "{said}");
            assert!(!said.contains("Status"), "{said}");
        }
        let other = anyhow::anyhow!("inner").context("outer");
        assert_eq!(explain(&other), "outer: inner");
    }
}
