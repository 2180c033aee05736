//! What to do about content from Git that is exchanged in the running pod.
//!
//! Two things hold it back. The gate decides when the ConfigMap is written, from which pods that start take their content;
//! nothing in a running pod changes by that. Then the sidecars are told, and each exchanges as soon as its server is idle,
//! with prompts held. Both waits together last as long as the policy allows, from the moment the first began: it is
//! remembered in the ConfigMap, in the same write as the content.

use std::{collections::BTreeSet, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::{Action, Situation, object_hash, without_pods};
use crate::{
    agent::{
        Desired, Pieces, Resolved,
        build::Exchange,
        effect::classify,
        gate::{self, Ask, Change, OnTimeout, Policy, Protect},
        history,
        state::{self, Annotations, State},
    },
    api::{
        content::{DIRTY, Load, Manifest, Report},
        names::annotation,
    },
};

/// What is there.
#[derive(Clone, Copy, Debug)]
pub struct Live<'a> {
    /// Annotations of the ConfigMap; `None` where there is none.
    pub map: Option<&'a Annotations>,
    /// Whether the pod template that is wanted is the one that is applied.
    pub rolled: bool,
    /// Whether there is no pod.
    pub suspended: bool,
}

/// Decides about the ConfigMap. `None` where there is nothing to decide: no such content, or one that comes together
/// with a pod template that waits.
pub fn exchange(desired: &Desired, live: Live<'_>, at: &Situation<'_>) -> Option<Action> {
    let wanted = desired.exchange.as_ref()?;
    let apply = || Some(Action::Apply { hold: false, causes: BTreeSet::new(), forced: None });
    let Some(map) = live.map else { return apply() };
    let state = State::of_content(map);
    if state.applied.as_ref() == Some(&wanted.hash) {
        if desired.may_still_wait(state.pending.as_ref()) {
            return Some(Action::Keep);
        }
        let same = map.get(state::OBJECT_HASH) == Some(&object_hash(wanted.object.value()));
        return if same && state.pending.is_none() { Some(Action::Keep) } else { apply() };
    }
    // Pods that run have other pieces, or have them elsewhere.
    if !live.rolled && map.get(state::SHAPE) != Some(&wanted.shape) {
        return None;
    }
    let causes = classify(&state.parts, &wanted.parts).causes;
    // The sidecar holds prompts itself when it exchanges.
    Some(match without_pods((Change::Content, &wanted.hash, &causes), desired, (&state, live.suspended), at) {
        Action::Apply { causes, forced, .. } => Action::Apply { hold: false, causes, forced },
        other => other,
    })
}

/// Since when the pods are to have `wanted`, for the annotation beside it: from the first moment that it waited. Where
/// pods still wait for what was decided before (`lacking`), a push moves the target and not the clock.
pub fn since(wanted: &Exchange, map: Option<&Annotations>, lacking: bool, now: Timestamp) -> Timestamp {
    let Some(map) = map else { return now };
    let state = State::of_content(map);
    let goes_on = lacking || state.applied.as_ref() == Some(&wanted.hash);
    let stored = map.get(state::SINCE).filter(|_| goes_on).and_then(|text| text.parse().ok());
    stored.or(state.pending.filter(|p| !p.held).map(|p| p.since)).map_or(now, |since| since.min(now))
}

/// Whether a pod waits for some of the pieces that are decided. One that has all of them in place, refused them, or has
/// work of its own in the way of the rest does not.
pub fn lacks(map: &Annotations, pieces: &Pieces, report: &Report) -> bool {
    let Some(hash) = map.get(annotation::CONTENT_HASH) else { return false };
    let refused = report.failed && report.wanted == *hash;
    let is_missing = |(id, piece): (&String, &Resolved)| {
        let placed = report.pieces.iter().find(|placed| placed.id == *id);
        placed.is_none_or(|placed| placed.digest != piece.digest && !placed.note.contains(DIRTY))
    };
    report.loaded != *hash && !refused && pieces.iter().any(is_missing)
}

/// What is decided: what is wanted, or what was before it (`pieces`) in the same places. `None` where it had others.
pub fn decided(wanted: &Exchange, map: &Annotations, pieces: impl FnOnce() -> Pieces) -> Option<Manifest> {
    let hash = map.get(annotation::CONTENT_HASH)?;
    let mut manifest = wanted.manifest.clone();
    if *hash == wanted.hash {
        return Some(manifest);
    }
    let mut before = pieces();
    for piece in &mut manifest.pieces {
        let Resolved { revision, digest, size, .. } = before.remove(&piece.id)?;
        (piece.revision, piece.digest, piece.size) = (revision, digest, size);
    }
    (manifest.hash() == *hash).then_some(manifest)
}

/// Whether somebody asks for what is wanted to come now, over work. To tell the same twice is to tell it once, so nothing
/// has to be remembered of it.
pub fn is_urgent(desired: &Desired, asked: Option<&str>) -> bool {
    let Some(wanted) = desired.exchange.as_ref().filter(|_| asked.is_some()) else { return false };
    gate::asked(asked, None, &[&wanted.hash, &history::id(desired)]) == Ask::Now
}

/// Whether somebody keeps every change out.
pub fn is_held(asked: Option<&str>) -> bool {
    matches!(gate::asked(asked, None, &[]), Ask::Hold { .. })
}

/// What is to stand for [`since`] in the annotation, where that is something else than there is: while somebody holds what
/// pods lack, its time does not run.
pub fn held_since(map: &Annotations, (held, lacking): (bool, bool), now: Timestamp) -> Option<String> {
    let is = map.get(state::SINCE).is_some_and(|since| since == state::HELD);
    if held { (lacking && !is).then(|| state::HELD.into()) } else { is.then(|| now.to_string()) }
}

/// What the pods are told of what is decided, and when they are to be told something stronger. They are to have it since
/// `since`. `urgent`: see [`is_urgent`].
pub fn load(
    manifest: Manifest,
    since: Timestamp,
    policy: Policy,
    (immediately, urgent): (bool, bool),
    now: Timestamp,
) -> (Load, Option<Timestamp>) {
    let ends = end(since, policy.timeout);
    let unprotected = policy.protect == Protect::None;
    let over = unprotected || urgent || now >= ends;
    let load = Load {
        manifest,
        // Files that the server reads by itself never wait longer than that.
        immediately: immediately || over,
        // Skills end sessions that work: for them it depends.
        force: unprotected || urgent || (over && policy.on_timeout == OnTimeout::Force),
        withdrawn: false,
    };
    (load, (!over).then_some(ends))
}

fn end(since: Timestamp, timeout: Duration) -> Timestamp {
    let timeout = SignedDuration::try_from(timeout).unwrap_or(SignedDuration::MAX);
    since.checked_add(timeout).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
