//! Following and packing together, with a scripted remote and a real store.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::sync::Notify;

use super::{packer::Rules, tracks::Want, *};
use crate::{
    agent::pieces::Source,
    artifact::Store,
    git::{
        Access, CommitId, Credential, Fetched, GitRemote, Reference, RemoteRef, RemoteSpec, RemoteUrl, Sources, Stop,
        sources::Options,
    },
    tree::FileTree,
};

/// One branch, whose commits have the file `docs/a` with the branch's text, and `old` beside it.
#[derive(Default)]
struct Script {
    head: Mutex<u8>,
    text: Mutex<String>,
    fails: Mutex<bool>,
    fetches: AtomicUsize,
}

fn id(number: u8) -> CommitId {
    CommitId::parse(&format!("{number:040x}")).unwrap()
}

impl Script {
    fn push(&self, text: &str) {
        *self.head.lock() += 1;
        text.clone_into(&mut self.text.lock());
    }

    fn check(&self) -> Result<(), GitError> {
        if *self.fails.lock() { Err(GitError::new(Reason::Unreachable, "down")) } else { Ok(()) }
    }
}

impl GitRemote for Script {
    fn list(&self, _: &Access, _: &[String], _: &Arc<Stop>) -> Result<Vec<RemoteRef>, GitError> {
        self.check()?;
        Ok(vec![RemoteRef { name: "refs/heads/main".into(), id: Some(id(*self.head.lock())), target: None }])
    }

    fn fetch(&self, _: &Access, commit: &CommitId, _: &Arc<Stop>) -> Result<Fetched, GitError> {
        self.check()?;
        self.fetches.fetch_add(1, Ordering::SeqCst);
        let text = self.text.lock().clone();
        let tree: FileTree = [("docs/a", text.as_str()), ("other", commit.as_str())].into_iter().collect();
        Ok(Fetched { tree, ..Fetched::default() })
    }
}

