//! From what happened to a Sync's status (pure).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    api::{
        HistoryEntry, Inventory, InventoryEntry, SyncStatus,
        names::{condition, reasons},
    },
    apply::{Changes, Pruned},
    object::ObjectId,
    plan::Health,
    status::{
        Class, Condition, Failure, Note,
        condition::{remove_condition, set_condition, truncate},
    },
};

/// Entries of `status.history`.
const HISTORY: usize = 5;
/// Objects that a message names.
const NAMED: usize = 3;

/// How a Sync is.
#[derive(Clone, Debug)]
pub(super) enum State {
    /// Everything is as rendered, and healthy where that is asked.
    Ready,
    /// Suspended.
    Suspended,
    /// Objects are being applied.
    Applying,
    /// Everything is applied; what left the files stays until these Syncs have looked.
    Waiting(BTreeSet<String>),
    /// Everything is applied; these objects are not healthy yet.
    Checking(Vec<ObjectId>),
    /// It failed.
    Failed(Failure),
}

/// What changes in a status beside the conditions.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) generation: Option<i64>,
    pub(super) handled: Option<String>,
    pub(super) attempted: Option<String>,
    /// Revision, and digest of what was applied completely.
    pub(super) applied: Option<(String, String)>,
    pub(super) inventory: Option<Vec<InventoryEntry>>,
    /// What the render warned of.
    pub(super) warnings: Vec<String>,
}

/// The status after `state`, from the one before.
pub(super) fn status(before: &SyncStatus, state: &State, facts: Facts, now: Timestamp) -> SyncStatus {
    let mut status = before.clone();
    status.observed_generation = facts.generation;
    status.last_handled_reconcile_at = facts.handled.or(status.last_handled_reconcile_at);
    status.last_attempted_revision = facts.attempted.or(status.last_attempted_revision);
    if let Some(entries) = facts.inventory {
        status.inventory = (!entries.is_empty()).then_some(Inventory { entries });
    }
    if let Some((revision, _)) = &facts.applied {
        status.last_applied_revision = Some(revision.clone());
    }
    let (set, removed) = conditions(state, &status, &facts.warnings);
    for one in &set {
        set_condition(&mut status.conditions, one, facts.generation, now);
    }
    for kind in removed {
        remove_condition(&mut status.conditions, kind);
    }
    remember(&mut status, state, facts.applied.map(|(_, digest)| digest), now);
    status
}

fn conditions(state: &State, status: &SyncStatus, warnings: &[String]) -> (Vec<Condition>, Vec<&'static str>) {
    use condition::{READY, RECONCILING, STALLED};
    match state {
        State::Ready => {
            let count = status.inventory.as_ref().map_or(0, |i| i.entries.len());
            let warned = warned(warnings).map(|text| format!("; warning: {text}")).unwrap_or_default();
            let message = format!("applied {}{warned}", objects(count));
            (vec![Condition::yes(READY, reasons::APPLIED, message)], vec![RECONCILING, STALLED])
        }
        State::Suspended => {
            let message = "suspended; what is applied stays as it is";
            (vec![Condition::yes(READY, reasons::SUSPENDED, message)], vec![RECONCILING, STALLED])
        }
        State::Applying => {
            let message = "objects are being applied";
            (vec![Condition::yes(RECONCILING, reasons::PROGRESSING, message)], vec![STALLED])
        }
        State::Waiting(peers) => {
            let message = format!(
                "applied; what left the files is deleted when it is known that it has not moved to Sync {} of the same \
                 Repository",
                super::peers::named(peers)
            );
            (vec![Condition::yes(RECONCILING, reasons::PROGRESSING, message)], vec![STALLED])
        }
        State::Checking(ids) => {
            // Without their number: it would be another message for each that becomes healthy.
            let others = if ids.len() > NAMED { " and others" } else { "" };
            let message = format!("applied; not healthy yet: {}{others}", first(ids.iter().map(ObjectId::short)));
            let ready = Condition::no(READY, reasons::HEALTH_CHECKING, message.clone());
            (vec![ready, Condition::yes(RECONCILING, reasons::HEALTH_CHECKING, message)], vec![STALLED])
        }
        State::Failed(failure) => {
            let ready = Condition::no(READY, failure.reason, failure.message.clone());
            if failure.class == Class::Stalled {
                (vec![ready, Condition::yes(STALLED, failure.reason, failure.message.clone())], vec![RECONCILING])
            } else {
                (vec![ready], vec![RECONCILING, STALLED])
            }
        }
    }
}

