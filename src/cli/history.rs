//! `pilothouse history`: what became of Tasks and Syncs, also when they are gone.

pub(super) mod reach;

use std::{fmt::Write as _, process::ExitCode};

use anyhow::bail;
use jiff::Timestamp;
use serde::Serialize;

use super::{
    Global,
    output::{self, table},
};
use crate::store::{Asked, SyncRecord, TaskRecord, Which};
use reach::Reach;

/// Flags of `pilothouse history`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pilothouse history task review-42 -n agents
  pilothouse history agent coder --limit 100 -o json
  pilothouse history crontask nightly
  pilothouse history sync team -n agents

What each kind means: task: the Tasks of this name; agent: the Tasks of this agent; crontask: those that it made; sync: the
revisions that it tried. The newest come first.

The controller answers, through the API server: it takes the right to reach its Service (value history.readers of the chart),
and to list Tasks, or Syncs, in the namespace. With --database-url the database is read instead.")]
pub struct Args {
    /// task, agent, crontask or sync
    #[arg(value_name = "KIND", value_parser = which)]
    pub which: Which,
    /// Its name; without one: of all of that kind in the namespace
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// The newest so many
    #[arg(long, env = "PILOTHOUSE_HISTORY_LIMIT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "NUMBER")]
    pub limit: u32,
    /// How the history is reached
    #[command(flatten)]
    pub reach: Reach,
}

fn which(text: &str) -> Result<Which, String> {
    Ok(match text.to_lowercase().as_str() {
        "task" | "tasks" | "tk" => Which::Task,
        "agent" | "agents" | "ag" => Which::Agent,
        "crontask" | "crontasks" | "ct" => Which::Crontask,
        "sync" | "syncs" => Which::Sync,
        _ => return Err("there is a history of task, agent, crontask and sync".into()),
    })
}

/// Asks and prints.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<ExitCode> {
    let source = args.reach.open(global).await?;
    let namespace = source.namespace().to_owned();
    if args.name.as_ref().is_some_and(|name| name.contains('/')) {
        bail!("write KIND NAME, and the namespace as -n NAMESPACE");
    }
    let asked = Asked { which: args.which, namespace, name: args.name.clone().unwrap_or_default(), limit: args.limit };
    if args.which == Which::Sync {
        let records = source.syncs(&asked).await?;
        output::print(global.output, &records, || syncs(&records))?;
    } else {
        let records = source.tasks(&asked).await?;
        let whole = args.which == Which::Task && args.name.is_some();
        output::print(global.output, &records, || if whole { tasks_whole(&records) } else { tasks(&records) })?;
    }
    Ok(ExitCode::SUCCESS)
}

const NOTHING: &str = "the history has nothing of it";

fn tasks(records: &[TaskRecord]) -> String {
    if records.is_empty() {
        return NOTHING.into();
    }
    let row = |r: &TaskRecord| {
        let revision = r.detail.revisions.last().cloned().unwrap_or_default();
        [time(r.ended), r.name.clone(), r.agent.clone(), r.reason.clone(), took(r), r.cost.clone(), revision]
    };
    table(["ENDED", "TASK", "AGENT", "RESULT", "TOOK", "COST", "REVISION"], records.iter().map(row))
}

fn syncs(records: &[SyncRecord]) -> String {
    if records.is_empty() {
        return NOTHING.into();
    }
    let row = |r: &SyncRecord| {
        let message = r.message.as_deref().unwrap_or_default().lines().next().unwrap_or_default().to_owned();
        [time(r.applied), r.name.clone(), r.revision.clone(), r.result.clone(), message]
    };
    table(["TIME", "SYNC", "REVISION", "RESULT", "MESSAGE"], records.iter().map(row))
}

/// All that is known of each.
fn tasks_whole(records: &[TaskRecord]) -> String {
    let one = |r: &TaskRecord| {
        let detail = &r.detail;
        let content: Vec<_> = detail.content.iter().map(|(name, commit)| format!("{name} {commit}")).collect();
        let session = detail.session.as_ref().and_then(|s| s.id.clone());
        let mut text = format!("Task {}/{} ({})\n", r.namespace, r.name, r.uid);
        for (key, value) in [
            ("Agent", r.agent.clone()),
            ("Template", detail.template.clone().unwrap_or_default()),
            ("CronTask", r.crontask.clone()),
            ("Result", format!("{}, {}", r.phase, r.reason)),
            ("", detail.message.clone()),
            (
                "Ended",
                format!("{}{}", time(r.ended), r.started.map(|_| format!(", after {}", took(r))).unwrap_or_default()),
            ),
            ("Cost", format!("{} USD, {} tokens", r.cost, r.tokens)),
            ("Tries", if detail.tries.is_empty() { String::new() } else { format!("{}", detail.tries.len() + 1) }),
            ("Revisions", detail.revisions.join(", ")),
            ("Content", content.join(", ")),
            ("Session", session.unwrap_or_default()),
        ] {
            if !value.is_empty() {
                let _ = writeln!(text, "  {key:<10} {value}");
            }
        }
        for (title, body) in [("Answer", &detail.result), ("Log", &detail.log_tail)] {
            if let Some(body) = body {
                let _ = writeln!(text, "  {title}\n{}", indented(body));
            }
        }
        text
    };
    if records.is_empty() { NOTHING.into() } else { records.iter().map(one).collect::<Vec<_>>().join("\n") }
}

fn indented(text: &str) -> String {
    text.trim_end().lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

/// To the second.
fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn took(record: &TaskRecord) -> String {
    let Some(started) = record.started else { return String::new() };
    let seconds = record.ended.duration_since(started).as_secs().max(0);
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, _) => format!("{h}h{m}m"),
    }
}

/// How a value stands in a query: lower case.
pub(super) fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> TaskRecord {
        let time = |second| Timestamp::from_second(second).unwrap();
        TaskRecord {
            namespace: "team".into(),
            name: "review".into(),
            agent: "coder".into(),
            phase: "Completed".into(),
            reason: "Completed".into(),
            started: Some(time(0)),
            ended: time(75),
            cost: "0.020000".into(),
            tokens: 10,
            ..TaskRecord::default()
        }
    }

    #[test]
    fn a_line_each() {
        let text = tasks(&[record(), TaskRecord { name: "x".into(), started: None, ..record() }]);
        assert_eq!(
            text,
            "ENDED                 TASK    AGENT  RESULT     TOOK   COST      REVISION\n\
             1970-01-01T00:01:15Z  review  coder  Completed  1m15s  0.020000\n\
             1970-01-01T00:01:15Z  x       coder  Completed         0.020000"
        );
        assert_eq!(tasks(&[]), NOTHING);
    }

    #[test]
    fn all_that_is_known_and_no_empty_lines() {
        let mut record = record();
        record.detail.log_tail = Some("one\ntwo\n".into());
        let text = tasks_whole(&[record]);
        assert_eq!(
            text,
            "Task team/review ()\n  Agent      coder\n  Result     Completed, Completed\n  Ended      1970-01-01T00:01:15Z, after \
             1m15s\n  Cost       0.020000 USD, 10 tokens\n  Log\n    one\n    two\n"
        );
    }

    #[test]
    fn kinds_have_their_names() {
        assert_eq!(which("Tasks"), Ok(Which::Task));
        assert_eq!(which("ct"), Ok(Which::Crontask));
        assert!(which("secret").is_err());
        assert_eq!(word(&Which::Crontask), "crontask");
    }
}
