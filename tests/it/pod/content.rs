//! Content from Git in a pod: a real sidecar in front of the real server, artifacts from a real hub.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use http::Method;
use pilothouse::{
    api::content::{Form, Load, Manifest, Piece, Report},
    artifact::{Digest, Store},
    git::{Access, CommitId, Credential, GitRemote as _, GixRemote, Limits, Policy, RemoteUrl, Stop, Whole},
    pod::{
        opencode::{Client, Error, Prompt, Skill},
        sidecar::{Sidecar, SidecarArgs},
    },
    server::voice::{
        Leadership,
        artifacts::{Rights, Shelf},
        identity::Identity,
    },
    tree::FileTree,
};
use rand::Rng as _;

use super::{
    PASSWORD, Pod, args, eventually,
    voice::{Replica, good_token, material},
};
use crate::common::{
    git_server::GitServer,
    model::{Model, Script},
    opencode::Server,
};

pub(super) struct Anybody;

impl Rights for Anybody {
    fn may_read(&self, _: &Identity, _: &Digest) -> bool {
        true
    }
}

/// A pod with a server that knows the skills of one source, and a controller's port.
struct Rig {
    model: Model,
    server: Server,
    pod: Option<Pod>,
    args: SidecarArgs,
    replica: Replica,
    store: Arc<Store>,
    skills: PathBuf,
    folder: tempfile::TempDir,
}

pub(super) fn skill(name: &str, text: &str) -> String {
    format!("---\nname: {name}\ndescription: What {name} is for\n---\n\n{text}\n")
}

/// What a sidecar in front of the server at this port is told, with the files of its pod. Ids in `live` are the pod's.
pub(super) fn prepare(
    files: &tempfile::TempDir,
    (port, workspace): (u16, &Path),
    skills: &Path,
    replica: &Replica,
    live: &[&str],
) -> SidecarArgs {
    std::fs::write(files.path().join("token"), good_token()).unwrap();
    let mut args = args(files, port);
    args.voice_address = Some(format!("localhost:{}", replica.address.port()));
    workspace.clone_into(&mut args.workspace);
    skills.clone_into(&mut args.skills_dir);
    args.files_dir = Some(files.path().join("fixed"));
    args.content_dir = Some(files.path().join("live"));
    for dir in [&args.files_dir, &args.content_dir].into_iter().flatten() {
        std::fs::create_dir(dir).unwrap();
    }
    let fixed = serde_json::json!({ "pieces": [], "live": live });
    std::fs::write(files.path().join("fixed/content.json"), fixed.to_string()).unwrap();
    args
}

impl Rig {
    /// Starts all with these pieces in the mutable file; ids in `live` are the pod's.
    async fn start(live: &[&str], first: impl FnOnce(&Self) -> Vec<Piece>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let skills = folder.path().join("skills");
        std::fs::create_dir(&skills).unwrap();
        let model = Model::start().await;
        let mut config = model.config();
        config["skills"] = serde_json::json!({ "paths": [skills.join("team")] });
        let server = Server::start(&config).await;
        let store = Arc::new(Store::new(&folder.path().join("store"), 0).unwrap());
        let material = material();
        let shelf = Shelf::new(store.clone(), Anybody);
        let replica = Replica::serving(&material, Leadership::Leader, Some(shelf)).await;

        let files = tempfile::tempdir_in(folder.path()).unwrap();
        std::fs::write(files.path().join("ca.crt"), material.authority_pem()).unwrap();
        let args = prepare(&files, (server.port, &server.workspace), &skills, &replica, live);
        let mut rig = Self { model, server, pod: None, args, replica, store, skills, folder };
        let manifest = Rig::manifest(first(&rig));
        let text = serde_json::to_string(&manifest).unwrap();
        std::fs::write(files.path().join("live/content.json"), text).unwrap();
        let sidecar = Sidecar::start(&rig.args).await.unwrap();
        rig.pod = Some(Pod { sidecar, files });
        rig.until("the first content is loaded", |report| report.loaded == manifest.hash()).await;
        rig
    }

    fn pod(&self) -> &Pod {
        self.pod.as_ref().unwrap()
    }

    fn client(&self) -> Client {
        self.pod().client()
    }

