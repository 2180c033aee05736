//! A thousand `CronTasks` at one minute, beside a thousand of Kubernetes' `CronJobs` at another; and ten thousand that wait.

use std::{collections::HashMap, time::Duration};

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::{
    Api, Resource, ResourceExt as _,
    api::{DeleteParams, ListParams, PostParams},
    core::PartialObjectMeta,
    runtime::{WatchStreamExt as _, watcher},
};
use pilothouse::api::{CronTask, Task};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{
    common::{
        cluster::Cluster,
        controller::{Controller, Release},
    },
    push::object,
    table::Number,
    world,
};

/// How many come due in the same minute.
const DUE: usize = 1000;
/// How many wait.
const IDLE: usize = 10_000;
/// How long they are watched.
const REST: Duration = Duration::from_mins(2);

/// That many, or as many as `BENCH_CRONTASKS` says, to see that a measurement works.
fn count(usual: usize) -> usize {
    let most = std::env::var("BENCH_CRONTASKS").ok().and_then(|n| n.parse().ok());
    most.map_or(usual, |most: usize| most.clamp(1, usual))
}

/// How late the Tasks of a minute are; the same of `CronJobs`; and what waiting costs.
pub(crate) fn measure(runtime: &Runtime) -> Vec<Number> {
    runtime.block_on(async {
        let cluster = world::cluster();
        let ours = of_crontasks(cluster).await;
        let theirs = of_cronjobs(cluster).await;
        let [processor, memory] = idle(cluster).await;
        let (p99, theirs_p99) = (p99(&ours), p99(&theirs));
        vec![
            Number::new("cron_lateness_ms", "ms", 1000.0, ours),
            Number::new("cron_lateness_p99_ms", "ms", theirs_p99 / 2.0, vec![p99]),
            // Nothing of ours: what the machine and its API server make of the same load.
            Number::new("cronjob_lateness_ms", "ms", f64::INFINITY, theirs),
            Number::new("idle_10000_crontasks_cpu_percent", "%", 1.0, vec![processor]),
            Number::new("rss_10000_crontasks_mib", "MiB", 128.0, vec![memory]),
        ]
    })
}

fn p99(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() * 99 / 100).min(sorted.len() - 1)]
}

/// A minute that nothing made now can miss, and its expression.
fn minute() -> (Timestamp, String) {
    let second = (Timestamp::now().as_second() / 60 + 3) * 60;
    let time = Timestamp::from_second(second).unwrap();
    (time, time.strftime("%M %H * * *").to_string())
}

async fn of_crontasks(cluster: &Cluster) -> Vec<f64> {
    let namespace = cluster.namespace("cron").await;
    let release = Release::install(cluster, std::slice::from_ref(&namespace)).await;
    let mut controller = release.start(&[]);
    world::leading(&controller).await;
    let client = cluster.client().await;
    let (due, schedule) = minute();
    let crontasks: Api<CronTask> = Api::namespaced(client.clone(), &namespace);
    let tasks: Api<PartialObjectMeta<Task>> = Api::namespaced(client, &namespace);
    let seen = tokio::spawn(first_seen(tasks, count(DUE)));
    create(&crontasks, count(DUE), |i| {
        object(&json!({"kind": "CronTask", "metadata": {"name": format!("c{i}")}, "spec": {"schedule": schedule,
            "taskTemplate": {"spec": {"agentRef": {"name": "nobody"}, "description": "sweep"}}}}))
    })
    .await;
    let late = lateness(seen, due).await;
    controller.kill();
    clear(&crontasks).await;
    late
}

