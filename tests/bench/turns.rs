//! One agent that does one Task at a time: from the end of a session to the start of the next Task.
//!
//! The program of the pods is the real one, and so is the sidecar whose door they go through; the server behind it says
//! what it is told, and this program is the kubelet.

use std::{
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::{
    Api, ResourceExt as _,
    api::PostParams,
    runtime::{WatchStreamExt as _, watcher},
};
use pilothouse::{
    api::{Agent, Task, TaskPhase},
    pod::opencode::{Client, Credentials, Follower, SessionStatus, Signal},
};
use serde_json::json;
use tokio::sync::mpsc;

use crate::{
    common::{
        agent_server::{AgentServer, Setup},
        controller::{Release, pilothouse},
        opencode::free_port,
    },
    push::object,
    sidecars::{Companion, Quarters, put, texts},
    task_pods, world,
};

const AGENT: &str = "coder";
/// How many Tasks; the first one has nobody before it.
const TASKS: usize = 21;
const LIMIT: Duration = Duration::from_mins(1);

/// Milliseconds from the moment in which the door tells that the session of a Task is idle, to the phase Running of the
/// next one.
pub(crate) async fn measure() -> Vec<f64> {
    let cluster = world::cluster();
    let namespace = cluster.namespace("turns").await;
    let release = Release::install(cluster, std::slice::from_ref(&namespace)).await;
    let port = free_port();
    let (listen, voice) = (format!("127.0.0.1:{port}"), format!("localhost:{port}"));
    let controller = release.start(&["--voice-listen", &listen, "--voice-address", &voice]);
    world::leading(&controller).await;
    let root = tempfile::tempdir().unwrap();
    let quarters = Arc::new(Quarters { client: cluster.client().await, namespace, root, voice });
    let (_server, companion) = agent(&quarters).await;
    let door = door(&quarters, &companion).await;
    let (tasks, pods) = (quarters.api::<Task>(), quarters.api::<Pod>());
    let turns = Turns::watch(&door, &tasks).await;
    let (of_pod, all, port) = (quarters.clone(), pods.clone(), companion.door);
    task_pods::of_tasks(&pods, move |pod| {
        let (quarters, pods) = (of_pod.clone(), all.clone());
        tokio::spawn(async move {
            task_pods::begins(&pods, &pod.name_any()).await;
            let (code, words) = task_run(&quarters, &pod, port).await;
            task_pods::ends(&pods, &pod.name_any(), code, &words).await;
        });
    });
    let names = create(&tasks, AGENT, TASKS).await;
    let samples = turns.of(&names).await;
    // Its pod needs the agent to its end.
    world::until(LIMIT, || async {
        let last = tasks.get(names.last().unwrap()).await.unwrap();
        (last.status?.phase? == TaskPhase::Completed).then_some(())
    })
    .await;
    samples
}

/// Sessions that become idle, and Tasks that begin to run.
pub(crate) struct Turns {
    idle: mpsc::UnboundedReceiver<Instant>,
    running: mpsc::UnboundedReceiver<(Instant, String)>,
}

impl Turns {
    /// It listens when this returns.
    pub(crate) async fn watch(door: &Client, tasks: &Api<Task>) -> Self {
        Self { idle: idle(door.global_events()).await, running: running(tasks.clone()) }
    }

    /// Milliseconds from the end of each Task's session to the next one.
    ///
    /// # Panics
    /// Where Tasks do not begin in this order, or before the session of the one before them has ended.
    pub(crate) async fn of(mut self, names: &[String]) -> Vec<f64> {
        let (mut samples, mut rests) = (vec![], vec![]);
        for (at, name) in names.iter().enumerate() {
            let next = tokio::time::timeout(LIMIT, self.running.recv()).await;
            let (began, started) = next.unwrap_or_else(|_| panic!("{name} does not run within {LIMIT:?}")).unwrap();
            assert_eq!(started, *name, "Tasks begin in another order than that of their queue");
            // A session may rest in between; the last time counts.
            rests.extend(std::iter::from_fn(|| self.idle.try_recv().ok()));
            let ended = rests.iter().copied().rfind(|rest| *rest <= began);
            rests.retain(|rest| *rest > began);
            if at > 0 {
                let ended =
                    ended.unwrap_or_else(|| panic!("{name} began before the session of the Task before it had ended"));
                samples.push((began - ended).as_secs_f64() * 1000.0);
            }
        }
        samples
    }
}

/// The agent, ready, with a sidecar in front of its server.
async fn agent(quarters: &Quarters) -> (AgentServer, Companion) {
    let workspace = quarters.workspace(AGENT);
    let agent = object::<Agent>(&json!({"kind": "Agent", "metadata": {"name": AGENT}, "spec": {
        "workspaceDir": workspace, "serviceAccountName": "default", "maxConcurrentTasks": 1,
        "agentImage": "localhost/opencode:1", "executorImage": "localhost/executor:1"}}));
    quarters.api::<Agent>().create(&PostParams::default(), &agent).await.unwrap();
    task_pods::of_agents(&quarters.api::<Pod>());
    let pod = quarters.pod(AGENT, "").await;
    let server = AgentServer::start(Setup { directory: workspace.to_str().unwrap().into(), ..Setup::default() }).await;
    let companion = quarters.companion(AGENT, &pod, server.port).await;
    (server, companion)
}

/// A client of the agent's door, once that answers.
async fn door(quarters: &Quarters, companion: &Companion) -> Client {
    let auth = quarters.root.path().join(AGENT).join(&companion.pod).join("auth");
    let [username, password] = ["username", "password"].map(|key| std::fs::read_to_string(auth.join(key)).unwrap());
    let url = format!("http://127.0.0.1:{}", companion.door);
    let door = Client::new(&url, Some(&Credentials { username, password })).unwrap();
    world::until(LIMIT, || async { door.health().await.ok() }).await;
    door
}

/// When sessions become idle. It listens when this returns.
async fn idle(mut events: Follower) -> mpsc::UnboundedReceiver<Instant> {
    assert_eq!(events.next().await, Signal::Connected);
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            match events.next().await {
                Signal::Event(event) if event.payload.properties.status == Some(SessionStatus::Idle) => {
                    if tell.send(Instant::now()).is_err() {
                        return;
                    }
                }
                // Whoever listened has what he wanted, and the agent is gone.
                Signal::Lost(_) if tell.is_closed() => return,
                Signal::Lost(error) => panic!("the door's events broke off: {error}"),
                Signal::Event(_) | Signal::Connected => {}
            }
        }
    });
    told
}

