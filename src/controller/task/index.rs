//! Which Tasks stand in which queue, and which are finished: so that a change costs what it touches.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use kube::ResourceExt;
use parking_lot::Mutex;

use crate::{
    api::{Task, TaskPhase},
    task::{self, Ticket, step::stands_in_queue},
};

/// Namespace and name.
type Key = (String, String);

/// The index; listeners keep it.
#[derive(Default)]
pub(super) struct Index(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// Unfinished Tasks by agent, and by name.
    queues: HashMap<Key, BTreeMap<String, Entry>>,
    /// Finished Tasks by namespace, in the order in which they ended.
    finished: HashMap<String, BTreeSet<(Timestamp, String)>>,
    /// Where each Task is.
    places: HashMap<Key, Filed>,
}

#[derive(PartialEq)]
struct Entry {
    ticket: Ticket,
    /// Whether it stands in the queue; others are known to be woken.
    queues: bool,
}

#[derive(Clone, PartialEq)]
enum Filed {
    Queue {
        agent: String,
    },
    /// It has a pod of its own, and waits for nobody.
    Alone,
    Finished {
        at: Timestamp,
    },
}

impl Filed {
    /// The agent in whose queue it is.
    fn agent(self) -> Option<String> {
        match self {
            Self::Queue { agent } => Some(agent),
            Self::Alone | Self::Finished { .. } => None,
        }
    }
}

impl Index {
    /// Files `task` as it is now, or takes it out. Returns the agents whose queue is another one now, and whether the Task
    /// was known and is somewhere else now.
    pub(super) fn update(&self, task: &Task, deleted: bool) -> (Vec<String>, bool) {
        let key = (task.namespace().unwrap_or_default(), task.name_any());
        let place = (!deleted).then(|| filed(task)).flatten();
        let mut inner = self.0.lock();
        let before = inner.places.get(&key).cloned();
        let moved = before.is_some() && before != place;
        if before != place {
            inner.remove(&key);
        }
        let changed = place.as_ref().is_some_and(|place| inner.insert(&key, place.clone(), task));
        let mut agents: Vec<_> = match (before, place) {
            (before, now) if before == now => now.filter(|_| changed).into_iter().collect(),
            (before, now) => before.into_iter().chain(now).collect(),
        };
        agents.dedup();
        (agents.into_iter().filter_map(Filed::agent).collect(), moved)
    }

    /// The Tasks in the queue of an agent, running ones included.
    pub(super) fn queue(&self, namespace: &str, agent: &str) -> Vec<Ticket> {
        let inner = self.0.lock();
        let queue = inner.queues.get(&(namespace.into(), agent.into()));
        queue.into_iter().flat_map(BTreeMap::values).filter(|e| e.queues).map(|e| e.ticket.clone()).collect()
    }

    /// The names of all unfinished Tasks of an agent.
    pub(super) fn unfinished(&self, namespace: &str, agent: &str) -> Vec<String> {
        let inner = self.0.lock();
        inner.queues.get(&(namespace.into(), agent.into())).into_iter().flat_map(BTreeMap::keys).cloned().collect()
    }

    /// The finished Tasks of a namespace beyond the newest `max`, oldest first.
    pub(super) fn surplus(&self, namespace: &str, max: usize) -> Vec<String> {
        let inner = self.0.lock();
        let finished = inner.finished.get(namespace);
        let count = finished.map_or(0, |f| f.len().saturating_sub(max));
        finished.into_iter().flatten().take(count).map(|(_, name)| name.clone()).collect()
    }

    /// Whether a Task is among [`surplus`](Self::surplus).
    pub(super) fn is_surplus(&self, namespace: &str, name: &str, max: usize) -> bool {
        let inner = self.0.lock();
        let (Some(finished), Some(Filed::Finished { at })) =
            (inner.finished.get(namespace), inner.places.get(&(namespace.into(), name.into())))
        else {
            return false;
        };
        // The oldest that stays; without one, everything goes.
        let count = finished.len().saturating_sub(max);
        finished.iter().nth(count).is_none_or(|kept| (at, name) < (&kept.0, kept.1.as_str()))
    }
}

impl Inner {
    fn remove(&mut self, key: &Key) {
        match self.places.remove(key) {
            Some(Filed::Queue { agent }) => {
                let queue = (key.0.clone(), agent);
                if let Some(entries) = self.queues.get_mut(&queue) {
                    entries.remove(&key.1);
                    if entries.is_empty() {
                        self.queues.remove(&queue);
                    }
                }
            }
            Some(Filed::Finished { at }) => {
                if let Some(finished) = self.finished.get_mut(&key.0) {
                    finished.remove(&(at, key.1.clone()));
                    if finished.is_empty() {
                        self.finished.remove(&key.0);
                    }
                }
            }
            Some(Filed::Alone) | None => {}
        }
    }

    /// Whether that changes a queue.
    fn insert(&mut self, key: &Key, place: Filed, task: &Task) -> bool {
        let changed = match &place {
            Filed::Queue { agent } => {
                let queue = self.queues.entry((key.0.clone(), agent.clone())).or_default();
                let entry = entry(task);
                let changed = queue.get(&key.1) != Some(&entry);
                queue.insert(key.1.clone(), entry);
                changed
            }
            Filed::Alone => false,
            Filed::Finished { at } => {
                self.finished.entry(key.0.clone()).or_default().insert((*at, key.1.clone()));
                false
            }
        };
        self.places.insert(key.clone(), place);
        changed
    }
}

fn filed(task: &Task) -> Option<Filed> {
    if task::is_finished(task) {
        let ended = task.status.as_ref().and_then(|s| s.completion_time.as_ref());
        return Some(Filed::Finished { at: ended.map_or_else(|| task::created(task), |t| t.0) });
    }
    if task::template_of(task).is_some() {
        return Some(Filed::Alone);
    }
    Some(Filed::Queue { agent: task::agent_of(task)?.into() })
}

fn entry(task: &Task) -> Entry {
    let running = task::phase(task) == Some(TaskPhase::Running);
    Entry {
        queues: running || stands_in_queue(task),
        ticket: Ticket {
            uid: task.uid().unwrap_or_default(),
            name: task.name_any(),
            priority: task.spec.priority.unwrap_or_default(),
            created: task::created(task),
            tries: task::tries(task),
            running,
        },
    }
}

#[cfg(test)]
mod tests;
