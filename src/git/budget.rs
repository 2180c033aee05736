//! Memory for trees: what is read from Git and not yet published takes its share of one budget.
//!
//! Who waits is served by turns: first the namespace that has least, then who came first. The next in turn is waited for even
//! where a smaller one would fit, so that a large tree is reached; and no namespace takes the room of another one's tree.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

/// Bytes that all trees may take together.
pub(super) struct Budget {
    total: u64,
    /// Bytes that one namespace may take.
    most: u64,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    free: u64,
    held: HashMap<String, u64>,
    /// By the order in which they came.
    waiting: BTreeMap<u64, Wish>,
    came: u64,
}

/// Bytes for one of these namespaces.
struct Wish {
    namespaces: Vec<String>,
    bytes: u64,
}

impl Budget {
    /// One namespace leaves room for a tree of `tree` bytes, and may always have one.
    pub(super) fn new(total: u64, tree: u64) -> Arc<Self> {
        let state = State { free: total, held: HashMap::new(), waiting: BTreeMap::new(), came: 0 };
        let most = total.saturating_sub(tree);
        Arc::new(Self { total, most, state: Mutex::new(state), changed: Condvar::new() })
    }

    /// Waits for `bytes` as one of the namespaces, at most `limit` long. Whoever wants more than there is gets all of it.
    pub(super) fn take(self: &Arc<Self>, namespaces: &[String], bytes: u64, limit: Duration) -> Option<Share> {
        let bytes = bytes.min(self.total);
        let deadline = Instant::now() + limit;
        let mut state = self.state.lock();
        let own = state.come(namespaces, bytes);
        loop {
            if let Some(namespace) = state.turn(own, self.most) {
                state.waiting.remove(&own);
                state.free -= bytes;
                *state.held.entry(namespace.clone()).or_default() += bytes;
                // There may be room for the next one too.
                self.changed.notify_all();
                return Some(Share { budget: self.clone(), namespace, bytes });
            }
            if Instant::now() >= deadline {
                state.waiting.remove(&own);
                self.changed.notify_all();
                return None;
            }
            self.changed.wait_until(&mut state, deadline);
        }
    }
}

impl State {
    fn come(&mut self, namespaces: &[String], bytes: u64) -> u64 {
        let namespaces = if namespaces.is_empty() { vec![String::new()] } else { namespaces.to_vec() };
        self.came += 1;
        self.waiting.insert(self.came, Wish { namespaces, bytes });
        self.came
    }

    /// As which namespace it is `own` turn, if it is and there is room.
    fn turn(&self, own: u64, most: u64) -> Option<String> {
        let may = self.waiting.iter().filter_map(|(came, wish)| {
            let (held, namespace) = self.least(wish);
            (held == 0 || held.saturating_add(wish.bytes) <= most).then_some((held, *came, namespace, wish.bytes))
        });
        let (_, next, namespace, bytes) = may.min()?;
        (next == own && bytes <= self.free).then(|| namespace.to_owned())
    }

    /// The one of its namespaces that has least.
    fn least<'a>(&self, wish: &'a Wish) -> (u64, &'a str) {
        let held = |namespace: &'a String| (self.held.get(namespace).copied().unwrap_or_default(), namespace.as_str());
        wish.namespaces.iter().map(held).min().unwrap_or_default()
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes free", self.state.lock().free, self.total)
    }
}

/// Part of a budget; given back when dropped.
pub struct Share {
    budget: Arc<Budget>,
    namespace: String,
    bytes: u64,
}

impl Share {
    /// Gives back what is more than `bytes`.
    pub(super) fn shrink_to(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.bytes -= surplus;
        self.give(surplus);
    }

    fn give(&self, bytes: u64) {
        let mut state = self.budget.state.lock();
        state.free += bytes;
        if let Some(held) = state.held.get_mut(&self.namespace) {
            *held -= bytes;
            if *held == 0 {
                state.held.remove(&self.namespace);
            }
        }
        self.budget.changed.notify_all();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give(self.bytes);
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes)
    }
}

/// Trees are compared by what they hold, not by what they cost.
impl PartialEq for Share {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Share {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn now(budget: &Arc<Budget>, names: &[&str], bytes: u64) -> Option<Share> {
        budget.take(&of(names), bytes, Duration::ZERO)
    }

