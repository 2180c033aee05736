//! How many renders run at a time.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Renders at a time. With the memory that each may take, and that of the processes, they must fit into the memory of the
/// controller's pod.
pub(super) const RENDERS: usize = 3;
/// The same of one namespace, so that another one always finds a place.
const RENDERS_OF_ONE: usize = 2;

/// Places for renders. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    namespaces: Arc<Mutex<HashMap<String, Weak<Semaphore>>>>,
}

/// A place that is taken; dropping it frees it.
#[derive(Debug)]
pub(super) struct Place {
    _of_namespace: Option<OwnedSemaphorePermit>,
    _of_all: Option<OwnedSemaphorePermit>,
}

impl Default for Places {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(RENDERS)), namespaces: Arc::default() }
    }
}

impl Places {
    /// Waits for a place, in the order of those who wait.
    pub(super) async fn take(&self, namespace: &str) -> Place {
        // Nobody closes them, so there is always a permit.
        let of_namespace = self.of(namespace).acquire_owned().await.ok();
        Place { _of_namespace: of_namespace, _of_all: self.all.clone().acquire_owned().await.ok() }
    }

    fn of(&self, namespace: &str) -> Arc<Semaphore> {
        let mut namespaces = self.namespaces.lock();
        if let Some(there) = namespaces.get(namespace).and_then(Weak::upgrade) {
            return there;
        }
        namespaces.retain(|_, semaphore| semaphore.strong_count() > 0);
        let new = Arc::new(Semaphore::new(RENDERS_OF_ONE));
        namespaces.insert(namespace.to_owned(), Arc::downgrade(&new));
        new
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.all.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn few_at_a_time_and_none_for_one_alone() {
        let places = Places::default();
        let take = |namespace| places.take(namespace).now_or_never();
        let first = [take("a"), take("a")];
        assert!(first.iter().all(Option::is_some));
        assert!(take("a").is_none(), "one namespace may not have all");
        let other = take("b");
        assert!(other.is_some());
        assert!(take("c").is_none(), "all are taken");
        drop(other);
        assert!(take("c").is_some());
        drop(first);
        assert_eq!(places.free(), RENDERS);
        take("d");
        assert!(places.namespaces.lock().len() <= 1, "who has none is forgotten");
    }
}
