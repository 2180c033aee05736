//! What this process wrote and its cache does not show yet.

use std::{collections::HashMap, sync::Arc};

use kube::ResourceExt;
use parking_lot::Mutex;

use crate::controller::runtime::{Cache, Kind};

type Written<K> = HashMap<(String, String), Arc<K>>;

/// A cache that never shows a state older than our own last write.
pub(super) struct Fresh<K: Kind> {
    cache: Cache<K>,
    written: Arc<Mutex<Written<K>>>,
}

impl<K: Kind> Fresh<K> {
    pub(super) fn new(cache: Cache<K>) -> Self {
        let written: Arc<Mutex<Written<K>>> = Arc::default();
        let mine = written.clone();
        cache.on_change(move |change| {
            let key = (change.object.namespace().unwrap_or_default(), change.object.name_any());
            let mut written = mine.lock();
            if written.get(&key).is_some_and(|ours| change.deleted || version(change.object) >= version(&**ours)) {
                written.remove(&key);
            }
        });
        Self { cache, written }
    }

    /// The newest known state.
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let ours = self.written.lock().get(&(namespace.to_string(), name.to_string())).cloned();
        let cached = self.cache.get(namespace, name);
        match (ours, cached) {
            (Some(ours), Some(cached)) if version(&*cached) > version(&*ours) => Some(cached),
            (Some(ours), _) => Some(ours),
            (None, cached) => cached,
        }
    }

    /// Remembers the answer to a write.
    pub(super) fn wrote(&self, object: K) {
        let key = (object.namespace().unwrap_or_default(), object.name_any());
        let cached = self.cache.get(&key.0, &key.1);
        if cached.is_none_or(|cached| version(&*cached) < version(&object)) {
            self.written.lock().insert(key, Arc::new(object));
        }
    }

    /// Forgets a write, for example after the object turned out to be gone.
    pub(super) fn forget(&self, namespace: &str, name: &str) {
        self.written.lock().remove(&(namespace.to_string(), name.to_string()));
    }
}

/// Resource versions of one kind can be compared as numbers.
fn version(object: &impl ResourceExt) -> u64 {
    object.resource_version().and_then(|v| v.parse().ok()).unwrap_or(0)
}
