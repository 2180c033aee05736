//! Who may read artifacts at the same time (no I/O).

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Transfers at once: each has some buffers, a file and a connection.
const PLACES: usize = 64;
/// The same of one pod, which reads a few pieces at a time.
const OF_ONE_POD: usize = 8;

/// Places for transfers. Namespaces have equal rights: where all are taken, one that has more than another gives one up.
/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    /// Oldest first.
    list: Vec<Seat>,
}

#[derive(Debug)]
struct Seat {
    id: u64,
    namespace: String,
    pod: String,
    cut: CancellationToken,
}

/// A place that is taken; dropping it frees it.
#[derive(Debug)]
pub(super) struct Place {
    all: Places,
    id: u64,
    cut: CancellationToken,
}

impl Places {
    /// Takes a place for a pod; `None` where it has as many as it may, or all are taken by namespaces that have no more
    /// than its own.
    pub(super) fn enter(&self, namespace: &str, pod: &str) -> Option<Place> {
        let mut taken = self.0.lock();
        if taken.list.iter().filter(|seat| seat.pod == pod).count() >= OF_ONE_POD {
            return None;
        }
        if taken.list.len() >= PLACES {
            taken.make_room(namespace)?;
        }
        taken.next += 1;
        let (id, cut) = (taken.next, CancellationToken::new());
        taken.list.push(Seat { id, namespace: namespace.into(), pod: pod.into(), cut: cut.clone() });
        Some(Place { all: self.clone(), id, cut })
    }
}

impl Taken {
    /// Who came last of the namespace with most places goes: it has read least.
    fn make_room(&mut self, wants: &str) -> Option<()> {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for seat in &self.list {
            *counts.entry(&seat.namespace).or_default() += 1;
        }
        let mine = counts.get(wants).copied().unwrap_or_default();
        let (most, count) = counts.into_iter().max_by_key(|(namespace, count)| (*count, *namespace))?;
        if count <= mine + 1 {
            return None;
        }
        let at = self.list.iter().rposition(|seat| seat.namespace == most)?;
        self.list.remove(at).cut.cancel();
        Some(())
    }
}

impl Place {
    /// Cancelled when the place is needed for somebody else.
    pub(super) fn cut(&self) -> CancellationToken {
        self.cut.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.all.0.lock().list.retain(|seat| seat.id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_a_few_and_a_namespace_gives_up_what_others_lack() {
        let places = Places::default();
        let mut all: Vec<Place> = (0..100).filter_map(|_| places.enter("big", "big-0")).collect();
        assert_eq!(all.len(), OF_ONE_POD);
        all.extend((0..1000).filter_map(|n| places.enter("big", &format!("big-{n}"))));
        assert_eq!(all.len(), PLACES);
        let small: Vec<Place> = (0..1000).filter_map(|n| places.enter("small", &format!("small-{n}"))).collect();
        assert_eq!(small.len(), PLACES / 2, "half each");
        assert!(places.enter("big", "another").is_none() && places.enter("small", "another").is_none());
        let cut = all.iter().filter(|place| place.cut.is_cancelled()).count();
        assert_eq!(cut, PLACES / 2);
        assert!(!all[0].cut.is_cancelled(), "who has read most stays");
        let third: Vec<Place> = (0..1000).filter_map(|n| places.enter("third", &format!("third-{n}"))).collect();
        assert!((PLACES / 3 - 1..=PLACES / 3 + 1).contains(&third.len()), "{}", third.len());
        drop((all, small, third));
        assert!(places.0.lock().list.is_empty());
        assert!(places.enter("big", "big-0").is_some());
    }
}
