//! Side by side: a new revision starts at once beside the old one, which ends its work by itself (pure).
//!
//! There is one Deployment, and nothing else to remember. A pod that is told to end finishes what it has begun (see
//! [`super::drain`] for Tasks, the sidecar for sessions) within its time to end. So where that time is what the policy
//! protects, and few such pods are left, a new revision cuts nothing by coming at once.

use k8s_openapi::api::core::v1::Volume;
use serde_json::Value;

use super::{
    Invalid,
    build::layout,
    gate::{OnTimeout, Policy, Protect},
};
use crate::api::{AgentSpec, names::reasons, rollout::Strategy};

/// So many pods of older revisions may end their work beside the newest one. While they do, the next change waits as it
/// would without this strategy.
pub const MOST_OLD: usize = 1;

/// Variable of the sidecar: the pod goes on with its sessions, also with new prompts in them, when it is told to end.
pub const MARK: &str = "PILOTHOUSE_BESIDE";

/// Seconds that a pod has to end at least.
const LEAST_GRACE_S: u64 = 30;
/// Seconds that a pod has to end at most: 30 days.
const MOST_GRACE_S: u64 = 30 * 86_400;

/// Whether a merged spec asks for it.
pub fn is_wanted(spec: &AgentSpec) -> bool {
    spec.rollout.as_ref().is_some_and(|r| r.strategy == Some(Strategy::SideBySide))
}

/// Seconds that a pod has to end its work beside a newer one.
pub fn grace(policy: &Policy) -> u64 {
    match (policy.protect, policy.on_timeout) {
        (Protect::None, _) => LEAST_GRACE_S,
        (_, OnTimeout::Wait) => MOST_GRACE_S,
        (_, OnTimeout::Force) => policy.timeout.as_secs().clamp(LEAST_GRACE_S, MOST_GRACE_S),
    }
}

/// Whether the pods that a Deployment has can be left to end their work beside newer ones: they were made for it, and
/// have as long as the policy protects. `live` is its JSON.
pub fn can_be_left(live: &Value, policy: &Policy) -> bool {
    let has = live.pointer("/spec/template/spec/terminationGracePeriodSeconds").and_then(Value::as_u64);
    is_made_for(live) && has.unwrap_or_default() >= grace(policy)
}

/// Whether the pods that a Deployment has were made to be left beside newer ones.
pub fn is_made_for(live: &Value) -> bool {
    live.pointer("/spec/template/spec").is_some_and(has_mark)
}

/// Whether a pod ends by itself what it is given until a newer one takes its place: it was made for that, and has as long
/// as the pods that `live` makes, which is the JSON of the Deployment.
pub fn ends_what_it_begins(pod: &Value, live: &Value) -> bool {
    let grace = |spec: Option<&Value>| spec?.get("terminationGracePeriodSeconds")?.as_u64();
    let least = grace(live.pointer("/spec/template/spec")).unwrap_or(u64::MAX);
    is_made_for(live) && pod.get("spec").is_some_and(has_mark) && grace(pod.get("spec")).unwrap_or_default() >= least
}

fn has_mark(pod: &Value) -> bool {
    let containers = pod.get("initContainers").and_then(Value::as_array);
    let mut sidecar = containers.into_iter().flatten().filter(|c| c["name"] == layout::SIDECAR);
    sidecar.any(|c| c["env"].as_array().into_iter().flatten().any(|v| v["name"] == MARK))
}

/// A volume that two pods should not have at a time: a claim that they write.
pub(super) fn written_claim(spec: &AgentSpec) -> Option<&Volume> {
    let claim = |v: &&Volume| v.persistent_volume_claim.as_ref().is_some_and(|claim| claim.read_only != Some(true));
    spec.pod_spec.as_ref()?.extra_volumes.iter().find(claim)
}

/// Refuses what two pods cannot have at a time, and what would end the old one too early.
pub(super) fn check(spec: &AgentSpec) -> Result<(), Invalid> {
    let Some(pod) = spec.pod_spec.as_ref().filter(|_| is_wanted(spec)) else { return Ok(()) };
    let refuse = |what: String| {
        let message = format!("spec.rollout.strategy: SideBySide: {what}; take the claim or the strategy out");
        Err(Invalid::stalled(reasons::INVALID_SPEC, message))
    };
    if let Some(volume) = written_claim(spec) {
        let name = &volume.name;
        return refuse(format!(
            "podSpec.extraVolumes {name:?} is a claim that the pods write, and two pods would write it at a time"
        ));
    }
    if pod.lifecycle.as_ref().is_some_and(|l| l.pre_stop.is_some()) {
        let message = "spec.rollout.strategy: SideBySide: podSpec.lifecycle.preStop takes the place of the hook that lets \
                       the old pod end its work; take the hook or the strategy out";
        return Err(Invalid::stalled(reasons::INVALID_SPEC, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
