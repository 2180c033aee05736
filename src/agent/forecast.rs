//! When a change would reach an agent that runs, for who sees less than the controller (pure).
//!
//! The controller's own gate is asked. What sessions of people go on cannot be seen from outside, so it is asked as if some
//! did: the answer is then the latest time.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{
    beside,
    decide::{live_policy, policy},
    effect::{Class, Effect},
    gate::{self, Activity, Applied, Ask, Change, GateInput, Pending, Policy, Protect, Verdict, Work},
};
use crate::api::{AgentSpec, AgentStatus};

/// What is known of an agent.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Its spec after the change, merged with its template.
    pub spec: &'a AgentSpec,
    /// Its status.
    pub status: Option<&'a AgentStatus>,
    /// Whether its pods were made to be left beside newer ones.
    pub beside: bool,
    /// Its annotation `pilothouse.dev/rollout`.
    pub asked: Option<&'a str>,
    /// Whether it has the annotation `pilothouse.dev/pinned-to`.
    pub pinned: bool,
    /// Tasks that run on it.
    pub running_tasks: usize,
    /// The present.
    pub now: Timestamp,
}

/// When a change would arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Nothing has to arrive.
    Nothing,
    /// Not before the agent is released: it is pinned to a revision.
    Pinned,
    /// Not before somebody resumes: it is held.
    Held,
    /// At once.
    AtOnce,
    /// When the work that goes on has ended.
    AfterWork {
        /// Whether there is such work for sure; else sessions of people may go on.
        surely: bool,
        /// When it is forced at the latest; `None`: never.
        until: Option<Timestamp>,
    },
}

/// When a change of this effect would arrive if it were applied now.
pub fn forecast(effect: &Effect, facts: &Facts<'_>) -> When {
    if effect.class == Class::None {
        return When::Nothing;
    }
    if facts.pinned {
        return When::Pinned;
    }
    let status = facts.status.cloned().unwrap_or_default();
    let applied = Applied { hash: String::new(), suspended: status.suspended == Some(true) };
    let pending = pending(effect.class, &status);
    let policy = policy_of(effect.class, facts.spec);
    let ask = gate::asked(facts.asked, None, &[WANTED]);
    let input = GateInput {
        change: if effect.class == Class::Live { Change::Text } else { Change::Template },
        desired: WANTED,
        applied: Some(&applied),
        pending: pending.as_ref(),
        causes: &effect.causes,
        work: Work { running_tasks: facts.running_tasks, activity: Activity::Busy },
        policy,
        beside: beside(effect.class, facts, &status),
        ask,
        now: facts.now,
    };
    match gate::decide(&input) {
        Verdict::Wait { .. } if matches!(ask, Ask::Hold { .. }) => When::Held,
        Verdict::Wait { until, .. } => {
            let idle = GateInput { work: Work { activity: Activity::Idle, ..input.work }, ..input };
            When::AfterWork { surely: !matches!(gate::decide(&idle), Verdict::Open { .. }), until }
        }
        Verdict::Open { .. } | Verdict::Forced { .. } => When::AtOnce,
    }
}

/// Stands for the hash of what is wanted.
const WANTED: &str = "wanted";

/// How many pods end their work already, where a new one may start beside them.
fn beside(class: Class, facts: &Facts<'_>, status: &AgentStatus) -> Option<usize> {
    let old = status.rollout.as_ref().map_or(0, |rollout| rollout.finishing.len());
    (facts.beside && class == Class::Rollout && beside::is_wanted(facts.spec)).then_some(old)
}

/// What waits already keeps its clock.
fn pending(class: Class, status: &AgentStatus) -> Option<Pending> {
    let rollout = status.rollout.as_ref().filter(|_| class >= Class::Rollout)?;
    let since = rollout.since.as_ref()?.0;
    Some(Pending { hash: rollout.pending.clone()?, since, causes: BTreeSet::new(), held: false })
}