struct World {
    script: Arc<Script>,
    sources: Sources,
    store: Arc<Store>,
    tracks: Arc<Tracks>,
    ended: Arc<(Notify, Mutex<Vec<String>>)>,
    _folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self::within(u64::MAX)
    }

    /// With so many bytes for artifacts.
    fn within(bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::new(folder.path(), 1 << 20).unwrap().within(bytes).unwrap());
        let script = Arc::new(Script::default());
        script.push("1");
        let sources = Sources::new(script.clone(), Options::default());
        let packer = Arc::new(Packer::new(store.clone()));
        let tracks = Arc::new(Tracks::new(sources.clone(), packer.clone()));
        let ended: Arc<(Notify, Mutex<Vec<String>>)> = Arc::default();
        let (of_remote, log) = (Arc::downgrade(&tracks), ended.clone());
        sources.on_change(move |who| {
            if of_remote.upgrade().is_some_and(|tracks| tracks.woken(who)) {
                log.0.notify_waiters();
            }
        });
        let (of_packer, log) = (Arc::downgrade(&tracks), ended.clone());
        packer.on_end(move |who| {
            if let Some(tracks) = of_packer.upgrade() {
                tracks.woken(who);
            }
            log.1.lock().push(who.name.clone());
            log.0.notify_waiters();
        });
        Self { script, sources, store, tracks, ended, _folder: folder }
    }

    fn want(path: &str, known: Option<CommitId>) -> Want {
        let source = Source::Repository { name: "r".into(), follow: None };
        let wanted = Wanted {
            id: "contexts/c".into(),
            source,
            path: path.into(),
            whole: None,
            push: None,
            names: None,
            sync: None,
        };
        let spec = RemoteSpec {
            url: RemoteUrl::parse("https://git.example.com/r", false).unwrap(),
            credential: Arc::new(Credential::default()),
            reference: Reference::Branch("main".into()),
            submodules: false,
        };
        Want {
            spec,
            interval: Duration::from_hours(1),
            timeout: Duration::from_secs(10),
            rules: Rules::None,
            branch: None,
            selection: Selection::of(&wanted),
            known,
        }
    }

    fn who(agent: usize) -> Subscriber {
        subscriber("Agent", "ns", &format!("a{agent}"), "contexts/c")
    }

    /// Follows again until the artifact of that commit is made, or cannot be.
    async fn done(&self, agent: usize, path: &str, commit: u8) -> Result<Arc<Packed>, Failure> {
        let wait = async {
            loop {
                let news = self.ended.0.notified();
                let progress = self.tracks.follow(&Self::who(agent), Self::want(path, None));
                match progress.packing {
                    Packing::Done(result) if progress.observed.is_some_and(|o| o.commit == id(commit)) => {
                        return result;
                    }
                    _ => drop(tokio::time::timeout(Duration::from_millis(50), news).await),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("no artifact after 20 s")
    }

    fn poke(&self) {
        self.tracks.poke(&Self::who(0));
    }

    fn holds_tree(&self, commit: u8) -> bool {
        self.sources.tree(&self.sources.key(&Self::want("docs", None).spec), &id(commit)).is_some()
    }
}

use super::packer::Packed;

#[tokio::test(flavor = "multi_thread")]
async fn many_agents_are_one_fetch_and_one_artifact() {
    let world = World::new();
    for agent in 0..50 {
        world.tracks.follow(&World::who(agent), World::want("docs", None));
    }
    let first = world.done(0, "docs", 1).await.unwrap();
    for agent in 1..50 {
        assert_eq!(world.done(agent, "docs", 1).await.unwrap(), first);
    }
    assert_eq!(world.script.fetches.load(Ordering::SeqCst), 1);
    assert!(!world.holds_tree(1), "the tree is let go of");
    world.script.push("2");
    world.poke();
    let second = world.done(49, "docs", 2).await.unwrap();
    assert_ne!(second.digest, first.digest);
    assert_eq!(world.script.fetches.load(Ordering::SeqCst), 2);
    for agent in 0..49 {
        world.done(agent, "docs", 2).await.unwrap();
    }
    assert!(!world.holds_tree(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_changes_other_files_makes_the_same_artifact() {
    let world = World::new();
    let first = world.done(0, "docs", 1).await.unwrap();
    world.script.push("1");
    world.poke();
    assert_eq!(world.done(0, "docs", 2).await.unwrap(), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_has_to_ask_for_the_tree_to_be_used_up() {
    let world = World::new();
    world.done(0, "docs", 1).await.unwrap();
    world.ended.1.lock().clear();
    world.script.push("2");
    world.poke();
    // The agent has another problem and does not come; its artifact is made nevertheless.
    let until = Instant::now() + Duration::from_secs(20);
    while world.ended.1.lock().is_empty() {
        assert!(Instant::now() < until, "nobody was told");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!world.holds_tree(2));
    assert_eq!(*world.ended.1.lock(), ["a0/contexts/c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_path_keeps_no_tree_either() {
    let world = World::new();
    let failure = world.done(0, "dcos", 1).await.unwrap_err();
    assert_eq!(
        (failure.reason, failure.message.as_str()),
        ("PathNotFound", "the repository has no file or directory dcos")
    );
    assert!(!world.holds_tree(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_there_is_no_room_for_keeps_no_tree_and_is_made_when_there_is() {
    let world = World::within(5000);
    let other: FileTree = [("a", "x".repeat(1000).as_str())].into_iter().collect();
    world.store.put(&other).unwrap();
    let failure = world.done(0, "docs", 1).await.unwrap_err();
    assert_eq!((failure.reason, failure.class), ("StorageFailed", crate::status::Class::Transient));
    assert!(!world.holds_tree(1), "others need the memory");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(world.script.fetches.load(Ordering::SeqCst), 1, "nothing is fetched for which there is no room");
    world.store.collect(&BTreeSet::new(), |_| Duration::ZERO).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while world.done(0, "docs", 1).await.is_err() {
        assert!(Instant::now() < until, "there is room");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((world.script.fetches.load(Ordering::SeqCst), world.holds_tree(1)), (2, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_is_not_fetched() {
    let world = World::new();
    let until = Instant::now() + Duration::from_secs(20);
    let progress = loop {
        let progress = world.tracks.follow(&World::who(0), World::want("docs", Some(id(1))));
        if progress.observed.is_some() {
            break progress;
        }
        assert!(Instant::now() < until, "no answer");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!((progress.packing, progress.error), (Packing::Absent, None));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(world.script.fetches.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_that_was_collected_is_made_again() {
    let world = World::new();
    let first = world.done(0, "docs", 1).await.unwrap();
    std::fs::remove_file(world.store.path(&first.digest)).unwrap();
    assert_eq!(world.done(0, "docs", 1).await.unwrap(), first);
    assert!(world.store.contains(&first.digest));
    assert_eq!(world.script.fetches.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_left_is_forgotten() {
    let world = World::new();
    world.done(0, "docs", 1).await.unwrap();
    *world.script.fails.lock() = true;
    world.poke();
    let until = Instant::now() + Duration::from_secs(20);
    while world.tracks.follow(&World::who(0), World::want("docs", None)).error.is_none() {
        assert!(Instant::now() < until, "no failure");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let progress = world.tracks.follow(&World::who(0), World::want("docs", None));
    assert!(matches!(progress.packing, Packing::Done(Ok(_))), "a failure takes nothing away: {progress:?}");
    world.tracks.leave(&World::who(0));
    assert_eq!(world.sources.remotes(), 0);
    assert!(!world.tracks.woken(&World::who(0)));
}
