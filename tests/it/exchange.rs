//! Content from Git that is exchanged in running pods, on a real API server with a real Git server: what is written, in
//! which order, what waits, and that nothing is written for nothing.
//!
//! There are no nodes here: pods stay pending. Where a test needs a server that runs, it says so in a pod's status, as a
//! kubelet would; without a sidecar what goes on there is unknown, and so protected.

mod told;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod},
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use pilothouse::{
    agent::state,
    api::{Agent, content::Manifest},
};
use serde_json::{Value, json};

use crate::common::{
    cluster::control_plane,
    controller::{Controller, Release},
    git_server::{GitServer, Repository},
    wait::eventually,
};

const MAP: &str = "coder-server-content";

struct Place {
    client: Client,
    namespace: String,
    release: Release,
    controller: Option<Controller>,
    server: GitServer,
}

impl Place {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    /// With a controller that has these arguments.
    async fn with(args: &[&str]) -> Self {
        let cluster = control_plane();
        let namespace = cluster.namespace("exchange").await;
        let release = Release::install(cluster, std::slice::from_ref(&namespace)).await;
        let controller = Some(release.start(args));
        Self { client: cluster.client().await, namespace, release, controller, server: GitServer::http() }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn git(&self, path: &str, policy: Option<&str>) -> Value {
        let mut git = json!({"repository": self.server.url("r.git"), "path": path});
        if let Some(policy) = policy {
            git["sync"] = json!({"enabled": true, "interval": "1s", "policy": policy});
        }
        git
    }

    /// A hot context, hot skills, a context by rollout and a pinned one.
    fn inputs(&self) -> Value {
        let context = |name: &str, policy: Option<&str>| {
            let git = self.git(&format!("docs/{name}"), policy);
            json!({"name": name, "type": "Git", "mountPath": format!("docs/{name}"), "git": git})
        };
        json!({
            "contexts": [context("hot", Some("HotReload")), context("slow", Some("Rollout")), context("pinned", None)],
            "skills": [{"name": "team", "git": self.git("skills", Some("HotReload"))}],
        })
    }

    async fn agent(&self, spec: Value) {
        let mut full = json!({"workspaceDir": "/workspace", "agentImage": "agents:1", "executorImage": "devbox:1"});
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let body = json!({
            "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Agent", "metadata": {"name": "coder"}, "spec": full,
        });
        self.api::<Agent>().patch("coder", &PatchParams::apply("test").force(), &Patch::Apply(body)).await.unwrap();
    }

    /// The ConfigMap once `check` holds of its manifest.
    async fn map_where(&self, what: &str, check: impl Fn(&ConfigMap, &Manifest) -> bool) -> ConfigMap {
        eventually(what, 60, || async {
            let map = self.api::<ConfigMap>().get_opt(MAP).await.unwrap()?;
            check(&map, &manifest(&map)).then_some(map)
        })
        .await
    }

    async fn deployment_where(&self, what: &str, check: impl Fn(&Deployment) -> bool) -> Deployment {
        let api = self.api::<Deployment>();
        eventually(what, 60, || async { api.get_opt("coder-server").await.unwrap().filter(|d| check(d)) }).await
    }

    async fn agent_where(&self, what: &str, check: impl Fn(&Agent) -> bool) -> Agent {
        let api = self.api::<Agent>();
        eventually(what, 60, || async { api.get_opt("coder").await.unwrap().filter(|a| check(a)) }).await
    }

    /// Says in a pod's status that its server runs, as a kubelet would; the pod.
    async fn let_run(&self) -> Pod {
        let pods = self.api::<Pod>();
        let pod = eventually("a pod", 30, || async {
            let list = ListParams::default().labels("pilothouse.dev/agent=coder");
            pods.list(&list).await.unwrap().items.into_iter().next()
        })
        .await;
        let status = json!({"status": {"phase": "Running", "containerStatuses": [{
            "name": "opencode-server", "image": "devbox:1", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"running": {"startedAt": Timestamp::now().to_string()}},
        }]}});
        pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(status)).await.unwrap()
    }

    async fn writes_during(&self, seconds: u64) -> Vec<String> {
        let audit = control_plane().audit().later();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let writes = audit.writes(&self.release.user());
        writes.iter().filter(|w| !w.uri.contains("/leases/")).map(|w| format!("{} {}", w.verb, w.uri)).collect()
    }
}

