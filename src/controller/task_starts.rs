//! [`task::starts`], shared by the reconcilers of Agents and Tasks.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::task;

/// Who starts where, and whose pods are being replaced. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct TaskStarts(Arc<Mutex<task::Starts>>);

impl TaskStarts {
    /// See [`task::Starts::start`].
    pub fn start(&self, namespace: &str, agent: &str, uid: &str) -> bool {
        self.0.lock().start(namespace, agent, uid)
    }

    /// See [`task::Starts::settle`].
    pub fn settle(&self, uid: &str) {
        self.0.lock().settle(uid);
    }

    /// See [`task::Starts::is_starting`].
    pub fn is_starting(&self, uid: &str) -> bool {
        self.0.lock().is_starting(uid)
    }

    /// No Task starts on this agent while the answer lives.
    pub fn switch(&self, namespace: &str, agent: &str) -> Switch {
        self.0.lock().switch(namespace, agent);
        Switch { starts: self.clone(), namespace: namespace.to_owned(), agent: agent.to_owned() }
    }
}

/// Pods of an agent are being replaced; dropping it lets Tasks start again.
#[derive(Debug)]
pub struct Switch {
    starts: TaskStarts,
    namespace: String,
    agent: String,
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.starts.0.lock().switched(&self.namespace, &self.agent);
    }
}
