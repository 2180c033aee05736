//! `pilothouse cost`: what Tasks cost, summed.

use std::process::ExitCode;

use serde::Serialize;

use super::{
    Global,
    history::reach::Reach,
    output::{self, table},
};
use crate::{
    api::money::{dollars, micros},
    store::{By, Cost},
};

/// Flags of `pilothouse cost`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pilothouse cost --by agent -n agents
  pilothouse cost --by day --days 7 --all-namespaces
  pilothouse cost --by crontask -o json | jq -r '.rows[] | [.name, .cost] | @tsv'

Costs are what the agents' servers say of the sessions, in US dollars, of Tasks that have ended; days are those of UTC. Who may
read them is as with pilothouse history.")]
pub struct Args {
    /// What to sum by
    #[arg(long, env = "PILOTHOUSE_COST_BY", value_enum, default_value = "agent", value_name = "agent|crontask|day")]
    pub by: ByArg,
    /// Tasks that ended within so many days
    #[arg(long, env = "PILOTHOUSE_COST_DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=36500), value_name = "DAYS")]
    pub days: u32,
    /// How the history is reached
    #[command(flatten)]
    pub reach: Reach,
}

/// What to sum by.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByArg {
    /// The agent that did the work.
    Agent,
    /// The `CronTask` that made the Task.
    Crontask,
    /// The day on which it ended.
    Day,
}

/// The answer.
#[derive(Serialize)]
struct Answer {
    rows: Vec<Cost>,
    total: Total,
}

#[derive(Serialize)]
struct Total {
    tasks: i64,
    cost: String,
    tokens: i64,
}

/// Asks and prints.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<ExitCode> {
    let by = match args.by {
        ByArg::Agent => By::Agent,
        ByArg::Crontask => By::Crontask,
        ByArg::Day => By::Day,
    };
    let rows = args.reach.open(global).await?.cost(by, args.days).await?;
    let answer = Answer { total: total(&rows), rows };
    output::print(global.output, &answer, || text(by, args.days, &answer))?;
    Ok(ExitCode::SUCCESS)
}

fn total(rows: &[Cost]) -> Total {
    let sum = |of: fn(&Cost) -> i64| rows.iter().map(of).fold(0, i64::saturating_add);
    Total {
        tasks: sum(|r| r.tasks),
        cost: dollars(sum(|r| micros(&r.cost).unwrap_or_default())),
        tokens: sum(|r| r.tokens),
    }
}

fn text(by: By, days: u32, answer: &Answer) -> String {
    if answer.rows.is_empty() {
        return format!("no Task has ended within {days} days");
    }
    let cells = |namespace: &str, name: &str, tasks: i64, cost: &str, tokens: i64| {
        [namespace.to_owned(), name.to_owned(), tasks.to_string(), cost.to_owned(), tokens.to_string()]
    };
    let row =
        |r: &Cost| cells(&r.namespace, if r.name.is_empty() { "(none)" } else { &r.name }, r.tasks, &r.cost, r.tokens);
    let all = &answer.total;
    let rows = answer.rows.iter().map(row).chain([cells("", "all", all.tasks, &all.cost, all.tokens)]);
    match by {
        By::Day => table(
            ["DAY", "TASKS", "USD", "TOKENS"],
            rows.map(|[_, day, tasks, cost, tokens]| [day, tasks, cost, tokens]),
        ),
        By::Agent => table(["NAMESPACE", "AGENT", "TASKS", "USD", "TOKENS"], rows),
        By::Crontask => table(["NAMESPACE", "CRONTASK", "TASKS", "USD", "TOKENS"], rows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, cost: &str) -> Cost {
        Cost { namespace: "team".into(), name: name.into(), tasks: 2, cost: cost.into(), tokens: 7 }
    }

    #[test]
    fn rows_and_their_sum() {
        let rows = vec![row("coder", "1.500000"), row("", "0.000001")];
        let answer = Answer { total: total(&rows), rows };
        assert_eq!(
            text(By::Agent, 30, &answer),
            "NAMESPACE  AGENT   TASKS  USD       TOKENS\n\
             team       coder   2      1.500000  7\n\
             team       (none)  2      0.000001  7\n           all     4      1.500001  14"
        );
        let day = text(By::Day, 30, &answer);
        assert!(day.starts_with("DAY     TASKS") && !day.contains("team"), "{day}");
        let none = Answer { total: total(&[]), rows: vec![] };
        assert_eq!(text(By::Day, 7, &none), "no Task has ended within 7 days");
    }
}
