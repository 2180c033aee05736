//! Which Syncs wait for others of their Repository to look at what it has now.
//!
//! A manifest may have moved from one Sync's path to another's. Whichever comes first: what left the files of a Sync is
//! deleted only after every other Sync of the Repository has looked at the same revision and said what it wants.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use kube::ResourceExt;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{SyncReconciler, pass::Pass, state::Input};

/// Nothing waits longer for others: one that hangs must not keep objects for ever.
const GRACE: Duration = Duration::from_mins(2);
/// A wait that is over sooner is not told in the status, which costs a write.
pub(super) const QUIET: Duration = Duration::from_secs(1);
/// How long a Sync that was just applied may take to appear in the cache.
const APPEAR: Duration = Duration::from_secs(10);

/// All waits. Syncs are `namespace/name`.
#[derive(Default)]
pub(super) struct Peers(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// For whom each one waits.
    waiting: HashMap<String, BTreeSet<String>>,
    /// Syncs that were just applied: their Repository, and since when.
    expected: HashMap<String, (String, Instant)>,
}

impl Peers {
    /// `key` waits for those that `pending` finds, from the expected Syncs of `repository` and what it knows itself.
    /// Whoever is done meanwhile is done after this, so no end is missed.
    fn wait(
        &self,
        key: &str,
        repository: &str,
        now: Instant,
        pending: impl FnOnce(Vec<String>) -> BTreeSet<String>,
    ) -> BTreeSet<String> {
        let mut inner = self.0.lock();
        inner.expected.retain(|_, (_, since)| now.duration_since(*since) < APPEAR);
        let expected = inner.expected.iter().filter(|(_, (of, _))| of == repository).map(|(key, _)| key.clone());
        let pending = pending(expected.collect());
        if pending.is_empty() {
            inner.waiting.remove(key);
        } else {
            inner.waiting.insert(key.to_owned(), pending.clone());
        }
        pending
    }

    /// `key` has looked, or is gone. Returned is who waits for nobody any more.
    pub(super) fn done(&self, key: &str) -> Vec<String> {
        let mut inner = self.0.lock();
        let mut free = vec![];
        inner.waiting.retain(|waiting, pending| {
            if pending.remove(key) && pending.is_empty() {
                free.push(waiting.clone());
            }
            !pending.is_empty()
        });
        free
    }

    /// `key` waits no more: it is gone.
    pub(super) fn forget(&self, key: &str) {
        let mut inner = self.0.lock();
        inner.waiting.remove(key);
        inner.expected.remove(key);
    }

    /// A Sync of `repository` (`namespace/name`) was just applied.
    pub(super) fn expect(&self, key: String, repository: String, now: Instant) {
        self.0.lock().expected.insert(key, (repository, now));
    }

    fn is_waiting(&self, key: &str) -> bool {
        self.0.lock().waiting.contains_key(key)
    }
}

impl SyncReconciler {
    /// The other Syncs of a Repository that have not looked at what it has now: of those that are there, and of the
    /// `expected` ones that are not yet.
    fn pending(&self, pass: &Pass<'_>, expected: Vec<String>) -> BTreeSet<String> {
        let (namespace, repository) = (pass.namespace(), &pass.sync.spec.repository_ref.name);
        let syncs = &self.context.caches.syncs;
        let unseen = |name: &str| syncs.get(&namespace, name).is_none();
        let mut pending: BTreeSet<String> =
            expected.into_iter().filter(|key| key.split_once('/').is_some_and(|(_, name)| unseen(name))).collect();
        let Some(now) = self.input_of(pass.sync) else { return pending };
        for name in self.index.of(&namespace, repository) {
            let Some(sync) = syncs.get(&namespace, &name) else { continue };
            let idle = sync.spec.suspend == Some(true) || sync.metadata.deletion_timestamp.is_some();
            let key = format!("{namespace}/{name}");
            if idle || key == pass.key {
                continue;
            }
            let wanted = Input { generation: sync.metadata.generation, ..now.clone() };
            if self.states.get(&key).is_none_or(|state| state.progress.lock().seen.as_ref() != Some(&wanted)) {
                pending.insert(key);
            }
        }
        pending
    }