/// Their Jobs are suspended, as ours wait for an agent: neither gets pods.
async fn of_cronjobs(cluster: &Cluster) -> Vec<f64> {
    let namespace = cluster.namespace("cronjobs").await;
    let client = cluster.client().await;
    let (due, schedule) = minute();
    let cronjobs: Api<CronJob> = Api::namespaced(client.clone(), &namespace);
    let jobs: Api<PartialObjectMeta<Job>> = Api::namespaced(client, &namespace);
    let seen = tokio::spawn(first_seen(jobs, count(DUE)));
    create(&cronjobs, count(DUE), |i| {
        let container = json!({"name": "c", "image": "localhost/none:1"});
        let job = json!({"suspend": true, "template": {"spec": {"restartPolicy": "Never", "containers": [container]}}});
        serde_json::from_value::<CronJob>(json!({
            "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": format!("c{i}")},
            "spec": {"schedule": schedule, "jobTemplate": {"spec": job}},
        }))
        .unwrap()
    })
    .await;
    let late = lateness(seen, due).await;
    clear(&cronjobs).await;
    late
}

/// When the first `count` objects were seen: a creation time has whole seconds only.
async fn first_seen<K>(api: Api<PartialObjectMeta<K>>, count: usize) -> Vec<Timestamp>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + Sync + 'static,
    PartialObjectMeta<K>: Resource<DynamicType = ()>,
{
    let mut seen = HashMap::new();
    let mut objects = std::pin::pin!(watcher(api, watcher::Config::default()).applied_objects());
    while seen.len() < count {
        let object = objects.next().await.unwrap().unwrap();
        seen.entry(object.name_any()).or_insert_with(Timestamp::now);
    }
    seen.into_values().collect()
}

async fn lateness(seen: tokio::task::JoinHandle<Vec<Timestamp>>, due: Timestamp) -> Vec<f64> {
    let seen = tokio::time::timeout(Duration::from_mins(10), seen).await.expect("within ten minutes").unwrap();
    seen.into_iter().map(|at| at.duration_since(due).as_secs_f64() * 1000.0).collect()
}

/// Share of one processor, and MiB, while ten thousand wait for tomorrow.
async fn idle(cluster: &Cluster) -> [f64; 2] {
    let namespace = cluster.namespace("idle").await;
    let release = Release::install(cluster, std::slice::from_ref(&namespace)).await;
    let crontasks: Api<CronTask> = Api::namespaced(cluster.client().await, &namespace);
    let hour = Timestamp::now().strftime("%H").to_string().parse::<i64>().unwrap();
    create(&crontasks, count(IDLE), |i| {
        object(&json!({"kind": "CronTask", "metadata": {"name": format!("c{i}")}, "spec": {
            "schedule": format!("{} {} * * *", i % 60, (hour + 12) % 24), "timeZone": "UTC",
            "taskTemplate": {"spec": {"agentRef": {"name": "nobody"}, "description": "sweep"}}}}))
    })
    .await;
    let controller = release.start(&[]);
    world::leading(&controller).await;
    let audit = cluster.audit().later();
    world::until(Duration::from_mins(10), || async {
        let list = crontasks.list(&ListParams::default()).await.unwrap();
        list.items.iter().all(|c| c.status.as_ref().is_some_and(|s| s.next_schedule_time.is_some())).then_some(())
    })
    .await;
    eprintln!("first look at {}: {:?}", count(IDLE), audit.profile(&release.user()));
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = processor_seconds(&controller);
    tokio::time::sleep(REST).await;
    let used = processor_seconds(&controller) - before;
    #[allow(clippy::cast_precision_loss, reason = "MiB")]
    let memory = controller.resident() as f64 / 1024.0 / 1024.0;
    [used / REST.as_secs_f64() * 100.0, memory]
}

fn processor_seconds(controller: &Controller) -> f64 {
    controller.processor().as_secs_f64()
}

async fn create<T>(api: &Api<T>, count: usize, make: impl Fn(usize) -> T)
where
    T: Resource + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    let post = PostParams::default();
    futures::stream::iter((0..count).map(make))
        .for_each_concurrent(16, |one| {
            let post = &post;
            async move {
                api.create(post, &one).await.unwrap();
            }
        })
        .await;
}

async fn clear<T>(api: &Api<T>)
where
    T: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    api.delete_collection(&DeleteParams::background(), &ListParams::default()).await.unwrap();
}
