//! [`task::starts`], shared by the reconcilers of Agents and Tasks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;

use crate::task;

/// Called with namespace and name of a Task.
type Wake = Box<dyn Fn(&str, &str) + Send + Sync>;

/// Who starts where, and whose pods are being replaced. Cheap to clone.
#[derive(Clone, Default)]
pub struct TaskStarts(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: OnceLock<Wake>,
}

#[derive(Default)]
struct State {
    starts: task::Starts,
    /// Tasks that came while pods were replaced, by namespace and agent.
    turned_away: BTreeMap<(String, String), BTreeSet<String>>,
}

impl TaskStarts {
    /// See [`task::Starts::start`]. Who may not start yet is woken when that is over.
    pub fn start(&self, namespace: &str, agent: &str, (name, uid): (&str, &str)) -> bool {
        let mut state = self.0.state.lock();
        let starts = state.starts.start(namespace, agent, uid);
        if !starts {
            let key = (namespace.to_owned(), agent.to_owned());
            state.turned_away.entry(key).or_default().insert(name.to_owned());
        }
        starts
    }

    /// Whom to call for each Task that was turned away, when it may start.
    pub fn on_switched(&self, wake: impl Fn(&str, &str) + Send + Sync + 'static) {
        let _ = self.0.wake.set(Box::new(wake)); // there is one kind that starts
    }

    /// See [`task::Starts::settle`].
    pub fn settle(&self, uid: &str) {
        self.0.state.lock().starts.settle(uid);
    }

    /// See [`task::Starts::is_starting`].
    pub fn is_starting(&self, uid: &str) -> bool {
        self.0.state.lock().starts.is_starting(uid)
    }

    /// No Task starts on this agent while the answer lives.
    pub fn switch(&self, namespace: &str, agent: &str) -> Switch {
        self.0.state.lock().starts.switch(namespace, agent);
        Switch { starts: self.clone(), key: (namespace.to_owned(), agent.to_owned()) }
    }
}

/// Pods of an agent are being replaced; dropping it lets Tasks start again.
pub struct Switch {
    starts: TaskStarts,
    key: (String, String),
}

impl Drop for Switch {
    fn drop(&mut self) {
        let TaskStarts(shared) = &self.starts;
        let mut state = shared.state.lock();
        state.starts.switched(&self.key.0, &self.key.1);
        let woken = state.turned_away.remove(&self.key).unwrap_or_default();
        drop(state);
        if let Some(wake) = shared.wake.get() {
            for task in &woken {
                wake(&self.key.0, task);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_turned_away_is_woken_once_when_the_switch_is_over() {
        let (starts, woken) = (TaskStarts::default(), Arc::new(Mutex::new(vec![])));
        let log = woken.clone();
        starts.on_switched(move |namespace, task| log.lock().push(format!("{namespace}/{task}")));
        let (switch, other) = (starts.switch("ns", "a"), starts.switch("ns", "b"));
        for (task, agent) in [("t1", "a"), ("t1", "a"), ("t2", "a"), ("t3", "b")] {
            assert!(!starts.start("ns", agent, (task, task)));
        }
        assert!(starts.start("ns", "c", ("t4", "t4")));
        drop(switch);
        assert_eq!(std::mem::take(&mut *woken.lock()), ["ns/t1", "ns/t2"]);
        assert!(starts.start("ns", "a", ("t1", "t1")));
        drop(starts.switch("ns", "a"));
        assert!(woken.lock().is_empty(), "once");
        drop(other);
        assert_eq!(*woken.lock(), ["ns/t3"]);
    }
}
