//! From a push to what a running agent reads: its text, files of a Git context, the skills that its server lists.

use std::{
    future::ready,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{ListParams, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use pilothouse::{
    api::{Agent, Repository, Sync, Task, agent::AgentState},
    pod::opencode::{Client as Server, Credentials},
};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{
    demo::{
        embedded,
        shell::run,
        world::{PASSWORD, USER, World},
    },
    push::object,
    table::Number,
    turns::{self, Turns},
    world::until,
};

const AGENT: &str = "on-call";
const NAMESPACE: &str = "agents";
const ROUNDS: usize = 12;
const SKILLS: usize = 7;
/// The first one has nobody before it.
const TASKS: usize = 12;

/// `text_change_to_visible_ms`: from the reconcile annotation on the Repository, after a push, to the new text in the file
/// that the agent's running container has. The file is read through the container's own root, every 2 ms.
///
/// `hotreload_push_to_visible_ms`: the same for a file of a Git context, which the sidecar fetches and exchanges.
///
/// `hotreload_push_to_skill_listed_ms`: the same until `GET /skill` of the running server lists what a skill is for now.
pub(crate) fn measure(runtime: &Runtime) -> Vec<Number> {
    let [text, files, skills] = runtime.block_on(rounds());
    vec![
        Number::new("text_change_to_visible_ms", "ms", 1000.0, text),
        Number::new("hotreload_push_to_visible_ms", "ms", 1000.0, files),
        Number::new("hotreload_push_to_skill_listed_ms", "ms", 2000.0, skills),
    ]
}

/// `task_finished_to_next_running_ms`: from the moment in which the door tells that the session of a Task is idle, to the
/// phase Running of the next one in the queue of this agent, which does one at a time.
pub(crate) fn turns(runtime: &Runtime) -> Vec<Number> {
    let samples = runtime.block_on(async { Running::start().await.tasks().await });
    vec![Number::new("task_finished_to_next_running_ms", "ms", 200.0, samples)]
}

/// A running agent of the examples.
struct Running {
    world: World,
    client: Client,
    pod: String,
    /// The root of its server's container.
    root: PathBuf,
}

async fn rounds() -> [Vec<f64>; 3] {
    let running = Running::start().await;
    let text = |round| format!("- Rule {round} of this measurement.");
    let (mut texts, mut files, mut skills) = (vec![], vec![], vec![]);
    for round in 0..ROUNDS {
        let rule = text(round);
        running.world.edit("base/instructions/runbook.md", |old| old + &rule + "\n").unwrap();
        texts.push(running.pushed(|| ready(running.reads("pilothouse/context/context.md", &rule))).await);
        running.world.edit("handbook/releases.md", |old| old + &rule + "\n").unwrap();
        files.push(running.pushed(|| ready(running.reads("workspace/docs/handbook/releases.md", &rule))).await);
    }
    let server = running.server().await;
    for round in 0..SKILLS {
        let use_it = format!("Use it, round {round}.");
        let change = |old: String| {
            let line = format!("description: {use_it}");
            old.lines().map(|l| if l.starts_with("description:") { &line } else { l }).collect::<Vec<_>>().join("\n")
        };
        running.world.edit("skills/keep-a-timeline/SKILL.md", change).unwrap();
        let listed = || async {
            // A server that begins anew has enough to do.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let all = server.skills().await.ok()?;
            let is = |d: &Option<String>| d.as_ref().is_some_and(|d| d.contains(&use_it));
            all.iter().any(|skill| is(&skill.description)).then_some(())
        };
        skills.push(running.pushed(listed).await);
    }
    assert_eq!(pod(&running.client).await, running.pod, "nothing of this may replace the pod");
    [texts, files, skills]
}

impl Running {
    async fn start() -> Self {
        let world = embedded::start().await.unwrap();
        world.kubectl(&["create", "namespace", NAMESPACE]).unwrap();
        world.install().unwrap();
        world.publish_examples().unwrap();
        let literals = [format!("--from-literal=username={USER}"), format!("--from-literal=password={PASSWORD}")];
        world.kubectl(&["create", "secret", "generic", "git-credentials", &literals[0], &literals[1]]).unwrap();
        world.kubectl(&["create", "secret", "generic", "model-gateway", "--from-literal=apiKey=demo"]).unwrap();
        let client = client(&world).await;
        follow(&world, &client).await;
        let agents = Api::<Agent>::namespaced(client.clone(), NAMESPACE);
        until(Duration::from_mins(4), || async {
            let agent = agents.get_opt(AGENT).await.unwrap()?;
            (agent.status?.state? == AgentState::Ready).then_some(())
        })
        .await;
        let pod = pod(&client).await;
        let root = until(Duration::from_secs(30), || async { root_of(&pod) }).await;
        Self { world, client, pod, root }
    }

    /// Pushes what was edited; milliseconds from the annotation until there is a value.
    async fn pushed<F: Future<Output = Option<()>>>(&self, arrived: impl FnMut() -> F) -> f64 {
        self.world.push("A change").unwrap();
        let repositories = Api::<Repository>::namespaced(self.client.clone(), NAMESPACE);
        let now = Instant::now();
        let ask = json!({"metadata": {"annotations": {"pilothouse.dev/reconcile-at": format!("{now:?}")}}});
        repositories.patch("team", &PatchParams::default(), &Patch::Merge(ask)).await.unwrap();
        until(Duration::from_mins(1), arrived).await;
        let took = now.elapsed().as_secs_f64() * 1000.0;
        eprintln!("{took:.0} ms");
        // The status of this round is written before the next one begins.
        tokio::time::sleep(Duration::from_secs(2)).await;
        took
    }

    /// Milliseconds from the end of a Task's session to the next Task.
    async fn tasks(&self) -> Vec<f64> {
        let agents = Api::<Agent>::namespaced(self.client.clone(), NAMESPACE);
        let one = json!({"spec": {"maxConcurrentTasks": 1}});
        agents.patch(AGENT, &PatchParams::default(), &Patch::Merge(one)).await.unwrap();
        let tasks = Api::<Task>::namespaced(self.client.clone(), NAMESPACE);
        let turns = Turns::watch(&self.server().await, &tasks).await;
        let names = turns::create(&tasks, AGENT, TASKS).await;
        turns.of(&names).await
    }

    fn reads(&self, file: &str, text: &str) -> Option<()> {
        std::fs::read_to_string(self.root.join(file)).is_ok_and(|read| read.contains(text)).then_some(())
    }

    /// The agent's server, through its Service and door.
    async fn server(&self) -> Server {
        let service = Api::<Service>::namespaced(self.client.clone(), NAMESPACE).get(AGENT).await.unwrap();
        let spec = service.spec.unwrap();
        let auth = format!("{AGENT}-server-auth");
        let secret = Api::<Secret>::namespaced(self.client.clone(), NAMESPACE).get(&auth).await.unwrap();
        let data = secret.data.unwrap();
        let text = |key: &str| String::from_utf8(data[key].0.clone()).unwrap();
        let credentials = Credentials { username: text("username"), password: text("password") };
        let url = format!("http://{}:{}", spec.cluster_ip.unwrap(), spec.ports.unwrap()[0].port);
        Server::new(&url, Some(&credentials)).unwrap()
    }
}

async fn client(world: &World) -> Client {
    // The first to come wins; both are the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let file = Kubeconfig::read_from(world.access.kubeconfig.as_ref().unwrap()).unwrap();
    Client::try_from(Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap()).unwrap()
}

async fn follow(world: &World, client: &Client) {
    let post = kube::api::PostParams::default();
    let repository = json!({"kind": "Repository", "metadata": {"name": "team"}, "spec": {
        "url": world.url, "ref": {"branch": "main"}, "interval": "1h", "secretRef": {"name": "git-credentials"}}});
    let sync = json!({"kind": "Sync", "metadata": {"name": "agents"}, "spec": {
        "repositoryRef": {"name": "team"}, "path": "overlays/dev",
        "values": {"model": {"name": "m", "baseURL": world.model}}}});
    Api::<Repository>::namespaced(client.clone(), NAMESPACE).create(&post, &object(&repository)).await.unwrap();
    Api::<Sync>::namespaced(client.clone(), NAMESPACE).create(&post, &object(&sync)).await.unwrap();
}

async fn pod(client: &Client) -> String {
    let params = ListParams::default().labels(&format!("pilothouse.dev/agent={AGENT},!pilothouse.dev/task"));
    let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE).list(&params).await.unwrap();
    assert_eq!(pods.items.len(), 1, "one pod of the agent");
    pods.items[0].name_any()
}

/// The root of the server's container in `pod`.
fn root_of(pod: &str) -> Option<PathBuf> {
    let processes = run(Command::new("ls").arg("/proc")).unwrap();
    processes.lines().filter(|p| p.bytes().all(|b| b.is_ascii_digit())).find_map(|process| {
        let root = PathBuf::from(format!("/proc/{process}/root"));
        let name = std::fs::read_to_string(root.join("etc/hostname")).ok()?;
        let command = std::fs::read(format!("/proc/{process}/cmdline")).ok()?;
        let server = String::from_utf8_lossy(&command).contains("opencode") && !name.is_empty();
        (name.trim() == pod && server && root.join("pilothouse/context/context.md").exists()).then_some(root)
    })
}
