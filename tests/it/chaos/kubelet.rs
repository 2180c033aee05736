//! The kubelet of the only node: it runs what a pod of a live agent, and a Task's, would run, and says of all others that
//! they are ready.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, Pod},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    box_of_pod::{Folders, environment, files, map, secret},
    watched::{Key, Watched, follow, surely},
    wire::Wire,
};
use crate::common::{
    agent_server::{AgentServer, Ledger, Root, Setup},
    door::token,
    wait::get,
};

const NODE: &str = "chaos";
const DOOR: u16 = 14096;

/// A pod of a live agent that is ready.
#[derive(Clone)]
pub(super) struct Running {
    pub(super) agent: Key,
    pub(super) uid: String,
    pub(super) server: Arc<AgentServer>,
    pub(super) folder: PathBuf,
}

/// What is exchanged in a running pod, and a file of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Documents,
    Skills,
}

impl Content {
    const ALL: [(Self, &str); 2] =
        [(Self::Documents, "workspace/docs/page"), (Self::Skills, "skills/team/guide/SKILL.md")];
}

/// A file had another content between these moments.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    pub(super) agent: Key,
    pub(super) pod: String,
    pub(super) content: Content,
    pub(super) after: Timestamp,
    pub(super) before: Timestamp,
}

pub(super) struct Kubelet {
    client: Client,
    watched: Watched,
    pub(super) ledger: Ledger,
    /// Services of the live agents.
    wires: BTreeMap<Key, Wire>,
    controller: u16,
    pub(super) folder: tempfile::TempDir,
    pods: Mutex<BTreeMap<String, watch::Sender<bool>>>,
    pub(super) running: Mutex<Vec<Running>>,
    pub(super) exchanges: Mutex<Vec<Exchange>>,
    next: AtomicU16,
}

impl Kubelet {
    /// Makes the node, and begins. Sidecars reach the controller at this port.
    pub(super) async fn start(
        client: &Client,
        watched: &Watched,
        wires: BTreeMap<Key, Wire>,
        controller: u16,
    ) -> Arc<Self> {
        let kubelet = Arc::new(Self {
            client: client.clone(),
            watched: watched.clone(),
            ledger: Ledger::default(),
            wires,
            controller,
            folder: tempfile::tempdir().unwrap(),
            pods: Mutex::default(),
            running: Mutex::default(),
            exchanges: Mutex::default(),
            next: AtomicU16::new(1),
        });
        kubelet.clone().node().await;
        let seen = kubelet.clone();
        tokio::spawn(follow::<Pod>(client.clone(), move |pod, gone| seen.clone().see(pod, gone)));
        kubelet
    }

