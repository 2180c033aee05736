//! Agents that follow a Git repository, without pods that run: from a push to the pod templates, and what rest costs.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    core::PartialObjectMeta,
    runtime::{WatchStreamExt as _, watcher},
};
use pilothouse::{
    agent::state,
    api::{Agent, Repository},
};
use serde_json::{Value, json};
use tokio::{runtime::Runtime, sync::mpsc};

use crate::{
    common::{
        cluster::Cluster,
        controller::{Controller, Release},
        git_server::{self, Asked, GitServer},
    },
    push::object,
    table::Number,
    world,
};

/// The most agents, unless `BENCH_AGENTS` says fewer.
const MOST: usize = 1000;
/// Agents of a namespace.
const EACH: usize = 100;
/// How long nothing changes.
const REST: Duration = Duration::from_mins(1);
const INTERVAL_S: u64 = 20;
/// Bytes of the audit log in five seconds of a cluster at rest, which renews its Leases.
const QUIET: u64 = 50_000;

/// `rollout_push_to_template_ms`: from the reconcile annotation on a Repository, after a push, to the pod template with
/// the new commit of a context with `policy: Rollout`; one agent. `…_100_ms`: of each of a hundred agents.
/// `…_1000_last_ms`: of the last of a thousand, in namespaces of a hundred with a Repository each, all of one remote.
///
/// With that thousand, after the pushes: `git_requests_per_interval` (listings that the Git server answered an interval),
/// `steady_api_writes_agents` and `rss_1000_synced_agents_mib`.
pub(crate) fn measure(runtime: &Runtime) -> Vec<Number> {
    runtime.block_on(async {
        let one = Many::start(1).await.pushes(11).await;
        let hundred = Many::start(world::agents(100)).await.pushes(5).await;
        let mut thousand = Many::start(world::agents(MOST)).await;
        // The first one also turns what a creation wrote into what an apply wrote.
        let pushed = thousand.pushes(2).await;
        let last = pushed.chunks(thousand.count).map(|round| round.iter().copied().fold(0.0, f64::max)).collect();
        let [writes, listings, resident] = thousand.rest().await;
        vec![
            Number::new("rollout_push_to_template_ms", "ms", 1000.0, one),
            Number::new("rollout_push_to_template_100_ms", "ms", 1000.0, hundred),
            Number::new("rollout_push_to_template_1000_last_ms", "ms", 5000.0, last),
            Number::new("git_requests_per_interval", "count", 1.0, vec![listings]),
            Number::new("steady_api_writes_agents", "writes", 0.0, vec![writes]),
            Number::new("rss_1000_synced_agents_mib", "MiB", 128.0, vec![resident]),
        ]
    })
}

/// A controller with that many agents. They are gone with it, but not out of the cluster: the next has other namespaces.
struct Many {
    count: usize,
    git: GitServer,
    remote: git_server::Repository,
    client: Client,
    cluster: &'static Cluster,
    release: Release,
    controller: Controller,
    namespaces: Vec<String>,
    seen: mpsc::UnboundedReceiver<(String, String)>,
}

impl Many {
    async fn start(count: usize) -> Self {
        let git = GitServer::http();
        let remote = git.repository("shared.git");
        remote.commit("main", &[("rules/a.md", "round 0"), ("handbook/a.md", "as ever")]);
        let cluster = world::cluster();
        let mut namespaces = vec![];
        for _ in 0..count.div_ceil(EACH) {
            namespaces.push(cluster.namespace("synced").await);
        }
        let release = Release::install(cluster, &namespaces).await;
        let controller = release.start(&[]);
        world::leading(&controller).await;
        let client = cluster.client().await;
        let (send, seen) = mpsc::unbounded_channel();
        for namespace in &namespaces {
            tokio::spawn(follow(Api::namespaced(client.clone(), namespace), send.clone()));
        }
        let mut many = Self { count, git, remote, client, cluster, release, controller, namespaces, seen };
        many.create().await;
        many
    }

    async fn create(&mut self) {
        let begun = Instant::now();
        let post = PostParams::default();
        for namespace in &self.namespaces {
            let repository = json!({"kind": "Repository", "metadata": {"name": "shared"}, "spec": {
                "url": self.git.url("shared.git"), "ref": {"branch": "main"}, "interval": format!("{INTERVAL_S}s")}});
            let repositories: Api<Repository> = Api::namespaced(self.client.clone(), namespace);
            repositories.create(&post, &object(&repository)).await.unwrap();
        }
        let all: Vec<(&String, Agent)> =
            (0..self.count).map(|i| (&self.namespaces[i / EACH], object(&manifest(i)))).collect();
        futures::stream::iter(&all)
            .for_each_concurrent(16, |(namespace, agent)| async {
                Api::<Agent>::namespaced(self.client.clone(), namespace).create(&post, agent).await.unwrap();
            })
            .await;
        let first = self.remote.run(&["rev-parse", "main"]);
        self.all_have(&first, begun).await;
        eprintln!("{} agents after {:.1} s", self.count, begun.elapsed().as_secs_f64());
        self.quiet().await;
    }