    #[test]
    fn a_budget_is_shared_and_comes_back() {
        let budget = Budget::new(100, 0);
        let mut first = now(&budget, &["a"], 80).unwrap();
        assert!(now(&budget, &["b"], 30).is_none());
        first.shrink_to(50);
        let second = now(&budget, &["a"], 30).unwrap();
        assert!(now(&budget, &["b"], 30).is_none());
        drop((first, second));
        assert!(now(&budget, &["b"], 1000).is_some(), "more than all is all");
        let state = budget.state.lock();
        assert_eq!((state.free, state.held.len(), state.waiting.len()), (100, 0, 0));
    }

    #[test]
    fn who_waits_is_served() {
        let budget = Budget::new(100, 0);
        let held = now(&budget, &["a"], 100).unwrap();
        let other = budget.clone();
        let waiting = std::thread::spawn(move || other.take(&of(&["a"]), 60, Duration::from_mins(1)).is_some());
        drop(held);
        assert!(waiting.join().unwrap());
    }

    #[test]
    fn one_namespace_leaves_room_for_a_tree_of_another() {
        let budget = Budget::new(100, 40);
        let first = now(&budget, &["greedy"], 40).unwrap();
        let mut second = now(&budget, &["greedy"], 20).unwrap();
        assert!(now(&budget, &["greedy"], 1).is_none(), "40 are for another");
        let shared = now(&budget, &["greedy", "modest"], 30).unwrap();
        assert_eq!(shared.namespace, "modest", "what two want is a share of who has less");
        second.shrink_to(5);
        assert!(now(&budget, &["greedy"], 15).is_some());
        drop((first, second));
        let all = now(&budget, &["greedy"], 65).unwrap();
        assert!(now(&budget, &["greedy"], 1).is_none(), "one tree it may always have");
        drop((all, shared));
    }

    /// Whose turn it is when all of these wait, until nobody fits.
    fn turns(state: &mut State, most: u64) -> Vec<u64> {
        let next = |state: &mut State| {
            let (own, namespace) = state.waiting.keys().find_map(|own| Some((*own, state.turn(*own, most)?)))?;
            let bytes = state.waiting.remove(&own)?.bytes;
            state.free -= bytes;
            *state.held.entry(namespace).or_default() += bytes;
            Some(own)
        };
        std::iter::from_fn(|| next(state)).collect()
    }

    fn state(free: u64, held: &[(&str, u64)]) -> State {
        let held = held.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect();
        State { free, held, waiting: BTreeMap::new(), came: 0 }
    }

    #[test]
    fn who_has_least_goes_first_then_who_came_first() {
        for (held, wishes, free, order, why) in [
            (&[][..], &[("a", 5), ("a", 5), ("b", 5), ("a", 5), ("c", 5)][..], 20, &[1, 3, 5, 2][..], "by turns"),
            (&[("a", 10)], &[("a", 5), ("b", 5)], 5, &[2], "who came later and has nothing"),
            (&[("a", 10)], &[("b", 50), ("a", 5)], 20, &[], "a large one is waited for"),
            (&[("a", 10)], &[("a", 60), ("b", 5)], 20, &[2], "but none that is over its share"),
            (&[("a", 10), ("c", 8)], &[("c", 60), ("a", 5)], 20, &[2], "and in nobody's way"),
        ] {
            let mut state = state(free, held);
            for (name, bytes) in wishes {
                state.come(&of(&[name]), *bytes);
            }
            assert_eq!(turns(&mut state, 60), order, "{why}");
        }
    }

    proptest! {
        /// Whatever is taken and given back, what is counted is right, and somebody who has nothing is the next.
        #[test]
        fn a_namespace_with_nothing_is_next(ops in prop::collection::vec((0u8..5, 1u64..50, any::<bool>()), 1..100)) {
            let budget = Budget::new(100, 50);
            let mut shares: Vec<Share> = vec![];
            for (who, bytes, takes) in ops {
                if takes {
                    shares.extend(now(&budget, &[&format!("n{who}")], bytes));
                } else if !shares.is_empty() {
                    shares.remove(usize::from(who) % shares.len());
                }
                let state = budget.state.lock();
                prop_assert_eq!(state.free + shares.iter().map(|share| share.bytes).sum::<u64>(), 100);
                prop_assert_eq!(state.held.values().sum::<u64>(), 100 - state.free);
                prop_assert!(state.held.values().all(|held| *held <= 50));
                prop_assert!(state.waiting.is_empty());
            }
        }
    }
}
