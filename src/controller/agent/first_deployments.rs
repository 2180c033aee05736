//! First things first: while an agent waits for its Deployment, what others have time for waits.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::status::Note;

/// An agent waits no longer for others.
const PATIENCE: Duration = Duration::from_secs(2);

/// Who gets a Deployment now, and who has just got one.
#[derive(Default)]
pub(super) struct FirstDeployments {
    running: AtomicUsize,
    begun: Mutex<HashMap<(String, String), Begun>>,
}

struct Begun {
    at: Instant,
    note: Note,
}

/// A reconcile of an agent that has no Deployment yet; it ends with the value.
pub(super) struct First<'a>(&'a AtomicUsize);

impl Drop for First<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl FirstDeployments {
    /// An agent without a Deployment is reconciled.
    pub(super) fn first(&self) -> First<'_> {
        self.running.fetch_add(1, Ordering::Relaxed);
        First(&self.running)
    }

    /// It got its Deployment; `note` is kept for [`take`](Self::take).
    pub(super) fn began(&self, namespace: &str, agent: &str, note: Note) {
        self.begun.lock().insert((namespace.into(), agent.into()), Begun { at: Instant::now(), note });
    }

    /// Whether what is left to do for an agent that has just begun can wait: others have no Deployment yet.
    pub(super) fn can_wait(&self, namespace: &str, agent: &str) -> bool {
        let others = self.running.load(Ordering::Relaxed) > 0;
        let begun = self.begun.lock();
        others && begun.get(&(namespace.into(), agent.into())).is_some_and(|b| b.at.elapsed() < PATIENCE)
    }

    /// What is to be told of the beginning, once.
    pub(super) fn take(&self, namespace: &str, agent: &str) -> Option<Note> {
        self.begun.lock().remove(&(namespace.into(), agent.into())).map(|b| b.note)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_deployment_waits_for_those_who_have_none() {
        let firsts = FirstDeployments::default();
        let first = firsts.first();
        assert!(!firsts.can_wait("n", "a"), "it has not begun");
        firsts.began("n", "a", Note::normal("DeploymentCreated", "Create", "a"));
        assert!(firsts.can_wait("n", "a") && !firsts.can_wait("n", "b"));
        let second = firsts.first();
        drop(first);
        assert!(firsts.can_wait("n", "a"));
        drop(second);
        assert!(!firsts.can_wait("n", "a"), "nobody is left to wait for");
        let _third = firsts.first();
        firsts.begun.lock().values_mut().for_each(|b| b.at -= PATIENCE);
        assert!(!firsts.can_wait("n", "a"), "nobody waits for ever");
        assert!(firsts.take("n", "a").is_some() && firsts.take("n", "a").is_none());
    }
}
