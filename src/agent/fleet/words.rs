//! What agents that wait for the fleet say: stable while nothing changes, and the same for all that wait for the same.

use super::{Pace, Refusal, Steps, steps};
use crate::api::names::reasons;

/// The reason of the condition.
pub(super) fn reason(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Closed { .. } => reasons::FLEET_CLOSED,
        Refusal::Stopped { .. } => reasons::FLEET_STOPPED,
        Refusal::Start | Refusal::Wave { .. } | Refusal::Turn => reasons::WAITING_FOR_FLEET,
    }
}

/// The message of the condition.
pub(super) fn message(refusal: &Refusal, pace: &Pace, change: &Steps) -> String {
    let parts = steps::parts(change);
    match refusal {
        Refusal::Start => format!("waiting until every agent was looked at after a start (changed: {parts})"),
        Refusal::Closed { why } => format!("{why} (changed: {parts})"),
        Refusal::Turn => format!(
            "waiting for its turn: {} of the agents may change at a time, by spec.fleet.maxConcurrent of \
             PilothouseConfig cluster (changed: {parts})",
            pace.limit()
        ),
        Refusal::Wave { own, first } => {
            let soak = pace.soak(*first);
            let healthy = if soak.is_zero() { String::new() } else { format!(" for {}s", soak.as_secs()) };
            format!(
                "{} waits until {} has the same change and is healthy{healthy} (changed: {parts})",
                pace.name(*own),
                pace.name(*first)
            )
        }
        Refusal::Stopped { by: (namespace, name), why } => format!(
            "stopped, because Agent {namespace}/{name} has failed with the same change: {why} (changed: {parts}). It goes \
             on when that one is well, has something newer or is suspended; for this one alone: pilothouse rollout agent \
             NAME --now"
        ),
    }
}
