//! What the gate says: for the condition and for events. Stable while nothing changes.

use jiff::Timestamp;

use super::{Activity, Change, GateInput, Pending, Protect};
use crate::{api::names::annotation, status::condition::truncate};

/// Longest reason of a person that is repeated, in bytes.
const WHY: usize = 200;

/// What work there is that the policy protects.
fn describe(input: &GateInput<'_>) -> String {
    let tasks = match input.work.running_tasks {
        0 => None,
        1 => Some("1 running Task".to_string()),
        n => Some(format!("{n} running Tasks")),
    };
    let sessions = match (input.policy.protect, input.work.activity) {
        (Protect::TasksAndSessions, Activity::Busy) => Some("busy sessions"),
        (Protect::TasksAndSessions, Activity::Unknown) => {
            Some("sessions that cannot be asked for (server unreachable)")
        }
        _ => None,
    };
    match (tasks, sessions) {
        (Some(tasks), Some(sessions)) => format!("{tasks} and {sessions}"),
        (Some(tasks), None) => tasks,
        (None, sessions) => sessions.unwrap_or("nothing").into(),
    }
}

fn causes(input: &GateInput<'_>) -> String {
    let names: Vec<_> = input.causes.iter().map(String::as_str).collect();
    match input.change {
        Change::Template => format!("changed: {}", names.join(", ")),
        Change::Content => format!("what is new in {}", names.join(", ")),
        Change::Text => {
            let contexts: Vec<_> = names.iter().filter_map(|name| name.split_once('/')).map(|(_, name)| name).collect();
            if contexts.is_empty() {
                "the order of the gathered text".into()
            } else {
                format!("the text of {}", contexts.join(", "))
            }
        }
    }
}

/// It waits for work.
pub(super) fn waits(input: &GateInput<'_>, pending: &Pending, until: Option<Timestamp>) -> String {
    let limit = until.map_or_else(|| "without limit".into(), |t| format!("until {t} at the latest"));
    let (work, what, since) = (describe(input), causes(input), pending.since);
    match input.change {
        Change::Template => {
            let or = if input.beside.is_some() { ", or for a pod of an older revision to end its own," } else { "" };
            format!("waiting for {work} to end{or} before the rollout ({what}), since {since}, {limit}")
        }
        Change::Text | Change::Content => {
            format!("{what} waits for {work} to end and then comes without a new pod, since {since}, {limit}")
        }
    }
}

/// It waits because somebody said so.
pub(super) fn held(input: &GateInput<'_>, pending: &Pending, why: &str) -> String {
    held_by(why, &format!(", since {}: {}", pending.since, causes(input)))
}

/// Who holds `what`, and how it goes on. `why` is in the person's words.
pub fn held_by(why: &str, what: &str) -> String {
    let why = if why.is_empty() { String::new() } else { format!(" ({})", truncate(why, WHY)) };
    format!(
        "held by the annotation {}{why}{what}; to let it go on: pilothouse rollout agent NAME --resume",
        annotation::ROLLOUT
    )
}

/// Its time is over, and work is cut.
pub(super) fn forced(input: &GateInput<'_>, ends: Timestamp) -> String {
    format!("the protection of {} ended at {ends}: {}", describe(input), causes(input))
}

/// Somebody did not want to wait, and work is cut.
pub(super) fn asked(input: &GateInput<'_>) -> String {
    format!("{} did not end first, as the annotation {} asks: {}", describe(input), annotation::ROLLOUT, causes(input))
}
