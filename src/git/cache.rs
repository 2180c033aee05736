//! The gix implementation of [`GitRemote`], with one bare shallow repository for each remote and credential.

mod modules;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
};

use gix::protocol::transport::client::blocking_io::Transport;
use parking_lot::Mutex;

use super::{
    address::Policy,
    budget::Budget,
    checkout::{self, Whole},
    child,
    disk::{Disk, NO_ROOM, Room},
    error::{GitError, Reason, from_server},
    http,
    objects::Kept,
    refs::{CommitId, RemoteRef},
    remote::{Access, Fetched, GitRemote, Limits, Stop},
    session,
    url::Scheme,
    walk,
};

/// A repository that has collected this many packs is made anew: nothing here repacks.
const MAX_PACKS: usize = 24;

/// So is one whose packs exceed this many of the largest pack together.
const MAX_FULL_PACKS: u64 = 2;

/// Locked while the process lives.
const LOCK: &str = "lock";

/// Talks to real remotes.
#[derive(Debug)]
pub struct GixRemote {
    folder: tempfile::TempDir,
    limits: Limits,
    policy: Arc<Policy>,
    budget: Arc<Budget>,
    disk: Disk,
    kept: Kept,
    locks: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    _alive: fs::File,
}

impl GixRemote {
    /// Keeps its repositories in a folder of its own below `root`, and removes what ended processes left there: names
    /// are keyed to a process, nothing can be used again.
    pub fn new(root: &Path, limits: Limits, policy: Policy) -> std::io::Result<Self> {
        fs::create_dir_all(root)?;
        for left in fs::read_dir(root)?.flatten().map(|entry| entry.path()) {
            if let Ok(lock) = fs::File::open(left.join(LOCK))
                && lock.try_lock().is_ok()
            {
                fs::remove_dir_all(left)?;
            }
        }
        let folder = tempfile::Builder::new().prefix("run-").tempdir_in(root)?;
        let alive = fs::File::create(folder.path().join(LOCK))?;
        alive.lock()?;
        let (budget, policy) = (Budget::new(limits.all_trees, limits.tree), Arc::new(policy));
        let (disk, kept, locks) =
            (Disk::new(folder.path(), limits.disk, limits.pack), Kept::default(), Mutex::default());
        Ok(Self { folder, limits, policy, budget, disk, kept, locks, _alive: alive })
    }

    fn lock(&self, cache: &str) -> Arc<Mutex<()>> {
        self.locks.lock().entry(cache.to_owned()).or_default().clone()
    }

    fn path(&self, cache: &str) -> PathBuf {
        self.folder.path().join(format!("{cache}.git"))
    }

    fn repository(&self, cache: &str, hash: gix::hash::Kind) -> Result<gix::Repository, GitError> {
        let path = self.path(cache);
        let (count, bytes) = packs(&path);
        if count > MAX_PACKS || bytes > MAX_FULL_PACKS.saturating_mul(self.limits.pack) {
            let _ = fs::remove_dir_all(&path);
        }
        let mut repo = match gix::open_opts(&path, self.options()) {
            Ok(repo) if repo.object_hash() == hash => repo,
            _ => self.made_anew(&path, hash)?,
        };
        self.kept.serve(&mut repo);
        Ok(repo)
    }

    fn made_anew(&self, path: &Path, hash: gix::hash::Kind) -> Result<gix::Repository, GitError> {
        let _ = fs::remove_dir_all(path);
        let options = gix::create::Options { object_hash: Some(hash), ..Default::default() };
        gix::ThreadSafeRepository::init_opts(path, gix::create::Kind::Bare, options, self.options())
            .map(|repo| repo.to_thread_local())
            .map_err(|error| GitError::new(Reason::StorageFailed, format!("cannot make a cache repository: {error}")))
    }

    /// Nothing of the user's or the machine's; a delta needs its base and its result at the same time.
    fn options(&self) -> gix::open::Options {
        let limit = self.limits.file.saturating_mul(4);
        gix::open::Options::isolated().config_overrides([format!("gitoxide.objects.allocLimit={limit}")])
    }

