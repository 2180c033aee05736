//! Tasks: how soon the next one begins, and a thousand of them in the queues of fifty agents.

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, PostParams},
    runtime::{WatchStreamExt as _, watcher},
};
use pilothouse::api::{Agent, Task, TaskPhase, names::reasons};
use serde_json::json;
use tokio::{
    runtime::Runtime,
    sync::{mpsc, watch},
};

use crate::{
    common::{
        audit::AuditLog,
        controller::{Controller, Release},
    },
    push::object,
    table::Number,
    task_pods, turns, world,
};

/// Agents, unless `BENCH_AGENTS` says fewer, in so many namespaces.
const AGENTS: usize = 50;
const NAMESPACES: usize = 5;
/// Tasks in the queue of each.
const EACH: usize = 20;
/// Last words of a pod: as long as those of a short session.
const WORDS: &str = r#"{"reason": "Completed", "message": "", "result": "Done.", "log": "Done.",
    "session": {"id": "ses_1", "summary": {"messageCount": 2, "cost": "0.010000", "tokenUsage": {"input": 900, "output": 9}}}}"#;
const LIMIT: Duration = Duration::from_mins(10);
/// Events are published behind everything else; so long no write comes when all are.
const QUIET: Duration = Duration::from_secs(5);

/// `task_finished_to_next_running_played_ms`: see [`turns::measure`].
///
/// `tasks_per_second`: a thousand Tasks in the queues of fifty agents that do one at a time, from the moment in which the
/// Tasks before them end to the end of the last one; pods end as soon as they have begun. `api_requests_per_task`: what the
/// controller asked of the API server from the creation of these Tasks until nothing more was written. The same of everybody:
/// `api_requests_per_task_of_all`.
///
/// # Panics
/// Where Tasks of an agent start in another order than by priority, creation and name.
pub(crate) fn measure(runtime: &Runtime) -> Vec<Number> {
    runtime.block_on(async {
        let turns = turns::measure().await;
        let (rate, own, all) = Crowd::start(world::agents(AGENTS)).await.run().await;
        vec![
            Number::new("task_finished_to_next_running_played_ms", "ms", 200.0, turns),
            // More is better, and there is no goal.
            Number::new("tasks_per_second", "1/s", f64::INFINITY, vec![rate]),
            Number::new("api_requests_per_task", "count", 12.0, vec![own]),
            // With those of who plays the kubelet, and of Kubernetes itself.
            Number::new("api_requests_per_task_of_all", "count", f64::INFINITY, vec![all]),
        ]
    })
}

/// Agents that each do one Task at a time, and are at one already.
struct Crowd {
    agents: usize,
    client: Client,
    release: Release,
    _controller: Controller,
    namespaces: Vec<String>,
    tasks: mpsc::UnboundedReceiver<Task>,
    seen: Seen,
    /// Lets the first Task of each agent end.
    go: watch::Sender<bool>,
    audit: AuditLog,
}

/// What is known of Tasks.
#[derive(Default)]
struct Seen {
    queued: HashSet<String>,
    /// Those of each agent, in the order in which they began.
    started: BTreeMap<String, Vec<String>>,
    ended: HashSet<String>,
}

impl Seen {
    fn take(&mut self, task: &Task) {
        let Some(status) = &task.status else { return };
        let (name, agent) = (task.name_any(), task.spec.agent_ref.clone().unwrap().name);
        let full = |c: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
            c.type_ == "Queued" && c.status == "True" && c.reason == reasons::AGENT_AT_CAPACITY
        };
        if status.conditions.iter().any(|c| full(&c)) {
            self.queued.insert(name.clone());
        }
        let started = self.started.entry(agent).or_default();
        if status.start_time.is_some() && !started.contains(&name) {
            started.push(name.clone());
        }
        match status.phase {
            Some(TaskPhase::Completed) => _ = self.ended.insert(name),
            Some(TaskPhase::Failed) => panic!("{name} failed: {:?}", status.conditions),
            _ => {}
        }
    }
}

fn agent(at: usize) -> String {
    format!("a{at}")
}

impl Crowd {
    async fn start(agents: usize) -> Self {
        let cluster = world::cluster();
        let mut namespaces = vec![];
        for _ in 0..NAMESPACES.min(agents) {
            namespaces.push(cluster.namespace("crowd").await);
        }
        let release = Release::install(cluster, &namespaces).await;
        let controller = release.start(&[]);
        world::leading(&controller).await;
        let client = cluster.client().await;
        let ((tell, tasks), (go, gone)) = (mpsc::unbounded_channel(), watch::channel(false));
        for namespace in &namespaces {
            let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
            task_pods::of_agents(&pods);
            let (all, gone) = (pods.clone(), gone.clone());
            task_pods::of_tasks(&pods, move |pod| drop(tokio::spawn(play(all.clone(), pod, gone.clone()))));
            tokio::spawn(follow(Api::namespaced(client.clone(), namespace), tell.clone()));
        }
        let audit = cluster.audit();
        let mut crowd = Self {
            agents,
            client,
            release,
            _controller: controller,
            namespaces,
            tasks,
            seen: Seen::default(),
            go,
            audit,
        };
        crowd.occupy().await;
        crowd
    }