    async fn node(self: Arc<Self>) {
        let room = json!({"cpu": "10000", "memory": "10Ti", "pods": "10000"});
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}});
        let nodes: Api<Node> = Api::all(self.client.clone());
        let apply = PatchParams::apply("kubelet").force();
        let patch = Patch::Apply(&node);
        surely("a node", || nodes.patch(NODE, &apply, &patch)).await;
        let beat = async move {
            let leases: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
            loop {
                let now = Timestamp::now();
                let ready = json!([{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
                    "lastHeartbeatTime": now.round(jiff::Unit::Second).unwrap().to_string()}]);
                let status = json!({"status": {"conditions": ready, "allocatable": room, "capacity": room}});
                let _ = nodes.patch_status(NODE, &PatchParams::default(), &Patch::Merge(status)).await;
                let renewed = now.round(jiff::Unit::Microsecond).unwrap();
                let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NODE},
                    "spec": {"holderIdentity": NODE, "leaseDurationSeconds": 40, "renewTime": format!("{renewed:.6}")}});
                let _ = leases.patch(NODE, &apply, &Patch::Apply(lease)).await;
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        };
        tokio::spawn(beat);
    }

    fn see(self: Arc<Self>, pod: Pod, gone: bool) {
        let uid = pod.uid().unwrap_or_default();
        let ends = gone || pod.metadata.deletion_timestamp.is_some();
        if ends {
            self.watched.ends(&pod);
        }
        let mut pods = self.pods.lock();
        if let Some(told) = pods.get(&uid) {
            told.send_if_modified(|ending| !std::mem::replace(ending, *ending || ends) && ends);
        } else if !gone && pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(NODE) {
            self.watched.begins(&pod);
            let (tell, ending) = watch::channel(ends);
            pods.insert(uid, tell);
            drop(pods);
            tokio::spawn(self.play(pod, ending));
        }
    }

    async fn play(self: Arc<Self>, pod: Pod, mut ending: watch::Receiver<bool>) {
        let namespace = pod.namespace().unwrap_or_default();
        let agent = pod.labels().get("pilothouse.dev/agent").map(|agent| format!("{namespace}/{agent}"));
        if pod.labels().contains_key("pilothouse.dev/task") {
            self.task(&pod, &mut ending).await;
        } else if let Some((agent, wire)) = agent.and_then(|agent| Some((agent.clone(), self.wires.get(&agent)?))) {
            self.server(&pod, &agent, wire, &mut ending).await;
        } else {
            self.says(&pod, ready(&pod)).await;
        }
        over(&mut ending).await;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        surely("a pod's end", || async {
            match api.delete(&pod.name_any(), &now).await {
                Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
                other => other.map(drop),
            }
        })
        .await;
    }

    /// Writes a pod's status.
    async fn says(&self, pod: &Pod, status: Value) {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let patch = Patch::Merge(json!({"metadata": {"uid": pod.uid()}, "status": status}));
        surely("a pod's status", || async {
            match api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await {
                // It is gone, or another one has its name.
                Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
                other => other.map(drop),
            }
        })
        .await;
    }

    /// A pod of an agent, with a sidecar.
    async fn server(&self, pod: &Pod, agent: &str, wire: &Wire, ending: &mut watch::Receiver<bool>) {
        let (namespace, name) = agent.split_once('/').unwrap();
        let folders = Folders::new(self.folder.path(), pod);
        let uid = pod.uid().unwrap();
        let files_of = |map: &str| map.starts_with(&format!("{name}-server-files-"));
        let volumes = pod.spec.as_ref().unwrap().volumes.iter().flatten();
        let fixed =
            volumes.filter_map(|v| Some(v.config_map.as_ref()?.name.clone())).find(|map| files_of(map)).unwrap();
        folders.write("auth", &secret(&self.client, namespace, &format!("{name}-server-auth")).await);
        folders.write("authority", &map(&self.client, namespace, "pilothouse-authority").await);
        folders.write("files", &map(&self.client, namespace, &fixed).await);
        let token = surely("a token", || token(&self.client, pod, "pilothouse")).await;
        folders.write("token", &[("token".to_owned(), token.into_bytes())].into());
        let mut mounted = BTreeMap::new();
        self.remount(&folders, agent, &mut mounted);

        let skills = Root { seen: "/skills".into(), at: folders.0.join("skills") };
        let setup = Setup {
            password: None,
            directory: "/workspace".into(),
            skills: vec![skills],
            ledger: self.ledger.clone(),
            agent: agent.into(),
            pod: uid.clone(),
        };
        let server = Arc::new(AgentServer::start(setup).await);
        let [high, low] = self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let door = SocketAddr::from(([127, 77, high, low], DOOR));
        let flags = [
            ("door", door.to_string()),
            ("server-port", server.port.to_string()),
            ("pod-ip", door.ip().to_string()),
            ("voice-address", format!("localhost:{}", self.controller)),
        ];
        let mut arguments = vec!["sidecar".to_owned()];
        arguments.extend(flags.into_iter().flat_map(|(flag, value)| [format!("--{flag}"), value]));
        let mut sidecar = folders.run(&arguments, &environment(pod, "sidecar"), "sidecar.log");

        let running =
            Running { agent: agent.into(), uid: uid.clone(), server: server.clone(), folder: folders.0.clone() };
        self.running.lock().push(running);
        let mut is_ready = false;
        let mut files = Content::ALL.map(|(content, path)| (content, folders.0.join(path), None, Timestamp::now()));
        let mut beats = 0_u32;
        while !*ending.borrow() {
            beats += 1;
            for (content, path, read, read_at) in &mut files {
                let began = Timestamp::now();
                let text = std::fs::read(path).ok();
                if read.is_some() && text.is_some() && text != *read {
                    let (agent, pod, after) = (agent.to_owned(), uid.clone(), *read_at);
                    let exchange = Exchange { agent, pod, content: *content, after, before: Timestamp::now() };
                    self.watched.say(&exchange.agent, format!("{content:?} are exchanged"));
                    self.exchanges.lock().push(exchange);
                }
                // Whatever it is now, it was not earlier than this.
                (*read, *read_at) = (text.or(read.take()), began);
            }
            if beats.is_multiple_of(15) {
                self.remount(&folders, agent, &mut mounted);
                let answers = asked(&format!("http://{door}/readyz"), Duration::from_secs(2)).await;
                if !is_ready && answers {
                    is_ready = true;
                    wire.add(door);
                    self.says(pod, ready(pod)).await;
                    self.watched.say(agent, format!("pod {} is ready", pod.name_any()));
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        wire.remove(door);
        let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
        let grace = Duration::from_secs(u64::try_from(grace).unwrap());
        if let Some(process) = sidecar.id() {
            let told = tokio::process::Command::new("kill").args(["-s", "USR1", &process.to_string()]).status().await;
            let drained = asked(&format!("http://{door}/drained"), grace).await;
            self.watched.say(agent, format!("pod {}: told {:?}, drained {drained}", pod.name_any(), told.is_ok()));
        }
        self.running.lock().retain(|other| other.uid != uid);
        server.stop();
        let _ = sidecar.kill().await;
    }

    /// What mounted objects that change have become.
    fn remount(&self, folders: &Folders, agent: &str, mounted: &mut BTreeMap<&'static str, String>) {
        for (name, suffix) in [("context", "context"), ("content", "content")] {
            folders.mount(name);
            let Some(map) = self.watched.map_now(&format!("{agent}-server-{suffix}")) else { continue };
            let version = map.resource_version().unwrap_or_default();
            if mounted.insert(name, version.clone()) != Some(version) {
                folders.write(name, &files(&map));
            }
        }
    }

    /// A Task's pod: the program as it is, with the agent's Service at another address.
    async fn task(&self, pod: &Pod, ending: &mut watch::Receiver<bool>) {
        let namespace = pod.namespace().unwrap_or_default();
        let folders = Folders::new(self.folder.path(), pod);
        let volumes = pod.spec.as_ref().unwrap().volumes.clone().unwrap_or_default();
        for volume in volumes {
            if let Some(name) = volume.config_map.map(|map| map.name) {
                folders.write(&volume.name, &map(&self.client, &namespace, &name).await);
            } else if let Some(name) = volume.secret.and_then(|secret| secret.secret_name) {
                folders.write(&volume.name, &secret(&self.client, &namespace, &name).await);
            }
        }
        let mut environment = environment(pod, "task");
        let url = environment["PILOTHOUSE_AGENT_URL"].clone();
        let agent = format!("{namespace}/{}", url.trim_start_matches("http://").split('.').next().unwrap());
        let wire = &self.wires[&agent];
        environment.insert("PILOTHOUSE_AGENT_URL".into(), format!("http://127.0.0.1:{}", wire.port));
        environment.insert("PILOTHOUSE_AUTH_DIR".into(), folders.mount("auth").to_str().unwrap().into());
        let prompt = PathBuf::from(&environment["PILOTHOUSE_PROMPT_FILE"]);
        let prompt = folders.mount("task").join(prompt.file_name().unwrap());
        environment.insert("PILOTHOUSE_PROMPT_FILE".into(), prompt.to_str().unwrap().into());
        let words = folders.0.join("workspace/last-words");
        environment.insert("PILOTHOUSE_TERMINATION_LOG".into(), words.to_str().unwrap().into());
        let begun = json!({"state": {"running": {"startedAt": second()}}});
        self.says(pod, json!({"phase": "Running", "containerStatuses": [container("task", begun)]})).await;
        let mut task = folders.run(&["task-run".to_owned()], &environment, "task.log");
        let status = tokio::select! {
            status = task.wait() => status,
            () = over(ending) => {
                let _ = std::process::Command::new("kill").arg(task.id().unwrap_or_default().to_string()).status();
                task.wait().await
            }
        };
        let code = status.ok().and_then(|status| status.code()).unwrap_or(137);
        let message = std::fs::read_to_string(&words).unwrap_or_default();
        if code != 0 {
            self.watched.say(&agent, format!("pod {} ended with {code}: {message}", pod.name_any()));
        }
        let ended = json!({"state": {"terminated": {"exitCode": code, "reason": if code == 0 { "Completed" } else { "Error" },
            "message": message, "startedAt": second(), "finishedAt": second(), "containerID": "containerd://x"}}});
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        self.says(pod, json!({"phase": phase, "containerStatuses": [container("task", ended)]})).await;
    }

    /// Panics of sidecars and Tasks.
    pub(super) fn panics(&self) -> Vec<String> {
        let mut found = vec![];
        for entry in std::fs::read_dir(self.folder.path()).unwrap().map_while(Result::ok) {
            for log in ["sidecar.log", "task.log"] {
                let text = std::fs::read_to_string(entry.path().join(log)).unwrap_or_default();
                found.extend(text.lines().filter(|line| line.contains("panicked at")).map(ToOwned::to_owned));
            }
        }
        found
    }
}

fn container(name: &str, state: Value) -> Value {
    let mut status = json!({"name": name, "image": "i", "imageID": "i", "ready": false, "restartCount": 0});
    status.as_object_mut().unwrap().extend(state.as_object().unwrap().clone());
    status
}

/// What a kubelet says of a pod whose containers all run.
fn ready(pod: &Pod) -> Value {
    let spec = pod.spec.clone().unwrap_or_default();
    let all = |list: Vec<k8s_openapi::api::core::v1::Container>| -> Vec<Value> {
        let state = json!({"ready": true, "started": true, "state": {"running": {"startedAt": second()}}});
        list.iter().map(|c| container(&c.name, state.clone())).collect()
    };
    let conditions: Vec<Value> = ["Initialized", "ContainersReady", "Ready"]
        .iter()
        .map(|kind| json!({"type": kind, "status": "True", "lastTransitionTime": second()}))
        .collect();
    json!({"phase": "Running", "conditions": conditions, "startTime": second(),
        "containerStatuses": all(spec.containers), "initContainerStatuses": all(spec.init_containers.unwrap_or_default())})
}

fn second() -> String {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap().to_string()
}

/// Waits for the end of a pod.
async fn over(ending: &mut watch::Receiver<bool>) {
    let _ = ending.wait_for(|ending| *ending).await;
}

/// Whether it answers with 200 in this time.
async fn asked(url: &str, limit: Duration) -> bool {
    matches!(tokio::time::timeout(limit, get(url)).await, Ok(Some((200, _))))
}