/// The warnings of a render in one text, if there are any.
pub(super) fn warned(warnings: &[String]) -> Option<String> {
    (!warnings.is_empty()).then(|| truncate(&named(warnings.iter().cloned()), 700))
}

/// A new entry only when revision or result changes; the digest is that of the last complete apply.
fn remember(status: &mut SyncStatus, state: &State, digest: Option<String>, now: Timestamp) {
    let (result, message) = match state {
        State::Ready => (reasons::APPLIED, None),
        State::Failed(failure) => (failure.reason, Some(truncate(&failure.message, 256))),
        State::Suspended | State::Applying | State::Waiting(_) | State::Checking(_) => return,
    };
    let Some(revision) = status.last_attempted_revision.clone() else { return };
    if let Some(last) = status.history.first_mut().filter(|last| last.revision == revision && last.result == result) {
        if digest.is_some() {
            last.digest = digest;
        }
        last.message = message;
        return;
    }
    let entry = HistoryEntry { revision, digest, applied_at: Time(now), result: result.into(), message };
    status.history.insert(0, entry);
    status.history.truncate(HISTORY);
}

/// What health says of a Sync: still checking, or failed.
pub(super) fn of_health(unhealthy: &BTreeMap<ObjectId, Health>, late: Option<&str>) -> State {
    let failed: Vec<String> = unhealthy
        .iter()
        .filter_map(|(id, health)| match health {
            Health::Failed(why) => Some(format!("{}: {}", id.short(), truncate(why, 200))),
            _ => None,
        })
        .collect();
    let failure = |message| State::Failed(Failure::waiting(reasons::HEALTH_CHECK_FAILED, message));
    match (failed.is_empty(), late) {
        _ if unhealthy.is_empty() => State::Ready,
        (false, _) => failure(format!("not healthy: {}", named(failed.into_iter()))),
        (true, Some(timeout)) => {
            let which = unhealthy.iter().map(|(id, health)| match health {
                Health::InProgress(why) => format!("{}: {}", id.short(), truncate(why, 200)),
                _ => id.short(),
            });
            failure(format!("not healthy within {timeout}: {}", named(which)))
        }
        (true, None) => State::Checking(unhealthy.keys().cloned().collect()),
    }
}

fn first(all: impl Iterator<Item = String>) -> String {
    all.take(NAMED).collect::<Vec<_>>().join("; ")
}

fn named(all: impl Iterator<Item = String>) -> String {
    let mut all: Vec<String> = all.collect();
    let more = all.len().saturating_sub(NAMED);
    all.truncate(NAMED);
    let text = all.join("; ");
    if more > 0 { format!("{text}; and {more} more") } else { text }
}

fn objects(count: usize) -> String {
    if count == 1 { "1 object".into() } else { format!("{count} objects") }
}

