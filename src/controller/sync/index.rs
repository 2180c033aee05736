//! Which Syncs use which Repository.

use std::collections::{BTreeSet, HashMap};

use parking_lot::Mutex;

type Key = (String, String);

/// `(namespace, Repository)` to names of Syncs, which are in the same namespace.
#[derive(Default)]
pub(super) struct Index(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    syncs: HashMap<Key, BTreeSet<String>>,
    repository_of: HashMap<Key, String>,
}

impl Index {
    /// Sync `namespace/name` uses `repository`; none: the Sync is gone.
    pub(super) fn set(&self, namespace: &str, name: &str, repository: Option<&str>) {
        let mut inner = self.0.lock();
        let sync = (namespace.to_owned(), name.to_owned());
        if inner.repository_of.get(&sync).map(String::as_str) == repository {
            return;
        }
        if let Some(old) = inner.repository_of.remove(&sync) {
            let key = (namespace.to_owned(), old);
            if let Some(names) = inner.syncs.get_mut(&key) {
                names.remove(name);
                if names.is_empty() {
                    inner.syncs.remove(&key);
                }
            }
        }
        if let Some(repository) = repository {
            inner.syncs.entry((namespace.to_owned(), repository.to_owned())).or_default().insert(name.to_owned());
            inner.repository_of.insert(sync, repository.to_owned());
        }
    }

    /// The Syncs of a Repository.
    pub(super) fn of(&self, namespace: &str, repository: &str) -> Vec<String> {
        let key = (namespace.to_owned(), repository.to_owned());
        self.0.lock().syncs.get(&key).into_iter().flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_changes() {
        let index = Index::default();
        index.set("n", "a", Some("r"));
        index.set("n", "b", Some("r"));
        index.set("m", "c", Some("r"));
        assert_eq!(index.of("n", "r"), ["a", "b"]);
        index.set("n", "a", Some("s"));
        index.set("n", "b", None);
        assert!(index.of("n", "r").is_empty());
        assert_eq!(index.of("n", "s"), ["a"]);
    }
}
