//! `pilothouse plan`: what a change does to each agent, and when.

mod text;

use std::{collections::BTreeSet, process::ExitCode};

use jiff::Timestamp;
use kube::{Api, Client, ResourceExt, api::ListParams};
use serde::Serialize;

use super::{
    Global,
    diff::{self, Compared},
    output::{self, Format},
};
use crate::{
    agent::{
        beside,
        decide::policy,
        effect::{self, Class},
        fleet::Outlook,
        forecast::{self, Facts, When},
        gate::OnTimeout,
    },
    api::{Agent, AgentSpec, GROUP, Task, TaskPhase, names::annotation},
    object::ObjectId,
};

/// Pages of Tasks that are looked through, of 500 each.
const PAGES: usize = 20;

/// Flags of `pilothouse plan`. (No group of its own: that of `diff` has the same name.)
#[derive(clap::Args, Debug)]
#[group(skip)]
#[command(after_help = "\
It reads what `pilothouse diff` reads, with your own rights, and writes nothing. For each Agent it says
  Live      the running server reads the new files
  Reload    they are exchanged when the server is idle, which then reads its skills anew
  Rollout   a new pod
and what each of them would wait for. It shows no content, so no secret. It cannot know what sessions of people go on,
what is in Secrets, what the remotes of Git inputs have, and how long agents take that go first where spec.fleet of
PilothouseConfig cluster sets a pace: then it says the wave, what it waits for, and not before when.

Exits with 0 when no Agent is affected, with 3 when one is, with 1 when it cannot tell.

Examples:
  pilothouse plan overlays/dev -n agents
  pilothouse plan overlays/dev --sync team-a -n agents --markdown > comment.md
  pilothouse plan . -o json | jq -r '.agents[] | select(.class == \"Rollout\") | .name'")]
pub struct Args {
    /// What is compared, and with what
    #[command(flatten)]
    pub diff: diff::Args,
    /// Print Markdown, for a comment of a pull request
    #[arg(long, env = "PILOTHOUSE_PLAN_MARKDOWN")]
    pub markdown: bool,
}

/// What is printed.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    agents: Vec<Row>,
    /// What this does not know.
    unknown: Vec<String>,
}

/// One Agent.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    namespace: String,
    name: String,
    /// `created`, `changed`, `deleted`, or `refused`.
    change: &'static str,
    /// Absent where there is nothing to compare.
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<Class>,
    causes: BTreeSet<String>,
    /// Names of the Tasks that run; absent where they cannot be listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    running_tasks: Option<Vec<String>>,
    /// Whether sessions of people are waited for as well.
    waits_for_sessions: bool,
    /// When it is forced at the latest if it is applied now.
    #[serde(skip_serializing_if = "Option::is_none")]
    forced_at: Option<Timestamp>,
    /// The same where the fleet has a pace: so many seconds after it lets the agent go.
    #[serde(skip_serializing_if = "Option::is_none")]
    forced_after_seconds: Option<i64>,
    /// What the pace of the fleet means for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pace: Option<Outlook>,
    /// What happens, in words.
    message: String,
}

/// Prints it.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<ExitCode> {
    let compared = Box::pin(diff::compare(global, &args.diff)).await?;
    let now = Timestamp::now();
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let agents = rows(&compared, now).await;
    let outcome = Outcome { unknown: unknown(&agents), agents };
    match global.output {
        Format::Text if args.markdown => output::write(&text::markdown(&outcome))?,
        format => output::print(format, &outcome, || text::plain(&outcome))?,
    }
    let affected = outcome.agents.iter().any(|row| row.class != Some(Class::None));
    Ok(if affected { ExitCode::from(diff::DIFFERENT) } else { ExitCode::SUCCESS })
}

