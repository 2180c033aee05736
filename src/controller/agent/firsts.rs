//! First things first: what pods wait for is written before what only tells of it.
//!
//! A push that a hundred agents follow is a hundred ConfigMaps or Deployments, and as many statuses, events and histories.
//! While an agent lacks the first, or its pods fetch what they were told of, all put off the second.

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

/// An agent waits no longer for others. It is woken before, when nobody is left to wait for.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Nor does anybody for pods that fetch: theirs may be a server that works.
const FETCH: Duration = Duration::from_secs(2);

/// Asks for another look at an agent: its namespace and name.
type Wake = Box<dyn Fn(&str, &str) + Send + Sync>;

/// Namespace and name of an agent.
type Key = (String, String);

/// Who may write now what its pods wait for, and who puts off the rest.
pub(super) struct Firsts {
    shared: Arc<Shared>,
    /// Pods that were told what to fetch, and since when.
    fetching: Mutex<HashMap<Key, (First, Instant)>>,
}

struct Shared {
    running: AtomicUsize,
    late: Mutex<HashMap<Key, Late>>,
    /// Called for whoever has put something off, when nobody is left to wait for.
    wake: Wake,
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

/// Something urgent is being done; it is over with the value.
pub(super) struct First(Arc<Shared>);

impl First {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.running.fetch_add(1, Ordering::Relaxed);
        Self(shared.clone())
    }
}

impl Drop for First {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::Relaxed) == 1 {
            let late: Vec<_> = self.0.late.lock().keys().cloned().collect();
            for (namespace, agent) in late {
                (self.0.wake)(&namespace, &agent);
            }
        }
    }
}

impl Firsts {
    /// `wake` is called with namespace and name of an agent that is to be looked at again.
    pub(super) fn new(wake: impl Fn(&str, &str) + Send + Sync + 'static) -> Self {
        let shared = Shared { running: AtomicUsize::new(0), late: Mutex::default(), wake: Box::new(wake) };
        Self { shared: Arc::new(shared), fetching: Mutex::default() }
    }

    /// The agent's pods were told just now what to fetch: what only tells waits for them too, for a while.
    pub(super) fn fetch(&self, namespace: &str, agent: &str) {
        let first = (First::new(&self.shared), Instant::now());
        drop(self.fetching.lock().insert((namespace.into(), agent.into()), first));
    }

    /// They have it, or cannot.
    pub(super) fn fetched(&self, namespace: &str, agent: &str) {
        let first = self.fetching.lock().remove(&(namespace.into(), agent.into()));
        drop(first);
    }

    /// Something urgent is about to be written. For an agent that puts things off already nobody waits: else two could wait
    /// for each other.
    pub(super) fn first(&self, namespace: &str, agent: &str) -> Option<First> {
        let waits = self.shared.late.lock().contains_key(&(namespace.into(), agent.into()));
        (!waits).then(|| First::new(&self.shared))
    }

    /// Whether nothing at all is to be done for the agent yet: its Deployment was made just now, and others lack something.
    pub(super) fn can_wait(&self, namespace: &str, agent: &str) -> bool {
        let late = self.shared.late.lock();
        let since = late.get(&(namespace.into(), agent.into())).filter(|late| late.created).map(|late| late.since);
        drop(late);
        since.is_some_and(|since| self.is_in_time(since))
    }

    /// Whether what only tells of the agent can be written later: others lack something, and it has not waited for long.
    pub(super) fn is_late(&self, namespace: &str, agent: &str) -> bool {
        let since = self.shared.late.lock().get(&(namespace.into(), agent.into())).and_then(|late| late.since);
        self.is_in_time(since)
    }

    /// The same of one that was [taken](Self::take).
    pub(super) fn may_wait(&self, late: &Late) -> bool {
        self.is_in_time(late.since)
    }

    fn is_in_time(&self, since: Option<Instant>) -> bool {
        since.is_none_or(|since| since.elapsed() < PATIENCE) && self.any()
    }

