//! One poller for each remote, however many objects follow it.
//!
//! A remote is an address, a credential and a reference. [`Sources`] lists its references at the smallest interval that
//! anybody asked for, fetches a commit once when somebody lacks it, and wakes those who follow it when something has
//! changed: a new commit, another failure, an answer to a poke. A listing without news wakes nobody and fetches nothing.

mod hosts;
mod pace;
mod poller;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::error;

use self::hosts::Hosts;
use super::{
    Access, CommitId, Credential, Fetched, GitError, GitRemote, Reason, Reference, RemoteUrl, Resolved, Whole,
};
use crate::status::panic;

/// A remote as an object asks for it.
#[derive(Clone, Debug)]
pub struct RemoteSpec {
    /// The address.
    pub url: RemoteUrl,
    /// The credential.
    pub credential: Arc<Credential>,
    /// What to follow.
    pub reference: Reference,
    /// Whether the files of submodules are wanted too.
    pub submodules: bool,
}

/// Names a remote. Two specs with the same address, credential material and reference have the same key, unless one of them
/// wants submodules.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RemoteKey {
    url: RemoteUrl,
    reference: Reference,
    submodules: bool,
    fingerprint: [u8; 32],
}

impl fmt::Debug for RemoteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.url, self.reference)
    }
}

/// Who follows a remote.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subscriber {
    /// Kind of the object.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What a subscriber asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// At most this long between listings (10 % jitter aside). The smallest of all subscribers counts.
    pub interval: Duration,
    /// For one listing or one fetch. The largest of all subscribers counts.
    pub timeout: Duration,
    /// Whether the subscriber wants trees at all; otherwise it asks for [`Sources::checkout`].
    pub trees: bool,
    /// The commit that the subscriber needs no tree of, because it has made of it what it makes.
    pub known: Option<CommitId>,
}

/// What is known about a remote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteState {
    /// The commit that the reference named last. Kept while the remote fails.
    pub observed: Option<Resolved>,
    /// Why the last listing or fetch failed; `None` after a success.
    pub error: Option<GitError>,
    /// The newest poke that a finished listing has answered.
    pub answered: u64,
}

/// Bounds and delays.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Operations at one host at a time; 2.
    pub per_host: usize,
    /// Operations of one namespace at a time; 4.
    pub per_namespace: usize,
    /// Operations at a time; 32.
    pub overall: usize,
    /// Delays after failures; 1 s to 5 min.
    pub backoff: crate::status::Backoff,
}

impl Default for Options {
    fn default() -> Self {
        Self { per_host: 2, per_namespace: 4, overall: 32, backoff: crate::status::Backoff::default() }
    }
}

/// Counts since the start, for metrics and tests.
#[derive(Debug, Default)]
pub struct Counters {
    /// Listings that were tried.
    pub listings: AtomicU64,
    /// Listings that failed.
    pub failed_listings: AtomicU64,
    /// Fetches that were tried.
    pub fetches: AtomicU64,
    /// Fetches that failed.
    pub failed_fetches: AtomicU64,
    /// Times that subscribers were woken.
    pub wakes: AtomicU64,
}

type Listener = Box<dyn Fn(&Subscriber) + Send + Sync>;

struct Inner {
    git: Arc<dyn GitRemote>,
    options: Options,
    hosts: Hosts,
    counters: Counters,
    secret: [u8; 32],
    listeners: RwLock<Vec<Listener>>,
    remotes: Mutex<Remotes>,
}

#[derive(Default)]
struct Remotes {
    by_key: HashMap<RemoteKey, Arc<Remote>>,
    by_subscriber: HashMap<Subscriber, RemoteKey>,
}

struct Remote {
    access: Access,
    reference: Reference,
    fingerprint: [u8; 32],
    status: Mutex<Status>,
    wake: Notify,
    stop: CancellationToken,
}

#[derive(Default)]
struct Status {
    subscribers: BTreeMap<Subscriber, Demand>,
    state: RemoteState,
    poked: u64,
    tree: Option<(CommitId, Arc<Fetched>)>,
    /// Who could not be told of something: a listener panicked.
    untold: BTreeSet<Subscriber>,
}

