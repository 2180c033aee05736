//! Makes artifacts of what inputs select, once however many agents want the same.

use std::{
    collections::{BTreeSet, HashMap},
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use futures::FutureExt as _;
use parking_lot::Mutex;
use tracing::warn;

use super::{places::Places, select::Selection};
use crate::{
    api::names::reasons,
    artifact::{self, Digest, Store, StoreError},
    git::{CommitId, Fetched, GitError, RemoteKey, Sources, Subscriber},
    status::{Backoff, Failure, panic},
};

/// Artifacts that are made at a time, of namespaces by turns: each may take the memory of a tree.
const AT_A_TIME: usize = 2;
/// Results that are remembered.
const REMEMBERED: usize = 8192;
/// Delays after trouble with the disk, and while an artifact is fetched again.
const RETRIES: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_mins(1) };

/// Where the files are from. A remote's key is part of it: who may not read the remote finds nothing here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Origin {
    /// A commit of a remote.
    Commit { remote: RemoteKey, commit: CommitId, rules: Rules },
    /// A commit of a remote as a whole repository, with this branch checked out.
    Whole { remote: RemoteKey, commit: CommitId, branch: Option<String> },
    /// An artifact of a Repository.
    Artifact(Digest),
}

/// What is left out of a commit before anything is selected.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Rules {
    /// Nothing.
    None,
    /// What a Repository leaves out, with its `spec.ignore`.
    Repository(Option<String>),
}

/// What is made of what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) origin: Origin,
    pub(super) selection: Selection,
}

/// An artifact that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) is_file: bool,
    pub(super) skills: Vec<String>,
    pub(super) branch: Option<String>,
    pub(super) bad_skills: Vec<(String, String)>,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// Nobody has begun.
    Absent,
    /// It is being made; who looked is told of the end.
    Running,
    /// Made, or what is wrong. Who looked at a transient failure is told when it is over.
    Done(Result<Arc<Packed>, Failure>),
}

/// The files to make it of.
pub(super) enum Files {
    /// A commit's.
    Tree(Arc<Fetched>),
    /// Those of the origin, which is in the store.
    Stored,
    /// Those of the origin, which the remote has.
    Remote(Sources),
}

/// Why a try came to nothing that another may mend.
enum Trouble {
    /// It passes by itself.
    Passing(Failure),
    /// There is no room for so many bytes.
    NoRoom(Failure, u64),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Passing(failure)
    }
}

struct Slot {
    state: Packing,
    waiting: BTreeSet<Subscriber>,
    used: u64,
}

type Ended = Box<dyn Fn(&Subscriber) + Send + Sync>;

/// All results. Cheap to ask.
pub(super) struct Packer {
    store: Arc<Store>,
    slots: Mutex<Slots>,
    places: Arc<Places>,
    ended: OnceLock<Ended>,
}

#[derive(Default)]
struct Slots {
    by_key: HashMap<Key, Slot>,
    /// What each waits for: one artifact at a time, so whoever looks at another one waits for the last no more.
    by_waiter: HashMap<Subscriber, Key>,
    tick: u64,
}

