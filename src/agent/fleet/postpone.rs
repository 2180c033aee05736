//! A decision to apply, turned into a wait.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Pace, Refusal, Steps, words};
use crate::agent::{
    decide::Action,
    gate::{Pending, whole_seconds},
};

/// What may not go.
#[derive(Clone, Copy, Debug)]
pub struct Postponed<'a> {
    /// Hash of what is wanted.
    pub hash: &'a str,
    /// What the object says that waits.
    pub stored: Option<&'a Pending>,
    /// The steps of the change.
    pub steps: &'a Steps,
    /// What the condition says, where it speaks of a wait for the fleet: reason and message. It stays until after a start
    /// everything is known again.
    pub said: Option<(&'static str, &'a str)>,
    /// The present, as far as this wait goes.
    pub now: Timestamp,
}

/// What is to be done instead of `action`.
///
/// The time that work is protected for does not run meanwhile: when the fleet lets the agent go, protection begins. Not
/// so where that time was over and only others go first: else a busy agent might never have its turn.
pub fn postpone(action: Action, what: &Postponed<'_>, refusal: &Refusal, pace: &Pace) -> Action {
    let (causes, forced): (BTreeSet<String>, bool) = match action {
        Action::Keep => return Action::Keep,
        Action::Apply { causes, forced, .. } => (causes, forced.is_some()),
        Action::Wait { pending, .. } => (pending.causes, false),
    };
    let since = what.stored.map_or(what.now, |stored| stored.since.min(what.now));
    let held = !(forced && *refusal == Refusal::Turn);
    let pending = Pending { hash: what.hash.into(), since: whole_seconds(since), causes, held };
    let (reason, message) = match (refusal, what.said) {
        (Refusal::Start, Some((reason, message))) => (reason, message.to_string()),
        _ => (words::reason(refusal), words::message(refusal, pace, what.steps)),
    };
    Action::Wait { write: what.stored != Some(&pending), pending, until: None, message, paced: Some(reason) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pending(since: i64, held: bool) -> Pending {
        let causes = ["image".to_string()].into();
        Pending { hash: "h".into(), since: Timestamp::from_second(since).unwrap(), causes, held }
    }

    #[test]
    fn the_time_of_protection_begins_when_the_fleet_lets_go() {
        let pace = Pace::parse(&serde_json::from_value(json!({})).unwrap()).unwrap();
        let apply = |forced: bool| Action::Apply {
            hold: false,
            causes: ["image".to_string()].into(),
            forced: forced.then(String::new),
        };
        let waits = Action::Wait {
            pending: pending(50, false),
            write: false,
            until: None,
            message: "work".into(),
            paced: None,
        };
        let frozen = Refusal::Closed { why: "frozen".into() };
        let table = [
            (apply(false), None, &Refusal::Turn, pending(100, true), true),
            (apply(false), Some(pending(50, false)), &Refusal::Turn, pending(50, true), true),
            (apply(false), Some(pending(50, true)), &Refusal::Turn, pending(50, true), false),
            (apply(false), Some(pending(500, true)), &Refusal::Turn, pending(100, true), true),
            (apply(true), Some(pending(50, false)), &Refusal::Turn, pending(50, false), false),
            (apply(true), Some(pending(50, false)), &frozen, pending(50, true), true),
            (waits, Some(pending(50, false)), &frozen, pending(50, true), true),
        ];
        let steps = Steps::from(["image=1".to_string()]);
        for (action, stored, refusal, expected, writes) in table {
            let what = Postponed {
                hash: "h",
                stored: stored.as_ref(),
                steps: &steps,
                said: None,
                now: Timestamp::from_second(100).unwrap(),
            };
            let said = format!("{action:?} {stored:?} {refusal:?}");
            let Action::Wait { pending, write, until, message, paced } = postpone(action, &what, refusal, &pace) else {
                panic!("{said}")
            };
            assert_eq!((pending, write, until), (expected, writes, None), "{said}");
            assert!(message.contains("image") && paced.is_some(), "{message}");
        }
        let what = Postponed {
            hash: "h",
            stored: None,
            steps: &steps,
            said: Some(("FleetClosed", "frozen")),
            now: Timestamp::UNIX_EPOCH,
        };
        let Action::Wait { message, paced, .. } = postpone(apply(false), &what, &Refusal::Start, &pace) else {
            panic!()
        };
        assert_eq!((message.as_str(), paced), ("frozen", Some("FleetClosed")), "a start changes no status");
    }
}