fn manifest(map: &ConfigMap) -> Manifest {
    let text = map.data.as_ref().and_then(|data| data.get("content.json")).unwrap();
    serde_json::from_str(text).unwrap()
}

fn revision<'a>(manifest: &'a Manifest, id: &str) -> &'a str {
    manifest.piece(id).map_or("", |piece| &piece.revision)
}

fn condition(agent: &Agent, kind: &str) -> Option<(String, String, String)> {
    let status = agent.status.as_ref()?;
    let found = status.conditions.iter().find(|c| c.type_ == kind)?;
    Some((found.status.clone(), found.reason.clone(), found.message.clone()))
}

fn entry(agent: &Agent, name: &str) -> Value {
    let all = agent.status.iter().flat_map(|s| &s.git_sync_statuses);
    serde_json::to_value(all.into_iter().find(|s| s.name == name)).unwrap()
}

const SKILL: &str = "---\nname: review\ndescription: Reviews.\n---\n";

fn push(repository: &Repository, hot: &str, more: &[(&str, &str)]) -> String {
    let mut files = vec![
        ("docs/hot/a.md", hot),
        ("docs/slow/a.md", "1"),
        ("docs/pinned/a.md", "1"),
        ("skills/review/SKILL.md", SKILL),
        ("skills/broken/SKILL.md", "no front matter"),
    ];
    files.extend(more);
    repository.commit("main", &files)
}

#[tokio::test]
async fn pods_find_what_is_decided_and_new_commits_wait_for_work() {
    let mut place = Place::new().await;
    let repository = place.server.repository("r.git");
    let first = push(&repository, "1", &[]);
    place.agent(place.inputs()).await;

    // Before the Deployment, and sealed for readers of artifacts.
    let deployment = place.deployment_where("a Deployment", |_| true).await;
    let map = place.map_where("a ConfigMap", |_, _| true).await;
    assert!(map.creation_timestamp() <= deployment.creation_timestamp());
    let found = manifest(&map);
    let ids: Vec<_> = found.pieces.iter().map(|p| p.id.as_str()).collect();
    assert_eq!(ids, ["contexts/hot", "skills/team"]);
    assert!(revision(&found, "contexts/hot").ends_with(&first));
    for key in ["pilothouse.dev/artifacts", "pilothouse.dev/artifacts-seal"] {
        assert!(map.annotations().contains_key(key), "{key}");
    }
    let fixed = state::pieces(deployment.annotations());
    assert_eq!(fixed.keys().collect::<Vec<_>>(), ["contexts/pinned", "contexts/slow"]);
    let agent = place.agent_where("a status", |a| !entry(a, "slow")["commitHash"].is_null()).await;
    assert_eq!(entry(&agent, "slow")["commitHash"], first.as_str());
    assert!(entry(&agent, "hot")["commitHash"].is_null(), "no pod has said that it has it: {}", entry(&agent, "hot"));
    assert_eq!(entry(&agent, "hot")["policy"], "HotReload");
    let (status, reason, message) = condition(&agent, "SkillsLoaded").unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "SkillsInvalid"), "{message}");
    assert!(message.contains("team: broken left out"), "{message}");

    // What goes on is unknown: nothing is written, and it is said why.
    place.let_run().await;
    let second = push(&repository, "2", &[("docs/pinned/a.md", "2")]);
    let agent = place
        .agent_where("a wait", |a| condition(a, "GitSyncPending").is_some_and(|c| c.1 == "WaitingForReload"))
        .await;
    assert!(condition(&agent, "GitSyncPending").unwrap().2.contains("contexts/hot"), "{agent:?}");
    assert_eq!(entry(&agent, "hot")["observedCommit"], second.as_str());
    assert_eq!(entry(&agent, "pinned")["observedCommit"], first.as_str(), "nobody follows it");
    let map = place
        .map_where("the wait, remembered", |map, _| state::State::of_content(map.annotations()).pending.is_some())
        .await;
    assert!(revision(&manifest(&map), "contexts/hot").ends_with(&first), "not decided yet");
    assert!(map.annotations().contains_key("pilothouse.dev/artifacts-seal"), "still sealed");
    let pending = state::State::of_content(map.annotations()).pending.unwrap();
    let since = pending.since;

    // A crash loses no clock, and a steady state writes nothing.
    drop(place.controller.take());
    place.controller = Some(place.release.start(&[]));
    let third = push(&repository, "3", &[]);
    let hash = pending.hash;
    let moved = place
        .map_where("a moved target", |map, _| {
            state::State::of_content(map.annotations()).pending.is_some_and(|pending| pending.hash != hash)
        })
        .await;
    assert_eq!(
        state::State::of_content(moved.annotations()).pending.unwrap().since,
        since,
        "a moved target keeps its clock"
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    let writes = place.writes_during(5).await;
    assert!(writes.is_empty(), "{writes:?}");

    // Whoever wants contexts at once gets the ConfigMap; no new pod comes by it.
    let before = place.deployment_where("the Deployment", |_| true).await;
    let mut spec = place.inputs();
    spec["rollout"] = json!({"live": "Immediately"});
    place.agent(spec).await;
    let map = place.map_where("the newest", |_, m| revision(m, "contexts/hot").ends_with(&third)).await;
    assert!(state::State::of_content(map.annotations()).pending.is_none());
    let started: Timestamp = map.annotations()["pilothouse.dev/content-since"].parse().unwrap();
    assert_eq!(started, since, "the pods' time began with the gate's");
    let after = place.deployment_where("the Deployment", |_| true).await;
    assert_eq!(before.spec.unwrap().template, after.spec.unwrap().template);
    place.agent_where("no wait", |a| condition(a, "GitSyncPending").is_some_and(|c| c.0 == "False")).await;
    let text = place.controller.as_ref().unwrap().log();
    assert!(!text.contains("panicked"), "{text}");
}

