//! A hundred agents with a sidecar each: from a push to the files that they see, and from the end of work to the rollout.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt as _, watcher},
};
use pilothouse::api::{Agent, Repository, agent::AgentState};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{
    common::{
        cluster::{Cluster, FakeNodes, Shape},
        controller::{Controller, Release},
        git_server::{self, GitServer},
        opencode::free_port,
        wait::eventually,
    },
    push::object,
    sidecars::{Companion, Desk, Quarters},
    table::Number,
    world::{self, until},
};

/// How many, unless `BENCH_AGENTS` says fewer.
const AGENTS: usize = 100;
/// Pushes, near and with a slow way to the Git server.
const NEAR: usize = 5;
const FAR: usize = 3;
/// What each answer of the Git server takes longer then.
const AWAY: Duration = Duration::from_millis(100);
/// Rollouts that wait for work.
const WAITS: usize = 11;
/// Between two rounds, so that statuses of one are not written during the next.
const REST: Duration = Duration::from_secs(3);
/// A file of the folder that all agents have.
const FILE: &str = "guide.md";

/// `hotreload_push_to_visible_100_ms`: from the reconcile annotation on the Repository, after a push, to the new file in
/// the workspace of each of a hundred agents, by a real sidecar each; one sample an agent and push.
/// `hotreload_push_to_visible_100_far_ms`: the same while each answer of the Git server takes 100 ms longer.
///
/// `work_ended_to_rollout_ms`: from the server's event that its session is idle, to the new pod template in the
/// Deployment, where a rollout waited for it.
pub(crate) fn measure(runtime: &Runtime) -> Vec<Number> {
    runtime.block_on(async {
        let mut hundred = Hundred::start().await;
        let near = hundred.pushes(NEAR).await;
        hundred.git.behave(|b| b.delay = AWAY);
        let far = hundred.pushes(FAR).await;
        hundred.git.behave(|b| b.delay = Duration::ZERO);
        let ended = hundred.ends_of_work().await;
        vec![
            Number::new("hotreload_push_to_visible_100_ms", "ms", 1000.0, near),
            Number::new("hotreload_push_to_visible_100_far_ms", "ms", 1500.0, far),
            Number::new("work_ended_to_rollout_ms", "ms", 200.0, ended),
        ]
    })
}

struct Hundred {
    git: GitServer,
    remote: git_server::Repository,
    quarters: Quarters,
    /// Before the pods, which the controller would miss.
    companions: Vec<Companion>,
    /// Of the first agent, and of all others.
    desks: [Desk; 2],
    count: usize,
    round: usize,
    release: Release,
    _controller: Controller,
    _nodes: FakeNodes,
    cluster: Cluster,
}

fn name(i: usize) -> String {
    format!("a{i}")
}

impl Hundred {
    async fn start() -> Self {
        let git = GitServer::http();
        let remote = git.repository("shared.git");
        // A folder as teams have it: some files, one of which changes.
        let pages: Vec<_> = (0..20).map(|i| (format!("handbook/page-{i}.md"), "Words. ".repeat(300))).collect();
        let mut files: Vec<_> = pages.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        let first = format!("handbook/{FILE}");
        files.push((&first, "round 0\n"));
        remote.commit("main", &files);

        let cluster = Cluster::start(Shape::default());
        let nodes = cluster.fake_nodes(2);
        let namespace = cluster.namespace("hundred").await;
        let release = Release::install(&cluster, std::slice::from_ref(&namespace)).await;
        let port = free_port();
        let (listen, voice) = (format!("127.0.0.1:{port}"), format!("localhost:{port}"));
        let controller = release.start(&["--voice-listen", &listen, "--voice-address", &voice]);
        world::leading(&controller).await;
        let client = cluster.client().await;
        let quarters = Quarters { client, namespace, root: tempfile::tempdir().unwrap(), voice };
        let desks = [Desk::open().await, Desk::open().await];
        let mut hundred = Self {
            git,
            remote,
            quarters,
            companions: vec![],
            desks,
            count: world::agents(AGENTS),
            round: 0,
            release,
            _controller: controller,
            _nodes: nodes,
            cluster,
        };
        hundred.create().await;
        hundred
    }

    fn client(&self) -> Client {
        self.quarters.client.clone()
    }

    fn agents(&self) -> Api<Agent> {
        Api::namespaced(self.client(), &self.quarters.namespace)
    }

