//! First things first: what pods wait for is written before what only tells of it.
//!
//! A push that a hundred agents follow is a hundred ConfigMaps or Deployments, and as many statuses, events and histories.
//! While an agent lacks the first, the others put off the second.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{agent::decide::Action, status::Note};

/// An agent waits no longer for others.
const PATIENCE: Duration = Duration::from_secs(2);

/// Who may write now what its pods wait for, and who puts off the rest.
#[derive(Default)]
pub(super) struct Firsts {
    running: Arc<AtomicUsize>,
    late: Mutex<HashMap<(String, String), Late>>,
}

/// What an agent has put off.
#[derive(Default)]
pub(super) struct Late {
    /// Since when; not at all before the first time.
    since: Option<Instant>,
    /// Its Deployment was made just now: nothing else of it is urgent.
    created: bool,
    pub(super) done: Done,
}

/// What was done and is not told yet.
#[derive(Default)]
pub(super) struct Done {
    pub(super) notes: Vec<Note>,
    /// The Deployment was applied so.
    pub(super) server: Option<Action>,
}

/// Something urgent is being written; it is over with the value.
#[derive(Debug)]
pub(super) struct First(Arc<AtomicUsize>);

impl Drop for First {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Firsts {
    /// Something urgent is about to be written. For an agent that puts things off already nobody waits: else two could wait
    /// for each other.
    pub(super) fn first(&self, namespace: &str, agent: &str) -> Option<First> {
        if self.late.lock().contains_key(&(namespace.into(), agent.into())) {
            return None;
        }
        self.running.fetch_add(1, Ordering::Relaxed);
        Some(First(self.running.clone()))
    }

    /// Whether nothing at all is to be done for the agent yet: its Deployment was made just now, and others lack something.
    pub(super) fn can_wait(&self, namespace: &str, agent: &str) -> bool {
        let late = self.late.lock();
        late.get(&(namespace.into(), agent.into())).is_some_and(|late| late.created && self.may_wait(late))
    }

    /// Whether what only tells of the agent can be written later: others lack something, and it has not waited for long.
    pub(super) fn is_late(&self, namespace: &str, agent: &str) -> bool {
        self.late.lock().get(&(namespace.into(), agent.into())).map_or_else(|| self.any(), |late| self.may_wait(late))
    }

    /// The same of one that was [taken](Self::take).
    pub(super) fn may_wait(&self, late: &Late) -> bool {
        self.any() && late.since.is_none_or(|since| since.elapsed() < PATIENCE)
    }

    fn any(&self) -> bool {
        self.running.load(Ordering::Relaxed) > 0
    }

    /// What was put off, once.
    pub(super) fn take(&self, namespace: &str, agent: &str) -> Late {
        self.late.lock().remove(&(namespace.into(), agent.into())).unwrap_or_default()
    }

    /// Puts off the rest; `created`: with the Deployment just now everything else of the agent.
    pub(super) fn put_off(&self, namespace: &str, agent: &str, before: &Late, done: Done, created: bool) {
        let since = before.since.unwrap_or_else(Instant::now);
        self.late.lock().insert((namespace.into(), agent.into()), Late { since: Some(since), created, done });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(text: &str) -> Done {
        Done { notes: vec![Note::normal("DeploymentCreated", "Create", text)], server: None }
    }

    #[test]
    fn what_only_tells_waits_for_what_pods_wait_for() {
        let firsts = Firsts::default();
        assert!(!firsts.is_late("n", "a"), "nobody is before it");
        let other = firsts.first("n", "b");
        assert!(firsts.is_late("n", "a") && !firsts.can_wait("n", "a"), "it has something urgent");
        firsts.put_off("n", "a", &Late::default(), done("one"), false);
        assert!(firsts.first("n", "a").is_none(), "nobody waits for who waits");
        assert!(firsts.is_late("n", "a") && !firsts.can_wait("n", "a"));
        let late = firsts.take("n", "a");
        let since = late.since;
        assert!(firsts.may_wait(&late) && since.is_some() && late.done.notes[0].message == "one");
        firsts.put_off("n", "a", &late, done("two"), false);
        assert_eq!(firsts.late.lock()[&("n".into(), "a".into())].since, since, "the clock is kept");
        drop(other);
        assert!(!firsts.is_late("n", "a"), "nobody is left to wait for");
        assert_eq!(firsts.take("n", "a").done.notes[0].message, "two");
        assert!(firsts.take("n", "a").since.is_none(), "once");
    }

    #[test]
    fn who_has_a_deployment_waits_for_those_who_have_none() {
        let firsts = Firsts::default();
        firsts.put_off("n", "a", &Late::default(), done("a"), true);
        let first = firsts.first("n", "c");
        assert!(firsts.can_wait("n", "a") && !firsts.can_wait("n", "b"));
        let second = firsts.first("n", "d");
        drop(first);
        assert!(firsts.can_wait("n", "a"));
        drop(second);
        assert!(!firsts.can_wait("n", "a"), "nobody is left to wait for");
        let _third = firsts.first("n", "e");
        firsts.late.lock().values_mut().for_each(|late| late.since = Instant::now().checked_sub(PATIENCE));
        assert!(!firsts.can_wait("n", "a") && !firsts.is_late("n", "a"), "nobody waits for ever");
    }
}