impl Packer {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self { store, slots: Mutex::default(), places: Places::new(AT_A_TIME), ended: OnceLock::new() }
    }

    /// Calls `listener` for each who waited, when something that ran has ended. It must not block.
    pub(super) fn on_end(&self, listener: impl Fn(&Subscriber) + Send + Sync + 'static) {
        // There is one.
        let _ = self.ended.set(Box::new(listener));
    }

    /// How far it is. What was made and is not in the store any more counts as absent.
    pub(super) fn look(&self, key: &Key, who: &Subscriber) -> Packing {
        let mut slots = self.slots.lock();
        slots.tick += 1;
        let tick = slots.tick;
        if slots.by_waiter.get(who).is_some_and(|other| other != key) {
            slots.leave(who);
        }
        let Some(slot) = slots.by_key.get_mut(key) else { return Packing::Absent };
        slot.used = tick;
        let state = slot.state.clone();
        match &state {
            Packing::Done(Ok(packed)) if !self.store.contains(&packed.digest) => {
                slots.by_key.remove(key);
                return Packing::Absent;
            }
            state if !is_final(state) => slots.wait(key, who),
            _ => {}
        }
        state
    }

    /// Begins, unless somebody has. The end is told to `who`.
    pub(super) fn start(self: &Arc<Self>, key: Key, who: &Subscriber, files: Files) {
        let mut slots = self.slots.lock();
        slots.tick += 1;
        let tick = slots.tick;
        let is_new = !slots.by_key.contains_key(&key);
        if is_new {
            slots.make_room();
            let slot = Slot { state: Packing::Running, waiting: BTreeSet::new(), used: tick };
            slots.by_key.insert(key.clone(), slot);
        }
        slots.wait(&key, who);
        drop(slots);
        if !is_new {
            return;
        }
        tokio::spawn(work(Arc::downgrade(self), key, (who.namespace.clone(), Arc::new(files))));
    }

    /// Nobody is told of anything any more.
    pub(super) fn leave(&self, who: &Subscriber) {
        self.slots.lock().leave(who);
    }

    /// In whose room an artifact is put: of those who wait for it, or of `first`, who did.
    fn whose(&self, key: &Key, first: &str) -> BTreeSet<String> {
        let slots = self.slots.lock();
        let waiting = slots.by_key.get(key).into_iter().flat_map(|slot| &slot.waiting);
        let namespaces: BTreeSet<String> = waiting.map(|who| who.namespace.clone()).collect();
        if namespaces.is_empty() { BTreeSet::from([first.to_owned()]) } else { namespaces }
    }

    /// One try. The inner error is final.
    async fn pack(&self, key: &Key, first: &str, files: &Arc<Files>) -> Result<Result<Packed, Failure>, Trouble> {
        let lost = |why| Failure::transient(reasons::INTERNAL_ERROR, why);
        // Not at a place: the network takes its time.
        let files = match &**files {
            Files::Remote(sources) => match fetch(sources, key).await {
                Ok(fetched) => Arc::new(Files::Tree(Arc::new(fetched))),
                Err(error) if error.is_final() => return Ok(Err(refused(&error))),
                Err(error) => return Err(error.to_failure().into()),
            },
            _ => files.clone(),
        };
        let _place = self.places.take(first).await.ok_or_else(|| lost("no artifact is made any more"))?;
        let (store, key, whose) = (self.store.clone(), key.clone(), self.whose(key, first));
        tokio::task::spawn_blocking(move || pack(&store, &key, &whose, &files)).await.unwrap_or_else(|error| {
            let why = if error.is_panic() { "making the artifact panicked" } else { "the controller ends" };
            Err(lost(why).into())
        })
    }

    /// Those who wait begin anew, with other files.
    fn begin_anew(&self, key: &Key) {
        let mut slots = self.slots.lock();
        let waiting = slots.by_key.remove(key).map(|slot| slot.waiting).unwrap_or_default();
        for who in &waiting {
            slots.by_waiter.remove(who);
        }
        drop(slots);
        if let Some(ended) = self.ended.get() {
            waiting.iter().for_each(ended);
        }
    }

    /// Writes down how a try ended and tells it; whether somebody waits for another one.
    fn settle(&self, key: &Key, outcome: Result<Packed, Failure>) -> bool {
        let state = Packing::Done(outcome.map(Arc::new));
        let over = is_final(&state);
        let (waiting, news) = {
            let mut slots = self.slots.lock();
            let Some(slot) = slots.by_key.get_mut(key) else { return false };
            let news = slot.state != state;
            slot.state = state;
            let waiting = if over { std::mem::take(&mut slot.waiting) } else { slot.waiting.clone() };
            for who in waiting.iter().filter(|_| over) {
                slots.by_waiter.remove(who);
            }
            (waiting, news)
        };
        if let Some(ended) = self.ended.get().filter(|_| news) {
            waiting.iter().for_each(ended);
        }
        !over && self.is_waited_for(key)
    }

    /// Whether there is a reason for another try. Trouble that nobody waits for the end of is forgotten: who comes next
    /// begins anew.
    fn is_waited_for(&self, key: &Key) -> bool {
        let mut slots = self.slots.lock();
        let waited_for = slots.by_key.get(key).is_some_and(|slot| !slot.waiting.is_empty());
        if !waited_for {
            slots.by_key.remove(key);
        }
        waited_for
    }
}