/// Gathered text and contexts are bound by the timeout alone; what ends sessions, by what happens then as well.
fn policy_of(class: Class, spec: &AgentSpec) -> Policy {
    match class {
        Class::Live => live_policy(spec),
        _ => policy(spec),
    }
}

/// Whether sessions of people count.
pub fn counts_sessions(effect: &Effect, spec: &AgentSpec) -> bool {
    policy_of(effect.class, spec).protect == Protect::TasksAndSessions
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_gate_itself_is_asked() {
        use Class::{Live, None as Nothing, Reload, Rollout};
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let effect = |class: Class| Effect { class, causes: BTreeSet::from(["image".to_string()]) };
        let spec =
            |rollout: serde_json::Value| -> AgentSpec { serde_json::from_value(json!({"rollout": rollout})).unwrap() };
        let status = |value: serde_json::Value| -> AgentStatus { serde_json::from_value(value).unwrap() };
        let (usual, waits) = (spec(json!({})), spec(json!({"onTimeout": "Wait"})));
        let (tasks, none) = (spec(json!({"protect": "Tasks"})), spec(json!({"protect": "None"})));
        let (now, side) = (spec(json!({"live": "Immediately"})), spec(json!({"strategy": "SideBySide"})));
        let ends = status(json!({"rollout": {"finishing": ["a-server-1"]}}));
        let (runs, rests) = (status(json!({})), status(json!({"suspended": true})));
        let waiting = status(json!({"rollout": {"pending": "h", "since": "1970-01-01T00:10:00Z"}}));
        let facts = |spec, status, running_tasks| Facts {
            spec,
            status: Some(status),
            beside: false,
            asked: None,
            pinned: false,
            running_tasks,
            now: at(1200),
        };
        let after = |surely, until: Option<i64>| When::AfterWork { surely, until: until.map(at) };
        let table = [
            (Nothing, facts(&usual, &runs, 1), When::Nothing),
            (Rollout, facts(&usual, &runs, 0), after(false, Some(4800))),
            (Rollout, facts(&usual, &runs, 2), after(true, Some(4800))),
            // What waits already keeps its clock; text has one of its own.
            (Rollout, facts(&usual, &waiting, 1), after(true, Some(4200))),
            (Live, facts(&usual, &waiting, 1), after(true, Some(4800))),
            (Rollout, facts(&waits, &runs, 1), after(true, None)),
            (Reload, facts(&waits, &runs, 1), after(true, None)),
            (Live, facts(&waits, &runs, 1), after(true, Some(4800))),
            (Rollout, facts(&tasks, &runs, 0), When::AtOnce),
            (Rollout, facts(&tasks, &runs, 1), after(true, Some(4800))),
            (Rollout, facts(&none, &runs, 1), When::AtOnce),
            (Live, facts(&now, &runs, 1), When::AtOnce),
            (Reload, facts(&now, &runs, 1), after(true, Some(4800))),
            (Rollout, facts(&usual, &rests, 1), When::AtOnce),
            (Rollout, Facts { beside: true, ..facts(&side, &runs, 1) }, When::AtOnce),
            (Live, Facts { beside: true, ..facts(&side, &runs, 1) }, after(true, Some(4800))),
            (Rollout, facts(&side, &runs, 1), after(true, Some(4800))),
            (Rollout, Facts { beside: true, ..facts(&side, &ends, 1) }, after(true, Some(4800))),
            (Rollout, Facts { pinned: true, ..facts(&none, &runs, 0) }, When::Pinned),
            (Rollout, Facts { asked: Some("hold: Jo"), ..facts(&none, &runs, 0) }, When::Held),
            (Rollout, Facts { asked: Some("now-wanted"), ..facts(&waits, &runs, 1) }, When::AtOnce),
        ];
        for (n, (class, facts, expected)) in table.into_iter().enumerate() {
            assert_eq!(forecast(&effect(class), &facts), expected, "{n}");
        }
    }
}
