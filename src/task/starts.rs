//! Tasks that start, and rollouts that are decided: neither overlooks the other.
//!
//! A Task counts as work of its agent from before its pod is written, not from when a cache shows it. And while a
//! rollout goes from its last count to its write, no Task starts on that agent. Both happen in the one process that
//! leads.

use std::collections::{BTreeMap, BTreeSet};

/// Namespace and name of an agent.
type Agent = (String, String);

/// Who starts where, and whose pods are being replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Starts {
    /// Agents by the uids of their Tasks that start.
    starting: BTreeMap<String, Agent>,
    switching: BTreeSet<Agent>,
}

impl Starts {
    /// Whether the Task `uid` may start on an agent now; if so, it counts until [`settle`](Self::settle).
    pub fn start(&mut self, namespace: &str, agent: &str, uid: &str) -> bool {
        let agent = (namespace.to_owned(), agent.to_owned());
        if self.switching.contains(&agent) {
            return false;
        }
        self.starting.insert(uid.to_owned(), agent);
        true
    }

    /// The caches show what became of the Task, or it did not start.
    pub fn settle(&mut self, uid: &str) {
        self.starting.remove(uid);
    }

    /// Whether a Task starts, and no cache may show it yet.
    pub fn is_starting(&self, uid: &str) -> bool {
        self.starting.contains_key(uid)
    }

    /// From now on no Task starts on this agent. Those that do already are to be counted after this.
    pub fn switch(&mut self, namespace: &str, agent: &str) {
        self.switching.insert((namespace.to_owned(), agent.to_owned()));
    }

    /// Tasks may start again.
    pub fn switched(&mut self, namespace: &str, agent: &str) {
        self.switching.remove(&(namespace.to_owned(), agent.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_comes_second_sees_the_first() {
        let mut starts = Starts::default();
        assert!(starts.start("ns", "a", "t1"));
        starts.switch("ns", "a");
        assert!(starts.is_starting("t1"), "the count after it sees the Task");
        assert!(!starts.start("ns", "a", "t2") && !starts.is_starting("t2"), "the Task waits");
        assert!(starts.start("ns", "b", "t3") && starts.start("other", "a", "t4"), "other agents go on");
        starts.switched("ns", "a");
        assert!(starts.start("ns", "a", "t2"));
        for uid in ["t1", "t2", "t3", "t4"] {
            starts.settle(uid);
        }
        assert_eq!(starts, Starts::default(), "nothing is left");
    }
}
