//! `pilothouse task list`: Tasks, and who is next.

use std::{cmp::Reverse, process::ExitCode};

use anyhow::Context;
use kube::{Api, api::ListParams};
use serde::Serialize;

use crate::{
    api::{Task, TaskPhase, names::condition},
    cli::{Global, controller::client, output, target::Place},
    task,
};

/// Flags of `pilothouse task list`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pilothouse task list -n agents
  pilothouse task list --agent coder --phase Queued -o json

Running Tasks come first, then those that wait in the order in which they are next, then those that have ended, the newest first.")]
pub struct Args {
    /// Only Tasks of this Agent
    #[arg(short, long, env = "PILOTHOUSE_AGENT", value_name = "NAME")]
    pub agent: Option<String>,
    /// Only Tasks in this phase: Pending, Queued, Running, Completed or Failed
    #[arg(long, env = "PILOTHOUSE_TASK_PHASE", value_name = "PHASE")]
    pub phase: Option<String>,
    #[command(flatten)]
    place: Place,
}

/// A Task in the list.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    agent: String,
    phase: String,
    /// Place in the agent's queue, from 1, while it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<usize>,
    priority: i32,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<String>,
}

/// Lists.
pub(super) async fn run(global: &Global, args: &Args) -> anyhow::Result<ExitCode> {
    let client = client(global).await?;
    let namespace = args.place.of(&client);
    let api: Api<Task> = Api::namespaced(client, &namespace);
    let tasks = api.list(&ListParams::default()).await.context("cannot list Tasks")?.items;
    let mut rows = rows(tasks);
    rows.retain(|row| args.agent.as_ref().is_none_or(|agent| *agent == row.agent));
    rows.retain(|row| args.phase.as_ref().is_none_or(|phase| phase.eq_ignore_ascii_case(&row.phase)));
    output::print(global.output, &rows, || table(&rows, &namespace))?;
    Ok(ExitCode::SUCCESS)
}

fn rows(mut tasks: Vec<Task>) -> Vec<Row> {
    let order = |task: &Task| match task::phase(task) {
        Some(TaskPhase::Running) => 0,
        Some(phase) if phase.is_terminal() => 2,
        _ => 1,
    };
    tasks.sort_by_key(|task| {
        let (ended, name) = (order(task) == 2, task.metadata.name.clone());
        let created = task::created(task).as_millisecond();
        let (priority, time) = if ended { (0, -created) } else { (-task.spec.priority.unwrap_or_default(), created) };
        (order(task), if order(task) == 1 { priority } else { 0 }, time, name, Reverse(ended))
    });
    let mut waiting = std::collections::HashMap::<String, usize>::new();
    let row = |task: Task| {
        let agent = task::agent_of(&task).unwrap_or_default().to_owned();
        let stands = order(&task) == 1 && task::step::stands_in_queue(&task);
        let place = stands.then(|| {
            let count = waiting.entry(agent.clone()).or_default();
            *count += 1;
            *count
        });
        let status = task.status.unwrap_or_default();
        let condition = |kind: &str| status.conditions.iter().find(|c| c.type_ == kind);
        let queued = condition(condition::QUEUED).filter(|c| c.status == "True");
        let reason = queued.or_else(|| condition(condition::STOPPED)).or_else(|| condition(condition::STALLED));
        Row {
            name: task.metadata.name.unwrap_or_default(),
            agent,
            phase: status.phase.map(|p| format!("{p:?}")).unwrap_or_default(),
            place,
            priority: task.spec.priority.unwrap_or_default(),
            reason: reason.map(|c| c.reason.clone()).unwrap_or_default(),
            cost: status.session.and_then(|s| s.summary).and_then(|s| s.cost),
        }
    };
    tasks.into_iter().map(row).collect()
}

fn table(rows: &[Row], namespace: &str) -> String {
    if rows.is_empty() {
        return format!("there is no such Task in namespace {namespace}; another one: -n NAMESPACE");
    }
    let cells = |row: &Row| {
        let (place, cost) =
            (row.place.map(|n| n.to_string()).unwrap_or_default(), row.cost.clone().unwrap_or_default());
        let (name, agent, phase) = (row.name.clone(), row.agent.clone(), row.phase.clone());
        [name, agent, phase, place, row.priority.to_string(), row.reason.clone(), cost]
    };
    output::table(["NAME", "AGENT", "PHASE", "PLACE", "PRIORITY", "REASON", "COST"], rows.iter().map(cells))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_runs_who_is_next_who_has_ended() {
        let task = |name: &str, second: i64, phase: &str, priority: i32| -> Task {
            let created = jiff::Timestamp::from_second(second).unwrap().to_string();
            serde_json::from_value(json!({
                "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Task",
                "metadata": {"name": name, "creationTimestamp": created},
                "spec": {"agentRef": {"name": "a"}, "description": "d", "priority": priority},
                "status": {"phase": phase},
            }))
            .unwrap()
        };
        let rows = rows(vec![
            task("old", 1, "Completed", 9),
            task("new", 5, "Failed", 0),
            task("third", 2, "Queued", 0),
            task("first", 9, "Queued", 5),
            task("second", 1, "Queued", 0),
            task("runs", 8, "Running", 0),
        ]);
        let order: Vec<_> = rows.iter().map(|r| (r.name.as_str(), r.place)).collect();
        let expected =
            [("runs", None), ("first", Some(1)), ("second", Some(2)), ("third", Some(3)), ("new", None), ("old", None)];
        assert_eq!(order, expected);
        let text = table(&rows, "agents");
        assert!(text.starts_with("NAME    AGENT  PHASE      PLACE  PRIORITY  REASON  COST\nruns "), "{text}");
        assert!(table(&[], "agents").contains("in namespace agents"));
    }
}