impl Status {
    /// Whether somebody lacks the tree of the observed commit, and it is not at hand.
    fn lacks_tree(&self) -> bool {
        self.state.observed.as_ref().is_some_and(|observed| self.lacks(&observed.commit))
    }

    fn lacks(&self, commit: &CommitId) -> bool {
        let held = self.tree.as_ref().is_some_and(|(held, _)| held == commit);
        !held && self.is_wanted(commit)
    }

    fn is_wanted(&self, commit: &CommitId) -> bool {
        self.subscribers.values().any(|demand| demand.trees && demand.known.as_ref() != Some(commit))
    }

    fn interval(&self) -> Duration {
        self.subscribers.values().map(|d| d.interval).min().unwrap_or(Duration::MAX)
    }

    fn timeout(&self) -> Duration {
        self.subscribers.values().map(|d| d.timeout).max().unwrap_or(Duration::from_mins(1))
    }

    /// Lets go of the tree when nobody lacks it any more.
    fn release(&mut self) {
        if self.tree.as_ref().is_some_and(|(commit, _)| !self.is_wanted(commit)) {
            self.tree = None;
        }
    }
}

/// The pollers of all remotes. Cheap to clone; pollers end when their last subscriber leaves.
#[derive(Clone)]
pub struct Sources {
    inner: Arc<Inner>,
}

