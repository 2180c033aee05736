//! Who is reconciled next: namespaces take turns, and within one the first to come is the first to go. No namespace has
//! all places, so that slow work of one never keeps the others waiting.
//!
//! kube-runtime's scheduler keeps what waits in a hash set and always takes the first it finds there, so that under load
//! objects that come back often can keep others from ever being reached; here nobody is overtaken twice by one object.

use std::collections::{BTreeSet, HashMap, VecDeque};

use tokio::time::Instant;

/// Namespace (empty for a cluster-scoped kind) and name.
pub(super) type Key = (String, String);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Waiting,
    Running { again: bool },
}

/// What waits, what runs, and what is to come. An object is in it once; idle objects are not in it at all.
pub(super) struct Queue {
    /// Namespaces in which somebody waits.
    turns: VecDeque<String>,
    waiting: HashMap<String, VecDeque<String>>,
    places: HashMap<Key, Place>,
    /// How many of each namespace run, and may.
    running: HashMap<String, usize>,
    share: usize,
    timers: BTreeSet<(Instant, Key)>,
    timer_of: HashMap<Key, Instant>,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            turns: VecDeque::new(),
            waiting: HashMap::new(),
            places: HashMap::new(),
            running: HashMap::new(),
            share: usize::MAX,
            timers: BTreeSet::new(),
            timer_of: HashMap::new(),
        }
    }
}

impl Queue {
    /// `places` run at a time, three quarters of them in one namespace at most.
    pub(super) fn limit(&mut self, places: usize) {
        self.share = (places - places / 4).max(1);
    }

    /// Asks for `key` now. What waits already is not asked for twice; what runs, runs once more after that.
    pub(super) fn push(&mut self, key: Key) {
        match self.places.get_mut(&key) {
            Some(Place::Waiting) => {}
            Some(Place::Running { again }) => *again = true,
            None => self.wait(key),
        }
    }

    /// The next in turn; it runs until [`done`](Self::done).
    pub(super) fn pop(&mut self, now: Instant) -> Option<Key> {
        self.ring(now);
        let free = |namespace: &String| self.running.get(namespace).is_none_or(|running| *running < self.share);
        let namespace = self.turns.iter().position(free).and_then(|turn| self.turns.remove(turn))?;
        let names = self.waiting.get_mut(&namespace)?;
        let name = names.pop_front()?;
        if names.is_empty() {
            self.waiting.remove(&namespace);
        } else {
            self.turns.push_back(namespace.clone());
        }
        *self.running.entry(namespace.clone()).or_default() += 1;
        let key = (namespace, name);
        self.places.insert(key.clone(), Place::Running { again: false });
        Some(key)
    }

    /// It ran. It comes again now when it was asked for meanwhile, else at `next`.
    pub(super) fn done(&mut self, key: Key, next: Option<Instant>) {
        self.leave(&key.0);
        match (self.places.remove(&key), next) {
            (Some(Place::Running { again: true }), _) => self.wait(key),
            (_, Some(at)) => {
                self.timers.insert((at, key.clone()));
                self.timer_of.insert(key, at);
            }
            (_, None) => {}
        }
    }

    /// Whether somebody waits or will.
    pub(super) fn has_more(&self) -> bool {
        !self.turns.is_empty() || !self.timers.is_empty()
    }