/// Tasks as they begin to run.
fn running(tasks: Api<Task>) -> mpsc::UnboundedReceiver<(Instant, String)> {
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut seen = std::collections::HashSet::new();
        let mut tasks = std::pin::pin!(watcher(tasks, watcher::Config::default()).applied_objects());
        while let Some(task) = tasks.next().await {
            let task = task.unwrap();
            let runs = task.status.as_ref().and_then(|s| s.phase) == Some(TaskPhase::Running);
            if runs && seen.insert(task.name_any()) && tell.send((Instant::now(), task.name_any())).is_err() {
                return;
            }
        }
    });
    told
}

/// So many Tasks, in the order in which they have to run. The first one works for
/// ten seconds, in which all others come to wait for it.
pub(crate) async fn create(tasks: &Api<Task>, agent: &str, count: usize) -> Vec<String> {
    let names: Vec<_> = (0..count).map(|n| format!("t{n:02}")).collect();
    for (at, name) in names.iter().enumerate() {
        let prompt = if at == 0 { "[[words=100 delay_ms=100]]" } else { "[[words=4 delay_ms=10]]" };
        let task = json!({"kind": "Task", "metadata": {"name": name},
            "spec": {"agentRef": {"name": agent}, "description": prompt}});
        tasks.create(&PostParams::default(), &object(&task)).await.unwrap();
    }
    world::until(LIMIT, || async {
        let all = tasks.list(&kube::api::ListParams::default()).await.unwrap();
        let waits = |t: &&Task| t.status.as_ref().and_then(|s| s.phase) == Some(TaskPhase::Queued);
        (all.iter().filter(waits).count() == count - 1).then_some(())
    })
    .await;
    names
}

/// Runs what a Task's pod runs, to its end, with what the kubelet would have mounted: exit code and last words.
async fn task_run(quarters: &Quarters, pod: &Pod, door: u16) -> (i32, String) {
    let home = quarters.root.path().join(pod.name_any());
    let spec = pod.spec.as_ref().unwrap();
    for volume in spec.volumes.iter().flatten() {
        let files = if let Some(map) = &volume.config_map {
            quarters.api::<ConfigMap>().get(&map.name).await.unwrap().data.unwrap_or_default()
        } else {
            let name = volume.secret.as_ref().and_then(|s| s.secret_name.clone()).unwrap();
            texts(quarters.api::<Secret>().get(&name).await.unwrap())
        };
        put(&home.join(&volume.name), &files);
    }
    let mut command = tokio::process::Command::new(pilothouse());
    let log = std::fs::File::create(home.join("log")).unwrap();
    command.env_clear().arg("task-run").kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    for variable in spec.containers[0].env.iter().flatten() {
        command.env(&variable.name, variable.value.as_deref().unwrap_or_default());
    }
    let words = home.join("last-words");
    command.env("PILOTHOUSE_AGENT_URL", format!("http://127.0.0.1:{door}"));
    command.env("PILOTHOUSE_AUTH_DIR", home.join("auth")).env("PILOTHOUSE_TERMINATION_LOG", &words);
    command.env("PILOTHOUSE_PROMPT_FILE", home.join("task/prompt.txt")).env_remove("PILOTHOUSE_CONTEXT_FILE");
    let code = command.status().await.unwrap().code().unwrap_or(137);
    (code, std::fs::read_to_string(words).unwrap_or_default())
}
