//! `pilothouse task run`: something to do for an agent, or for a pod of its own.

use std::{io::Read as _, process::ExitCode};

use anyhow::{Context, bail};
use kube::{
    Api, ResourceExt,
    api::{ObjectMeta, PostParams},
};
use serde_json::json;

use super::logs;
use crate::{
    api::{GoDuration, Task, TaskSpec},
    cli::{
        Global,
        controller::client,
        output,
        reconcile::MANAGER,
        target::{self, Place},
    },
};

/// Flags of `pilothouse task run`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pilothouse task run --agent coder 'Review the open change.' --follow
  git diff main | pilothouse task run --agent reviewer - --timeout 20m
  pilothouse task run --agent coder --name nightly-report --priority 10 'Write the report.'
  pilothouse task run --template assistant 'Check the licences of all dependencies.'

With --follow it prints what the Task says until it ends; the exit code is 0 where it is completed, and 1 where it failed. Ending
the command does not end the Task: pilothouse task stop NAME does.")]
pub struct Args {
    /// What is to be done; - reads it from standard input
    #[arg(value_name = "TEXT")]
    pub text: String,
    /// The Agent that does it
    #[arg(short, long, env = "PILOTHOUSE_AGENT", value_name = "NAME", required_unless_present = "template")]
    pub agent: Option<String>,
    /// The agent template to do it with, in a pod of its own
    #[arg(long, env = "PILOTHOUSE_TEMPLATE", value_name = "NAME", conflicts_with = "agent")]
    pub template: Option<String>,
    /// Name of the Task; made of the agent's or the template's otherwise
    #[arg(long, env = "PILOTHOUSE_TASK_NAME", value_name = "NAME")]
    pub name: Option<String>,
    /// How long it may run, as 90s or 1h30m
    #[arg(long, env = "PILOTHOUSE_TASK_TIMEOUT", value_name = "DURATION")]
    pub timeout: Option<String>,
    /// Place in the agent's queue: higher first
    #[arg(long, env = "PILOTHOUSE_TASK_PRIORITY", value_name = "N", allow_negative_numbers = true)]
    pub priority: Option<i32>,
    /// Print what it says until it ends
    #[arg(short, long, env = "PILOTHOUSE_FOLLOW")]
    pub follow: bool,
    #[command(flatten)]
    place: Place,
}

/// Creates the Task.
pub(super) async fn run(global: &Global, args: &Args) -> anyhow::Result<ExitCode> {
    let task = args.task(&text(&args.text)?)?;
    let client = client(global).await?;
    let namespace = args.place.of(&client);
    // A Task of an agent that is not there would wait for it; that is for Git. A person has mistyped.
    if let Some(agent) = &args.agent {
        target::find::<crate::api::Agent>(&Api::namespaced(client.clone(), &namespace), &namespace, agent).await?;
    }
    if let Some(template) = &args.template {
        let templates = Api::namespaced(client.clone(), &namespace);
        target::find::<crate::api::AgentTemplate>(&templates, &namespace, template).await?;
    }
    let api: Api<Task> = Api::namespaced(client.clone(), &namespace);
    let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
    let made = api.create(&params, &task).await.context("cannot create the Task")?;
    let name = made.name_any();
    if args.follow {
        eprintln!("Task {namespace}/{name}");
        return logs::follow(&client, &namespace, &name).await;
    }
    let outcome = json!({ "namespace": namespace, "name": name });
    output::print(global.output, &outcome, || format!("Task {namespace}/{name}: created"))?;
    Ok(ExitCode::SUCCESS)
}

fn text(given: &str) -> anyhow::Result<String> {
    if given != "-" {
        return Ok(given.to_owned());
    }
    let mut text = String::new();
    let most = u64::try_from(crate::task::build::MAX_PROMPT).unwrap_or(u64::MAX).saturating_add(1);
    std::io::stdin().lock().take(most).read_to_string(&mut text).context("cannot read standard input")?;
    Ok(text)
}

impl Args {
    fn task(&self, text: &str) -> anyhow::Result<Task> {
        if text.trim().is_empty() {
            bail!("there is nothing to do: the text is empty");
        }
        if let Some(limit) = &self.timeout {
            GoDuration::parse(&limit.as_str().into()).map_err(|e| anyhow::anyhow!("--timeout {limit}: {e}"))?;
        }
        let spec = TaskSpec {
            agent_ref: self.agent.as_deref().map(Into::into),
            template_ref: self.template.as_deref().map(Into::into),
            description: Some(text.to_owned()),
            timeout: self.timeout.as_deref().map(Into::into),
            priority: self.priority,
            ..TaskSpec::default()
        };
        let of = self.agent.as_ref().or(self.template.as_ref()).map(String::as_str).unwrap_or_default();
        let generate = self.name.is_none().then(|| format!("{of}-"));
        let metadata = ObjectMeta { name: self.name.clone(), generate_name: generate, ..ObjectMeta::default() };
        Ok(Task { metadata, spec, status: None })
    }
}
