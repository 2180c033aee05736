//! A hundred Syncs and a hundred Agents: cold, and at rest.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
    core::PartialObjectMeta,
    runtime::{WatchStreamExt as _, watcher},
};
use pilothouse::api::{Agent, Repository, Sync};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{
    common::{
        cluster::Cluster,
        controller::{Controller, Release},
        git_server::{Asked, GitServer},
    },
    push::object,
    table::Number,
    world,
};

const COUNT: usize = 100;
/// How long nothing may be written.
const REST: Duration = Duration::from_mins(2);
/// Interval of the Repository while it rests.
const INTERVAL_S: u64 = 20;

/// How often it starts from nothing, unless `BENCH_ROUNDS` says something else.
const ROUNDS: usize = 5;

/// A controller with its load.
struct Load {
    namespace: String,
    release: Release,
    controller: Controller,
    cold: f64,
    created: f64,
}

/// The numbers under one load, because that is how they are meant.
pub(crate) fn measure(runtime: &Runtime) -> Vec<Number> {
    let git = GitServer::http();
    let remote = git.repository("many.git");
    let files: Vec<_> = (0..COUNT).map(|i| (format!("apps/{i}/all.yaml"), manifest(i))).collect();
    remote.commit("main", &files.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect::<Vec<_>>());
    runtime.block_on(async {
        let cluster = world::cluster();
        let mut loads: Vec<Load> = vec![];
        let rounds = std::env::var("BENCH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(ROUNDS).max(1);
        for _ in 0..rounds {
            // Each round begins in an empty cluster: two hundred objects with their pods are what is measured.
            if let Some(last) = loads.last_mut() {
                last.controller.kill();
                empty(cluster, &last.namespace).await;
            }
            loads.push(load(cluster, &git.url("many.git")).await);
            // What the creation set off may end first.
            tokio::time::sleep(Duration::from_secs(15)).await;
        }
        let [writes, listings, resident] = rest(cluster, &git, &loads[rounds - 1]).await;
        let of = |time: fn(&Load) -> f64| loads.iter().map(time).collect();
        vec![
            Number::new("cold_100_syncs_s", "s", 3.0, of(|l| l.cold)),
            Number::new("create_100_agents_s", "s", 1.5, of(|l| l.created)),
            Number::new("steady_api_writes", "writes", 0.0, vec![writes]),
            Number::new("steady_ref_listings_per_interval", "count", 1.1, vec![listings]),
            Number::new("controller_rss_mib", "MiB", 64.0, vec![resident]),
        ]
    })
}

fn manifest(i: usize) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c{i}}}\ndata: {{a: b}}\n---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: s{i}}}\n"
    )
}