    fn piece(&self, id: &str, target: &Path, files: &[(&str, &str)]) -> Piece {
        let stored = self.store.put(&files.iter().copied().collect::<FileTree>()).unwrap();
        Piece {
            id: id.into(),
            target: target.to_str().unwrap().into(),
            form: Form::Tree,
            mode: None,
            revision: format!("main@sha1:{}", &stored.digest.hex()[..40]),
            digest: stored.digest.to_string(),
            size: stored.size,
        }
    }

    /// Skills of the team: names and texts.
    fn team(&self, skills: &[(&str, &str)]) -> Piece {
        let files: Vec<(String, String)> =
            skills.iter().map(|(name, text)| (format!("{name}/SKILL.md"), skill(name, text))).collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        self.piece("skills/team", &self.skills.join("team"), &files)
    }

    fn docs(&self, text: &str) -> Piece {
        self.piece("contexts/docs", &self.server.workspace.join("docs"), &[("guide.md", text)])
    }

    fn manifest(mut pieces: Vec<Piece>) -> Manifest {
        pieces.sort_by(|a, b| a.id.cmp(&b.id));
        Manifest { pieces, ..Manifest::default() }
    }

    async fn load(&self, pieces: Vec<Piece>) -> String {
        let load = Load { manifest: Self::manifest(pieces), ..Load::default() };
        let hash = load.manifest.hash();
        self.replica.hub.load("team", "coder", load).await.unwrap();
        hash
    }

    async fn loaded(&self, pieces: Vec<Piece>) -> Report {
        let hash = self.load(pieces).await;
        self.until("it is loaded", |report| report.loaded == hash).await
    }

    fn report(&self) -> Option<Report> {
        let seen = self.replica.hub.activity("team", "coder");
        seen.pods.first().and_then(|pod| pod.content.as_deref().cloned())
    }

    async fn until(&self, what: &str, condition: impl Fn(&Report) -> bool) -> Report {
        for _ in 0..2400 {
            if let Some(report) = self.report().filter(|report| condition(report)) {
                return report;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("never happened: {what}: {:?}", self.report());
    }

    /// What the running server lists of ours.
    async fn listed(&self) -> Vec<(String, String)> {
        let server = self.server.client();
        let all: Vec<Skill> = surely(|| server.skills()).await;
        let root = self.skills.to_str().unwrap();
        let ours = all.into_iter().filter(|skill| skill.location.starts_with(root));
        let mut ours: Vec<_> = ours.map(|skill| (skill.name, skill.content.trim().to_owned())).collect();
        ours.sort();
        ours
    }

    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.server.workspace.join(path)).ok()
    }

