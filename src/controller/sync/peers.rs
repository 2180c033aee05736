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

use super::{SyncReconciler, is_idle, pass::Pass, state::Input};
use crate::{api, api::names::reasons, apply::Problem, object::ObjectId, status::Next};

/// Nothing but work (see [`is_work`]) waits longer for others: one that hangs must not keep objects for ever.
const GRACE: Duration = Duration::from_mins(2);
/// A wait that is over sooner is not told in the status, which costs a write.
const QUIET: Duration = Duration::from_secs(1);
/// How long the status is not written while what was handed over is not taken over: it would be written twice.
const TAKE_OVER: Duration = Duration::from_secs(5);
/// How long a Sync that was just applied may take to appear in the cache.
const APPEAR: Duration = Duration::from_secs(10);

/// What of a deletion waits for other Syncs, which may want what is to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// Nothing.
    Nothing,
    /// All of it, for these.
    All(BTreeSet<String>),
    /// They take long: what ends somebody's work, for these.
    Work(BTreeSet<String>),
}

impl Hold {
    /// What is held, and what may be deleted.
    pub(super) fn split(&self, ids: Vec<ObjectId>) -> (Vec<ObjectId>, Vec<ObjectId>) {
        let held = |id: &ObjectId| match self {
            Self::Nothing => false,
            Self::All(_) => true,
            Self::Work(_) => is_work(id),
        };
        ids.into_iter().partition(held)
    }

    /// What is said of the `held`.
    pub(super) fn problems(&self, held: &[ObjectId]) -> Vec<Problem> {
        let (Self::All(peers) | Self::Work(peers)) = self else { return vec![] };
        let message = format!(
            "it is not deleted while it may have moved: Sync {} of the same Repository cannot tell whether it wants it; \
             see its conditions, and mend, suspend or delete it",
            named(peers)
        );
        let problem = |id: &ObjectId| Problem {
            object: id.short(),
            origin: None,
            reason: reasons::PRUNE_FAILED,
            message: message.clone(),
            transient: false,
        };
        held.iter().map(problem).collect()
    }

    /// As it is when there is no more time to wait.
    pub(super) fn in_the_end(self) -> Self {
        if let Self::All(peers) = self { Self::Work(peers) } else { self }
    }
}

/// Names of Syncs for messages: the first few.
pub(super) fn named(peers: &BTreeSet<String>) -> String {
    let shown: Vec<&str> = peers.iter().take(3).map(String::as_str).collect();
    let more = peers.len() - shown.len();
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}

/// Whether the deletion of an object ends work that nobody brings back. A Sync may have such objects of its own.
fn is_work(id: &ObjectId) -> bool {
    id.group == api::GROUP && matches!(id.kind.as_str(), "Agent" | "CronTask" | "Sync" | "Task")
}

/// What waits for `pending` after `waited`.
fn hold(pending: BTreeSet<String>, waited: Option<Duration>) -> Hold {
    match waited {
        None => Hold::Nothing,
        Some(waited) if waited < GRACE => Hold::All(pending),
        Some(_) => Hold::Work(pending),
    }
}

/// The end of the part of a wait that lasts for `waited`; events end it earlier.
fn next_part(waited: Duration) -> Next {
    // What sleeps is never woken early, but the delay is counted in milliseconds.
    let until = |end: Duration| Next::After(end.saturating_sub(waited) + Duration::from_millis(1));
    match waited {
        _ if waited < QUIET => until(QUIET),
        _ if waited < GRACE => until(GRACE),
        _ => Next::OnEvent,
    }
}

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
            let key = format!("{namespace}/{name}");
            if is_idle(&sync) || key == pass.key {
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
    /// What of a deletion waits for other Syncs of the Repository, which may want what is to be deleted.
    pub(super) fn hold(&self) -> Hold {
        let pending = self.pending_peers();
        let waited = self.has_waited(!pending.is_empty());
        hold(pending, waited)
    }

    /// Whether one of `rivals`, which have what this Sync wants, may be about to hand it over.
    pub(super) fn waits_for_rivals(&self, rivals: &BTreeSet<String>) -> bool {
        let pending = self.pending_peers();
        let waits = rivals.iter().any(|rival| pending.contains(rival) || self.all.peers.is_waiting(rival));
        self.has_waited(waits).is_some_and(|since| since < QUIET)
    }

    /// Whether the present wait is a short one yet.
    pub(super) fn is_quiet(&self) -> bool {
        self.waited().is_some_and(|waited| waited < QUIET)
    }

    /// When to come again where heirs are about to take over what they have got (`waits`); nothing where they take long.
    pub(super) fn until_taken_over(&self, waits: bool) -> Option<Next> {
        let left = TAKE_OVER.checked_sub(self.has_waited(waits)?)?;
        Some(Next::After(left + Duration::from_millis(1)))
    }

    /// When the present wait is looked at again.
    pub(super) fn end_of_wait(&self) -> Next {
        self.waited().map_or(Next::OnEvent, next_part)
    }

    fn waited(&self) -> Option<Duration> {
        let progress = self.state.progress.lock();
        progress.deferred.as_ref().map(|(_, since)| self.now.duration_since(*since))
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
        // Who was waited for long enough about one revision was not asked about the next.
        let input = self.all.input_of(self.sync);
        let known = progress.deferred.as_ref().filter(|(of, _)| *of == input).map(|(_, since)| *since);
        let since = known.unwrap_or(self.now);
        progress.deferred = Some((input, since));
        Some(self.now.duration_since(since))
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
    fn work_waits_longer_than_other_things() {
        let id = |text: &str| ObjectId::parse(text).unwrap();
        let all: Vec<ObjectId> = ["n_a_pilothouse.dev_Agent", "n_t_pilothouse.dev_Task", "n_s_pilothouse.dev_Sync"]
            .into_iter()
            .chain(["n_r_pilothouse.dev_Repository", "n_m__ConfigMap", "n_a_other.dev_Agent"])
            .map(id)
            .collect();
        for (waited, held) in [(None, 0), (Some(Duration::ZERO), 6), (Some(QUIET), 6), (Some(GRACE), 3)] {
            let (waits, goes) = hold(set(&["n/b"]), waited).split(all.clone());
            assert_eq!((waits.as_slice(), goes.as_slice()), all.split_at(held), "{waited:?}");
        }
        let held = hold(set(&["n/e", "n/b", "n/d", "n/c"]), Some(GRACE * 99)).problems(&all[..1]);
        assert!(held[0].message.contains("Sync n/b, n/c, n/d and 1 more of"), "{held:?}");
    }

    #[test]
    fn a_wait_has_two_ends() {
        let (ms, second) = (Duration::from_millis(1), Duration::from_secs(1));
        for (waited, want) in [
            (Duration::ZERO, Next::After(QUIET + ms)),
            (QUIET, Next::After(Duration::from_secs(119) + ms)),
            (Duration::from_secs(119), Next::After(second + ms)),
            (GRACE, Next::OnEvent),
        ] {
            assert_eq!(next_part(waited), want, "{waited:?}");
        }
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