    /// One commit, of what lies in the cache or is fetched. What was damaged there (by a crash, a full disk) is made anew
    /// once before anything is reported.
    fn obtain(&self, access: &Access, wish: &Wish<'_>, stop: &Arc<Stop>) -> Result<Fetched, GitError> {
        let _watch = Watch::start(stop);
        let lock = self.lock(&access.cache);
        let _held = lock.try_lock_for(stop.left()).ok_or_else(super::remote::timeout)?;
        let room = self.disk.enter(&access.cache);
        let folder = wish.folder(&access.cache);
        let damaged = |error: &GitError| match error.reason {
            // Without what is there already it may fit.
            Reason::StorageFailed => true,
            Reason::ProtocolError | Reason::CommitNotFound => !error.submodule,
            _ => false,
        };
        let done = match self.receive(access, &folder, wish, (&room, stop)) {
            Err(error) if damaged(&error) && packs(&self.path(&folder)).0 > 0 => {
                room.clear();
                self.receive(access, &folder, wish, (&room, stop))
            }
            other => other,
        };
        if wish.depth > 1 {
            // Where a history ends depends on what was fetched before; so each begins with nothing.
            let _ = fs::remove_dir_all(self.path(&folder));
        }
        done
    }

    fn receive(
        &self,
        access: &Access,
        folder: &str,
        wish: &Wish<'_>,
        (room, stop): (&Room<'_>, &Arc<Stop>),
    ) -> Result<Fetched, GitError> {
        let id = gix::ObjectId::from_hex(wish.commit.as_str().as_bytes())
            .map_err(|_| GitError::new(Reason::CommitNotFound, "the commit id is malformed"))?;
        let repo = self.repository(folder, id.kind())?;
        let read = |repo: &gix::Repository| {
            let modules = self.modules(access, (repo, id), (room, stop))?;
            match wish.whole {
                Some(whole) => {
                    let origin = (&access.url, &*access.namespaces);
                    checkout::make((repo, id), &modules, origin, whole, (self.limits, &self.budget, &**stop))
                }
                None => walk::read((repo, id), &modules, self.limits, (&self.budget, &access.namespaces), stop),
            }
        };
        if repo.has_object(id) {
            match read(&repo) {
                // Nothing that the remote could send would change this.
                Err(error) if !error.is_final() && !error.submodule && error.reason != Reason::Timeout => {}
                done => return done,
            }
        }
        self.download(access, &Fetch { repo: &repo, id, depth: wish.depth, limits: self.limits, room }, stop)?;
        read(&repo)
    }

    /// One pack, for which there is room.
    fn download(&self, access: &Access, fetch: &Fetch<'_>, stop: &Arc<Stop>) -> Result<(), GitError> {
        let done = self.converse(access, fetch.limits.pack, stop, fetch);
        fetch.room.measure();
        done.map_err(|error| if error.message.contains(NO_ROOM) { fetch.room.refusal() } else { error })
    }

    /// Opens the right transport, has the conversation, and turns what went wrong into words.
    fn converse<T: Talk>(
        &self,
        access: &Access,
        limit: u64,
        stop: &Arc<Stop>,
        talk: &T,
    ) -> Result<T::Answer, GitError> {
        stop.check()?;
        match access.url.scheme() {
            Scheme::Http | Scheme::Https => {
                let (mut transport, failure) = http::transport(access, &self.policy, limit, self.folder.path(), stop);
                talk.run(&mut transport, stop).map_err(|error| {
                    let known = failure.borrow_mut().take();
                    known.unwrap_or_else(|| explain(&error, self.limits, stop))
                })
            }
            Scheme::Ssh => with_program(child::ssh(access, &self.policy, stop)?, self.limits, stop, talk),
            Scheme::File => with_program(child::file(access, stop)?, self.limits, stop, talk),
        }
    }
}

fn with_program<T: Talk>(
    mut program: child::Program,
    limits: Limits,
    stop: &Arc<Stop>,
    talk: &T,
) -> Result<T::Answer, GitError> {
    talk.run(&mut program.connection, stop).map_err(|error| {
        let over = stop.is_over();
        program.failure(over).unwrap_or_else(|| explain(&error, limits, stop))
    })
}

impl GitRemote for GixRemote {
    fn list(&self, access: &Access, prefixes: &[String], stop: &Arc<Stop>) -> Result<Vec<RemoteRef>, GitError> {
        let _watch = Watch::start(stop);
        self.converse(access, self.limits.listing, stop, &List { prefixes })
    }

    fn fetch(&self, access: &Access, commit: &CommitId, stop: &Arc<Stop>) -> Result<Fetched, GitError> {
        self.obtain(access, &Wish { commit, depth: 1, whole: None }, stop)
    }

