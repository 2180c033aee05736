//! What was seen of the cluster, in the order in which it was seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod},
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher},
};
use parking_lot::Mutex;
use pilothouse::api::{Agent, Task};
use serde::de::DeserializeOwned;

/// Of which agent: `namespace/name`.
pub(super) type Key = String;

/// What changes in a running agent's surroundings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Template,
    Text,
    Content,
}

#[derive(Default)]
struct State {
    deployments: BTreeMap<String, Deployment>,
    maps: BTreeMap<String, ConfigMap>,
    agents: BTreeMap<String, Agent>,
    tasks: BTreeMap<String, Task>,
    /// Uids of pods, with when it was seen that they end.
    ending: BTreeMap<String, Timestamp>,
    /// Their names, with the namespace.
    pods: BTreeMap<String, String>,
    history: BTreeMap<Key, Vec<(Timestamp, String)>>,
}

/// All of it. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Watched(Arc<Mutex<State>>);

/// Does it until it goes well: the API server may be away.
pub(super) async fn surely<T, F: Future<Output = kube::Result<T>>>(what: &str, mut make: impl FnMut() -> F) -> T {
    let mut last = String::new();
    for _ in 0..600 {
        match tokio::time::timeout(Duration::from_secs(10), make()).await {
            Ok(Ok(done)) => return done,
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => "no answer".clone_into(&mut last),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("{what}: {last}");
}

/// Follows all objects of a kind for ever.
pub(super) async fn follow<K>(client: Client, mut seen: impl FnMut(K, bool))
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut events = Box::pin(watcher(Api::<K>::all(client), watcher::Config::default()).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => seen(object, false),
            Ok(watcher::Event::Delete(object)) => seen(object, true),
            _ => {}
        }
    }
}

fn key<K: Resource>(object: &K) -> String {
    format!("{}/{}", object.meta().namespace.as_deref().unwrap_or_default(), object.name_any())
}

impl Watched {
    /// Begins to watch.
    pub(super) fn start(client: &Client) -> Self {
        let watched = Self::default();
        let (one, two, three, four) = (watched.clone(), watched.clone(), watched.clone(), watched.clone());
        let client = || client.clone();
        tokio::spawn(follow::<Deployment>(client(), move |d, gone| one.deployment(d, gone)));
        tokio::spawn(follow::<ConfigMap>(client(), move |map, gone| two.map(map, gone)));
        tokio::spawn(follow::<Agent>(client(), move |agent, _| three.agent(agent)));
        tokio::spawn(follow::<Task>(client(), move |task, _| four.task(task)));
        watched
    }

    fn deployment(&self, deployment: Deployment, gone: bool) {
        let place = key(&deployment);
        let Some(agent) = place.strip_suffix("-server").map(ToOwned::to_owned) else { return };
        let mut state = self.0.lock();
        if gone {
            state.say(&agent, "its Deployment is gone".into());
        }
        let before = state.deployments.insert(place, deployment.clone());
        let get = |d: &Deployment, name: &str| {
            d.annotations().get(&format!("pilothouse.dev/{name}")).cloned().unwrap_or_default()
        };
        for name in ["template-hash", "pending-hash", "pending-since", "pending-causes"] {
            let old = before.as_ref().map(|d| get(d, name)).unwrap_or_default();
            if old != get(&deployment, name) {
                state.say(&agent, format!("{name}: {old:?} -> {:?}", get(&deployment, name)));
            }
        }
    }

    fn map(&self, map: ConfigMap, gone: bool) {
        let place = key(&map);
        let mut state = self.0.lock();
        let before = if gone { state.maps.remove(&place) } else { state.maps.insert(place.clone(), map.clone()) };
        let (agent, what, hash) = match (place.strip_suffix("-server-context"), place.strip_suffix("-server-content")) {
            (Some(agent), _) => (agent.to_owned(), What::Text, "pilothouse.dev/context-hash"),
            (_, Some(agent)) => (agent.to_owned(), What::Content, "pilothouse.dev/content-hash"),
            _ => return,
        };
        let get = |m: &ConfigMap, name: &str| m.annotations().get(name).cloned().unwrap_or_default();
        let waits = |m: &ConfigMap| get(m, "pilothouse.dev/pending-since");
        let old = before.as_ref().map(waits).unwrap_or_default();
        if !gone && old != waits(&map) {
            state.say(&agent, format!("{what:?} pending-since: {old:?} -> {:?}", waits(&map)));
        }
        if !gone && before.as_ref().is_none_or(|before| before.data != map.data) {
            state.say(&agent, format!("{what:?} is written: {}", get(&map, hash)));
        }
    }