    async fn create(&mut self) {
        let repository = json!({"kind": "Repository", "metadata": {"name": "shared"}, "spec": {
            "url": self.git.url("shared.git"), "ref": {"branch": "main"}, "interval": "1h"}});
        let post = PostParams::default();
        let repositories: Api<Repository> = Api::namespaced(self.client(), &self.quarters.namespace);
        repositories.create(&post, &object(&repository)).await.unwrap();
        let agents = self.agents();
        let new: Vec<Agent> = (0..self.count).map(|i| object(&self.manifest(i))).collect();
        futures::stream::iter(&new)
            .for_each_concurrent(16, |one| async {
                agents.create(&post, one).await.unwrap();
            })
            .await;
        for i in 0..self.count {
            let pod = self.quarters.pod(&name(i), "").await;
            let desk = &self.desks[usize::from(i != 0)];
            self.companions.push(self.quarters.companion(&name(i), &pod, desk.port).await);
        }
        for i in 0..self.count {
            let begun = Instant::now();
            let read = || async { std::fs::read_to_string(self.file(i)).ok().filter(|t| t == "round 0\n") };
            until(Duration::from_mins(2), read).await;
            if i == 0 {
                eprintln!(
                    "the first agent has its files {:.1} s after the last sidecar began",
                    begun.elapsed().as_secs_f64()
                );
            }
        }
        tokio::time::sleep(REST * 2).await;
    }

    fn manifest(&self, i: usize) -> Value {
        let git = json!({"repositoryRef": {"name": "shared"}, "path": "handbook", "sync": {"enabled": true}});
        json!({"kind": "Agent", "metadata": {"name": name(i)}, "spec": {
            "workspaceDir": self.quarters.workspace(&name(i)), "serviceAccountName": "default",
            "agentImage": "localhost/opencode:1", "executorImage": "localhost/executor:1",
            "contexts": [{"name": "handbook", "type": "Git", "mountPath": "docs/handbook", "git": git}]}})
    }

    fn file(&self, i: usize) -> PathBuf {
        self.quarters.workspace(&name(i)).join("docs/handbook").join(FILE)
    }

    /// Milliseconds of each agent and push.
    async fn pushes(&mut self, rounds: usize) -> Vec<f64> {
        let repositories: Api<Repository> = Api::namespaced(self.client(), &self.quarters.namespace);
        let mut samples = vec![];
        for _ in 0..rounds {
            self.round += 1;
            let text = format!("round {}\n", self.round);
            self.remote.commit("main", &[(&format!("handbook/{FILE}"), &text)]);
            let (audit, now) = (self.cluster.audit().later(), Instant::now());
            let ask = json!({"metadata": {"annotations": {"pilothouse.dev/reconcile-at": format!("{now:?}")}}});
            repositories.patch("shared", &PatchParams::default(), &Patch::Merge(ask)).await.unwrap();
            let times = self.all_have(&text, now).await;
            let last = times.iter().copied().fold(0.0, f64::max);
            tokio::time::sleep(REST).await;
            let asked = audit.profile(&self.release.user());
            eprintln!("round {}: the last agent has it after {last:.0} ms; {asked:?}", self.round);
            samples.extend(times);
        }
        samples
    }

    /// Milliseconds until each agent's file has this text.
    async fn all_have(&self, text: &str, since: Instant) -> Vec<f64> {
        let mut waiting: Vec<_> = (0..self.count).map(|i| self.file(i)).collect();
        let mut times = vec![];
        while !waiting.is_empty() {
            assert!(since.elapsed() < Duration::from_mins(3), "{} agents have no new file", waiting.len());
            waiting.retain(|file| std::fs::read_to_string(file).unwrap_or_default() != text);
            times.resize(self.count - waiting.len(), since.elapsed().as_secs_f64() * 1000.0);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        times
    }

    /// Milliseconds from idle to the Deployment's write.
    async fn ends_of_work(&mut self) -> Vec<f64> {
        let deployments: Api<Deployment> = Api::namespaced(self.client(), &self.quarters.namespace);
        let only = watcher::Config::default().fields("metadata.name=a0-server");
        let mut events = std::pin::pin!(watcher(deployments, only).applied_objects());
        let (agent, agents) = (name(0), self.agents());
        let state = |state: AgentState| {
            let (agents, agent) = (&agents, &agent);
            eventually("another state of the agent", 120, move || async move {
                (agents.get(agent).await.unwrap().status?.state? == state).then_some(())
            })
        };
        let mut samples = vec![];
        for round in 0..WAITS {
            self.desks[0].work(true);
            // Longer than the sidecar takes to tell of it.
            tokio::time::sleep(Duration::from_millis(500)).await;
            let image = format!("localhost/executor:next-{round}");
            let change = json!({"spec": {"executorImage": image}});
            agents.patch(&agent, &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
            state(AgentState::RolloutPending).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = Instant::now();
            self.desks[0].work(false);
            loop {
                let next = tokio::time::timeout(Duration::from_mins(1), events.next()).await;
                let deployment = next.expect("a rollout within a minute").unwrap().unwrap();
                let pod = deployment.spec.unwrap().template.spec.unwrap();
                if pod.containers[0].image.as_ref() == Some(&image) {
                    break;
                }
            }
            samples.push(now.elapsed().as_secs_f64() * 1000.0);
            let pod = self.quarters.pod(&agent, &self.companions[0].pod).await;
            self.companions[0] = self.quarters.companion(&agent, &pod, self.desks[0].port).await;
            state(AgentState::Ready).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        samples
    }
}
