//! An older revision that is kept, in status, conditions and events.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Change, Outcome, Pinned, short};
use crate::{
    agent::history::{Entry, named},
    api::{
        AgentStatus,
        agent::KeptRevision,
        names::{annotation, condition as kinds, reasons},
    },
    status::{Condition, Note},
};

/// The commit that the agent works by.
pub(super) fn revision(outcome: &Outcome<'_>, newest: Option<&String>) -> Option<String> {
    let revision = outcome.pinned.map_or(newest, |pinned| pinned.revision.as_ref());
    revision.map(|revision| short(revision))
}

/// What can be gone back to.
pub(super) fn revisions(entries: &[Entry]) -> Vec<KeptRevision> {
    let kept = |entry: &Entry| KeptRevision {
        id: entry.id.clone(),
        revision: entry.revision.as_deref().map(short),
        image: entry.image.clone(),
        since: Time(entry.since),
    };
    entries.iter().map(kept).collect()
}

/// Exists once an agent was pinned, and then stays. While nothing can be made of the spec, what was said holds.
pub(super) fn condition(outcome: &Outcome<'_>, before: &AgentStatus) -> Option<Change> {
    match outcome.pinned {
        Some(pinned) => Some(Change::Set(Condition::yes(kinds::PINNED, reasons::PINNED, message(pinned)))),
        None if outcome.failure.is_none() && before.conditions.iter().any(|c| c.type_ == kinds::PINNED) => {
            Some(Change::Set(Condition::no(kinds::PINNED, reasons::RELEASED, "the newest is wanted")))
        }
        None => None,
    }
}

fn message(pinned: &Pinned) -> String {
    let here = named(&pinned.id, pinned.revision.as_deref());
    let newest = match &pinned.newest {
        Ok(newest) if *newest == pinned.id => "which is the newest too".into(),
        Ok(newest) => format!("the newest is {} and waits", named(newest, pinned.newest_revision.as_deref())),
        Err(why) => format!("nothing can be made of the newest, {why}"),
    };
    format!(
        "pinned to revision {here} by the annotation {}; {newest}; to release it: pilothouse rollback agent NAME --release",
        annotation::PINNED_TO
    )
}

/// That it was pinned, or released.
pub(super) fn note(before: &AgentStatus, after: &AgentStatus) -> Option<Note> {
    let of = |status: &AgentStatus| status.conditions.iter().find(|c| c.type_ == kinds::PINNED).cloned();
    let now = of(after)?;
    let was = of(before).is_some_and(|c| c.status == "True");
    match (was, now.status == "True") {
        (false, true) => Some(Note::normal(reasons::PINNED, "Rollback", now.message)),
        (true, false) => Some(Note::normal(reasons::RELEASED, "Rollback", "released: what is newest comes")),
        _ => None,
    }
}
