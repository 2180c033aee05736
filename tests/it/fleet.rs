//! The pace of the fleet on a real API server. Settings are the whole cluster's, so these tests have a cluster of their
//! own and take turns there. There are no nodes; the tests play the kubelet.

mod content;
mod crashes;
mod layouts;
mod people;
mod verified;

use std::{process::Command, sync::OnceLock, time::Duration};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod},
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use pilothouse::api::{Agent, PilothouseConfig};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    agents::{Place, condition, image},
    common::{
        cluster::{Cluster, Shape},
        controller::Release,
        wait::{eventually, get},
    },
};

static TURN: Mutex<()> = Mutex::const_new(());

fn cluster() -> &'static Cluster {
    static OWN: OnceLock<Cluster> = OnceLock::new();
    OWN.get_or_init(|| Cluster::start(Shape { no_scheduler: true, ..Shape::default() }))
}

/// A few agents, and a controller for them.
struct Town {
    place: Place,
    names: Vec<String>,
    /// How long a new pod has to get ready.
    deadline: &'static str,
    _turn: MutexGuard<'static, ()>,
}

impl Town {
    /// A controller without agents.
    async fn start(name: &str) -> Self {
        let turn = TURN.lock().await;
        let namespace = cluster().namespace(name).await;
        let release = Release::install(cluster(), std::slice::from_ref(&namespace)).await;
        Self::run(turn, namespace, release).await
    }

    async fn run(turn: MutexGuard<'static, ()>, namespace: String, release: Release) -> Self {
        let controller = release.start(&["--leader-elect", "false"]);
        let place = Place { client: cluster().client().await, namespace, release, controller };
        let town = Self { place, names: vec![], deadline: "10m", _turn: turn };
        town.set(json!({})).await;
        town
    }

    /// The agents with their rings, ready with the image `devbox:1`.
    async fn new(name: &str, agents: &[(&str, &str)]) -> Self {
        let mut town = Self::start(name).await;
        town.people(agents).await;
        town
    }

    /// These agents with their rings, ready with the image `devbox:1`.
    async fn people(&mut self, agents: &[(&str, &str)]) {
        let town = self;
        town.names = agents.iter().map(|(name, _)| (*name).to_string()).collect();
        for (name, ring) in agents {
            town.push(name, 1).await;
            let _: Agent = town.place.merge(name, json!({"metadata": {"labels": {"ring": ring}}})).await;
        }
        for (name, _) in agents {
            town.ready(name, 1).await;
        }
    }

    /// Writes the settings of the cluster.
    async fn set(&self, mut spec: Value) {
        // Without any field it would be no object any more.
        spec["clusterDomain"] = json!("cluster.local");
        let configs: Api<PilothouseConfig> = Api::all(self.place.client.clone());
        let object = json!({
            "apiVersion": "pilothouse.dev/v1alpha1", "kind": "PilothouseConfig",
            "metadata": {"name": "cluster"}, "spec": spec,
        });
        let params = PatchParams::apply("test").force();
        let written = configs.patch("cluster", &params, &Patch::Apply(object)).await.unwrap();
        // So that the controller has it before the next thing that happens.
        eventually("the settings are read", 30, || async {
            let config = configs.get("cluster").await.unwrap();
            (config.status?.observed_generation == written.metadata.generation).then_some(())
        })
        .await;
    }

    async fn push(&self, name: &str, tag: u32) {
        let spec = json!({"executorImage": format!("devbox:{tag}"), "rollout": {"progressDeadline": self.deadline}});
        self.place.agent(name, spec).await;
    }

    async fn push_all(&self, tag: u32) {
        for name in &self.names {
            self.push(name, tag).await;
        }
    }

    /// Plays the kubelet of the agent's pods with this image until the agent is rolled out. An upgrade makes a second pod
    /// with the image of the first, so all are meant.
    async fn ready(&self, name: &str, tag: u32) {
        self.ready_or(name, tag, || false).await;
    }

