//! Whose namespace is next: the one that has fewest places, then the one that got none for longest.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Key;

/// Remembers when namespaces got a place, which matters where there are fewer places than namespaces.
#[derive(Debug, Default)]
pub(super) struct Turns {
    given: u64,
    last: BTreeMap<String, u64>,
}

impl Turns {
    /// Which of the agents that are `ready` get one of the `free` places. Within a namespace their order counts; so it does
    /// between namespaces that never had a place. `taken` is how many each has.
    pub(super) fn give<'a>(&mut self, ready: &[&'a Key], taken: &BTreeMap<&str, usize>, free: usize) -> Vec<&'a Key> {
        let mut lines: BTreeMap<&str, VecDeque<(usize, &'a Key)>> = BTreeMap::new();
        for (at, key) in ready.iter().enumerate() {
            lines.entry(&key.0).or_default().push_back((at, key));
        }
        let mut next: BTreeSet<(usize, u64, usize, &str)> = lines
            .iter()
            .filter_map(|(namespace, line)| {
                let last = self.last.get(*namespace).copied().unwrap_or_default();
                Some((taken.get(namespace).copied().unwrap_or_default(), last, line.front()?.0, *namespace))
            })
            .collect();
        let mut placed = vec![];
        while placed.len() < free {
            let Some((held, _, _, namespace)) = next.pop_first() else { break };
            let Some(line) = lines.get_mut(namespace) else { break };
            placed.extend(line.pop_front().map(|(_, key)| key));
            self.given += 1;
            self.last.insert(namespace.to_owned(), self.given);
            next.extend(line.front().map(|(at, _)| (held + 1, self.given, *at, namespace)));
        }
        placed
    }

    /// A namespace without agents.
    pub(super) fn forget(&mut self, namespace: &str) {
        self.last.remove(namespace);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(text: &str) -> Key {
        let (namespace, name) = text.split_once('/').unwrap();
        (namespace.into(), name.into())
    }

    fn give(turns: &mut Turns, ready: &[&str], taken: &[(&str, usize)], free: usize) -> Vec<String> {
        let keys: Vec<Key> = ready.iter().map(|text| key(text)).collect();
        let ready: Vec<&Key> = keys.iter().collect();
        let placed = turns.give(&ready, &taken.iter().copied().collect(), free);
        placed.into_iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect()
    }

    #[test]
    fn namespaces_take_turns_and_within_one_the_order_counts() {
        let ready = ["big/3", "big/1", "big/2", "small/1", "third/2", "third/1"];
        for (taken, free, expected) in [
            (&[][..], 0, &[][..]),
            (&[], 1, &["big/3"]),
            (&[], 4, &["big/3", "small/1", "third/2", "big/1"]),
            (&[], 9, &["big/3", "small/1", "third/2", "big/1", "third/1", "big/2"]),
            (&[("big", 2), ("third", 1)], 3, &["small/1", "third/2", "big/3"]),
            (&[("big", 2), ("elsewhere", 7)], 4, &["small/1", "third/2", "third/1", "big/3"]),
        ] {
            assert_eq!(give(&mut Turns::default(), &ready, taken, free), expected, "{taken:?} {free}");
        }
    }

    #[test]
    fn with_one_place_nobody_has_it_twice_while_another_waits() {
        let mut turns = Turns::default();
        let mut one = |ready: &[&str]| give(&mut turns, ready, &[], 1).concat();
        assert_eq!(one(&["big/1", "big/2", "big/3", "small/1"]), "big/1");
        assert_eq!(one(&["big/2", "big/3", "small/1"]), "small/1");
        assert_eq!(one(&["big/2", "big/3", "small/2", "new/1"]), "new/1", "that never had one");
        assert_eq!(one(&["small/2"]), "small/2", "alone");
        assert_eq!(one(&["small/3", "big/2", "big/3"]), "big/2");
    }

    proptest! {
        /// As many as may go and want to, each once; and no namespace gets a place while another one that waits has fewer.
        #[test]
        fn places_are_even(
            waiting in prop::collection::vec(0u8..5, 0..40),
            taken in prop::collection::vec(0usize..6, 5),
            free in 0usize..20,
        ) {
            let names: Vec<String> = (0..5).map(|n| format!("n{n}")).collect();
            let keys: Vec<Key> = waiting.iter().enumerate().map(|(at, n)| (format!("n{n}"), at.to_string())).collect();
            let had: BTreeMap<&str, usize> = names.iter().map(String::as_str).zip(taken).collect();
            let ready: Vec<&Key> = keys.iter().collect();
            let placed = Turns::default().give(&ready, &had, free);
            let count = |list: &[&Key], name: &str| list.iter().filter(|(namespace, _)| namespace == name).count();
            prop_assert_eq!(placed.len(), free.min(keys.len()));
            prop_assert_eq!(placed.iter().collect::<BTreeSet<_>>().len(), placed.len());
            for name in &names {
                let own = count(&placed, name);
                let line: Vec<&Key> = ready.iter().copied().filter(|(namespace, _)| namespace == name).collect();
                prop_assert!(line[..own].iter().all(|key| placed.contains(key)), "in their order");
                for other in names.iter().filter(|other| count(&placed, other) < count(&ready, other)) {
                    prop_assert!(own == 0 || had[name.as_str()] + own <= had[other.as_str()] + count(&placed, other) + 1);
                }
            }
        }
    }
}
