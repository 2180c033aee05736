//! Content in front of a server that is ill for a while.

use std::{path::PathBuf, sync::Arc, time::Duration};

use pilothouse::{
    api::content::{Form, Load, Manifest, Piece, Report},
    artifact::Store,
    pod::{
        opencode::{Client, Prompt},
        sidecar::Sidecar,
    },
    server::voice::{Leadership, artifacts::Shelf},
    tree::FileTree,
};

use super::{
    content::{Anybody, prepare, skill, surely},
    credentials, eventually,
    voice::{Replica, material},
};
use crate::common::agent_server::{AgentServer, Illness, Setup, root};

struct Ward {
    server: AgentServer,
    replica: Replica,
    store: Arc<Store>,
    skills: PathBuf,
    sidecar: Sidecar,
    _folders: [tempfile::TempDir; 2],
}

impl Ward {
    /// With a server that knows one skill of this text.
    async fn start(text: &str) -> Self {
        let (folder, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (skills, workspace) = (folder.path().join("skills"), folder.path().join("workspace"));
        for path in [&skills, &workspace] {
            std::fs::create_dir(path).unwrap();
        }
        let directory = workspace.to_str().unwrap().to_owned();
        let server = AgentServer::start(Setup { directory, skills: vec![root(skills.clone())], ..Setup::default() });
        let server = server.await;
        let store = Arc::new(Store::new(&folder.path().join("store"), 0).unwrap());
        let material = material();
        let shelf = Shelf::new(store.clone(), Anybody);
        let replica = Replica::serving(&material, Leadership::Leader, Some(shelf)).await;
        std::fs::write(files.path().join("ca.crt"), material.authority_pem()).unwrap();
        let args = prepare(&files, (server.port, &workspace), &skills, &replica, &["skills/team"]);
        let first = manifest(&store, &skills, text);
        std::fs::write(files.path().join("live/content.json"), serde_json::to_string(&first).unwrap()).unwrap();
        let sidecar = Sidecar::start(&args).await.unwrap();
        let ward = Self { server, replica, store, skills, sidecar, _folders: [folder, files] };
        ward.until("the first content is loaded", |report| report.loaded == first.hash()).await;
        ward
    }

    /// Orders this text; the hash of it.
    async fn load(&self, text: &str) -> String {
        self.order(text, Load::default()).await
    }

    /// The same, in this way.
    async fn order(&self, text: &str, how: Load) -> String {
        let load = Load { manifest: manifest(&self.store, &self.skills, text), ..how };
        let hash = load.manifest.hash();
        self.replica.hub.load("team", "coder", load).await.unwrap();
        hash
    }

    /// Works on a session that nobody ends, once the door takes the prompt.
    async fn work(&self) {
        let client = Client::new(&format!("http://{}", self.sidecar.address), Some(&credentials())).unwrap();
        let session = surely(|| client.create_session("s", None, &[])).await;
        let prompt = Prompt::text("[[hold]]");
        surely(|| client.prompt_async(&session.id, &prompt)).await;
        eventually("it is at work", || self.server.at_work() > 0).await;
    }

    /// Ends all work.
    async fn finish(&self) {
        // What has not begun to wait cannot be released.
        let ends = || {
            self.server.release();
            self.server.at_work() == 0 && self.sidecar.work.snapshot().without_work()
        };
        eventually("it is idle", ends).await;
    }

    /// Text of the skill in place.
    fn placed(&self) -> String {
        std::fs::read_to_string(self.skills.join("team/alpha/SKILL.md")).unwrap()
    }

    async fn until(&self, what: &str, condition: impl Fn(&Report) -> bool) -> Report {
        let mut last = None;
        for _ in 0..2400 {
            let seen = self.replica.hub.activity("team", "coder");
            last = seen.pods.first().and_then(|pod| pod.content.as_deref().cloned());
            if let Some(report) = last.as_ref().filter(|report| condition(report)) {
                return report.clone();
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("never happened: {what}: {last:?}");
    }
}

fn manifest(store: &Store, skills: &std::path::Path, text: &str) -> Manifest {
    let text = skill("alpha", text);
    let stored = store.put(&[("alpha/SKILL.md", text.as_str())].into_iter().collect::<FileTree>()).unwrap();
    let piece = Piece {
        id: "skills/team".into(),
        target: skills.join("team").to_str().unwrap().into(),
        form: Form::Tree,
        mode: None,
        revision: format!("main@sha1:{}", &stored.digest.hex()[..40]),
        digest: stored.digest.to_string(),
        size: stored.size,
    };
    Manifest { pieces: vec![piece], ..Manifest::default() }
}

/// The server reloads and its word about it gets lost. That says nothing about the skills: they come when it is well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_that_nobody_heard_of_is_made_again() {
    let ward = Ward::start("one").await;
    ward.server.feels(Illness { mute: true, ..Illness::default() });
    let hash = ward.load("two").await;
    let report = ward.until("it is told", |report| report.why.contains("did not say that it has reloaded")).await;
    assert_eq!((report.wanted.as_str(), report.failed), (hash.as_str(), false), "it is tried again");
    assert!(ward.placed().contains("one"), "taken back");
    ward.server.feels(Illness::default());
    let report = ward.until("it is loaded", |report| report.loaded == hash).await;
    assert!(report.wanted.is_empty() && report.why.is_empty() && !report.failed, "{report:?}");
    assert!(ward.server.known_skills().iter().any(|text| text.contains("two")), "{:?}", ward.server.known_skills());
}

/// Force cuts what was at work when the time was over, and nothing that began since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn force_is_good_for_one_reload() {
    let ward = Ward::start("one").await;
    ward.work().await;
    ward.server.feels(Illness { mute: true, ..Illness::default() });
    let hash = ward.order("two", Load { force: true, ..Load::default() }).await;
    eventually("work is cut", || ward.server.at_work() == 0).await;
    ward.until("it is told", |report| report.why.contains("did not say that it has reloaded")).await;
    ward.work().await;
    // Several tries would be over by then.
    let disposals = ward.server.disposals();
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!((ward.server.at_work(), ward.server.disposals()), (1, disposals), "it waits for what began since then");
    ward.server.feels(Illness::default());
    ward.finish().await;
    let report = ward.until("it is loaded", |report| report.loaded == hash).await;
    assert!(!report.failed && ward.placed().contains("two"), "{report:?}");
}

/// Nothing is tried with a server that is away, so nothing is given up, however long that takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_uses_up_no_try() {
    let ward = Ward::start("one").await;
    ward.server.feels(Illness { refuses: true, ..Illness::default() });
    ward.server.cut_events();
    eventually("it is not followed", || !ward.sidecar.work.snapshot().known).await;
    let hash = ward.order("two", Load { force: true, ..Load::default() }).await;
    let report = ward.until("it is told", |report| report.wanted == hash && report.why.contains("waits for")).await;
    assert!(!report.failed, "{report:?}");
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(ward.server.disposals(), 0, "it is asked for nothing");
    assert!(ward.placed().contains("one"));
    ward.server.feels(Illness::default());
    ward.until("it is loaded", |report| report.loaded == hash && !report.failed).await;
}

/// What was ordered and is held by somebody does not come when the agent is idle, until it is ordered again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_withdrawn_does_not_come() {
    let ward = Ward::start("one").await;
    ward.work().await;
    let hash = ward.load("two").await;
    ward.until("it waits", |report| report.wanted == hash && report.why.contains("idle")).await;
    ward.order("two", Load { withdrawn: true, ..Load::default() }).await;
    let report = ward.until("it is withdrawn", |report| report.wanted.is_empty()).await;
    assert_eq!((report.why.as_str(), report.failed), ("", false));
    ward.finish().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(ward.placed().contains("one") && ward.server.disposals() == 0);
    assert_eq!(ward.load("two").await, hash);
    ward.until("it is loaded", |report| report.loaded == hash).await;
    assert!(ward.placed().contains("two"));
}
