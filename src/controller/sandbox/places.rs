//! How many renders run at a time, and how much of what they made is kept.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Renders at a time. With the memory that each may take, and that of the processes, they must fit into the memory of the
/// controller's pod.
pub(super) const RENDERS: u32 = 3;
/// Memory of what was rendered and is not applied yet, in MiB: an estimate, as that of a render.
pub(super) const RESULTS: u32 = 64;

/// Something that there is little of, shared fairly: who waits is served in order, and one namespace has two thirds at
/// most, so that another one always finds some. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    total: u32,
    all: Arc<Semaphore>,
    namespaces: Arc<Mutex<HashMap<String, Weak<Semaphore>>>>,
}

/// A share that is taken; dropping it gives it back.
#[derive(Debug, Default)]
pub(super) struct Share {
    _of_namespace: Option<OwnedSemaphorePermit>,
    _of_all: Option<OwnedSemaphorePermit>,
}

impl Shares {
    pub(super) fn new(total: u32) -> Self {
        Self { total, all: semaphore(total), namespaces: Arc::default() }
    }

    /// Waits for `wanted` of it; who wants more than one namespace may have gets that.
    pub(super) async fn take(&self, namespace: &str, wanted: u32) -> Share {
        let wanted = wanted.min(self.of_one());
        // Nobody closes them, so there is always a permit.
        let of_namespace = self.of(namespace).acquire_many_owned(wanted).await.ok();
        Share { _of_namespace: of_namespace, _of_all: self.all.clone().acquire_many_owned(wanted).await.ok() }
    }

    fn of_one(&self) -> u32 {
        self.total * 2 / 3
    }

    fn of(&self, namespace: &str) -> Arc<Semaphore> {
        let mut namespaces = self.namespaces.lock();
        if let Some(there) = namespaces.get(namespace).and_then(Weak::upgrade) {
            return there;
        }
        namespaces.retain(|_, semaphore| semaphore.strong_count() > 0);
        let new = semaphore(self.of_one());
        namespaces.insert(namespace.to_owned(), Arc::downgrade(&new));
        new
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.all.available_permits()
    }
}

fn semaphore(permits: u32) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(usize::try_from(permits).unwrap_or(Semaphore::MAX_PERMITS)))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn few_at_a_time_and_none_for_one_alone() {
        let places = Shares::new(3);
        let take = |namespace| places.take(namespace, 1).now_or_never();
        let first = [take("a"), take("a")];
        assert!(first.iter().all(Option::is_some));
        assert!(take("a").is_none(), "one namespace may not have all");
        let other = take("b");
        assert!(other.is_some());
        assert!(take("c").is_none(), "all are taken");
        drop(other);
        assert!(take("c").is_some());
        drop(first);
        assert_eq!(places.free(), 3);
        take("d");
        assert!(places.namespaces.lock().len() <= 1, "who has none is forgotten");
    }

    #[tokio::test]
    async fn who_wants_more_than_there_is_gets_what_one_may_have() {
        let results = Shares::new(9);
        let large = results.take("a", 100).now_or_never().unwrap();
        assert_eq!(results.free(), 3);
        assert!(results.take("a", 1).now_or_never().is_none());
        assert!(results.take("b", 3).now_or_never().is_some());
        drop(large);
        assert_eq!(results.free(), 9);
    }
}