impl Sources {
    /// Starts without any remote. Must be used inside a Tokio runtime.
    pub fn new(git: Arc<dyn GitRemote>, options: Options) -> Self {
        let inner = Inner {
            git,
            options,
            hosts: Hosts::new(options.per_host, options.per_namespace, options.overall),
            counters: Counters::default(),
            secret: rand::random(),
            listeners: RwLock::default(),
            remotes: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Calls `listener` for each subscriber of a remote about which something has changed. It must not block.
    pub fn on_change(&self, listener: impl Fn(&Subscriber) + Send + Sync + 'static) {
        self.inner.listeners.write().push(Box::new(listener));
    }

    /// Follows a remote, instead of what `subscriber` followed before. The first listing begins at once.
    pub fn subscribe(&self, subscriber: &Subscriber, spec: &RemoteSpec, demand: Demand) -> RemoteKey {
        let key = self.key(spec);
        let mut remotes = self.inner.remotes.lock();
        if let Some(old) = remotes.by_subscriber.insert(subscriber.clone(), key.clone())
            && old != key
        {
            self.leave(&mut remotes, subscriber, &old);
        }
        let remote = remotes.by_key.entry(key.clone()).or_insert_with(|| self.start(&key, spec)).clone();
        drop(remotes);
        let mut status = remote.status.lock();
        if status.subscribers.get(subscriber) != Some(&demand) {
            status.subscribers.insert(subscriber.clone(), demand);
            status.release();
            drop(status);
            remote.wake.notify_one();
        }
        key
    }

    /// Stops following. A remote without subscribers is forgotten, with its cache.
    pub fn unsubscribe(&self, subscriber: &Subscriber) {
        let mut remotes = self.inner.remotes.lock();
        if let Some(key) = remotes.by_subscriber.remove(subscriber) {
            self.leave(&mut remotes, subscriber, &key);
        }
    }

    /// Asks for a listing now. The answer has come when [`RemoteState::answered`] has reached the returned number.
    /// Pokes during a listing are answered by one more.
    pub fn poke(&self, key: &RemoteKey) -> u64 {
        let Some(remote) = self.remote(key) else { return 0 };
        let mut status = remote.status.lock();
        status.poked += 1;
        let ticket = status.poked;
        drop(status);
        remote.wake.notify_one();
        ticket
    }

    /// What is known about a remote; `None` when nobody follows it.
    pub fn state(&self, key: &RemoteKey) -> Option<RemoteState> {
        Some(self.remote(key)?.status.lock().state.clone())
    }

    /// The tree of a commit, if it is at hand. While a subscriber's [`Demand::known`] is another commit, the poller
    /// sees to it that the tree of the observed commit is, and wakes the subscriber.
    pub fn tree(&self, key: &RemoteKey, commit: &CommitId) -> Option<Arc<Fetched>> {
        let remote = self.remote(key)?;
        let status = remote.status.lock();
        status.tree.as_ref().filter(|(held, _)| held == commit).map(|(_, tree)| tree.clone())
    }

    /// One commit of a remote that is followed, as a whole repository. Takes the remote's turn at its host.
    ///
    /// # Errors
    /// What the remote says, or that nobody follows it any more.
    pub async fn checkout(&self, key: &RemoteKey, commit: &CommitId, whole: &Whole) -> Result<Fetched, GitError> {
        let gone = || GitError::new(Reason::Cancelled, "nobody follows the remote any more");
        poller::checkout(&self.inner, &self.remote(key).ok_or_else(gone)?, commit, whole).await
    }

    /// Numbers for metrics.
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// How many remotes are followed.
    pub fn remotes(&self) -> usize {
        self.inner.remotes.lock().by_key.len()
    }

    /// The name of a remote, whether or not anybody follows it.
    pub fn key(&self, spec: &RemoteSpec) -> RemoteKey {
        let fingerprint = spec.credential.fingerprint(&self.inner.secret);
        let (url, reference) = (spec.url.clone(), spec.reference.clone());
        RemoteKey { url, reference, submodules: spec.submodules, fingerprint }
    }

    fn remote(&self, key: &RemoteKey) -> Option<Arc<Remote>> {
        self.inner.remotes.lock().by_key.get(key).cloned()
    }

    fn start(&self, key: &RemoteKey, spec: &RemoteSpec) -> Arc<Remote> {
        let remote = Arc::new(Remote {
            access: Access {
                url: key.url.clone(),
                credential: spec.credential.clone(),
                cache: cache_name(key, &self.inner.secret),
                submodules: key.submodules,
                namespaces: vec![],
            },
            reference: key.reference.clone(),
            fingerprint: key.fingerprint,
            status: Mutex::default(),
            wake: Notify::new(),
            stop: CancellationToken::new(),
        });
        tokio::spawn(poller::run(self.inner.clone(), remote.clone()));
        remote
    }

    fn leave(&self, remotes: &mut Remotes, subscriber: &Subscriber, key: &RemoteKey) {
        let Some(remote) = remotes.by_key.get(key).cloned() else { return };
        let mut status = remote.status.lock();
        status.subscribers.remove(subscriber);
        status.untold.remove(subscriber);
        status.release();
        let abandoned = status.subscribers.is_empty();
        drop(status);
        if !abandoned {
            return;
        }
        remotes.by_key.remove(key);
        remote.stop.cancel();
        let cache = remote.access.cache.clone();
        if !remotes.by_key.values().any(|other| other.access.cache == cache) {
            let git = self.inner.git.clone();
            tokio::task::spawn_blocking(move || git.forget(&cache));
        }
    }
}

impl Inner {
    /// Tells all listeners of each; those who have to be told again, because a listener panicked.
    fn wake(&self, subscribers: &[Subscriber]) -> BTreeSet<Subscriber> {
        Counters::add(&self.counters.wakes);
        let listeners = self.listeners.read();
        let told = |subscriber: &&Subscriber| {
            let heard = listeners.iter().map(|listener| tell(listener, subscriber));
            // Each of them is told, whoever did not hear.
            heard.fold(true, std::ops::BitAnd::bitand)
        };
        subscribers.iter().filter(|subscriber| !told(subscriber)).cloned().collect()
    }
}

fn tell(listener: &Listener, subscriber: &Subscriber) -> bool {
    let told = catch_unwind(AssertUnwindSafe(|| listener(subscriber)));
    if let Err(panic) = &told {
        let Subscriber { kind, namespace, name } = subscriber;
        error!(kind, namespace, name, "a bug in Pilothouse: a listener panicked ({})", panic::text(&**panic));
    }
    told.is_ok()
}

impl Counters {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The folder for an address and a credential, whatever the reference; submodules have folders beside it.
fn cache_name(key: &RemoteKey, secret: &[u8; 32]) -> String {
    use hmac::{Hmac, KeyInit, Mac};
    let Ok(mut mac) = Hmac::<sha2::Sha256>::new_from_slice(secret) else { return "cache".into() };
    mac.update(key.url.to_string().as_bytes());
    mac.update(&key.fingerprint);
    let name: [u8; 16] = mac.finalize().into_bytes()[..16].try_into().unwrap_or_default();
    format!("{:032x}", u128::from_be_bytes(name))
}

#[cfg(test)]
mod tests;
