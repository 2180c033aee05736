//! The seam between those who want commits and the network.

use std::{
    net::{IpAddr, Ipv4Addr, ToSocketAddrs},
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    address::{self, Policy},
    budget::Share,
    checkout::Whole,
    credential::Credential,
    error::{GitError, Reason},
    refs::{CommitId, RemoteRef},
    url::RemoteUrl,
};
use crate::tree::FileTree;

/// Where to go and as whom.
#[derive(Clone, Debug)]
pub struct Access {
    /// The address.
    pub url: RemoteUrl,
    /// The credential.
    pub credential: Arc<Credential>,
    /// A name for what may be shared: the same address and the same credential, nothing else. Names a cache folder.
    pub cache: String,
    /// Whether the files of submodules are wanted too.
    pub submodules: bool,
    /// The namespaces that want it: the memory that its trees take is a share of one of them.
    pub namespaces: Vec<String>,
}

/// Bounds of one operation. A hostile server can waste this much and no more.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a listing; 16 MiB.
    pub listing: u64,
    /// Bytes of a received pack; 128 MiB.
    pub pack: u64,
    /// Bytes of all files of a tree, with their names and with the copies that links become; 64 MiB.
    pub tree: u64,
    /// Bytes of one file, and of any other object; 16 MiB.
    pub file: u64,
    /// Number of files, links and folders together; 100,000.
    pub files: usize,
    /// Bytes of all trees that are in memory at a time, because they are not published yet; 160 MiB. A namespace takes no more
    /// than leaves room for another's tree.
    pub all_trees: u64,
    /// Bytes of disk that all clones take together; 2.5 GiB.
    pub disk: u64,
}

const MIB: u64 = 1024 * 1024;

impl Limits {
    /// What the controller takes, and so what `pilothouse render` and `diff` take of a folder.
    pub const STANDARD: Self = Self {
        listing: 16 * MIB,
        pack: 128 * MIB,
        tree: 64 * MIB,
        file: 16 * MIB,
        files: 100_000,
        all_trees: 160 * MIB,
        disk: 2560 * MIB,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::STANDARD
    }
}

/// A tree as fetched, and what could not be part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// The regular files of the commit.
    pub tree: FileTree,
    /// What was left out, sorted by path.
    pub skipped: Vec<Skipped>,
    /// The memory that it takes from what all trees may take together; `None` where nobody counts.
    pub share: Option<Arc<Share>>,
}

/// An entry of a Git tree that is no regular file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Skipped {
    /// Path inside the repository, made printable.
    pub path: String,
    /// Why it was left out.
    pub why: &'static str,
}

impl Skipped {
    /// Why submodules are left out that nobody asked for.
    pub const SUBMODULE: &'static str = "a submodule";
}

/// Lists and fetches. Calls block; run them in `spawn_blocking`.
pub trait GitRemote: Send + Sync + 'static {
    /// The references whose full names begin with one of `prefixes` (all when empty), annotated tags followed. More may
    /// come back, because old servers do not filter.
    fn list(&self, access: &Access, prefixes: &[String], stop: &Arc<Stop>) -> Result<Vec<RemoteRef>, GitError>;

    /// The files of one commit, without history.
    fn fetch(&self, access: &Access, commit: &CommitId, stop: &Arc<Stop>) -> Result<Fetched, GitError>;

    /// One commit as a whole repository, with history: the files of an archive for
    /// [`Form::Checkout`](crate::api::content::Form::Checkout).
    fn checkout(
        &self,
        access: &Access,
        commit: &CommitId,
        whole: &Whole,
        stop: &Arc<Stop>,
    ) -> Result<Fetched, GitError> {
        let _ = (access, commit, whole, stop);
        Err(GitError::new(Reason::ProtocolError, "this remote gives no history"))
    }

    /// Nobody follows what is kept under this [`Access::cache`] any more.
    fn forget(&self, cache: &str) {
        let _ = cache;
    }
}

/// Ends an operation from outside, at a deadline or because nobody wants its result.
#[derive(Debug)]
pub struct Stop {
    deadline: Instant,
    flag: AtomicBool,
    child: Mutex<Option<Child>>,
}

