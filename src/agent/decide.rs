//! What to do about an agent's Deployment and its gathered text.

mod exchange;

use std::collections::BTreeSet;

pub use exchange::{Live, decided, exchange, held_since, is_held, is_urgent, lacks, load, since};

use jiff::Timestamp;
use serde_json::Value;

use super::{
    Desired, beside,
    compare::covers,
    effect::{DRIFT, TEMPLATE, TEXT, classify},
    gate::{self, Applied, Ask, Change, GateInput, OnTimeout, Pending, Policy, Protect, Verdict, Work},
    hash, history,
    state::{self, Annotations, State},
};
use crate::api::{self, AgentSpec, rollout};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing: what is there is what is wanted.
    Keep,
    /// Write what is wanted.
    Apply {
        /// Hold prompts and confirm that the server is idle first.
        hold: bool,
        /// What changes, sorted; empty at creation and where only metadata differs.
        causes: BTreeSet<String>,
        /// Why work is cut, where it is.
        forced: Option<String>,
    },
    /// Keep what is there, and remember that something waits.
    Wait {
        /// What waits.
        pending: Pending,
        /// Whether the object does not say so yet.
        write: bool,
        /// When the wait ends at the latest.
        until: Option<Timestamp>,
        /// For the condition.
        message: String,
        /// The condition's reason, where it waits for the fleet: see [`super::fleet`].
        paced: Option<&'static str>,
    },
}

/// What a decision depends on besides the objects.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// What goes on.
    pub work: Work,
    /// How much of it is protected.
    pub policy: Policy,
    /// Side by side: how many pods of older revisions end their work. `None` with other strategies, and for what needs no
    /// new pod.
    pub old: Option<usize>,
    /// The annotation `pilothouse.dev/rollout` of the Agent, if there is one.
    pub asked: Option<&'a str>,
    /// The present, as far as a wait goes: see [`gate::waited_until`].
    pub now: Timestamp,
}

/// The policy of a merged spec, with defaults.
pub fn policy(spec: &AgentSpec) -> Policy {
    let rollout = spec.rollout.clone().unwrap_or_default();
    Policy {
        protect: match rollout.protect {
            api::Protect::TasksAndSessions => Protect::TasksAndSessions,
            api::Protect::Tasks => Protect::Tasks,
            api::Protect::None => Protect::None,
        },
        timeout: rollout.timeout.or(Policy::default().timeout),
        on_timeout: match rollout.on_timeout {
            rollout::OnTimeout::Force => OnTimeout::Force,
            rollout::OnTimeout::Wait => OnTimeout::Wait,
        },
    }
}

/// The policy for changes that need no new pod: at once where asked for, and never longer than the timeout.
pub fn live_policy(spec: &AgentSpec) -> Policy {
    let immediately = spec.rollout.as_ref().is_some_and(|r| r.live == rollout::Live::Immediately);
    let policy = policy(spec);
    Policy { protect: if immediately { Protect::None } else { policy.protect }, on_timeout: OnTimeout::Force, ..policy }
}

/// Since when something waits, as the annotations of an object say.
pub fn waiting(live: Option<&Annotations>) -> Option<Timestamp> {
    State::of_deployment(live?).pending.map(|pending| pending.since)
}

/// Decides about the Deployment; `live` is its JSON.
pub fn server(desired: &Desired, live: Option<&Value>, at: &Situation<'_>) -> Action {
    let apply = |causes| Action::Apply { hold: false, causes, forced: None };
    let Some(live) = live else { return apply(BTreeSet::new()) };
    let state = State::of_deployment(&annotations(live));
    let drifted = drifted(desired, live);
    let current = state.applied.as_ref() == Some(&desired.hash);
    if current && !drifted {
        if desired.may_still_wait(state.pending.as_ref()) {
            return Action::Keep;
        }
        let settled = state.pending.is_none() && same_object(live, desired.deployment.value());
        return if settled { Action::Keep } else { apply(BTreeSet::new()) };
    }
    let suspended = live.pointer("/spec/replicas").and_then(Value::as_i64) == Some(0);
    // Whatever the annotation says, a pod template of somebody else is none that we applied.
    let hash = if current { DRIFT.into() } else { state.applied.clone().unwrap_or_default() };
    let applied = Applied { hash, suspended };
    let mut causes = classify(&state.parts, &desired.parts).causes;
    if current {
        causes = BTreeSet::from([DRIFT.to_string()]);
    } else if causes.is_empty() {
        causes.insert(TEMPLATE.into());
    }
    let input = GateInput {
        change: Change::Template,
        desired: &desired.hash,
        applied: Some(&applied),
        pending: state.pending.as_ref(),
        causes: &causes,
        work: at.work,
        policy: at.policy,
        beside: at.old.filter(|_| !desired.suspended && beside::can_be_left(live, &at.policy)),
        ask: asked(at.asked, &state, desired, &desired.hash),
        now: at.now,
    };
    act(gate::decide(&input), state.pending.as_ref(), &causes)
}