/// Events about what was written.
pub(super) fn notes(revision: &str, changes: &Changes, pruned: &Pruned) -> Vec<Note> {
    let mut parts = vec![];
    for (verb, ids) in [("created", &changes.created), ("changed", &changes.changed), ("deleted", &pruned.deleted)] {
        if !ids.is_empty() {
            parts.push(format!("{verb} {}", named(ids.iter().map(ObjectId::short))));
        }
    }
    let mut notes = vec![];
    if !parts.is_empty() {
        notes.push(Note::normal(reasons::APPLIED, "Apply", format!("{revision}: {}", parts.join("; "))));
    }
    if !pruned.kept.is_empty() {
        let kept = pruned.kept.iter().map(|(id, why)| format!("{} ({})", id.short(), why.text()));
        notes.push(Note::normal(reasons::PRUNE_SKIPPED, "Prune", format!("not deleted: {}", named(kept))));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn facts(revision: &str) -> Facts {
        Facts {
            generation: Some(1),
            attempted: Some(revision.into()),
            applied: Some((revision.into(), "d".into())),
            ..Facts::default()
        }
    }

    #[test]
    fn history_has_an_entry_for_each_revision_and_result() {
        let failed = State::Failed(Failure::stalled(reasons::RENDER_FAILED, "a.yaml:1: no"));
        let mut now = SyncStatus::default();
        for (n, (revision, state)) in [
            ("r1", State::Ready),
            ("r1", State::Ready),
            ("r2", failed.clone()),
            ("r2", failed),
            ("r2", State::Checking(vec![])),
            ("r3", State::Ready),
        ]
        .into_iter()
        .enumerate()
        {
            now = status(&now, &state, facts(revision), at(i64::try_from(n).unwrap()));
        }
        let seen: Vec<_> = now.history.iter().map(|h| (h.revision.as_str(), h.result.as_str())).collect();
        assert_eq!(seen, [("r3", "Applied"), ("r2", "RenderFailed"), ("r1", "Applied")]);
        assert_eq!(now.history[2].applied_at, Time(at(0)));
        for n in 0..9 {
            now = status(&now, &State::Ready, facts(&format!("s{n}")), at(9));
        }
        assert_eq!(now.history.len(), HISTORY);
    }

    #[test]
    fn what_is_not_healthy_is_named_and_not_counted() {
        let ids = |n: usize| (0..n).map(|i| ObjectId::parse(&format!("n_a{i}_apps_Deployment")).unwrap()).collect();
        let message = |n| conditions(&State::Checking(ids(n)), &SyncStatus::default(), &[]).0[0].message.clone();
        assert_eq!(message(100), message(50));
        assert!(message(4).ends_with(" and others") && message(3).ends_with("a2"), "{} {}", message(4), message(3));
    }

    #[test]
    fn the_same_again_changes_nothing() {
        let states = [
            State::Ready,
            State::Suspended,
            State::Applying,
            State::Waiting(["n/b".to_owned()].into()),
            State::Checking(vec![ObjectId::parse("n_a_apps_Deployment").unwrap()]),
            State::Failed(Failure::waiting(reasons::APPLY_FAILED, "x")),
        ];
        for state in states {
            let first = status(&SyncStatus::default(), &state, facts("r"), at(1));
            assert_eq!(first, status(&first, &state, facts("r"), at(2)), "{state:?}");
        }
    }

    #[test]
    fn negative_conditions_exist_only_while_true() {
        let stalled = State::Failed(Failure::stalled(reasons::RENDER_FAILED, "x"));
        let bad = status(&SyncStatus::default(), &stalled, facts("r"), at(1));
        let kinds = |s: &SyncStatus| s.conditions.iter().map(|c| c.type_.clone()).collect::<Vec<_>>();
        assert_eq!(kinds(&bad), ["Ready", "Stalled"]);
        assert_eq!(kinds(&status(&bad, &State::Ready, facts("r"), at(2))), ["Ready"]);
    }

    #[test]
    fn warnings_are_part_of_what_is_ready() {
        let warnings = (1..=5).map(|n| format!("k.yaml:{n}: no")).collect();
        let now = status(&SyncStatus::default(), &State::Ready, Facts { warnings, ..facts("r") }, at(1));
        let want = "; warning: k.yaml:1: no; k.yaml:2: no; k.yaml:3: no; and 2 more";
        assert_eq!(now.conditions[0].status, "True");
        assert!(now.conditions[0].message.ends_with(want), "{}", now.conditions[0].message);
    }

    #[test]
    fn health_becomes_a_state() {
        let id = |n: &str| ObjectId::parse(&format!("n_{n}_apps_Deployment")).unwrap();
        let waits = BTreeMap::from([(id("a"), Health::InProgress("1 of 2".into()))]);
        assert!(matches!(of_health(&BTreeMap::new(), Some("5m")), State::Ready));
        assert!(matches!(of_health(&waits, None), State::Checking(ids) if ids == [id("a")]));
        let State::Failed(late) = of_health(&waits, Some("5m")) else { panic!("not failed") };
        assert_eq!(late.message, "not healthy within 5m: Deployment/n/a: 1 of 2");
        let failed =
            BTreeMap::from([(id("a"), Health::Failed("no quota".into())), (id("b"), Health::InProgress("x".into()))]);
        let State::Failed(failure) = of_health(&failed, None) else { panic!("not failed") };
        assert_eq!(failure.message, "not healthy: Deployment/n/a: no quota");
    }
}
