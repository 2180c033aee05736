//! Content in front of a server that is ill for a while.

use std::{path::PathBuf, sync::Arc, time::Duration};

use pilothouse::{
    api::content::{Form, Load, Manifest, Piece, Report},
    artifact::Store,
    pod::sidecar::Sidecar,
    server::voice::{Leadership, artifacts::Shelf},
    tree::FileTree,
};

use super::{
    content::{Anybody, prepare, skill},
    voice::{Replica, material},
};
use crate::common::agent_server::{AgentServer, Illness, Setup, root};

struct Ward {
    server: AgentServer,
    replica: Replica,
    store: Arc<Store>,
    skills: PathBuf,
    _sidecar: Sidecar,
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
        let ward = Self { server, replica, store, skills, _sidecar: sidecar, _folders: [folder, files] };
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
    assert!(std::fs::read_to_string(ward.skills.join("team/alpha/SKILL.md")).unwrap().contains("one"), "taken back");
    ward.server.feels(Illness::default());
    let report = ward.until("it is loaded", |report| report.loaded == hash).await;
    assert!(report.wanted.is_empty() && report.why.is_empty() && !report.failed, "{report:?}");
    assert!(ward.server.known_skills().iter().any(|text| text.contains("two")), "{:?}", ward.server.known_skills());
}