    /// The same; `false` where it is given up, because nobody would tell any more.
    async fn ready_or(&self, name: &str, tag: u32, gives_up: impl Fn() -> bool) -> bool {
        let pods = self.place.api::<Pod>();
        let list = ListParams::default().labels(&format!("pilothouse.dev/agent={name}"));
        let wanted = format!("devbox:{tag}");
        let patch =
            Patch::Merge(json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}));
        let is_ready = |pod: &Pod| {
            pod.status
                .iter()
                .flat_map(|s| s.conditions.iter().flatten())
                .any(|c| c.type_ == "Ready" && c.status == "True")
        };
        let is_meant = |pod: &Pod| {
            let image = pod.spec.as_ref().unwrap().containers[0].image.as_deref();
            pod.metadata.deletion_timestamp.is_none() && image == Some(wanted.as_str()) && !is_ready(pod)
        };
        eventually(&format!("{name} is rolled out with {wanted}"), 60, || async {
            if gives_up() {
                return Some(false);
            }
            for pod in pods.list(&list).await.unwrap().items.iter().filter(|pod| is_meant(pod)) {
                // It may be gone by now.
                let _ = pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await;
            }
            let agent = self.place.api::<Agent>().get(name).await.unwrap();
            let status = agent.status.clone()?;
            let rollout = status.rollout.unwrap_or_default();
            let is_out = status.observed_generation == agent.metadata.generation
                && status.ready == Some(true)
                && rollout.rolled_out_revision.is_some()
                && rollout.rolled_out_revision == rollout.desired_revision;
            is_out.then_some(true)
        })
        .await
    }

    /// Agents whose Deployment has this image, sorted.
    async fn with(&self, tag: u32) -> Vec<String> {
        let all = self.place.api::<Deployment>().list(&ListParams::default()).await.unwrap();
        let mut names: Vec<_> = all
            .items
            .iter()
            .filter(|d| image(d) == format!("devbox:{tag}"))
            .map(|d| d.name_any().trim_end_matches("-server").to_string())
            .collect();
        names.sort();
        names
    }

    /// Waits until these and no others have the image, and for a while after that.
    async fn only(&self, what: &str, tag: u32, names: &[&str]) {
        eventually(&format!("{what}: {names:?}"), 60, || async { (self.with(tag).await == names).then_some(()) }).await;
        tokio::time::sleep(Duration::from_millis(1200)).await;
        assert_eq!(self.with(tag).await, names, "{what}");
    }

    async fn waits(&self, name: &str, reason: &str) -> String {
        let pending = |a: &Agent| condition(a, "RolloutPending").is_some_and(|c| (c.0, c.1) == ("True", reason));
        let agent = self.place.agent_where(&format!("{name} says {reason}"), name, pending).await;
        condition(&agent, "RolloutPending").unwrap().2.to_string()
    }

    async fn version(&self, name: &str) -> Option<String> {
        self.place.api::<Agent>().get(name).await.unwrap().resource_version()
    }

    fn rollout(&self, arguments: &[&str]) -> String {
        let out = Command::new(env!("CARGO_BIN_EXE_pilothouse"))
            .env("KUBECONFIG", &cluster().ready.kubeconfig)
            .args(["rollout", "agent"])
            .args(arguments)
            .args(["-n", &self.place.namespace, "--log", "warn"])
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }
}

fn reason(agent: &Agent, kind: &str) -> String {
    condition(agent, kind).map(|c| format!("{} {}", c.0, c.1)).unwrap_or_default()
}