    /// When the next timer ends.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    fn leave(&mut self, namespace: &str) {
        if let Some(running) = self.running.get_mut(namespace) {
            *running -= 1;
            if *running == 0 {
                self.running.remove(namespace);
            }
        }
    }

    fn wait(&mut self, key: Key) {
        if let Some(at) = self.timer_of.remove(&key) {
            self.timers.remove(&(at, key.clone()));
        }
        self.places.insert(key.clone(), Place::Waiting);
        let (namespace, name) = key;
        let names = self.waiting.entry(namespace.clone()).or_default();
        if names.is_empty() {
            self.turns.push_back(namespace);
        }
        names.push_back(name);
    }

    fn ring(&mut self, now: Instant) {
        while self.next_timer().is_some_and(|at| at <= now) {
            let Some((_, key)) = self.timers.pop_first() else { return };
            self.timer_of.remove(&key);
            self.push(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn key(namespace: &str, name: &str) -> Key {
        (namespace.into(), name.into())
    }

    fn names(queue: &mut Queue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(now)).map(|(namespace, name)| format!("{namespace}/{name}")).collect()
    }

    #[test]
    fn namespaces_take_turns_and_within_one_the_first_goes_first() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for (namespace, name) in [("a", "1"), ("a", "2"), ("a", "3"), ("b", "1"), ("a", "1"), ("c", "1"), ("b", "2")] {
            queue.push(key(namespace, name));
        }
        assert_eq!(names(&mut queue, now), ["a/1", "b/1", "c/1", "a/2", "b/2", "a/3"]);
        assert!(!queue.has_more());
    }

    #[test]
    fn what_runs_is_not_run_beside_itself_but_once_more() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.push(key("a", "1"));
        assert_eq!(queue.pop(now), Some(key("a", "1")));
        queue.push(key("a", "1"));
        queue.push(key("a", "1"));
        assert_eq!(queue.pop(now), None);
        queue.done(key("a", "1"), Some(now + Duration::from_secs(5)));
        assert_eq!(queue.pop(now), Some(key("a", "1")), "the event is earlier than the timer");
        queue.done(key("a", "1"), None);
        assert!(!queue.has_more() && queue.places.is_empty() && queue.running.is_empty(), "idle objects cost nothing");
    }

    #[test]
    fn a_quarter_of_the_places_is_for_others() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.limit(4);
        for name in ["1", "2", "3", "4", "5"] {
            queue.push(key("a", name));
        }
        assert_eq!(names(&mut queue, now), ["a/1", "a/2", "a/3"]);
        queue.push(key("b", "1"));
        assert_eq!(names(&mut queue, now), ["b/1"]);
        queue.done(key("a", "2"), None);
        assert_eq!(names(&mut queue, now), ["a/4"]);
        queue.limit(1);
        queue.done(key("b", "1"), None);
        queue.push(key("b", "2"));
        assert_eq!(names(&mut queue, now), ["b/2"], "one at least");
    }

    #[test]
    fn a_timer_rings_once_and_an_event_before_it_replaces_it() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let later = now + Duration::from_secs(5);
        for name in ["1", "2"] {
            queue.push(key("a", name));
            queue.pop(now);
            queue.done(key("a", name), Some(later));
        }
        queue.push(key("a", "2"));
        assert_eq!((names(&mut queue, now), queue.next_timer()), (vec!["a/2".into()], Some(later)));
        queue.done(key("a", "2"), None);
        assert_eq!(names(&mut queue, later), ["a/1"]);
        assert_eq!(queue.next_timer(), None);
    }

    proptest! {
        /// However others come back, an object is reached after at most one turn of each that waited before it and of
        /// each other namespace's.
        #[test]
        fn nobody_starves(hot in 1usize..40, namespaces in 1usize..5) {
            let (mut queue, now) = (Queue::default(), Instant::now());
            for n in 0..hot {
                queue.push(key(&format!("n{}", n % namespaces), &format!("hot{n}")));
            }
            queue.push(key("n0", "calm"));
            let mut steps = 0;
            while let Some(next) = queue.pop(now) {
                if next.1 == "calm" {
                    break;
                }
                queue.push(next.clone());
                queue.done(next, None);
                steps += 1;
                prop_assert!(steps <= hot * namespaces + hot, "never reached");
            }
        }

        /// Whatever happens in whatever order, each request is followed by a run that begins after it.
        #[test]
        fn no_request_is_lost(ops in prop::collection::vec((0u8..3, 0u8..6), 1..200)) {
            let (mut queue, mut now) = (Queue::default(), Instant::now());
            let (mut owed, mut running) = (std::collections::BTreeSet::new(), vec![]);
            for (op, n) in ops {
                let some = key(if n % 2 == 0 { "a" } else { "b" }, &n.to_string());
                match op {
                    0 => {
                        owed.insert(some.clone());
                        queue.push(some);
                    }
                    1 => {
                        if let Some(key) = queue.pop(now) {
                            prop_assert!(!running.contains(&key), "beside itself");
                            owed.remove(&key);
                            running.push(key);
                        }
                    }
                    _ => {
                        if let Some(key) = running.pop() {
                            owed.insert(key.clone());
                            queue.done(key, Some(now + Duration::from_millis(u64::from(n))));
                        }
                        now += Duration::from_millis(1);
                    }
                }
            }
            now += Duration::from_secs(1);
            while let Some(key) = running.pop().or_else(|| queue.pop(now)) {
                owed.remove(&key);
                let again = queue.places.get(&key) == Some(&Place::Running { again: true });
                queue.done(key.clone(), None);
                if again {
                    owed.insert(key);
                }
            }
            prop_assert!(owed.is_empty(), "lost: {owed:?}");
            prop_assert!(!queue.has_more() && queue.places.is_empty() && queue.running.is_empty() && queue.timer_of.is_empty());
        }
    }
}