async fn rows(compared: &Compared, now: Timestamp) -> Vec<Row> {
    let mut rows = vec![];
    for (id, effect) in &compared.effects {
        rows.push(match (&effect.agent, effect.class) {
            (Some(agent), Some(class)) => {
                let pace = effect.pace.clone();
                let effect = effect::Effect { class, causes: effect.causes.clone() };
                let tasks = if class == Class::None { Some(vec![]) } else { running(&compared.client, id).await };
                paced(changed(id, &effect, agent, tasks, now), pace, now)
            }
            _ => Row { message: effect.message.clone(), ..row(id, "refused") },
        });
    }
    for difference in compared.differences.iter().filter(|d| d.id.kind == "Agent" && d.id.group == GROUP) {
        match (&difference.before, &difference.after) {
            (None, Some(_)) => rows.push(Row { message: "a new agent".into(), ..row(&difference.id, "created") }),
            (Some(_), None) => {
                let running_tasks = running(&compared.client, &difference.id).await;
                let message = "the agent goes, and with it all work on it, at once".into();
                rows.push(Row { running_tasks, message, ..row(&difference.id, "deleted") });
            }
            _ => {}
        }
    }
    rows.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    rows
}

fn row(id: &ObjectId, change: &'static str) -> Row {
    Row {
        namespace: id.namespace.clone(),
        name: id.name.clone(),
        change,
        class: None,
        causes: BTreeSet::new(),
        running_tasks: None,
        waits_for_sessions: false,
        forced_at: None,
        forced_after_seconds: None,
        pace: None,
        message: String::new(),
    }
}

/// The time that work is protected for begins when the fleet lets the agent go.
fn paced(row: Row, pace: Option<Outlook>, now: Timestamp) -> Row {
    if pace.is_none() {
        return row;
    }
    let after = row.forced_at.map(|at| at.duration_since(now).as_secs().max(0));
    let waits = pace.as_ref().is_some_and(|pace| pace.waits_for.is_some());
    let message = if waits { format!("{}, once the fleet lets it go", row.message) } else { row.message };
    Row { forced_at: None, forced_after_seconds: after, pace, message, ..row }
}

fn changed(
    id: &ObjectId,
    effect: &effect::Effect,
    (agent, before, spec): &(Agent, AgentSpec, AgentSpec),
    tasks: Option<Vec<String>>,
    now: Timestamp,
) -> Row {
    let facts = Facts {
        spec,
        status: agent.status.as_ref(),
        beside: beside::is_wanted(before),
        asked: agent.annotations().get(annotation::ROLLOUT).map(String::as_str),
        pinned: agent.annotations().contains_key(annotation::PINNED_TO),
        running_tasks: tasks.as_ref().map_or(0, Vec::len),
        now,
    };
    let when = forecast::forecast(effect, &facts);
    let until = match when {
        When::AfterWork { until, .. } => until,
        _ => None,
    };
    Row {
        class: Some(effect.class),
        causes: effect.causes.clone(),
        running_tasks: tasks,
        waits_for_sessions: matches!(when, When::AfterWork { .. }) && forecast::counts_sessions(effect, spec),
        forced_at: until,
        message: text::words(when, policy(spec).on_timeout == OnTimeout::Wait),
        ..row(id, "changed")
    }
}

/// Names of the Tasks that run on an agent.
async fn running(client: &Client, id: &ObjectId) -> Option<Vec<String>> {
    let tasks: Api<Task> = Api::namespaced(client.clone(), &id.namespace);
    let (mut names, mut list) = (vec![], ListParams::default().limit(500));
    for _ in 0..PAGES {
        let page = tasks.list(&list).await.ok()?;
        let of = |task: &&Task| {
            let runs = task.status.as_ref().is_some_and(|s| s.phase == Some(TaskPhase::Running));
            runs && task.spec.agent_ref.as_ref().is_some_and(|a| a.name == id.name)
        };
        names.extend(page.items.iter().filter(of).map(ResourceExt::name_any));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => list = list.continue_token(&token),
            None => break,
        }
    }
    names.sort();
    Some(names)
}

fn unknown(rows: &[Row]) -> Vec<String> {
    let mut unknown = vec![];
    if rows.iter().any(|row| row.waits_for_sessions) {
        unknown.push("which sessions of people go on: only the agents' own pods know".to_string());
    }
    if rows.iter().any(|row| matches!(row.change, "changed" | "deleted") && row.running_tasks.is_none()) {
        unknown.push("which Tasks run: you may not list them".into());
    }
    if rows.iter().any(|row| row.pace.is_some()) {
        unknown.push("how long the agents take that go first, and which others are on their way".into());
    }
    if rows.iter().any(|row| row.change == "changed") {
        unknown.push("what changed in Secrets, and what the remotes of Git inputs have by now".into());
    }
    unknown
}

#[cfg(test)]
mod tests;