#[tokio::test]
async fn another_set_of_pieces_comes_with_its_template_and_the_last_one_takes_the_map_away() {
    let place = Place::new().await;
    let repository = place.server.repository("r.git");
    let first = push(&repository, "1", &[("docs/more/a.md", "1")]);
    place.agent(place.inputs()).await;
    place.deployment_where("a Deployment", |_| true).await;
    place.map_where("a ConfigMap", |_, _| true).await;
    place.let_run().await;

    // A further piece needs a new pod, which waits; so does everything that only the new pod has.
    let mut spec = place.inputs();
    let git = place.git("docs/more", Some("HotReload"));
    let more = json!({"name": "more", "type": "Git", "mountPath": "docs/more", "git": git});
    spec["contexts"].as_array_mut().unwrap().push(more);
    place.agent(spec.clone()).await;
    let agent = place
        .agent_where("a rollout that waits", |a| condition(a, "RolloutPending").is_some_and(|c| c.0 == "True"))
        .await;
    let causes = agent.status.unwrap().rollout.unwrap().causes;
    assert_eq!(causes, ["contexts/more"]);
    let map = place.map_where("the old ConfigMap", |_, _| true).await;
    assert!(manifest(&map).piece("contexts/more").is_none());

    // The protection ends: map first, then the template.
    spec["rollout"] = json!({"protect": "None"});
    place.agent(spec).await;
    let map = place.map_where("the new ConfigMap", |_, m| revision(m, "contexts/more").ends_with(&first)).await;
    let deployment = place
        .deployment_where("the new template", |d| {
            state::State::of_deployment(d.annotations()).parts.contains_key("contexts/more")
        })
        .await;
    let version = |v: Option<String>| v.unwrap().parse::<u64>().unwrap();
    assert!(
        version(map.resource_version()) < version(deployment.resource_version()),
        "what a pod reads before the pod"
    );

    // Nothing is exchanged any more, and no pod is there that could want the map.
    place.agent(json!({"suspend": true, "rollout": {"protect": "None"}})).await;
    eventually("no ConfigMap", 60, || async {
        place.api::<ConfigMap>().get_opt(MAP).await.unwrap().is_none().then_some(())
    })
    .await;
    let deployment = place.deployment_where("the template", |_| true).await;
    assert!(state::pieces(deployment.annotations()).is_empty(), "{:?}", deployment.annotations());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(place.writes_during(3).await, Vec::<String>::new());
}
