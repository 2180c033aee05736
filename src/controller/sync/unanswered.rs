//! Writes that got no answer.
//!
//! Nobody knows whether the API server has carried such a write out, or will yet: over what a newer revision has made of
//! the object meanwhile, or after the object has left the files. So the object is looked at some more times, and stays
//! in the inventory for so long.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use crate::object::ObjectId;

/// When an object is looked at after its write was given up: ever more rarely. The API server ends each request after
/// a minute, and what stands behind it sooner.
const LOOKS: [Duration; 5] = [
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(35),
    Duration::from_secs(70),
];

/// Objects of which a write got no answer: since when, and how often they were looked at since.
#[derive(Clone, Debug, Default)]
pub(super) struct Unanswered(BTreeMap<ObjectId, (Instant, usize)>);

impl Unanswered {
    /// Another write of each of `ids` got no answer.
    pub(super) fn add(&mut self, ids: impl IntoIterator<Item = ObjectId>, now: Instant) {
        self.0.extend(ids.into_iter().map(|id| (id, (now, 0))));
    }

    /// Whether a write of the object may come yet.
    pub(super) fn contains(&self, id: &ObjectId) -> bool {
        self.0.contains_key(id)
    }

    /// The objects to look at now. After its last look an object is as every other.
    pub(super) fn take_due(&mut self, now: Instant) -> BTreeSet<ObjectId> {
        let mut due = BTreeSet::new();
        self.0.retain(|id, (since, looks)| {
            let passed = LOOKS.iter().filter(|after| *since + **after <= now).count();
            if passed > *looks {
                due.insert(id.clone());
            }
            *looks = passed;
            passed < LOOKS.len()
        });
        due
    }

    /// When there is something to look at next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().filter_map(|(since, looks)| Some(*since + *LOOKS.get(*looks)?)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_looked_at_ever_more_rarely_and_then_no_more() {
        let id = |name: &str| ObjectId::parse(&format!("n_{name}__ConfigMap")).unwrap();
        let (mut all, start, second) = (Unanswered::default(), Instant::now(), Duration::from_secs(1));
        assert_eq!((all.take_due(start), all.next()), (BTreeSet::new(), None));
        all.add([id("a")], start);
        let mut looks = vec![];
        while let Some(at) = all.next() {
            assert!(all.contains(&id("a")) && all.take_due(at - second / 2).is_empty());
            assert_eq!(all.take_due(at), [id("a")].into());
            looks.push(at.duration_since(start).as_secs());
        }
        assert_eq!(looks, [2, 5, 15, 35, 70]);
        assert!(!all.contains(&id("a")), "it may leave the inventory");

        // Another write begins anew, of that object alone; looks that were missed are one.
        all.add([id("a"), id("b")], start);
        assert_eq!(all.take_due(start + second * 10).len(), 2);
        all.add([id("b")], start + second * 10);
        assert_eq!(all.take_due(start + second * 12), [id("b")].into());
        assert_eq!(all.next(), Some(start + second * 15));
        assert_eq!(all.take_due(start + second * 1000).len(), 2);
        assert_eq!(all.next(), None);
    }
}