impl Slots {
    fn wait(&mut self, key: &Key, who: &Subscriber) {
        if self.by_waiter.get(who).is_some_and(|other| other != key) {
            self.leave(who);
        }
        if let Some(slot) = self.by_key.get_mut(key) {
            slot.waiting.insert(who.clone());
            self.by_waiter.insert(who.clone(), key.clone());
        }
    }

    fn leave(&mut self, who: &Subscriber) {
        if let Some(slot) = self.by_waiter.remove(who).and_then(|key| self.by_key.get_mut(&key)) {
            slot.waiting.remove(who);
        }
    }

    fn make_room(&mut self) {
        while self.by_key.len() >= REMEMBERED {
            let ended = self.by_key.iter().filter(|(_, slot)| is_final(&slot.state));
            let Some(oldest) = ended.min_by_key(|(_, slot)| slot.used).map(|(key, _)| key.clone()) else { return };
            self.by_key.remove(&oldest);
        }
    }
}

fn is_final(state: &Packing) -> bool {
    match state {
        Packing::Done(Err(failure)) => failure.class != crate::status::Class::Transient,
        Packing::Done(Ok(_)) => true,
        Packing::Absent | Packing::Running => false,
    }
}

/// Tries until it is made, or cannot be, or nobody waits for it.
async fn work(packer: Weak<Packer>, key: Key, (first, files): (String, Arc<Files>)) {
    let mut failures = 0;
    loop {
        let Some(this) = packer.upgrade() else { return };
        let tried = AssertUnwindSafe(this.pack(&key, &first, &files)).catch_unwind().await;
        let outcome = match tried.unwrap_or_else(|panic| Err(Trouble::Passing(panicked(&*panic)))) {
            Ok(outcome) => outcome,
            Err(Trouble::Passing(trouble)) => {
                failures += 1;
                warn!(reason = trouble.reason, "cannot make an artifact: {trouble}");
                Err(trouble)
            }
            Err(Trouble::NoRoom(trouble, bytes)) => {
                // Others need the memory meanwhile.
                drop(files);
                warn!(reason = trouble.reason, namespace = first, "cannot make an artifact: {trouble}");
                if this.settle(&key, Err(trouble)) {
                    drop(this);
                    wait_for_room(packer, key, &first, bytes).await;
                }
                return;
            }
        };
        if !this.settle(&key, outcome) {
            return;
        }
        drop(this);
        tokio::time::sleep(RETRIES.delay(failures, rand::random())).await;
        if !packer.upgrade().is_some_and(|this| this.is_waited_for(&key)) {
            return;
        }
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Failure {
    Failure::transient(reasons::INTERNAL_ERROR, format!("making the artifact panicked ({})", panic::text(panic)))
}

/// Until there is room, or nobody waits for it.
async fn wait_for_room(packer: Weak<Packer>, key: Key, first: &str, bytes: u64) {
    for failures in 1.. {
        tokio::time::sleep(RETRIES.delay(failures, rand::random())).await;
        let Some(this) = packer.upgrade().filter(|this| this.is_waited_for(&key)) else { return };
        if this.store.has_room(&this.whose(&key, first), bytes) {
            return this.begin_anew(&key);
        }
    }
}

fn pack(store: &Store, key: &Key, whose: &BTreeSet<String>, files: &Files) -> Result<Result<Packed, Failure>, Trouble> {
    let selected = match (&key.origin, files) {
        (Origin::Commit { rules: Rules::Repository(ignore), .. }, Files::Tree(fetched)) => {
            match artifact::filter(&fetched.tree, ignore.as_deref()) {
                Ok(tree) => key.selection.take(&tree, &fetched.skipped),
                Err(error) => Err(Failure::stalled(reasons::INVALID_SPEC, error.to_string())),
            }
        }
        (_, Files::Tree(fetched)) => key.selection.take(&fetched.tree, &fetched.skipped),
        (Origin::Artifact(digest), Files::Stored) => {
            let tree = store.open(digest).map_err(|error| trouble(&error))?;
            key.selection.take(&tree, &[])
        }
        (_, Files::Stored | Files::Remote(_)) => {
            return Err(Failure::transient(reasons::INTERNAL_ERROR, "a commit is not in the store").into());
        }
    };
    let selected = match selected {
        Ok(selected) => selected,
        Err(failure) => return Ok(Err(failure)),
    };
    let branch = if let Origin::Whole { branch, .. } = &key.origin { branch.clone() } else { None };
    let stored = store.put_for(&selected.tree, whose).map_err(|error| trouble(&error))?;
    Ok(Ok(Packed {
        digest: stored.digest,
        size: stored.size,
        is_file: selected.is_file,
        skills: selected.skills,
        branch,
        bad_skills: selected.bad_skills,
    }))
}

async fn fetch(sources: &Sources, key: &Key) -> Result<Fetched, GitError> {
    let none = || GitError::new(crate::git::Reason::ProtocolError, "no whole repository was asked for");
    let Origin::Whole { remote, commit, branch } = &key.origin else { return Err(none()) };
    let whole = key.selection.whole(branch.as_deref()).ok_or_else(none)?;
    sources.checkout(remote, commit, &whole).await
}

/// Another commit helps, or another spec.
fn refused(error: &GitError) -> Failure {
    Failure::stalled(error.reason.as_str(), error.message.clone())
}

/// All of it passes: an artifact of a Repository that is missing is fetched again by its reconciler.
fn trouble(error: &StoreError) -> Trouble {
    let failure = error.to_failure();
    let failure = Failure::transient(failure.reason, failure.message);
    match error {
        StoreError::NoRoom { bytes, .. } => Trouble::NoRoom(failure, *bytes),
        _ => Trouble::Passing(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::subscriber, *};
    use crate::agent::{Wanted, pieces::Source};

    /// Artifacts that a Repository has published and this replica's disk does not have: each push makes another one wanted,
    /// and the last one must not be tried for ever.
    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_any_more_is_not_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let packer = Arc::new(Packer::new(Arc::new(Store::new(folder.path(), 1 << 20).unwrap())));
        let who = |agent: &str| subscriber("Agent", "ns", agent, "contexts/c");
        let source = Source::Repository { name: "r".into(), follow: None };
        let (id, path) = ("contexts/c".to_owned(), "docs".to_owned());
        let wanted = Wanted { id, source, path, whole: None, push: None, names: None, sync: None };
        let key = |text: &[u8]| Key { origin: Origin::Artifact(Digest::of(text)), selection: Selection::of(&wanted) };
        let look = |text: &[u8], agent: &str| {
            if packer.look(&key(text), &who(agent)) == Packing::Absent {
                packer.start(key(text), &who(agent), Files::Stored);
            }
        };
        look(b"one", "a");
        look(b"one", "b");
        look(b"two", "a");
        let tried = || packer.slots.lock().by_key.len();
        tokio::time::sleep(Duration::from_mins(5)).await;
        assert_eq!(tried(), 2, "b waits for the first one");
        look(b"two", "b");
        tokio::time::sleep(Duration::from_mins(5)).await;
        assert_eq!(tried(), 1);
        packer.leave(&who("a"));
        packer.leave(&who("b"));
        tokio::time::sleep(Duration::from_mins(5)).await;
        assert_eq!((tried(), packer.slots.lock().by_waiter.len()), (0, 0));
    }
}
