//! A hundred Syncs and a hundred Agents: cold, and at rest.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use pilothouse::api::{Agent, Repository, Sync};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{
    common::{
        controller::Release,
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

/// The numbers under one load, because that is how they are meant.
pub(crate) fn measure(runtime: &Runtime) -> Vec<Number> {
    let git = GitServer::http();
    let remote = git.repository("many.git");
    let files: Vec<_> = (0..COUNT)
        .map(|i| {
            let text = format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c{i}}}\ndata: {{a: b}}\n---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: s{i}}}\n"
            );
            (format!("apps/{i}/all.yaml"), text)
        })
        .collect();
    remote.commit("main", &files.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect::<Vec<_>>());
    runtime.block_on(async {
        let cluster = world::cluster();
        let ns = cluster.namespace("many").await;
        let release = Release::install(cluster, std::slice::from_ref(&ns)).await;
        let controller = release.start(&[]);
        world::leading(&controller).await;
        let client = cluster.client().await;
        let post = PostParams::default();

        let repositories: Api<Repository> = Api::namespaced(client.clone(), &ns);
        let syncs: Api<Sync> = Api::namespaced(client.clone(), &ns);
        let began = Instant::now();
        repositories
            .create(
                &post,
                &object(&json!({"kind": "Repository", "metadata": {"name": "many"},
            "spec": {"url": git.url("many.git"), "ref": {"branch": "main"}, "interval": format!("{INTERVAL_S}s")}})),
            )
            .await
            .unwrap();
        create(&syncs, |i| {
            json!({"kind": "Sync", "metadata": {"name": format!("s{i}")},
            "spec": {"repositoryRef": {"name": "many"}, "path": format!("apps/{i}")}})
        })
        .await;
        world::until(Duration::from_mins(2), || async {
            let all = syncs.list(&ListParams::default()).await.unwrap();
            let ready = |s: &Sync| {
                s.status.as_ref().is_some_and(|s| s.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
            };
            (all.items.iter().filter(|s| ready(s)).count() == COUNT).then_some(())
        })
        .await;
        let cold = began.elapsed().as_secs_f64();

        let agents: Api<Agent> = Api::namespaced(client.clone(), &ns);
        let deployments: Api<Deployment> = Api::namespaced(client, &ns);
        let began = Instant::now();
        create(&agents, |i| {
            json!({"kind": "Agent", "metadata": {"name": format!("a{i}")}, "spec": {
            "workspaceDir": "/workspace", "serviceAccountName": "default", "agentImage": "localhost/opencode:1",
            "executorImage": "localhost/executor:1",
            "contexts": [{"name": "role", "type": "Text", "text": format!("You are agent {i}.")}]}})
        })
        .await;
        world::until(Duration::from_mins(2), || async {
            let all = deployments.list_metadata(&ListParams::default()).await.unwrap();
            (all.items.len() == COUNT).then_some(())
        })
        .await;
        let created = began.elapsed().as_secs_f64();

        // What the creation set off may end first.
        tokio::time::sleep(Duration::from_secs(15)).await;
        let (audit, listings) = (cluster.audit().later(), git.count(Asked::Listing));
        tokio::time::sleep(REST).await;
        let writes = audit.writes(&release.user());
        if !writes.is_empty() {
            eprintln!("writes at rest: {:?}", audit.summary(&release.user()));
        }
        #[allow(clippy::cast_precision_loss, reason = "small counts")]
        let (writes, listings, resident) = (
            writes.len() as f64,
            (git.count(Asked::Listing) - listings) as f64 / (REST.as_secs() as f64 / INTERVAL_S as f64),
            controller.resident() as f64 / 1024.0 / 1024.0,
        );
        vec![
            Number::new("cold_100_syncs_s", "s", 3.0, vec![cold]),
            Number::new("create_100_agents_s", "s", 1.5, vec![created]),
            Number::new("steady_api_writes", "writes", 0.0, vec![writes]),
            // An interval has ten per cent of jitter.
            Number::new("steady_ref_listings_per_interval", "count", 1.2, vec![listings]),
            Number::new("controller_rss_mib", "MiB", 64.0, vec![resident]),
        ]
    })
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
