//! The controller dies at each of its writes, before or after the API server has carried it out: nothing is rolled out
//! twice, nothing is lost, nothing comes early.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod},
};
use kube::runtime::{WatchStreamExt as _, watcher};
use parking_lot::Mutex;
use pilothouse::api::Agent;
use serde_json::json;

use crate::{
    agents::{Place, annotation, image},
    common::{
        between::{Between, Stop},
        cluster::control_plane,
        controller::Release,
        wait::eventually,
    },
};

/// What the Deployment was over time: image, and since when something waited.
type Story = Arc<Mutex<Vec<(String, Option<String>)>>>;

struct Scene {
    place: Place,
    between: Between,
    story: Story,
    watch: tokio::task::JoinHandle<()>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Scene {
    async fn new(name: &str, spec: serde_json::Value) -> Self {
        let cluster = control_plane();
        let namespace = cluster.namespace(name).await;
        let mut release = Release::install(cluster, std::slice::from_ref(&namespace)).await;
        let between = release.between().await;
        let controller = release.start(&["--leader-elect", "false"]);
        let place = Place { client: cluster.client().await, namespace, release, controller };
        place.agent("a", spec).await;
        place.deployment_where("a Deployment", "a-server", |_| true).await;
        place.agent_where("at rest", "a", is_out).await;
        let story = Story::default();
        let (sink, api) = (story.clone(), place.api::<Deployment>());
        let watch = tokio::spawn(async move {
            let mut changes = Box::pin(watcher(api, watcher::Config::default()).default_backoff().applied_objects());
            while let Some(Ok(deployment)) = changes.next().await {
                let seen = (image(&deployment), annotation(&deployment, "pending-since").map(String::from));
                let mut story = sink.lock();
                if story.last() != Some(&seen) {
                    story.push(seen);
                }
            }
        });
        Self { place, between, story, watch }
    }

    /// Pushes a change while the controller is to die at `stop`; whether it came so far. Another one goes on.
    async fn change(&mut self, spec: serde_json::Value, wanted: &str, stop: Stop) -> Option<String> {
        self.between.stop_at(stop);
        self.place.agent("a", spec).await;
        let at = eventually("the change is out, or it is dead", 60, || async {
            if let Some(at) = self.between.stopped() {
                return Some(Some(at));
            }
            let agent = self.place.api::<Agent>().get("a").await.unwrap();
            let live = self.place.api::<Deployment>().get("a-server").await.unwrap();
            let fresh = agent.status.as_ref()?.observed_generation == agent.metadata.generation;
            (fresh && is_out(&agent) && image(&live) == wanted).then_some(None)
        })
        .await;
        if at.is_some() {
            self.place.controller.kill();
            self.between.go_on();
            self.place.controller = self.place.release.start(&["--leader-elect", "false"]);
        }
        self.between.go_on();
        let done = |d: &Deployment| image(d) == wanted && annotation(d, "pending-hash").is_none();
        self.place.deployment_where("nothing is lost", "a-server", done).await;
        self.place.agent_where("the status says so", "a", is_out).await;
        at
    }

    /// Changes while a server runs, each with a controller that is to die at one write of the Deployment or the status, and
    /// then one write later until one lives. The writes at which they died; and the images, of which each was there once,
    /// one after the other.
    async fn changes(&mut self, spec: impl Fn(usize) -> serde_json::Value) -> (Vec<String>, Vec<String>) {
        let (mut at, mut n) = (vec![], 0);
        let named = ["deployments/a-server", "agents/a/status"].into_iter().flat_map(|of| {
            (0..2).flat_map(move |after| [false, true].map(|carried_out| Stop { of, after, carried_out }))
        });
        for stop in named.chain(stops()) {
            let newest = format!("devbox:{n}");
            let of = |pod: &Pod| pod.spec.as_ref().is_some_and(|s| s.containers[0].image.as_ref() == Some(&newest));
            self.place.let_run_where("a", of).await;
            // Until the controller has seen that a server runs.
            tokio::time::sleep(Duration::from_millis(500)).await;
            n += 1;
            let died = self.change(spec(n), &format!("devbox:{n}"), stop).await;
            if died.is_none() && stop.of.is_empty() {
                break;
            }
            at.extend(died);
        }
        let wanted: Vec<_> = (0..=n).map(|n| format!("devbox:{n}")).collect();
        assert_eq!(self.images(), wanted, "one after the other, each once");
        (at, wanted)
    }

    fn images(&self) -> Vec<String> {
        let mut images: Vec<_> = self.story.lock().iter().map(|(image, _)| image.clone()).collect();
        images.dedup();
        images
    }
}

/// Nothing waits, and what is wanted is applied.
fn is_out(agent: &Agent) -> bool {
    let rollout = agent.status.as_ref().and_then(|s| s.rollout.clone()).unwrap_or_default();
    rollout.pending.is_none() && rollout.applied.is_some() && rollout.applied == rollout.desired_revision
}

fn stops() -> impl Iterator<Item = Stop> {
    (0..20).flat_map(|after| [false, true].map(|carried_out| Stop { of: "", after, carried_out }))
}

#[tokio::test]
async fn a_controller_that_dies_at_any_write_rolls_out_once() {
    let spec = |n: usize| {
        let text = json!({"name": "rules", "type": "Text", "text": format!("text {n}.")});
        json!({"executorImage": format!("devbox:{n}"), "config": {"model": format!("p/m{n}")}, "contexts": [text]})
    };
    let mut scene = Scene::new("kills", spec(0)).await;
    // Whether a pod is touched differs from change to change and moves the writes after it: these are hit by their names.
    let parts = ["configmaps/a-server-context", "deployments/a-server", "agents/a/status"];
    let named = parts.iter().flat_map(|of| [false, true].map(|carried_out| Stop { of, after: 0, carried_out }));
    let (mut n, mut lived) = (0, false);
    for stop in named.chain(stops()) {
        n += 1;
        let at = scene.change(spec(n), &format!("devbox:{n}"), stop).await;
        lived = at.is_none();
        assert!(!lived || stop.of.is_empty(), "{} is never written", stop.of);
        if lived {
            break;
        }
    }
    assert!(lived, "there are more writes than places to die");
    let wanted: Vec<_> = (0..=n).map(|n| format!("devbox:{n}")).collect();
    assert_eq!(scene.images(), wanted, "one after the other, each once");
    let text = scene.place.api::<ConfigMap>().get("a-server-context").await.unwrap().data.unwrap();
    assert!(text["context.md"].contains(&format!("text {n}.")), "{text:?}");
}

/// The same where work goes on: the change waits, its clock is kept, and it is forced when the time is over.
#[tokio::test]
async fn a_controller_that_dies_while_a_change_waits_keeps_its_clock() {
    let spec = |n: usize| json!({"executorImage": format!("devbox:{n}"), "rollout": {"timeout": "2s"}});
    let mut scene = Scene::new("kills-busy", spec(0)).await;
    let (at, wanted) = scene.changes(spec).await;
    let story = scene.story.lock().clone();
    let mut seen = 0;
    for image in &wanted[..wanted.len() - 1] {
        let mut waits: Vec<_> =
            story.iter().filter(|(i, _)| i == image).filter_map(|(_, since)| since.clone()).collect();
        waits.dedup();
        // Where the controller had not seen the server yet nothing had to wait.
        assert!(waits.len() <= 1, "{image}: it waited once, with one clock: {story:#?}");
        seen += waits.len();
    }
    assert!(seen >= 3, "{story:#?}");
    assert!(at.iter().filter(|write| write.contains("deployments/a-server")).count() >= 3, "{at:#?}");
}

/// Side by side nothing waits, whatever goes on; and nothing is rolled out twice.
#[tokio::test]
async fn a_controller_that_dies_while_a_revision_comes_beside_another_rolls_out_once() {
    let spec = |n: usize| {
        json!({"executorImage": format!("devbox:{n}"), "config": {"model": format!("p/m{n}")},
            "rollout": {"strategy": "SideBySide"}})
    };
    let mut scene = Scene::new("kills-beside", spec(0)).await;
    let (at, _) = scene.changes(spec).await;
    let story = scene.story.lock().clone();
    assert!(story.iter().all(|(_, since)| since.is_none()), "nothing waited: {story:#?}");
    assert!(at.iter().any(|write| write.contains("deployments/a-server")), "{at:#?}");
}
