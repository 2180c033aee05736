//! A revision that does not get ready, and the last good one that takes its place (pure).
//!
//! What is remembered are annotations of the Deployment, written in the same apply as the pod template that they speak of,
//! so a crash repeats nothing. The last good pod template is kept as the API server shows it: the same bytes are the same
//! `ReplicaSet`, so pods of it that still run are not replaced.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Desired, beside,
    decide::annotations,
    effect::Parts,
    gate::{self, Ask},
    history,
    state::{self, Annotations, Failed, State},
    verify,
};
use crate::{api::AgentSpec, object::Object};

/// A larger pod template is not kept: annotations of an object have 256 KiB together.
const LARGEST: usize = 96 << 10;

/// A revision that got ready.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Good {
    /// Hash of it, as it was wanted.
    pub hash: String,
    /// What it is made of.
    pub parts: Parts,
    /// The pod template, as the API server has it.
    pub template: Value,
}

impl Good {
    /// What an apply of another revision over `live` may come back to.
    fn of(live: &Value, state: &State) -> Option<Self> {
        let template = live.pointer("/spec/template")?.clone();
        Some(Self { hash: state.applied.clone()?, parts: state.parts.clone(), template })
    }

    fn read(marks: &Annotations) -> Option<Self> {
        serde_json::from_str(marks.get(state::LAST_GOOD)?).ok()
    }

    /// Names of the `ConfigMaps` that its pods mount.
    fn config_maps(&self) -> Vec<String> {
        config_maps(&self.template)
    }
}

/// What a choice depends on besides the objects.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look<'a> {
    /// `spec.rollout.autoRollback`.
    pub wanted: bool,
    /// The annotation `pilothouse.dev/rollout` of the Agent.
    pub asked: Option<&'a str>,
    /// Why the applied revision did not get ready in its time, if it did not; may be empty.
    pub failed: Option<&'a str>,
}

/// Whether a merged spec asks to go back: by `autoRollback`; and where revisions run side by side, one that is not
/// verified goes.
pub fn is_wanted(spec: &AgentSpec) -> bool {
    let asked = spec.rollout.as_ref().is_some_and(|r| r.auto_rollback == Some(true));
    asked || (beside::is_wanted(spec) && verify::wanted(spec).is_some())
}

/// What the Deployment is to be instead of `desired`, and what failed; `None` where it is to be `desired`.
pub fn instead(desired: &Desired, live: Option<&Value>, look: &Look<'_>) -> Option<(Desired, Failed)> {
    let marks = annotations(live.filter(|_| look.wanted)?);
    let (state, good) = (State::of_deployment(&marks), Good::read(&marks)?);
    if good.hash == desired.hash {
        return None;
    }
    let known = state.failed.filter(|failed| failed.hash == desired.hash);
    let again = look.asked.is_some() && {
        let names = [desired.hash.as_str(), &history::id(desired)];
        gate::asked(look.asked, state.rollout_seen.as_deref(), &names) == Ask::Now
    };
    let failed = match (known, look.failed) {
        (Some(_), _) if again => return None,
        (Some(known), _) => known,
        (None, Some(why)) if state.applied.as_ref() == Some(&desired.hash) => {
            Failed { hash: desired.hash.clone(), why: why.into() }
        }
        (None, _) => return None,
    };
    Some((with(desired, &good)?, failed))
}

fn with(desired: &Desired, good: &Good) -> Option<Desired> {
    let mut deployment = desired.deployment.value().clone();
    deployment["spec"]["template"] = good.template.clone();
    let deployment = Object::new(deployment).ok()?;
    Some(Desired { deployment, hash: good.hash.clone(), parts: good.parts.clone(), ..desired.clone() })
}

/// What an apply of `desired` over `live` remembers. `ready`: the revision that `live` has is, or was, ready.
pub fn memory(
    desired: &Desired,
    live: Option<&Value>,
    back: Option<&Failed>,
    wanted: bool,
    ready: bool,
) -> Annotations {
    let Some(live) = live.filter(|_| wanted) else { return Annotations::new() };
    let marks = annotations(live);
    let state = State::of_deployment(&marks);
    let runs = live.pointer("/spec/replicas").and_then(Value::as_i64) != Some(0);
    let another = state.applied.as_ref() != Some(&desired.hash);
    let mut kept = Annotations::new();
    if let Some(failed) = back {
        kept.insert(state::FAILED_HASH.into(), failed.hash.clone());
        kept.insert(state::FAILED_WHY.into(), failed.why.clone());
    }
    let new = if back.is_none() && another && ready && runs { Good::of(live, &state) } else { None };
    let new = new.and_then(|good| serde_json::to_string(&good).ok()).filter(|text| text.len() <= LARGEST);
    kept.extend(new.or_else(|| marks.get(state::LAST_GOOD).cloned()).map(|good| (state::LAST_GOOD.to_string(), good)));
    kept
}

/// Names of the `ConfigMaps` that a Deployment's pods mount, now or after a return to the last good revision.
pub fn mounted(live: &Value) -> Vec<String> {
    let good = Good::read(&annotations(live)).map(|good| good.config_maps());
    let mut names = live.pointer("/spec/template").map(config_maps).unwrap_or_default();
    names.extend(good.into_iter().flatten());
    names
}

fn config_maps(template: &Value) -> Vec<String> {
    let volumes = template.pointer("/spec/volumes").and_then(Value::as_array);
    let names = volumes.into_iter().flatten().filter_map(|v| v.pointer("/configMap/name")?.as_str());
    names.map(String::from).collect()
}

#[cfg(test)]
mod tests;
