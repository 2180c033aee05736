//! The rollout gate: may a new pod template replace the running one now? (pure)
//!
//! Every cause of a new pod template passes here: images, environment, configuration, credentials, mounts, templates,
//! cluster configuration, suspension. State lives in an annotation of the Deployment ([`super::state`]), written in the same
//! request as the template it speaks of, so a crash repeats no rollout and loses no clock.

mod ask;
mod clock;
mod doors;
mod words;

use std::{collections::BTreeSet, time::Duration};

pub use ask::{Ask, HOLD, NOW, asked, is_now, misunderstood};
pub use clock::waited_until;
pub use doors::{Said, activity, held_activity};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
pub use words::held_by;

use super::beside::MOST_OLD;

/// What an agent's server does, as far as anybody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// No server process runs, so nothing in it can be cut.
    NoServer,
    /// The server runs and the door saw it idle.
    Idle,
    /// At least one session works, retries or waits for an answer.
    Busy,
    /// The server may run and nobody can say what it does. Never taken for idle.
    Unknown,
}

/// What a rollout would cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Tasks in phase Running on this agent.
    pub running_tasks: usize,
    /// The server's sessions.
    pub activity: Activity,
}

/// What the gate protects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protect {
    /// Running Tasks, and sessions of people.
    #[default]
    TasksAndSessions,
    /// Running Tasks alone.
    Tasks,
    /// Nothing: roll at once.
    None,
}

/// What happens when protection has lasted for [`Policy::timeout`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnTimeout {
    /// Roll out although work is cut.
    #[default]
    Force,
    /// Keep waiting for the work to end.
    Wait,
}

/// `spec.rollout` of an Agent, with defaults filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What holds a rollout back.
    pub protect: Protect,
    /// For how long at most, counted from when the rollout became pending. Default one hour.
    pub timeout: Duration,
    /// What happens then.
    pub on_timeout: OnTimeout,
}

impl Default for Policy {
    fn default() -> Self {
        Self { protect: Protect::default(), timeout: Duration::from_hours(1), on_timeout: OnTimeout::default() }
    }
}

/// What a change does to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Change {
    /// New pods, or none.
    #[default]
    Template,
    /// Gathered text, which the running server reads.
    Text,
    /// Content from Git, which is exchanged in the running pod.
    Content,
}

/// A change that waits, as the annotation keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// What is wanted; it may move while the clock goes on.
    pub hash: String,
    /// When the first change became pending: a moved target keeps it.
    pub since: Timestamp,
    /// Sorted names of what changed, such as `config` and `image`.
    pub causes: BTreeSet<String>,
    /// Somebody asked for it to wait. The protection's time does not run meanwhile: it begins when this ends.
    #[serde(default)]
    pub held: bool,
}

/// What was applied last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Hash of the applied pod template and suspension.
    pub hash: String,
    /// Applied with no replicas: there is nothing to protect.
    pub suspended: bool,
}

/// Everything a decision depends on.
#[derive(Clone, Debug)]
pub struct GateInput<'a> {
    /// What it is about; it changes the words alone.
    pub change: Change,
    /// Hash of what is wanted.
    pub desired: &'a str,
    /// What runs; `None` before the first creation.
    pub applied: Option<&'a Applied>,
    /// What waits already.
    pub pending: Option<&'a Pending>,
    /// Names of what differs between applied and wanted.
    pub causes: &'a BTreeSet<String>,
    /// What would be cut.
    pub work: Work,
    /// How much of it is protected.
    pub policy: Policy,
    /// How many pods of older revisions end their work, where the change is to start beside what runs and that cuts
    /// nothing; see [`super::beside`].
    pub beside: Option<usize>,
    /// What somebody asks for, whatever the policy says.
    pub ask: Ask<'a>,
    /// The present, as far as this wait goes: see [`waited_until`].
    pub now: Timestamp,
}

/// The decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing protected would be cut: apply.
    Open {
        /// Whether a prompt could still slip in: hold prompts at the door, confirm that the server is idle, apply, and
        /// only then release them.
        hold: bool,
    },
    /// Keep what runs. `pending` is what must be stored.
    Wait {
        /// For the annotation, equal to what is stored when nothing changed.
        pending: Pending,
        /// When the wait ends at the latest; `None` when only the end of the work ends it.
        until: Option<Timestamp>,
        /// For the condition: stable while nothing changes.
        message: String,
    },
    /// The protection has lasted as long as the policy allows: apply although work is cut.
    Forced {
        /// For the event.
        message: String,
    },
}

/// Decides. Total: every input has an answer, the same one each time.
pub fn decide(input: &GateInput<'_>) -> Verdict {
    let free = match input.applied {
        None => return Verdict::Open { hold: false },
        Some(applied) if applied.hash == input.desired => return Verdict::Open { hold: false },
        Some(applied) => applied.suspended,
    };
    if let Ask::Hold { why } = input.ask {
        let pending = pending(input);
        let message = words::held(input, &pending, why);
        return Verdict::Wait { pending, until: None, message };
    }
    // What it leaves ends its work by itself: nothing is cut, and a prompt that slips in is kept.
    let free = free || input.beside.is_some_and(|old| old < MOST_OLD || input.ask == Ask::Now);
    if free || !is_protected(input.policy.protect, input.work) {
        return Verdict::Open { hold: !free && needs_hold(input) };
    }
    let pending = pending(input);
    let ends = end(pending.since, input.policy.timeout);
    match input.policy.on_timeout {
        _ if input.ask == Ask::Now => Verdict::Forced { message: words::asked(input) },
        OnTimeout::Force if input.now >= ends => Verdict::Forced { message: words::forced(input, ends) },
        on_timeout => {
            let until = (on_timeout == OnTimeout::Force).then_some(ends);
            let message = words::waits(input, &pending, until);
            Verdict::Wait { pending, until, message }
        }
    }
}

/// Whether `work` is active and `protect` covers it.
fn is_protected(protect: Protect, work: Work) -> bool {
    let sessions = matches!(work.activity, Activity::Busy | Activity::Unknown);
    match protect {
        Protect::TasksAndSessions => work.running_tasks > 0 || sessions,
        Protect::Tasks => work.running_tasks > 0,
        Protect::None => false,
    }
}

fn needs_hold(input: &GateInput<'_>) -> bool {
    input.policy.protect == Protect::TasksAndSessions && input.work.activity == Activity::Idle
}

fn pending(input: &GateInput<'_>) -> Pending {
    let held = matches!(input.ask, Ask::Hold { .. });
    let since = match input.pending {
        // While it was held it did not wait for work.
        Some(stored) if stored.held && !held => input.now,
        // A time in the future (a clock set back) would stretch the wait without bound.
        Some(stored) => stored.since.min(input.now),
        None => input.now,
    };
    Pending { hash: input.desired.into(), since: whole_seconds(since), causes: input.causes.clone(), held }
}

/// Annotations and messages show whole seconds; cut here so that a stored state compares equal.
pub(super) fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn end(since: Timestamp, timeout: Duration) -> Timestamp {
    let timeout = SignedDuration::try_from(timeout).unwrap_or(SignedDuration::MAX);
    since.checked_add(timeout).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod clock_tests;
#[cfg(test)]
mod tests;