#[tokio::test]
async fn no_more_agents_change_than_may_and_a_freeze_stops_all() {
    let agents = [("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"), ("e", "1")];
    let mut town = Town::new("pace", &agents).await;
    town.set(json!({"fleet": {"maxConcurrent": 2}})).await;
    town.push_all(2).await;
    town.only("two at a time, the first ones", 2, &["a", "b"]).await;
    let said = town.waits("c", "WaitingForFleet").await;
    assert!(said.contains("2 of the agents may change at a time") && said.contains("image"), "{said}");
    assert!(town.rollout(&["e"]).contains("waiting for its turn"));
    eventually("a metric tells of them", 30, || async {
        let metrics = get(&format!("{}/metrics", town.place.controller.health)).await.unwrap().1;
        let of = |reason: &str, n: u32| {
            format!(
                "pilothouse_agents_waiting_for_fleet{{namespace=\"{}\",reason=\"{reason}\"}} {n}",
                town.place.namespace
            )
        };
        metrics.contains(&of("WaitingForFleet", 3)).then_some(())
    })
    .await;

    // A controller that dies knows the same after its start, and says the same.
    let mut before = vec![];
    for name in ["c", "d", "e"] {
        before.push(town.version(name).await);
    }
    town.place.controller.kill();
    town.place.controller = town.place.release.start(&["--leader-elect", "false"]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    town.only("still two", 2, &["a", "b"]).await;
    for (name, before) in ["c", "d", "e"].into_iter().zip(before) {
        assert_eq!(town.version(name).await, before, "{name}: a start writes no status");
    }
    town.ready("b", 2).await;
    town.only("the next one", 2, &["a", "b", "c"]).await;

    // Text goes the same way.
    town.set(json!({"fleet": {"maxConcurrent": 2, "freeze": true, "freezeReason": "the fair, ask Jo"}})).await;
    town.ready("a", 2).await;
    let said = town.waits("d", "FleetClosed").await;
    assert!(said.contains("(the fair, ask Jo)"), "{said}");
    let text =
        json!({"executorImage": "devbox:2", "contexts": [{"name": "rules", "type": "Text", "text": "new rules"}]});
    town.place.agent("b", text).await;
    town.place.agent_where("text is frozen too", "b", |a| reason(a, "TextPending") == "True FleetClosed").await;
    let map = async || town.place.api::<ConfigMap>().get("b-server-context").await.unwrap().data.unwrap_or_default();
    assert!(!format!("{:?}", map().await).contains("new rules"));
    town.only("nobody in a freeze", 2, &["a", "b", "c"]).await;
    town.rollout(&["e", "--now"]);
    town.only("but who a person sends", 2, &["a", "b", "c", "e"]).await;

    town.set(json!({"fleet": {"maxConcurrent": 2}})).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(town.with(2).await, ["a", "b", "c", "e"], "c and e are on their way");
    town.ready("c", 2).await;
    town.only("the last one", 2, &["a", "b", "c", "d", "e"]).await;
    assert!(!format!("{:?}", map().await).contains("new rules"), "text takes a place too");
    town.ready("d", 2).await;
    eventually("its text", 30, || async { format!("{:?}", map().await).contains("new rules").then_some(()) }).await;
    town.ready("e", 2).await;
    for name in &town.names {
        town.place.agent_where("nothing waits", name, |a| !reason(a, "RolloutPending").starts_with("True")).await;
    }

    // What cannot be understood lets nothing out.
    let window = json!({"schedule": "0 2 * * *", "duration": "1h", "timeZone": "Mars/Olympus"});
    town.set(json!({"fleet": {"windows": [window]}})).await;
    town.push("a", 3).await;
    let said = town.waits("a", "FleetClosed").await;
    assert!(said.contains("spec.fleet.windows[0].timeZone"), "{said}");
    town.set(json!({})).await;
    town.only("without a pace at once", 3, &["a"]).await;
}

#[tokio::test]
async fn waves_follow_each_other_and_stop_at_the_first_failure() {
    let mut town = Town::new("waves", &[("late", "2"), ("first", "0"), ("second", "1")]).await;
    let waves = json!([
        {"name": "canary", "selector": {"matchLabels": {"ring": "0"}}, "soak": "4s"},
        {"selector": {"matchLabels": {"ring": "1"}}},
    ]);
    town.set(json!({"fleet": {"maxConcurrent": "100%", "waves": waves}})).await;
    town.deadline = "12s";
    town.push_all(2).await;
    town.only("the canary alone", 2, &["first"]).await;
    let said = town.waits("second", "WaitingForFleet").await;
    assert!(said.starts_with("wave 2 waits until wave 1 (canary) has the same change and is healthy for 4s"), "{said}");
    // Its pod never gets ready.
    let said = town.waits("late", "FleetStopped").await;
    let failed =
        format!("Agent {}/first has failed with the same change: ProgressDeadlineExceeded", town.place.namespace);
    assert!(said.contains(&failed), "{said}");
    town.waits("second", "FleetStopped").await;
    town.only("it stops there", 2, &["first"]).await;
    eventually("an event tells it", 20, || async {
        (!town.place.events("FleetStopped").await.is_empty()).then_some(())
    })
    .await;

    // Something newer goes out from the beginning.
    town.deadline = "10m";
    town.push_all(3).await;
    town.only("the canary again", 3, &["first"]).await;
    town.waits("late", "WaitingForFleet").await;
    town.ready("first", 3).await;
    town.place.controller.kill();
    town.place.controller = town.place.release.start(&["--leader-elect", "false"]);
    eventually("the second wave after the soak", 60, || async { (town.with(3).await.len() > 1).then_some(()) }).await;
    assert_eq!(town.with(3).await, ["first", "second"]);
    let first = town.place.api::<Agent>().get("first").await.unwrap();
    let settled = first.status.unwrap().fleet.unwrap().settled;
    let since = settled.iter().find(|s| s.change.starts_with("image=")).unwrap().since.0;
    assert!(jiff::Timestamp::now().duration_since(since).as_secs() >= 4, "the soak survives a restart: {settled:?}");
    town.only("wave by wave", 3, &["first", "second"]).await;
    town.ready("second", 3).await;
    town.ready("late", 3).await;
    town.set(json!({})).await;
}
