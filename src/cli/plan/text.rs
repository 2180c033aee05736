//! The plan for people: plain, and as Markdown.

use std::fmt::Write as _;

use super::{Outcome, Row};
use crate::agent::{effect::Class, forecast::When};

/// Names that are listed before "and so many more".
const NAMES: usize = 5;

/// When it arrives, in words. `waits`: work is never cut.
pub(super) fn words(when: When, waits: bool) -> String {
    match when {
        When::Nothing => "nothing of it is for its pod".into(),
        When::Pinned => "the agent is pinned: nothing arrives before `pilothouse rollback agent NAME --release`".into(),
        When::Held => "the agent is held: nothing arrives before `pilothouse rollout agent NAME --resume`".into(),
        When::AtOnce => "at once".into(),
        When::AfterWork { until: Some(_), surely: true } => {
            "after the work that goes on, or when its time is over".into()
        }
        When::AfterWork { until: None, surely: true } => "after the work that goes on, however long".into(),
        When::AfterWork { until: None, surely: false } if waits => {
            "at once, unless a session goes on, however long".into()
        }
        When::AfterWork { surely: false, .. } => "at once, unless a session goes on".into(),
    }
}

/// What it would wait for; nothing where nothing is waited for, or known.
fn waits_for(row: &Row) -> String {
    let mut parts = vec![];
    match row.running_tasks.as_deref() {
        Some([]) => {}
        Some(names) => {
            let shown = names.iter().take(NAMES).cloned().collect::<Vec<_>>().join(", ");
            let more = names.len().saturating_sub(NAMES);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            parts.push(format!("Tasks {shown}{more}"));
        }
        None if !forced(row).is_empty() || row.waits_for_sessions => parts.push("running Tasks".into()),
        None => {}
    }
    if row.waits_for_sessions {
        parts.push("busy sessions".into());
    }
    parts.join(", ")
}

/// When it is forced at the latest; empty where it never is, or nothing is.
fn forced(row: &Row) -> String {
    match (row.forced_at, row.forced_after_seconds) {
        (Some(at), _) => at.to_string(),
        (None, Some(seconds)) => format!("{seconds}s after the fleet lets it go"),
        (None, None) => String::new(),
    }
}

fn class(row: &Row) -> String {
    row.class.map_or_else(|| row.change.into(), |class| format!("{class:?}"))
}

fn causes(row: &Row) -> String {
    row.causes.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// How many get what, for the first line.
fn summary(outcome: &Outcome) -> String {
    let count = |test: &dyn Fn(&Row) -> bool| outcome.agents.iter().filter(|row| test(row)).count();
    let kinds = [
        ("deleted", count(&|row| row.change == "deleted")),
        ("refused", count(&|row| row.change == "refused")),
        ("created", count(&|row| row.change == "created")),
        ("Recreate", count(&|row| row.class == Some(Class::Recreate))),
        ("Rollout", count(&|row| row.class == Some(Class::Rollout))),
        ("Reload", count(&|row| row.class == Some(Class::Reload))),
        ("Live", count(&|row| row.class == Some(Class::Live))),
        ("unaffected", count(&|row| row.class == Some(Class::None))),
    ];
    let parts: Vec<_> = kinds.into_iter().filter(|(_, n)| *n > 0).map(|(kind, n)| format!("{n} {kind}")).collect();
    if parts.is_empty() { "no agent is affected".into() } else { format!("agents: {}", parts.join(", ")) }
}

/// For a terminal.
pub(super) fn plain(outcome: &Outcome) -> String {
    let mut out = format!("{}\n", summary(outcome));
    for row in &outcome.agents {
        let causes = if row.causes.is_empty() { String::new() } else { format!(" ({})", causes(row)) };
        let _ = writeln!(out, "{}/{}: {}{causes}: {}", row.namespace, row.name, class(row), row.message);
        let waits = waits_for(row);
        if !waits.is_empty() {
            let what = if row.change == "deleted" { "ends" } else { "waits for" };
            let _ = writeln!(out, "  {what}: {waits}");
        }
        if let Some(pace) = &row.pace {
            let _ = writeln!(out, "  pace: {pace}");
        }
        let forced = forced(row);
        if !forced.is_empty() {
            let _ = writeln!(out, "  forced at the latest: {forced}");
        }
    }
    for unknown in &outcome.unknown {
        let _ = writeln!(out, "not known: {unknown}");
    }
    out
}

/// For a comment of a pull request.
pub(super) fn markdown(outcome: &Outcome) -> String {
    let mut out = format!("### Pilothouse plan\n\n{}\n", summary(outcome));
    if !outcome.agents.is_empty() {
        out.push_str("\n| agent | effect | causes | waits for | forced at the latest | |\n| --- | --- | --- | --- | --- | --- |\n");
    }
    for row in &outcome.agents {
        let cells = [
            format!("{}/{}", row.namespace, row.name),
            class(row),
            causes(row),
            waits_for(row),
            forced(row),
            row.pace.iter().fold(row.message.clone(), |message, pace| format!("{message}; {pace}")),
        ];
        let _ = writeln!(out, "| {} |", cells.map(|cell| escaped(&cell)).join(" | "));
    }
    for unknown in &outcome.unknown {
        let _ = writeln!(out, "\nNot known: {}", escaped(unknown));
    }
    out
}

/// Names may hold what Markdown takes for its own.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\n' | '\r' => out.push(' '),
            '|' | '<' | '>' | '[' | ']' | '*' | '_' | '\\' | '@' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}
