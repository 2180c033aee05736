use std::collections::HashMap;

use tokio::time::{Instant, advance, sleep};

use super::*;
use crate::{
    git::{Reason, RemoteRef, Stop},
    status::Backoff,
    tree::FileTree,
};

/// A scripted remote that counts what it is asked.
#[derive(Default)]
struct Script {
    heads: Mutex<HashMap<String, char>>,
    failure: Mutex<Option<GitError>>,
    log: Mutex<Vec<String>>,
    busy: Mutex<(usize, usize)>,
    slow: Mutex<Duration>,
}

fn commit(digit: char) -> CommitId {
    CommitId::parse(&digit.to_string().repeat(40)).unwrap()
}

impl Script {
    fn note(&self, what: String) {
        self.log.lock().push(what);
    }

    fn count(&self, prefix: &str) -> usize {
        self.log.lock().iter().filter(|line| line.starts_with(prefix)).count()
    }

    fn enter(&self) {
        let mut busy = self.busy.lock();
        busy.0 += 1;
        busy.1 = busy.1.max(busy.0);
    }

    fn fail(&self) -> Result<(), GitError> {
        let slow = *self.slow.lock();
        std::thread::sleep(slow);
        self.busy.lock().0 -= 1;
        self.failure.lock().clone().map_or(Ok(()), Err)
    }
}

impl GitRemote for Script {
    fn list(&self, access: &Access, prefixes: &[String], _: &Arc<Stop>) -> Result<Vec<RemoteRef>, GitError> {
        self.enter();
        self.note(format!("list {} {}", access.url, prefixes.join(",")));
        self.fail()?;
        let heads = self.heads.lock();
        let found = heads.iter().map(|(name, digit)| RemoteRef {
            name: format!("refs/heads/{name}"),
            id: Some(commit(*digit)),
            target: None,
        });
        Ok(found.collect())
    }

    fn fetch(&self, access: &Access, commit: &CommitId, _: &Arc<Stop>) -> Result<Fetched, GitError> {
        self.enter();
        self.note(format!("fetch {} {commit}", access.url));
        self.fail()?;
        let tree: FileTree = [("commit", commit.as_str())].into_iter().collect();
        Ok(Fetched { tree, ..Fetched::default() })
    }

    fn forget(&self, _: &str) {
        self.note("forget".into());
    }
}

struct World {
    script: Arc<Script>,
    sources: Sources,
    woken: Arc<Mutex<Vec<String>>>,
}

impl World {
    fn new() -> Self {
        Self::with(Options::default())
    }

    fn with(options: Options) -> Self {
        let script = Arc::new(Script::default());
        script.heads.lock().insert("main".into(), '1');
        let sources = Sources::new(script.clone(), options);
        let woken = Arc::new(Mutex::new(vec![]));
        let log = woken.clone();
        sources.on_change(move |subscriber| log.lock().push(subscriber.name.clone()));
        Self { script, sources, woken }
    }

    fn follow(&self, name: &str, seconds: u64, known: Option<char>) -> RemoteKey {
        self.follow_url(name, "https://example.com/a", seconds, known)
    }

    fn follow_url(&self, name: &str, url: &str, seconds: u64, known: Option<char>) -> RemoteKey {
        let demand = Demand {
            interval: Duration::from_secs(seconds),
            timeout: Duration::from_secs(10),
            trees: true,
            known: known.map(commit),
        };
        self.sources.subscribe(&subscriber(name), &spec(url, "main"), demand)
    }

    fn push(&self, digit: char) {
        self.script.heads.lock().insert("main".into(), digit);
    }

    /// Lets time pass, second by second.
    async fn pass(&self, seconds: u64) {
        for _ in 0..seconds {
            advance(Duration::from_secs(1)).await;
            sleep(Duration::from_micros(50)).await;
        }
        calm().await;
    }

    fn observed(&self, key: &RemoteKey) -> Option<String> {
        Some(self.sources.state(key)?.observed?.revision)
    }

    fn woken(&self) -> Vec<String> {
        let mut names = std::mem::take(&mut *self.woken.lock());
        names.sort();
        names
    }
}

fn subscriber(name: &str) -> Subscriber {
    Subscriber { kind: "Repository", namespace: "ns".into(), name: name.into() }
}

fn spec(url: &str, branch: &str) -> RemoteSpec {
    RemoteSpec {
        url: RemoteUrl::parse(url, true).unwrap(),
        credential: Arc::default(),
        reference: Reference::Branch(branch.into()),
        submodules: false,
    }
}