impl Stop {
    /// Gives the operation `limit` from now on.
    pub fn after(limit: Duration) -> Self {
        Self { deadline: Instant::now() + limit, flag: AtomicBool::new(false), child: Mutex::new(None) }
    }

    /// Stops the operation as soon as it looks, and kills the program it waits for.
    pub fn now(&self) {
        self.flag.store(true, Ordering::SeqCst);
        self.kill_child();
    }

    /// Time left; zero when it is over.
    pub fn left(&self) -> Duration {
        if self.flag.load(Ordering::SeqCst) {
            return Duration::ZERO;
        }
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Whether to stop.
    pub fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    /// Waits until `since` is this long ago, or until it is over: so that the time of an answer tells nothing.
    pub(super) fn wait_until_after(&self, since: Instant, long: Duration) {
        while !self.is_over() {
            let left = long.saturating_sub(since.elapsed());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
    }

    pub(super) fn check(&self) -> Result<(), GitError> {
        if self.is_over() { Err(timeout()) } else { Ok(()) }
    }

    /// For code that polls a flag by itself.
    pub(super) fn flag(&self) -> &AtomicBool {
        &self.flag
    }

    pub(super) fn adopt(&self, child: Child) {
        *self.child.lock() = Some(child);
        if self.is_over() {
            self.kill_child();
        }
    }

    pub(super) fn kill_child(&self) {
        // Not in the condition: the lock would be held until the child has ended.
        let child = self.child.lock().take();
        if let Some(mut child) = child {
            // Both fail only when it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.kill_child();
    }
}

pub(super) fn timeout() -> GitError {
    GitError::new(Reason::Timeout, "the remote did not finish in time")
}

/// Looks up the host and refuses it when any address is one where no remote may be. The result is what to connect to,
/// so that a second lookup cannot lead elsewhere. Never empty: a name without an address is `Unreachable`.
pub(super) fn checked_addresses(host: &str, port: u16, policy: &Policy) -> Result<Vec<IpAddr>, GitError> {
    if let Some(why) = address::refused_name(host) {
        return Err(refusal(host, why));
    }
    let found = lookup(host, port);
    if found.is_empty() {
        return Err(GitError::new(Reason::Unreachable, format!("the name {host} cannot be resolved")));
    }
    let api: Vec<IpAddr> = policy.api_hosts().iter().flat_map(|host| lookup(host, port)).collect();
    match found.iter().find_map(|ip| policy.refused(*ip, &api)) {
        Some(why) => Err(refusal(host, why)),
        None => Ok(found),
    }
}

/// Refuses what is by its name alone a place where no remote may be: for a request that somebody else looks up and sends on.
/// No name is asked for.
pub(super) fn checked_literally(host: &str, policy: &Policy) -> Result<(), GitError> {
    if let Some(why) = address::refused_name(host) {
        return Err(refusal(host, why));
    }
    let is_own = host == "localhost" || host.ends_with(".localhost");
    let found = if is_own { Some(IpAddr::V4(Ipv4Addr::LOCALHOST)) } else { host.parse().ok() };
    let is_api = policy.api_hosts().iter().any(|api| api == host);
    let api: Vec<IpAddr> = policy.api_hosts().iter().filter_map(|host| host.parse().ok()).collect();
    match found.and_then(|ip| policy.refused(ip, &api)) {
        Some(why) => Err(refusal(host, why)),
        None if is_api && found.is_none() => Err(refusal(host, "the Kubernetes API server")),
        None => Ok(()),
    }
}

fn lookup(host: &str, port: u16) -> Vec<IpAddr> {
    (host, port).to_socket_addrs().map(|all| all.map(|a| a.ip()).collect()).unwrap_or_default()
}

/// The addresses are not named: what a name leads to inside the cluster is not the business of whoever wrote the URL.
fn refusal(host: &str, why: &str) -> GitError {
    let message = format!(
        "{host} leads to {why}, where no Git server may be; who runs Pilothouse can allow it with --allow-git-address (chart: controller.git.allowAddresses)"
    );
    GitError::new(Reason::AddressRefused, message)
}