    fn checkout(
        &self,
        access: &Access,
        commit: &CommitId,
        whole: &Whole,
        stop: &Arc<Stop>,
    ) -> Result<Fetched, GitError> {
        self.obtain(access, &Wish { commit, depth: whole.depth, whole: Some(whole) }, stop)
    }

    fn forget(&self, cache: &str) {
        let lock = self.lock(cache);
        let _held = lock.lock();
        self.disk.remove(cache);
        self.locks.lock().remove(cache);
    }
}

/// What is wanted of a remote.
struct Wish<'a> {
    commit: &'a CommitId,
    /// Commits of history; 0 for all.
    depth: u32,
    /// As a repository; else as files.
    whole: Option<&'a Whole>,
}

impl Wish<'_> {
    /// Histories of different depth are kept apart.
    fn folder(&self, cache: &str) -> String {
        if self.depth == 1 { cache.to_owned() } else { format!("{cache}-{}", self.depth) }
    }
}

/// Stops an operation at its deadline, wherever it waits.
struct Watch(#[allow(dead_code, reason = "dropping it ends the thread")] mpsc::Sender<()>);

impl Watch {
    fn start(stop: &Arc<Stop>) -> Self {
        let (alive, gone) = mpsc::channel();
        let stop = stop.clone();
        std::thread::spawn(move || {
            if gone.recv_timeout(stop.left()) == Err(mpsc::RecvTimeoutError::Timeout) {
                stop.now();
            }
        });
        Self(alive)
    }
}

/// A conversation that is the same over every transport.
trait Talk {
    type Answer;
    fn run(&self, transport: &mut impl Transport, stop: &Stop) -> gix::Result<Self::Answer>;
}

struct List<'a> {
    prefixes: &'a [String],
}

impl Talk for List<'_> {
    type Answer = Vec<RemoteRef>;

    fn run(&self, transport: &mut impl Transport, _stop: &Stop) -> gix::Result<Vec<RemoteRef>> {
        let mut handshake = session::greet(transport)?;
        session::list(transport, &mut handshake, self.prefixes)
    }
}

struct Fetch<'a> {
    repo: &'a gix::Repository,
    id: gix::ObjectId,
    depth: u32,
    limits: Limits,
    room: &'a Room<'a>,
}

impl Talk for Fetch<'_> {
    type Answer = ();

    fn run(&self, transport: &mut impl Transport, stop: &Stop) -> gix::Result<()> {
        let mut handshake = session::greet(transport)?;
        session::fetch(
            transport,
            &mut handshake,
            self.repo,
            (self.id, self.depth),
            (self.limits, self.room),
            stop.flag(),
        )
    }
}

/// Number of packs, and the bytes of all that lies beside them.
fn packs(repository: &Path) -> (usize, u64) {
    let Ok(entries) = fs::read_dir(repository.join("objects/pack")) else { return (0, 0) };
    entries.flatten().fold((0, 0), |(count, bytes), entry| {
        let size = entry.metadata().map_or(0, |meta| meta.len());
        let is_pack = entry.path().extension().is_some_and(|e| e == "pack");
        (count + usize::from(is_pack), bytes.saturating_add(size))
    })
}

/// Words for an error that no transport explained: the protocol's own, or the disk's.
fn explain(error: &gix::Error, limits: Limits, stop: &Stop) -> GitError {
    if stop.is_over() {
        return super::remote::timeout();
    }
    let chain = chain(error);
    if chain.contains(NO_ROOM) {
        return GitError::new(Reason::StorageFailed, NO_ROOM);
    }
    if chain.contains(session::TOO_LARGE) {
        return GitError::new(Reason::TooLarge, "the pack is larger than the limit for one fetch");
    }
    if session::OBJECT_TOO_LARGE.iter().any(|words| chain.contains(words)) {
        let limit = limits.file >> 20;
        let message = format!("the commit needs an object larger than {limit} MiB, the limit for one file");
        return GitError::new(Reason::TooLarge, message);
    }
    if chain.contains("No space left") || chain.contains("storage full") {
        return GitError::new(Reason::StorageFailed, "no space for the commit on the controller's disk");
    }
    from_server(&chain)
        .unwrap_or_else(|| GitError::new(Reason::ProtocolError, format!("the remote cannot be read: {chain}")))
}

/// All messages from the outermost error to its cause.
fn chain(error: &gix::Error) -> String {
    let mut parts: Vec<String> = vec![];
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if parts.last() != Some(&text) {
            parts.push(text);
        }
        next = error.source();
    }
    parts.join(": ")
}