/// Lets pollers do what is due now. Time stands still but for a millisecond; threads get real time.
async fn calm() {
    for _ in 0..20 {
        sleep(Duration::from_micros(50)).await;
        tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(1))).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_subscribers_are_one_listing_an_interval() {
    let world = World::new();
    for n in 0..100 {
        world.follow(&format!("r{n:03}"), 60, None);
    }
    calm().await;
    assert_eq!((world.script.count("list"), world.script.count("fetch"), world.sources.remotes()), (1, 1, 1));
    assert_eq!(world.woken().len(), 100);
    for n in 0..100 {
        world.follow(&format!("r{n:03}"), 60, Some('1'));
    }
    world.pass(600).await;
    let listings = world.script.count("list");
    assert!((9..=12).contains(&listings), "{listings}");
    assert_eq!(world.script.count("fetch"), 1);
    assert!(world.woken().is_empty(), "an unchanged listing wakes nobody");
}

#[tokio::test(start_paused = true)]
async fn a_push_is_fetched_once_and_wakes_all() {
    let world = World::new();
    let key = world.follow("a", 60, None);
    world.follow("b", 60, None);
    calm().await;
    assert_eq!(world.sources.tree(&key, &commit('1')).unwrap().tree.len(), 1);
    world.follow("a", 60, Some('1'));
    world.follow("b", 60, Some('1'));
    calm().await;
    assert!(world.sources.tree(&key, &commit('1')).is_none(), "nobody lacks it");
    world.woken();
    world.push('2');
    advance(Duration::from_secs(67)).await;
    calm().await;
    assert_eq!(world.woken(), ["a", "b"]);
    assert_eq!(world.observed(&key).unwrap(), format!("main@sha1:{}", commit('2')));
    assert!(world.sources.tree(&key, &commit('2')).is_some());
    assert_eq!(world.script.count("fetch"), 2);
}