    /// What a Sync is to render at present: its Repository's artifact and its own generation.
    pub(super) fn input_of(&self, sync: &crate::api::Sync) -> Option<Input> {
        let namespace = sync.namespace().unwrap_or_default();
        let repository = self.context.caches.repositories.get(&namespace, &sync.spec.repository_ref.name)?;
        let artifact = repository.status.as_ref()?.artifact.as_ref()?;
        Some(Input {
            revision: artifact.revision.clone(),
            digest: artifact.digest.clone(),
            generation: sync.metadata.generation,
        })
    }
}

impl Pass<'_> {
    /// Whether a deletion waits for other Syncs of the Repository, which may want what is to be deleted.
    pub(super) fn waits_for_peers(&self) -> bool {
        let waits = !self.pending_peers().is_empty();
        self.has_waited(waits).is_some_and(|since| since < GRACE)
    }

    /// Whether one of `rivals`, which have what this Sync wants, may be about to hand it over.
    pub(super) fn waits_for_rivals(&self, rivals: &BTreeSet<String>) -> bool {
        let pending = self.pending_peers();
        let waits = rivals.iter().any(|rival| pending.contains(rival) || self.all.peers.is_waiting(rival));
        self.has_waited(waits).is_some_and(|since| since < QUIET)
    }

    /// Whether the present wait is a short one yet.
    pub(super) fn is_quiet(&self) -> bool {
        let since = self.state.progress.lock().deferred;
        since.is_some_and(|since| self.now.duration_since(since) < QUIET)
    }

    fn pending_peers(&self) -> BTreeSet<String> {
        let repository = format!("{}/{}", self.namespace(), self.sync.spec.repository_ref.name);
        self.all.peers.wait(&self.key, &repository, self.now, |expected| self.all.pending(self, expected))
    }

    fn has_waited(&self, waits: bool) -> Option<Duration> {
        let mut progress = self.state.progress.lock();
        if !waits {
            progress.deferred = None;
            return None;
        }
        Some(self.now.duration_since(*progress.deferred.get_or_insert(self.now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(keys: &[&str]) -> BTreeSet<String> {
        keys.iter().map(|key| (*key).to_owned()).collect()
    }

    #[test]
    fn the_last_one_that_is_done_frees() {
        let (peers, now) = (Peers::default(), Instant::now());
        assert_eq!(peers.wait("n/a", "n/r", now, |_| set(&["n/b", "n/c"])).len(), 2);
        peers.wait("n/b", "n/r", now, |_| set(&["n/c"]));
        assert!(peers.done("n/b").is_empty() && peers.is_waiting("n/a"));
        let mut free = peers.done("n/c");
        free.sort();
        assert_eq!(free, ["n/a", "n/b"]);
        assert!(peers.done("n/c").is_empty() && !peers.is_waiting("n/a"));
        peers.wait("n/a", "n/r", now, |_| set(&["n/b"]));
        assert!(peers.wait("n/a", "n/r", now, |_| set(&[])).is_empty());
        assert!(!peers.is_waiting("n/a"));
    }

    #[test]
    fn a_new_sync_is_expected_for_a_while() {
        let (peers, now) = (Peers::default(), Instant::now());
        peers.expect("n/new".into(), "n/r".into(), now);
        let expected =
            |peers: &Peers, repository, now| peers.wait("n/a", repository, now, |keys| keys.into_iter().collect());
        assert_eq!(expected(&peers, "n/r", now), set(&["n/new"]));
        assert!(expected(&peers, "n/other", now).is_empty());
        assert!(expected(&peers, "n/r", now + APPEAR).is_empty());
    }
}