    fn agent(&self, agent: Agent) {
        let mut state = self.0.lock();
        let before = state.agents.insert(key(&agent), agent.clone());
        let shown = |agent: &Agent| -> BTreeSet<String> {
            let status = agent.status.clone().unwrap_or_default();
            status.conditions.iter().map(|c| format!("{}={} {}: {}", c.type_, c.status, c.reason, c.message)).collect()
        };
        let old = before.as_ref().map(shown).unwrap_or_default();
        for line in shown(&agent).difference(&old) {
            state.say(&key(&agent), line.clone());
        }
    }

    fn task(&self, task: Task) {
        let mut state = self.0.lock();
        let phase = |task: &Task| task.status.as_ref().and_then(|status| status.phase);
        let before = state.tasks.insert(key(&task), task.clone());
        if before.as_ref().and_then(phase) != phase(&task)
            && let Some(agent) = task.spec.agent_ref.as_ref().map(|agent| agent.name.clone())
        {
            let of = format!("{}/{agent}", task.namespace().unwrap_or_default());
            state.say(&of, format!("Task {} is {:?}", task.name_any(), phase(&task)));
        }
    }

    /// A pod has come.
    pub(super) fn begins(&self, pod: &Pod) {
        self.0.lock().pods.insert(pod.uid().unwrap_or_default(), key(pod));
    }

    /// `namespace/name` of the pod that has this uid.
    pub(super) fn pod_named(&self, uid: &str) -> Option<String> {
        self.0.lock().pods.get(uid).cloned()
    }

    /// A pod ends: from now on its door may learn of it.
    pub(super) fn ends(&self, pod: &Pod) {
        let mut state = self.0.lock();
        let uid = pod.uid().unwrap_or_default();
        if let std::collections::btree_map::Entry::Vacant(e) = state.ending.entry(uid) {
            e.insert(Timestamp::now());
            if let Some(agent) = pod.labels().get("pilothouse.dev/agent") {
                let of = format!("{}/{agent}", pod.namespace().unwrap_or_default());
                state.say(&of, format!("pod {} ends", pod.name_any()));
            }
        }
    }

    /// Something that happened to an agent.
    pub(super) fn say(&self, agent: &str, what: String) {
        self.0.lock().say(agent, what);
    }

    /// When it was seen that a pod ends.
    pub(super) fn ending(&self, pod: &str) -> Option<Timestamp> {
        self.0.lock().ending.get(pod).copied()
    }

    pub(super) fn agent_now(&self, agent: &str) -> Option<Agent> {
        self.0.lock().agents.get(agent).cloned()
    }

    pub(super) fn deployment_now(&self, agent: &str) -> Option<Deployment> {
        self.0.lock().deployments.get(&format!("{agent}-server")).cloned()
    }

    /// A ConfigMap, by `namespace/name`.
    pub(super) fn map_now(&self, place: &str) -> Option<ConfigMap> {
        self.0.lock().maps.get(place).cloned()
    }

    pub(super) fn tasks(&self) -> Vec<Task> {
        self.0.lock().tasks.values().cloned().collect()
    }

    /// What happened to an agent, by time.
    pub(super) fn history(&self, agent: &str) -> Vec<(Timestamp, String)> {
        self.0.lock().history.get(agent).cloned().unwrap_or_default()
    }
}

impl State {
    fn say(&mut self, agent: &str, what: String) {
        self.history.entry(agent.to_owned()).or_default().push((Timestamp::now(), what));
    }
}