/// What listens runs in the poller: it must not take the others with it, nor lose what it did not take in.
#[tokio::test(start_paused = true)]
async fn a_listener_that_panics_stops_no_remote_and_is_told_again() {
    let world = World::new();
    let bad = Arc::new(AtomicU64::new(0));
    let tries = bad.clone();
    world.sources.on_change(move |subscriber| {
        assert!(subscriber.name != "bad" || tries.fetch_add(1, Ordering::SeqCst) >= 3, "on purpose");
    });
    let heard = Arc::new(Mutex::new(vec![]));
    let log = heard.clone();
    world.sources.on_change(move |subscriber| log.lock().push(subscriber.name.clone()));
    for name in ["bad", "good"] {
        world.follow(name, 60, Some('1'));
    }
    world.follow_url("other", "https://example.com/b", 60, Some('1'));
    calm().await;
    let mut first: Vec<String> = std::mem::take(&mut *heard.lock());
    first.sort();
    assert_eq!(first, ["bad", "good", "other"], "one is in nobody's way");
    world.pass(60).await;
    assert_eq!(bad.load(Ordering::SeqCst), 4, "told until it takes it in");
    assert!(heard.lock().iter().all(|name| name == "bad"), "who has heard is not told again");
    // The poller goes on.
    heard.lock().clear();
    world.push('2');
    world.pass(120).await;
    let mut after = heard.lock().clone();
    after.sort();
    after.dedup();
    assert_eq!(after, ["bad", "good", "other"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_known_already_is_not_fetched() {
    let world = World::new();
    let key = world.follow("a", 60, Some('1'));
    calm().await;
    assert_eq!((world.script.count("list"), world.script.count("fetch")), (1, 0));
    assert!(world.observed(&key).is_some());
    // The artifact was lost: the tree comes without another listing.
    world.follow("a", 60, None);
    calm().await;
    assert_eq!((world.script.count("list"), world.script.count("fetch")), (1, 1));
    assert!(world.sources.tree(&key, &commit('1')).is_some());
}

#[tokio::test(start_paused = true)]
async fn the_smallest_interval_counts_and_goes_with_its_owner() {
    let world = World::new();
    world.follow("slow", 3600, Some('1'));
    world.follow("fast", 10, Some('1'));
    calm().await;
    advance(Duration::from_secs(12)).await;
    calm().await;
    assert_eq!(world.script.count("list"), 2);
    world.sources.unsubscribe(&subscriber("fast"));
    advance(Duration::from_mins(10)).await;
    calm().await;
    assert!(world.script.count("list") <= 3);
}

#[tokio::test(start_paused = true)]
async fn pokes_are_answered_at_once_and_together() {
    let world = World::new();
    let key = world.follow("a", 3600, Some('1'));
    calm().await;
    world.woken();
    let tickets: Vec<u64> = (0..50).map(|_| world.sources.poke(&key)).collect();
    calm().await;
    assert!(world.script.count("list") <= 3, "{}", world.script.count("list"));
    assert_eq!(world.sources.state(&key).unwrap().answered, *tickets.last().unwrap());
    assert!(!world.woken().is_empty(), "an answered poke is news, for lastHandledReconcileAt");
}

#[tokio::test(start_paused = true)]
async fn failures_keep_the_commit_and_back_off() {
    let world = World::new();
    let key = world.follow("a", 10, None);
    calm().await;
    world.follow("a", 10, Some('1'));
    world.woken();
    *world.script.failure.lock() = Some(GitError::new(Reason::Unreachable, "down"));
    let start = world.script.count("list");
    world.pass(600).await;
    let tries = world.script.count("list") - start;
    assert!((4..=30).contains(&tries), "{tries} tries in 10 minutes");
    assert_eq!(world.woken(), ["a"], "one failure is told once");
    let state = world.sources.state(&key).unwrap();
    assert_eq!((state.error.unwrap().reason, state.observed.unwrap().commit), (Reason::Unreachable, commit('1')));
    *world.script.failure.lock() = None;
    world.sources.poke(&key);
    calm().await;
    assert_eq!(world.sources.state(&key).unwrap().error, None);
    assert_eq!(world.woken(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_honoured_for_all_that_a_namespace_has_at_the_host() {
    let world = World::new();
    let busy = GitError { retry_after: Some(Duration::from_mins(2)), ..GitError::new(Reason::RateLimited, "busy") };
    *world.script.failure.lock() = Some(busy);
    let first = world.follow_url("a", "https://example.com/a", 10, None);
    calm().await;
    *world.script.failure.lock() = None;
    let second = world.follow_url("b", "https://example.com/b", 10, None);
    let elsewhere = world.follow_url("c", "https://other.example.com/c", 10, None);
    world.sources.poke(&first);
    calm().await;
    assert!(world.observed(&elsewhere).is_some());
    assert!(world.observed(&first).is_none() && world.observed(&second).is_none());
    // A tenth of the pause later at most.
    advance(Duration::from_secs(135)).await;
    calm().await;
    assert!(world.observed(&first).is_some() && world.observed(&second).is_some());
}

#[tokio::test]
async fn one_host_is_asked_by_two_at_a_time() {
    let world = World::new();
    *world.script.slow.lock() = Duration::from_millis(5);
    for n in 0..12 {
        world.follow_url(&format!("r{n}"), &format!("https://example.com/{n}"), 60, None);
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while world.script.count("fetch") < 12 && Instant::now() < deadline {
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(world.script.count("fetch"), 12);
    assert_eq!(world.script.busy.lock().1, 2);
}

#[tokio::test(start_paused = true)]
async fn a_missing_branch_is_looked_for_among_all_once() {
    let world = World::new();
    world.script.heads.lock().insert("feature/mian".into(), '3');
    let demand =
        Demand { interval: Duration::from_secs(1), timeout: Duration::from_secs(10), trees: true, known: None };
    let key = world.sources.subscribe(&subscriber("a"), &spec("https://example.com/a", "mian"), demand);
    calm().await;
    let error = world.sources.state(&key).unwrap().error.unwrap();
    assert_eq!(error.reason, Reason::ReferenceNotFound);
    assert!(error.message.contains("refs/heads/feature/mian"), "{error}");
    assert_eq!(world.script.count("list"), 2);
    world.sources.poke(&key);
    calm().await;
    assert_eq!(world.script.count("list https://example.com/a refs/heads/,refs/tags/"), 1);
    assert_eq!(world.sources.state(&key).unwrap().error, Some(error));
}

#[tokio::test(start_paused = true)]
async fn a_commit_is_never_listed() {
    let world = World::new();
    let spec = RemoteSpec { reference: Reference::Commit(commit('7')), ..spec("https://example.com/a", "main") };
    let demand =
        Demand { interval: Duration::from_secs(1), timeout: Duration::from_secs(10), trees: true, known: None };
    let key = world.sources.subscribe(&subscriber("a"), &spec, demand);
    calm().await;
    advance(Duration::from_hours(1)).await;
    calm().await;
    assert!(world.sources.tree(&key, &commit('7')).is_some());
    assert_eq!((world.script.count("list"), world.script.count("fetch")), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn nobody_left_means_nothing_left() {
    let world = World::new();
    let key = world.follow("a", 10, None);
    calm().await;
    // Another address: the old remote has nobody.
    world.follow_url("a", "https://example.com/b", 10, None);
    calm().await;
    assert_eq!((world.sources.remotes(), world.sources.state(&key)), (1, None));
    assert_eq!(world.script.count("forget"), 1);
    world.sources.unsubscribe(&subscriber("a"));
    calm().await;
    let before = world.script.count("list");
    advance(Duration::from_hours(1)).await;
    calm().await;
    assert_eq!((world.sources.remotes(), world.script.count("list")), (0, before));
}

#[test]
fn keys_hide_the_credential() {
    let key = RemoteKey {
        url: RemoteUrl::parse("https://example.com/a", false).unwrap(),
        reference: Reference::Head,
        submodules: false,
        fingerprint: [7; 32],
    };
    assert_eq!(format!("{key:?}"), "https://example.com/a (the default branch)");
    assert_eq!(Options::default().backoff, Backoff::default());
}