    /// Waits until the cluster has made pods of all that, so that the next number is its own: until little is asked.
    async fn quiet(&self) {
        let asked = || std::fs::metadata(&self.cluster.ready.audit_log).unwrap().len();
        for _ in 0..60 {
            let before = asked();
            tokio::time::sleep(Duration::from_secs(5)).await;
            if asked() - before < QUIET {
                return;
            }
        }
        eprintln!("the cluster does not come to rest");
    }

    /// Milliseconds until each Deployment has this commit.
    async fn all_have(&mut self, commit: &str, since: Instant) -> Vec<f64> {
        let mut times = HashMap::new();
        while times.len() < self.count {
            let next = tokio::time::timeout(Duration::from_mins(3), self.seen.recv()).await;
            let (name, revision) = next.expect("all Deployments within minutes").unwrap();
            if revision.ends_with(commit) {
                times.entry(name).or_insert_with(|| since.elapsed().as_secs_f64() * 1000.0);
            }
        }
        times.into_values().collect()
    }

    async fn pushes(&mut self, rounds: usize) -> Vec<f64> {
        let mut samples = vec![];
        for round in 1..=rounds {
            let commit = self.remote.commit("main", &[("rules/a.md", &format!("round {round}"))]);
            let now = Instant::now();
            let ask = json!({"metadata": {"annotations": {"pilothouse.dev/reconcile-at": format!("{now:?}")}}});
            let repositories: Api<Repository> = Api::namespaced(self.client.clone(), &self.namespaces[0]);
            repositories.patch("shared", &PatchParams::default(), &Patch::Merge(ask)).await.unwrap();
            let times = self.all_have(&commit, now).await;
            let last = times.iter().copied().fold(0.0, f64::max);
            eprintln!("round {round}: the last of {} after {last:.0} ms", self.count);
            samples.extend(times);
            self.quiet().await;
        }
        samples
    }

    /// Writes, listings an interval, and MiB, while nothing changes.
    async fn rest(&self) -> [f64; 3] {
        let (audit, listings) = (self.cluster.audit().later(), self.git.count(Asked::Listing));
        tokio::time::sleep(REST).await;
        let user = self.release.user();
        let writes = audit.writes(&user);
        if !writes.is_empty() {
            eprintln!("writes at rest: {:?}", audit.summary(&user));
        }
        // The first listing of the time ends an interval that began before it.
        let ended = (self.git.count(Asked::Listing) - listings).saturating_sub(1);
        #[allow(clippy::cast_precision_loss, reason = "small counts")]
        [
            writes.len() as f64,
            ended as f64 / (REST.as_secs() as f64 / INTERVAL_S as f64),
            self.controller.resident() as f64 / 1024.0 / 1024.0,
        ]
    }
}

fn manifest(i: usize) -> Value {
    let git = |path: &str, policy: &str| {
        let sync = json!({"enabled": true, "policy": policy});
        json!({"repositoryRef": {"name": "shared"}, "path": path, "sync": sync})
    };
    let context =
        |name: &str, git: Value| json!({"name": name, "type": "Git", "mountPath": format!("docs/{name}"), "git": git});
    json!({"kind": "Agent", "metadata": {"name": format!("a{i}")}, "spec": {
        "workspaceDir": "/workspace", "serviceAccountName": "default",
        "agentImage": "localhost/opencode:1", "executorImage": "localhost/executor:1",
        "contexts": [context("rules", git("rules", "Rollout")), context("handbook", git("handbook", "HotReload"))]}})
}

/// Tells the commit in each Deployment's pod template as it becomes another.
async fn follow(deployments: Api<PartialObjectMeta<Deployment>>, seen: mpsc::UnboundedSender<(String, String)>) {
    let mut objects = std::pin::pin!(watcher(deployments, watcher::Config::default()).applied_objects());
    while let Some(Ok(deployment)) = objects.next().await {
        let pieces = state::pieces(deployment.annotations());
        if let Some(rules) = pieces.get("contexts/rules")
            && seen.send((deployment.name_any(), rules.revision.clone())).is_err()
        {
            return;
        }
    }
}
