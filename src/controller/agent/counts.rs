//! How many Tasks an agent has stands in its status for people. A queue that is worked off changes it with each Task: it is
//! written now and then, and in the end.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::api::AgentStatus;

/// How often at most a status is written in which nothing else is new.
const PACE: Duration = Duration::from_secs(3);

/// When that was done last, by namespace and agent.
#[derive(Default)]
pub(super) struct Counts(Mutex<HashMap<(String, String), Instant>>);

impl Counts {
    /// How long such a status has to wait; none: it is written now, and that is noted.
    pub(super) fn wait(&self, namespace: &str, agent: &str, now: Instant) -> Option<Duration> {
        let mut all = self.0.lock();
        let last = all.get(&(namespace.to_owned(), agent.to_owned()));
        let left = last.and_then(|last| PACE.checked_sub(now.duration_since(*last))).filter(|left| !left.is_zero());
        if left.is_none() {
            all.insert((namespace.to_owned(), agent.to_owned()), now);
        }
        left
    }

    pub(super) fn forget(&self, namespace: &str, agent: &str) {
        self.0.lock().remove(&(namespace.to_owned(), agent.to_owned()));
    }
}

/// `status` with the count of `current`, where the counts differ: if that is no news, nothing but the count is.
pub(super) fn with_old_count(current: Option<&AgentStatus>, status: &AgentStatus) -> Option<AgentStatus> {
    let current = current.filter(|current| current.tasks != status.tasks)?;
    Some(AgentStatus { tasks: current.tasks.clone(), ..status.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_told_now_and_then() {
        let (counts, start) = (Counts::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!(counts.wait("n", "a", at(0)), None, "the first one at once");
        assert_eq!(counts.wait("n", "a", at(1000)), Some(Duration::from_secs(2)));
        assert_eq!(counts.wait("n", "b", at(1000)), None, "each agent has its own");
        assert_eq!(counts.wait("n", "a", at(2999)), Some(Duration::from_millis(1)), "asking does not put it off");
        assert_eq!(counts.wait("n", "a", at(3000)), None);
        assert_eq!(counts.wait("n", "a", at(3001)), Some(Duration::from_millis(2999)));
        counts.forget("n", "a");
        assert_eq!(counts.wait("n", "a", at(3002)), None);
    }

    #[test]
    fn only_another_count_may_wait() {
        let status = |tasks: &str, url: &str| AgentStatus {
            tasks: Some(tasks.into()),
            url: Some(url.into()),
            ..AgentStatus::default()
        };
        let (before, after) = (status("1/20", "u"), status("1/19", "u"));
        assert_eq!(with_old_count(Some(&before), &after), Some(before.clone()));
        assert_ne!(
            with_old_count(Some(&before), &status("1/19", "v")),
            Some(before.clone()),
            "something else is new too"
        );
        assert_eq!(with_old_count(Some(&before), &status("1/20", "v")), None);
        assert_eq!(with_old_count(None, &after), None);
    }
}