    /// Pods that cannot exchange what they have, because their server works, are waited for no longer than anybody.
    fn any(&self) -> bool {
        if self.shared.running.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut fetching = self.fetching.lock();
        let over = |(_, (_, since)): &(&Key, &mut (First, Instant))| since.elapsed() >= FETCH;
        let over: Vec<_> = fetching.iter_mut().filter(over).map(|(key, _)| key.clone()).collect();
        let over: Vec<_> = over.iter().filter_map(|key| fetching.remove(key)).collect();
        drop(fetching);
        drop(over);
        self.shared.running.load(Ordering::Relaxed) > 0
    }

    /// What was put off, once.
    pub(super) fn take(&self, namespace: &str, agent: &str) -> Late {
        self.shared.late.lock().remove(&(namespace.into(), agent.into())).unwrap_or_default()
    }

    /// Puts off the rest; `created`: with the Deployment just now everything else of the agent.
    pub(super) fn put_off(&self, namespace: &str, agent: &str, before: &Late, done: Done, created: bool) {
        let since = before.since.unwrap_or_else(Instant::now);
        let late = Late { since: Some(since), created, done };
        self.shared.late.lock().insert((namespace.into(), agent.into()), late);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(text: &str) -> Done {
        Done { notes: vec![Note::normal("DeploymentCreated", "Create", text)], server: None }
    }

    /// Also who was woken.
    fn firsts() -> (Firsts, Arc<Mutex<Vec<String>>>) {
        let woken = Arc::<Mutex<Vec<String>>>::default();
        let sink = woken.clone();
        (Firsts::new(move |_, agent| sink.lock().push(agent.to_owned())), woken)
    }

    #[test]
    fn what_only_tells_waits_for_what_pods_wait_for() {
        let (firsts, _) = firsts();
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
        assert_eq!(firsts.shared.late.lock()[&("n".into(), "a".into())].since, since, "the clock is kept");
        drop(other);
        assert!(!firsts.is_late("n", "a"), "nobody is left to wait for");
        assert_eq!(firsts.take("n", "a").done.notes[0].message, "two");
        assert!(firsts.take("n", "a").since.is_none(), "once");
    }

    #[test]
    fn who_has_a_deployment_waits_for_those_who_have_none() {
        let (firsts, _) = firsts();
        firsts.put_off("n", "a", &Late::default(), done("a"), true);
        let first = firsts.first("n", "c");
        assert!(firsts.can_wait("n", "a") && !firsts.can_wait("n", "b"));
        let second = firsts.first("n", "d");
        drop(first);
        assert!(firsts.can_wait("n", "a"));
        drop(second);
        assert!(!firsts.can_wait("n", "a"), "nobody is left to wait for");
        let _third = firsts.first("n", "e");
        firsts.shared.late.lock().values_mut().for_each(|late| late.since = Instant::now().checked_sub(PATIENCE));
        assert!(!firsts.can_wait("n", "a") && !firsts.is_late("n", "a"), "nobody waits for ever");
    }

    #[test]
    fn whoever_has_put_something_off_is_woken_when_nobody_is_left_to_wait_for() {
        let (firsts, woken) = firsts();
        let (one, two) = (firsts.first("n", "b"), firsts.first("n", "c"));
        firsts.put_off("n", "a", &Late::default(), done("a"), false);
        drop(one);
        assert!(woken.lock().is_empty(), "one is left");
        drop(two);
        assert_eq!(*woken.lock(), ["a"]);
    }

    #[test]
    fn what_pods_fetch_is_waited_for_until_they_have_it_or_for_a_while() {
        let (firsts, woken) = firsts();
        firsts.fetch("n", "b");
        firsts.fetch("n", "b");
        firsts.put_off("n", "a", &Late::default(), done("a"), false);
        assert!(firsts.is_late("n", "a") && firsts.is_late("n", "b"), "its own report is put off as well");
        firsts.fetched("n", "b");
        assert!(!firsts.is_late("n", "a") && *woken.lock() == ["a"]);
        firsts.fetched("n", "b");
        firsts.fetch("n", "c");
        firsts.fetching.lock().values_mut().for_each(|(_, since)| *since = Instant::now().checked_sub(FETCH).unwrap());
        assert!(!firsts.is_late("n", "a"), "the server works");
        assert_eq!(woken.lock().len(), 2);
    }
}
