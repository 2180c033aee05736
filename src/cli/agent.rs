//! `pilothouse agent`: stop an agent for a while, and let it go on.

use std::process::ExitCode;

use clap::Subcommand;
use kube::ResourceExt;
use serde_json::json;

use super::{
    Global, output,
    target::{self, Named},
};
use crate::api::{Agent, names::annotation::SUSPEND_OVERRIDE};

/// Flags of `pilothouse agent`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pilothouse agent suspend coder -n agents
  pilothouse agent resume coder

A suspended agent has no pod; its Service and its data stay, and its Tasks wait. Suspending waits for work that is protected, like
a rollout. Both set the annotation pilothouse.dev/suspend-override of the Agent, which no Sync touches and which wins over
spec.suspend; resume takes it away where spec.suspend does not ask for a suspension.")]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do with an Agent.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Stop it: no pod, and no Task starts
    Suspend(Named),
    /// Let it run again
    Resume(Named),
}

/// Does it.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<ExitCode> {
    let (named, suspend) = match &args.command {
        Command::Suspend(named) => (named, true),
        Command::Resume(named) => (named, false),
    };
    let (api, agent): (_, Agent) = named.find(global).await?;
    let namespace = agent.namespace().unwrap_or_default();
    let value = wanted(agent.spec.suspend == Some(true), suspend);
    target::annotate(&api, &agent, SUSPEND_OVERRIDE, value).await?;
    let outcome = json!({ "namespace": namespace, "name": named.name, "suspend": suspend });
    let what = if suspend { "asked to suspend" } else { "asked to resume" };
    output::print(global.output, &outcome, || format!("Agent {namespace}/{}: {what}", named.name))?;
    Ok(ExitCode::SUCCESS)
}

/// The annotation, where it is needed.
fn wanted(spec: bool, suspend: bool) -> Option<&'static str> {
    match (spec, suspend) {
        (_, true) => Some("true"),
        (true, false) => Some("false"),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_resume_takes_away_what_is_not_needed() {
        let table = [
            (false, true, Some("true")),
            (true, true, Some("true")),
            (true, false, Some("false")),
            (false, false, None),
        ];
        for (spec, suspend, expected) in table {
            assert_eq!(wanted(spec, suspend), expected, "{spec} {suspend}");
        }
    }
}