/// What somebody asks for this part of what is wanted, or for all of it.
fn asked<'a>(value: Option<&'a str>, state: &State, desired: &Desired, hash: &str) -> Ask<'a> {
    if value.is_none() {
        return Ask::Nothing;
    }
    gate::asked(value, state.rollout_seen.as_deref(), &[hash, &history::id(desired)])
}

/// Asks the gate about something that needs no new pod.
fn without_pods(
    (change, hash, causes): (Change, &str, &BTreeSet<String>),
    desired: &Desired,
    (state, suspended): (&State, bool),
    at: &Situation<'_>,
) -> Action {
    let applied = Applied { hash: state.applied.clone().unwrap_or_default(), suspended };
    let input = GateInput {
        change,
        desired: hash,
        applied: Some(&applied),
        pending: state.pending.as_ref(),
        causes,
        work: at.work,
        policy: at.policy,
        beside: None,
        ask: asked(at.asked, state, desired, hash),
        now: at.now,
    };
    act(gate::decide(&input), state.pending.as_ref(), causes)
}

/// Decides about the gathered text; `live` are the annotations of its ConfigMap.
pub fn text(desired: &Desired, live: Option<&Annotations>, suspended: bool, at: &Situation<'_>) -> Action {
    let Some(live) = live else { return Action::Apply { hold: false, causes: BTreeSet::new(), forced: None } };
    let state = State::of_context(live);
    if state.applied.as_ref() == Some(&desired.text_hash) {
        let wanted = object_hash(desired.context.value());
        let settled = state.pending.is_none() && live.get(state::OBJECT_HASH) == Some(&wanted);
        return if settled {
            Action::Keep
        } else {
            Action::Apply { hold: false, causes: BTreeSet::new(), forced: None }
        };
    }
    let mut causes = classify(&state.parts, &desired.texts).causes;
    if causes.is_empty() {
        // Only their order.
        causes.insert(TEXT.into());
    }
    without_pods((Change::Text, &desired.text_hash, &causes), desired, (&state, suspended), at)
}

fn act(verdict: Verdict, stored: Option<&Pending>, causes: &BTreeSet<String>) -> Action {
    match verdict {
        Verdict::Open { hold } => Action::Apply { hold, causes: causes.clone(), forced: None },
        Verdict::Forced { message } => Action::Apply { hold: false, causes: causes.clone(), forced: Some(message) },
        Verdict::Wait { pending, until, message } => {
            Action::Wait { write: stored != Some(&pending), pending, until, message, paced: None }
        }
    }
}

/// Somebody changed the pod template or the number of pods behind our back.
fn drifted(desired: &Desired, live: &Value) -> bool {
    let wanted = desired.deployment.value();
    let differs = |pointer: &str| match (live.pointer(pointer), wanted.pointer(pointer)) {
        (Some(live), Some(wanted)) => !covers(live, wanted),
        (live, wanted) => live != wanted,
    };
    differs("/spec/template") || differs("/spec/replicas")
}

/// Whether a live object is what we last wanted it to be, and still is.
pub fn same_object(live: &Value, wanted: &Value) -> bool {
    state::object_hash(&annotations(live)) == Some(object_hash(wanted).as_str()) && covers(live, wanted)
}

/// Hash of an object as it is wanted, for the annotation that [`same_object`] compares with.
pub fn object_hash(wanted: &Value) -> String {
    hash::short(wanted)
}

/// The annotations of an object.
pub fn annotations(live: &Value) -> Annotations {
    let map = live.pointer("/metadata/annotations").and_then(Value::as_object);
    map.into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_string()))).collect()
}
