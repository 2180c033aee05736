//! Since when this process has watched a change wait, by a clock that does not jump.

use std::{collections::HashMap, time::Instant};

use jiff::Timestamp;
use parking_lot::Mutex;

use super::{Agents, act::Who};
use crate::agent::{decide::Action, gate::waited_until};

/// What waits: of which object.
type Key = (String, String, &'static str);

/// One wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watched {
    since: Timestamp,
    first: Timestamp,
    at: Instant,
}

/// By namespace, agent and object.
pub(super) type Waits = Mutex<HashMap<Key, Watched>>;

impl Agents {
    /// The present for a decision about `object`, of which something waits since `since`.
    pub(super) fn gate_now(&self, who: &Who<'_>, object: &'static str, since: Option<Timestamp>) -> Timestamp {
        let now = self.context.now();
        let key = (who.namespace.clone(), who.name.clone(), object);
        let mut waits = self.waits.lock();
        let Some(since) = since else {
            waits.remove(&key);
            return now;
        };
        let new = Watched { since, first: now, at: Instant::now() };
        let watched = waits.entry(key).or_insert(new);
        if watched.since != since {
            *watched = new;
        }
        waited_until(watched.since, watched.first, watched.at.elapsed())
    }

    /// What was decided: a wait is watched from now on, and no clock moves it. The present for it is returned.
    pub(super) fn watch_wait(&self, who: &Who<'_>, object: &'static str, action: &Action) -> Timestamp {
        let since = if let Action::Wait { pending, .. } = action { Some(pending.since) } else { None };
        self.gate_now(who, object, since)
    }

    /// An agent is gone.
    pub(super) fn forget_waits(&self, namespace: &str, name: &str) {
        self.waits.lock().retain(|(ns, agent, _), _| (ns.as_str(), agent.as_str()) != (namespace, name));
    }
}