/// Starts a controller in a namespace of its own, and gives it a hundred Syncs and then a hundred Agents.
async fn load(cluster: &Cluster, url: &str) -> Load {
    let ns = cluster.namespace("many").await;
    let release = Release::install(cluster, std::slice::from_ref(&ns)).await;
    let controller = release.start(&[]);
    world::leading(&controller).await;
    let client = cluster.client().await;
    let repositories: Api<Repository> = Api::namespaced(client.clone(), &ns);
    let syncs: Api<Sync> = Api::namespaced(client.clone(), &ns);
    let ready =
        world::counted(watcher(syncs.clone(), watcher::Config::default()).applied_objects(), COUNT, |s: &Sync| {
            s.status.as_ref().is_some_and(|s| s.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
        });
    let audit = cluster.audit().later();
    let began = Instant::now();
    let repository = json!({"kind": "Repository", "metadata": {"name": "many"},
        "spec": {"url": url, "ref": {"branch": "main"}, "interval": format!("{INTERVAL_S}s")}});
    repositories.create(&PostParams::default(), &object(&repository)).await.unwrap();
    create(&syncs, |i| {
        json!({"kind": "Sync", "metadata": {"name": format!("s{i}")},
            "spec": {"repositoryRef": {"name": "many"}, "path": format!("apps/{i}")}})
    })
    .await;
    let there = began.elapsed().as_secs_f64();
    within(ready).await;
    let cold = began.elapsed().as_secs_f64();
    eprintln!("{cold:.2} s, of it {there:.2} s until all Syncs exist; {:?}", audit.profile(&release.user()));

    let agents: Api<Agent> = Api::namespaced(client.clone(), &ns);
    let deployments: Api<PartialObjectMeta<Deployment>> = Api::namespaced(client, &ns);
    let events = watcher(deployments, watcher::Config::default()).applied_objects();
    let exist = world::counted(events, COUNT, |_| true);
    let audit = cluster.audit().later();
    let began = Instant::now();
    create(&agents, |i| {
        json!({"kind": "Agent", "metadata": {"name": format!("a{i}")}, "spec": {
            "workspaceDir": "/workspace", "serviceAccountName": "default", "agentImage": "localhost/opencode:1",
            "executorImage": "localhost/executor:1",
            "contexts": [{"name": "role", "type": "Text", "text": format!("You are agent {i}.")}]}})
    })
    .await;
    let there = began.elapsed().as_secs_f64();
    within(exist).await;
    let created = began.elapsed().as_secs_f64();
    eprintln!("{created:.2} s, of it {there:.2} s until all Agents exist; {:?}", audit.profile(&release.user()));
    Load { namespace: ns, release, controller, cold, created }
}

/// Removes the agents of a round and waits until the cluster has removed their Deployments and pods.
async fn empty(cluster: &Cluster, ns: &str) {
    let client = cluster.client().await;
    let agents: Api<Agent> = Api::namespaced(client.clone(), ns);
    agents.delete_collection(&DeleteParams::background(), &ListParams::default()).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), ns);
    let deployments: Api<Deployment> = Api::namespaced(client, ns);
    world::until(Duration::from_mins(2), || async {
        let list = ListParams::default().limit(1);
        let left = pods.list_metadata(&list).await.unwrap().items.len()
            + deployments.list_metadata(&list).await.unwrap().items.len();
        (left == 0).then_some(())
    })
    .await;
}

async fn within(counted: tokio::task::JoinHandle<()>) {
    tokio::time::timeout(Duration::from_mins(2), counted).await.expect("within two minutes").unwrap();
}

/// Writes, listings an interval, and MiB, while nothing changes.
async fn rest(cluster: &Cluster, git: &GitServer, load: &Load) -> [f64; 3] {
    // From one listing to a later one, so that no part of an interval counts.
    let (first, began) = next_listing(git).await;
    let audit = cluster.audit().later();
    tokio::time::sleep(REST).await;
    let (last, ended) = next_listing(git).await;
    let user = load.release.user();
    let writes = audit.writes(&user);
    if !writes.is_empty() {
        eprintln!("writes at rest: {:?}", audit.summary(&user));
    }
    #[allow(clippy::cast_precision_loss, reason = "small counts")]
    [
        writes.len() as f64,
        (last - first) as f64 * INTERVAL_S as f64 / (ended - began).as_secs_f64(),
        load.controller.resident() as f64 / 1024.0 / 1024.0,
    ]
}

/// Waits for a listing: how many there were then, and when.
async fn next_listing(git: &GitServer) -> (usize, Instant) {
    let before = git.count(Asked::Listing);
    let limit = Duration::from_secs(3 * INTERVAL_S);
    let count = world::until(limit, || async { Some(git.count(Asked::Listing)).filter(|count| *count > before) }).await;
    (count, Instant::now())
}

async fn create<T>(api: &Api<T>, manifest: impl Fn(usize) -> serde_json::Value)
where
    T: kube::Resource + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    let post = PostParams::default();
    let all: Vec<T> = (0..COUNT).map(|i| object(&manifest(i))).collect();
    futures::stream::iter(&all)
        .for_each_concurrent(16, |one| async {
            api.create(&post, one).await.unwrap();
        })
        .await;
}