    fn api<K>(&self, at: usize) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespaces[at % self.namespaces.len()])
    }

    /// Makes the agents, each at work with a Task that lasts.
    async fn occupy(&mut self) {
        let post = PostParams::default();
        for at in 0..self.agents {
            let new = json!({"kind": "Agent", "metadata": {"name": agent(at)}, "spec": {
                "workspaceDir": "/workspace", "serviceAccountName": "default", "maxConcurrentTasks": 1,
                "agentImage": "localhost/opencode:1", "executorImage": "localhost/executor:1"}});
            self.api::<Agent>(at).create(&post, &object(&new)).await.unwrap();
            self.api::<Task>(at).create(&post, &task(at, "first", 0)).await.unwrap();
        }
        let agents = self.agents;
        self.until(|seen| seen.started.values().filter(|started| !started.is_empty()).count() == agents).await;
    }

    async fn until(&mut self, holds: impl Fn(&Seen) -> bool) {
        let wait = async {
            while !holds(&self.seen) {
                let task = self.tasks.recv().await.unwrap();
                self.seen.take(&task);
            }
        };
        tokio::time::timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("Tasks stand still for {LIMIT:?}"));
    }

    /// Tasks a second, requests of the controller a Task, and requests of all.
    async fn run(mut self) -> (f64, f64, f64) {
        self.audit = self.audit.later();
        let count = self.agents * EACH;
        self.fill().await;
        self.until(|seen| seen.queued.len() == count).await;
        self.quiet().await;
        let queued = self.audit.profile(&self.release.user());
        let begun = Instant::now();
        self.go.send_replace(true);
        let (all, started) = (count + self.agents, begun);
        self.until(|seen| seen.ended.len() == all).await;
        let took = started.elapsed();
        self.in_order().await;
        self.quiet().await;
        let user = self.release.user();
        eprintln!(
            "{count} Tasks of {} agents in {:.1} s, in order; to queue them {queued:?}",
            self.agents,
            took.as_secs_f64()
        );
        eprintln!("with that all in all {:?}", self.audit.profile(&user));
        let (own, everybody) = (self.audit.requests(&user).len(), self.audit.clone().read_on().len());
        #[allow(clippy::cast_precision_loss, reason = "small counts")]
        let [count, own, everybody] = [count, own, everybody].map(|n| n as f64);
        (count / took.as_secs_f64(), own / count, everybody / count)
    }

    /// Puts the Tasks into the queues, of three priorities.
    async fn fill(&self) {
        let post = PostParams::default();
        let all = (0..EACH).flat_map(|n| (0..self.agents).map(move |at| (at, n)));
        futures::stream::iter(all)
            .for_each_concurrent(16, |(at, n)| {
                let (api, post) = (self.api::<Task>(at), &post);
                async move {
                    api.create(post, &task(at, &format!("{n:02}"), n % 3)).await.unwrap();
                }
            })
            .await;
    }

    /// Waits until the controller writes nothing more.
    async fn quiet(&self) {
        let user = self.release.user();
        let mut writes = self.audit.writes(&user).len();
        loop {
            tokio::time::sleep(QUIET).await;
            let now = self.audit.writes(&user).len();
            if now == writes {
                return;
            }
            writes = now;
        }
    }

    /// Whether the Tasks of each agent began in the order of its queue: by priority, then creation, then name.
    async fn in_order(&self) {
        let mut expected: BTreeMap<String, Vec<Task>> = BTreeMap::new();
        for at in 0..self.namespaces.len() {
            for task in self.api::<Task>(at).list(&ListParams::default()).await.unwrap() {
                expected.entry(task.spec.agent_ref.clone().unwrap().name).or_default().push(task);
            }
        }
        for (agent, mut tasks) in expected {
            let first = |task: &Task| !task.name_any().ends_with("first");
            tasks.sort_by_key(|t| {
                (first(t), -t.spec.priority.unwrap_or_default(), t.creation_timestamp(), t.name_any())
            });
            let expected: Vec<_> = tasks.iter().map(kube::ResourceExt::name_any).collect();
            assert_eq!(
                self.seen.started[&agent], expected,
                "Tasks of {agent} began in another order than that of its queue"
            );
        }
    }
}

fn task(at: usize, name: &str, priority: usize) -> Task {
    object(&json!({"kind": "Task", "metadata": {"name": format!("{}-{name}", agent(at))},
        "spec": {"agentRef": {"name": agent(at)}, "description": "Say hello.", "priority": priority}}))
}

async fn follow(tasks: Api<Task>, tell: mpsc::UnboundedSender<Task>) {
    let mut tasks = std::pin::pin!(watcher(tasks, watcher::Config::default()).applied_objects());
    while let Some(task) = tasks.next().await {
        if tell.send(task.unwrap()).is_err() {
            return;
        }
    }
}

/// A pod that ends as soon as it has begun; an agent's first one when it is let go.
async fn play(pods: Api<Pod>, pod: Pod, mut go: watch::Receiver<bool>) {
    let name = pod.name_any();
    task_pods::begins(&pods, &name).await;
    // Whoever measures may be gone by then.
    if go.wait_for(|go| *go).await.is_ok() {
        task_pods::ends(&pods, &name, 0, WORDS).await;
    }
}