    /// Waits for the end of a session's work and gives the error of its last message.
    async fn ends(&self, session: &str) -> Option<String> {
        let client = self.server.client();
        for _ in 0..2400 {
            let messages = client.messages(session, 1).await.unwrap();
            if let Some(last) = messages.last()
                && last.info.role == "assistant"
                && last.info.time.completed.is_some()
            {
                return last.info.error.as_ref().map(|error| error.name.clone());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the session never ended");
    }
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

/// The time that work is protected for is over, or somebody did not want to wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forced_exchange_waits_for_no_work() {
    let rig = Rig::start(&["skills/team"], |rig| vec![rig.team(&[("alpha", "one")])]).await;
    assert_eq!(rig.pod().call(Method::GET, "/startz", None).await.0, 200);
    let session = rig.client().create_session("cut", None, &[]).await.unwrap();
    rig.model.play(Script::held());
    rig.client().prompt_async(&session.id, &Prompt::text("long")).await.unwrap();
    eventually("it works", || rig.pod().sidecar.work.snapshot().busy == 1).await;
    let manifest = Rig::manifest(vec![rig.team(&[("alpha", "two")])]);
    let hash = manifest.hash();
    let load = Load { manifest, force: true, ..Load::default() };
    rig.replica.hub.load("team", "coder", load).await.unwrap();
    rig.until("it is loaded over work", |report| report.loaded == hash).await;
    assert_eq!(rig.listed().await, pairs(&[("alpha", "two")]));
    assert!(!rig.pod().sidecar.work.snapshot().held, "prompts go on");
    rig.model.play(Script::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skills_and_contexts_change_in_the_running_server() {
    let first = |rig: &Rig| vec![rig.team(&[("alpha", "one")]), rig.docs("needle1")];
    let rig = Rig::start(&["skills/team", "contexts/docs"], first).await;
    assert_eq!(rig.pod().call(Method::GET, "/startz", None).await.0, 200);
    assert_eq!(rig.listed().await, pairs(&[("alpha", "one")]));
    let report = rig.report().unwrap();
    assert!(report.skills.as_ref().unwrap().contains(&"alpha".to_owned()), "{report:?}");
    assert_eq!(report.pieces.iter().map(|p| p.id.as_str()).collect::<Vec<_>>(), ["contexts/docs", "skills/team"]);
    let session = rig.client().create_session("before", None, &[]).await.unwrap();
    rig.client().prompt_async(&session.id, &Prompt::text("hello")).await.unwrap();
    assert_eq!(rig.ends(&session.id).await, None);

    // Edited and added, with a context that the real search finds.
    let report = rig.loaded(vec![rig.team(&[("alpha", "two"), ("beta", "new")]), rig.docs("needle2")]).await;
    assert_eq!(rig.listed().await, pairs(&[("alpha", "two"), ("beta", "new")]));
    assert!(report.wanted.is_empty() && report.why.is_empty() && !report.failed, "{report:?}");
    assert_eq!(rig.read("docs/guide.md").as_deref(), Some("needle2"));
    for (word, found) in [("needle2", true), ("needle1", false)] {
        let (code, answer) = rig.pod().call(Method::GET, &format!("/find?pattern={word}"), Some(PASSWORD)).await;
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        assert_eq!((code, text.contains("docs/guide.md")), (200, found), "{text}");
        assert!(!text.contains(".pilothouse"), "what is kept is not searched: {text}");
    }
    // The session of before goes on.
    rig.client().prompt_async(&session.id, &Prompt::text("again")).await.unwrap();
    assert_eq!(rig.ends(&session.id).await, None);
    assert_eq!(rig.client().messages(&session.id, 10).await.unwrap().len(), 4);

    // While something works, nothing is exchanged.
    rig.model.play(Script::held());
    rig.client().prompt_async(&session.id, &Prompt::text("long")).await.unwrap();
    eventually("it works", || rig.pod().sidecar.work.snapshot().busy == 1).await;
    let hash = rig.load(vec![rig.team(&[("beta", "newer")]), rig.docs("needle3")]).await;
    let report = rig.until("it waits", |report| report.why.contains("idle")).await;
    assert_eq!((report.wanted.as_str(), report.failed), (hash.as_str(), false));
    assert!(!rig.pod().sidecar.work.snapshot().held, "nobody is held meanwhile");
    // What is read without a cache may come at once, when that is wanted.
    let load = Load {
        manifest: Rig::manifest(vec![rig.team(&[("beta", "newer")]), rig.docs("needle3")]),
        immediately: true,
        ..Load::default()
    };
    rig.replica.hub.load("team", "coder", load).await.unwrap();
    eventually("the context is there", || rig.read("docs/guide.md").as_deref() == Some("needle3")).await;
    assert_eq!(rig.listed().await, pairs(&[("alpha", "two"), ("beta", "new")]));
    // The model may not have been asked yet: only an answer that waits can be released.
    let released = async {
        loop {
            rig.model.release();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        error = rig.ends(&session.id) => assert_eq!(error, None, "nothing was cut"),
        () = released => {}
    }
    rig.until("it is loaded", |report| report.loaded == hash).await;
    assert_eq!(rig.listed().await, pairs(&[("beta", "newer")]));
    rig.model.play(Script::default());

    // All gone.
    rig.loaded(vec![]).await;
    assert_eq!(rig.listed().await, pairs(&[]));
    assert!(rig.read("docs/guide.md").is_none() && !rig.skills.join("team").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_does_not_list_is_taken_back() {
    let lost =
        |rig: &Rig, path: &str| rig.piece("skills/lost", &rig.skills.join("lost"), &[(path, &skill("gamma", "x"))]);
    let first = |rig: &Rig| vec![rig.team(&[("alpha", "one")]), rig.docs("old"), lost(rig, "README.md")];
    let rig = Rig::start(&["skills/team", "skills/lost", "contexts/docs"], first).await;
    let before = rig.report().unwrap().loaded;
    // The server does not look into this folder.
    let pieces = vec![rig.team(&[("alpha", "two")]), rig.docs("new"), lost(&rig, "gamma/SKILL.md")];
    let hash = rig.load(pieces.clone()).await;
    let report = rig.until("it failed", |report| report.failed).await;
    assert_eq!((&report.loaded, &report.wanted), (&before, &hash));
    assert!(report.why.contains("gamma is not listed"), "{}", report.why);
    assert_eq!(rig.listed().await, pairs(&[("alpha", "one")]));
    assert_eq!(rig.read("docs/guide.md").as_deref(), Some("old"));
    assert!(!rig.skills.join("lost/gamma").exists() && rig.skills.join("lost/README.md").exists());
    let client = rig.client();
    let session = client.create_session("after", None, &[]).await.unwrap();
    client.prompt_async(&session.id, &Prompt::text("hello")).await.unwrap();
    assert_eq!(rig.ends(&session.id).await, None, "prompts pass");
    // The same again is not tried, another one is.
    rig.load(pieces.clone()).await;
    rig.until("it is told again", |report| report.failed && report.wanted == hash).await;
    rig.loaded(pieces[..2].to_vec()).await;
    assert_eq!(rig.listed().await, pairs(&[("alpha", "two")]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_sidecar_fetches_nothing_again() {
    let first = |rig: &Rig| vec![rig.team(&[("alpha", "one")]), rig.docs("old")];
    let mut rig = Rig::start(&["skills/team", "contexts/docs"], first).await;
    // What was ordered later than the file that is mounted stays.
    let report = rig.loaded(vec![rig.team(&[("alpha", "two")]), rig.docs("new")]).await;
    let Pod { sidecar, files } = rig.pod.take().unwrap();
    sidecar.stop().await;
    std::fs::remove_dir_all(rig.folder.path().join("store/sha256")).unwrap();
    rig.pod = Some(Pod { sidecar: Sidecar::start(&rig.args).await.unwrap(), files });
    let again = rig.until("it is told again", |report| !report.loaded.is_empty()).await;
    assert_eq!((again.loaded, again.pieces), (report.loaded, report.pieces));
    assert_eq!(rig.listed().await, pairs(&[("alpha", "two")]));
}

#[tokio::test]
async fn a_pod_does_not_start_without_its_content_and_says_why() {
    let files = tempfile::tempdir().unwrap();
    let fixed = files.path().join("fixed");
    std::fs::create_dir(&fixed).unwrap();
    let digest = Digest::of(b"x");
    let piece = serde_json::json!({ "id": "contexts/docs", "target": files.path().join("workspace/docs"),
        "revision": "main@sha1:1", "digest": digest.to_string(), "size": 1 });
    std::fs::write(fixed.join("content.json"), serde_json::json!({ "pieces": [piece] }).to_string()).unwrap();
    let material = material();
    std::fs::write(files.path().join("ca.crt"), material.authority_pem()).unwrap();
    std::fs::write(files.path().join("token"), good_token()).unwrap();
    let store = Arc::new(Store::new(&files.path().join("store"), 0).unwrap());
    let replica = Replica::serving(&material, Leadership::Leader, Some(Shelf::new(store, Anybody))).await;
    let mut args = args(&files, 1);
    args.files_dir = Some(fixed);
    args.voice_address = Some(format!("localhost:{}", replica.address.port()));
    let pod = Pod { sidecar: Sidecar::start(&args).await.unwrap(), files };
    let mut said = String::new();
    for _ in 0..1200 {
        let (code, answer) = pod.call(Method::GET, "/startz", None).await;
        assert_eq!(code, 503);
        said = String::from_utf8_lossy(answer.body()).into_owned();
        if said.contains("contexts/docs") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert!(said.contains(&digest.to_string()) && said.contains("conditions"), "{said}");
}

/// The kubelet may show a file of long ago, whose artifacts nobody has any more: what the controller orders is taken instead.
#[tokio::test]
async fn a_pod_with_an_old_file_starts_with_what_is_ordered() {
    let files = tempfile::tempdir().unwrap();
    for dir in ["fixed", "live"] {
        std::fs::create_dir(files.path().join(dir)).unwrap();
    }
    let store = Arc::new(Store::new(&files.path().join("store"), 0).unwrap());
    let stored = store.put(&[("guide.md", "new")].into_iter().collect::<FileTree>()).unwrap();
    let target = files.path().join("workspace/docs");
    let piece = |digest: String, size: u64| Piece {
        id: "contexts/docs".into(),
        target: target.to_str().unwrap().into(),
        revision: "main@sha1:1".into(),
        digest,
        size,
        ..Piece::default()
    };
    let old = Rig::manifest(vec![piece(Digest::of(b"gone").to_string(), 1)]);
    let fixed = serde_json::json!({ "pieces": [], "live": ["contexts/docs"] });
    std::fs::write(files.path().join("fixed/content.json"), fixed.to_string()).unwrap();
    std::fs::write(files.path().join("live/content.json"), serde_json::to_string(&old).unwrap()).unwrap();
    let material = material();
    std::fs::write(files.path().join("ca.crt"), material.authority_pem()).unwrap();
    std::fs::write(files.path().join("token"), good_token()).unwrap();
    let replica = Replica::serving(&material, Leadership::Leader, Some(Shelf::new(store, Anybody))).await;
    let mut args = args(&files, 1);
    args.files_dir = Some(files.path().join("fixed"));
    args.content_dir = Some(files.path().join("live"));
    args.voice_address = Some(format!("localhost:{}", replica.address.port()));
    let _pod = Pod { sidecar: Sidecar::start(&args).await.unwrap(), files };
    let load = Load { manifest: Rig::manifest(vec![piece(stored.digest.to_string(), stored.size)]), ..Load::default() };
    for _ in 0..1200 {
        // As the controller does: until the pod says that it has it.
        let _ = replica.hub.load("team", "coder", load.clone()).await;
        if std::fs::read_to_string(target.join("guide.md")).is_ok_and(|text| text == "new") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the pod waits for what nobody has");
}

/// Prompts at random times through many reloads. `PILOTHOUSE_RELOADS` says how many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_prompt_is_cut_by_any_reload() {
    let reloads: usize = std::env::var("PILOTHOUSE_RELOADS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let first = |rig: &Rig| vec![rig.team(&[("alpha", "0")])];
    let rig = Arc::new(Rig::start(&["skills/team"], first).await);
    rig.model.play(Script::words(3, Duration::from_millis(30)));
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..2).map(|n| tokio::spawn(prompts(rig.clone(), stop.clone(), n))).collect();
    let mut took = vec![];
    for n in 1..=reloads {
        let begun = Instant::now();
        let text = n.to_string();
        rig.loaded(vec![rig.team(&[("alpha", &text)])]).await;
        took.push(begun.elapsed().as_millis());
        assert_eq!(rig.listed().await, pairs(&[("alpha", &text)]));
    }
    stop.store(true, Ordering::Relaxed);
    took.sort_unstable();
    for client in clients {
        let (sent, told_to_wait, errors) = client.await.unwrap();
        println!("prompts {sent}, told to wait {told_to_wait}, errors {errors:?}");
        assert!(sent > 0 && errors.is_empty(), "{errors:?}");
    }
    println!("{reloads} reloads, ms: median {}, most {}", took[took.len() / 2], took[took.len() - 1]);
}

/// Prompts of a session: its whole history goes to the model with each.
const PROMPTS: u32 = 20;

/// Prompts at random times until `stop`: how many were taken, how many were told to come again, and what went wrong.
async fn prompts(rig: Arc<Rig>, stop: Arc<AtomicBool>, n: usize) -> (u32, u32, Vec<String>) {
    let (client, server) = (rig.client(), rig.server.client());
    let (mut sent, mut told_to_wait, mut errors) = (0u32, 0u32, vec![]);
    while !stop.load(Ordering::Relaxed) {
        let title = format!("client {n}");
        let (session, mut last) = (surely(|| client.create_session(&title, None, &[])).await, String::new());
        let until = sent + PROMPTS;
        while !stop.load(Ordering::Relaxed) && sent < until {
            let pause = rand::rng().random_range(0..900);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            match client.prompt_async(&session.id, &Prompt::text("go")).await {
                Ok(()) => {
                    sent += 1;
                    last = next_answer(&server, &session.id, &last).await;
                }
                Err(Error::Refused { status: 503, .. }) => told_to_wait += 1,
                Err(error) => panic!("{error}"),
            }
        }
        let messages = surely(|| server.messages(&session.id, 1000)).await;
        errors.extend(messages.iter().filter_map(|m| m.info.error.as_ref().map(|error| error.name.clone())));
    }
    (sent, told_to_wait, errors)
}

/// The id of the newest answer, once that is another one than `last` and whole.
async fn next_answer(server: &Client, session: &str, last: &str) -> String {
    for _ in 0..2400 {
        let newest = surely(|| server.messages(session, 1)).await.pop().map(|message| message.info);
        let whole = newest.filter(|info| info.role == "assistant" && info.time.completed.is_some());
        if let Some(info) = whole.filter(|info| info.id != last) {
            return info.id;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("an answer never came");
}

/// Asks the server again where it does not answer in time: who only looks is not what this is about.
pub(super) async fn surely<T, F: Future<Output = Result<T, Error>>>(ask: impl Fn() -> F) -> T {
    for _ in 0..20 {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) if error.is_transient() => println!("asked again: {error}"),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the server does not answer");
}

/// A whole repository, made by the controller's own code from a real remote, as the workspace of a real server.
#[tokio::test]
async fn a_whole_repository_is_the_workspace_and_goes_forward_when_nothing_is_in_the_way() {
    let remote = GitServer::http();
    let repository = remote.repository("r.git");
    let first = repository.commit("main", &[("a.md", "1"), ("src/lib.rs", "fn one() {}")]);
    let git = Checkouts::new(&remote.url("r.git"));
    let rig = Rig::start(&["contexts/repo"], |rig| vec![git.piece(rig, &first)]).await;
    let workspace = rig.server.workspace.clone();
    let run = |args: &[&str]| crate::checkouts::git(&workspace, args);
    assert_eq!((run(&["status", "--porcelain"]), run(&["rev-parse", "HEAD"])), (String::new(), first));
    assert_eq!(rig.read("src/lib.rs").as_deref(), Some("fn one() {}"));

    std::fs::write(workspace.join("notes.txt"), "mine").unwrap();
    let second = repository.commit("main", &[("a.md", "2"), ("new.md", "2")]);
    rig.loaded(vec![git.piece(&rig, &second)]).await;
    assert_eq!((run(&["status", "--porcelain"]), run(&["rev-parse", "HEAD"])), ("?? notes.txt".into(), second.clone()));
    run(&["fsck", "--full"]);

    std::fs::write(workspace.join("a.md"), "mine").unwrap();
    let third = repository.commit("main", &[("a.md", "3"), ("new.md", "3")]);
    let hash = rig.load(vec![git.piece(&rig, &third)]).await;
    let report = rig.until("it is held back", |report| report.why.contains("WorkspaceDirty: a.md")).await;
    assert!(report.loaded != hash && !report.failed, "{report:?}");
    assert_eq!((rig.read("a.md").as_deref(), rig.read("new.md").as_deref()), (Some("mine"), Some("2")));
    assert_eq!(run(&["rev-parse", "HEAD"]), second);
    run(&["checkout", "-q", "a.md"]);
    rig.until("it is loaded", |report| report.loaded == hash).await;
    assert_eq!((run(&["status", "--porcelain"]), run(&["rev-parse", "HEAD"])), ("?? notes.txt".into(), third));
}

/// What the controller would make of commits.
struct Checkouts {
    remote: GixRemote,
    access: Access,
    _folder: tempfile::TempDir,
}

impl Checkouts {
    fn new(url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let policy = Policy::new(vec!["127.0.0.0/8".parse().unwrap()], vec![]);
        let url = RemoteUrl::parse(url, false).unwrap();
        let access = Access {
            credential: Arc::new(Credential::default()),
            cache: "cache".into(),
            url,
            submodules: false,
            namespaces: vec![],
        };
        Self { remote: GixRemote::new(folder.path(), Limits::default(), policy).unwrap(), access, _folder: folder }
    }

    fn piece(&self, rig: &Rig, commit: &str) -> Piece {
        let whole = Whole { depth: 1, branch: Some("main".into()), push: None };
        let stop = Arc::new(Stop::after(Duration::from_mins(1)));
        let fetched = self.remote.checkout(&self.access, &CommitId::parse(commit).unwrap(), &whole, &stop).unwrap();
        let stored = rig.store.put(&fetched.tree).unwrap();
        Piece {
            id: "contexts/repo".into(),
            target: rig.server.workspace.to_str().unwrap().into(),
            form: Form::Checkout,
            revision: format!("main@sha1:{commit}"),
            digest: stored.digest.to_string(),
            size: stored.size,
            ..Piece::default()
        }
    }
}
