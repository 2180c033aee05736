//! The controller dies at its writes while a revision is verified: each revision is verified once, takes no work before it
//! has passed, and then takes it.

use std::collections::BTreeSet;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use pilothouse::api::{Agent, Task};
use serde_json::json;

use super::{
    outcome::pods,
    verify::{ends, spec},
};
use crate::{
    agents::{Place, image},
    common::{
        between::{Between, Stop},
        cluster::control_plane,
        controller::Release,
        wait::eventually,
    },
};

/// Where it dies: the new template, that its Task passed, the Task itself, the Task's own way, the gate, the status.
const PARTS: [(&str, usize); 8] = [
    ("deployments/a-server", 0),
    ("deployments/a-server", 1),
    ("/tasks", 0),
    ("-verify-", 0),
    ("-verify-", 2),
    ("-verify-", 4),
    ("pods/a-server-", 0),
    ("agents/a/status", 0),
];

struct Scene {
    place: Place,
    between: Between,
    /// Tasks of which the test has said that they passed.
    passed: BTreeSet<String>,
}

fn is_true(pod: &Pod, kind: &str) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.filter(|c| c.type_ == kind).any(|c| c.status == "True")
}

impl Scene {
    async fn new() -> Self {
        let cluster = control_plane();
        let namespace = cluster.namespace("verify-kills").await;
        let mut release = Release::install(cluster, std::slice::from_ref(&namespace)).await;
        let between = release.between().await;
        let controller = release.start(&["--leader-elect", "false"]);
        let place = Place { client: cluster.client().await, namespace, release, controller };
        Self { place, between, passed: BTreeSet::new() }
    }

    async fn tasks(&self) -> Vec<Task> {
        let list = ListParams::default().labels("pilothouse.dev/verifies");
        self.place.api::<Task>().list(&list).await.unwrap().items
    }

    /// Plays what a node would do next, for the pods of this revision.
    async fn play(&mut self, tag: usize) {
        for task in self.tasks().await {
            let name = task.name_any();
            let pod = self.place.api::<Pod>().get_opt(&format!("{name}-pod")).await.unwrap();
            if pod.is_some() && self.passed.insert(name.clone()) {
                ends(&self.place, &name, 0, r#"{"session": {"id": "ses_1"}}"#).await;
            }
        }
        let hashes = self.tasks().await;
        let verified = |pod: &Pod| {
            let hash = &pod.annotations()["pilothouse.dev/template-hash"];
            let mut of = hashes.iter().filter(|task| task.labels()["pilothouse.dev/verifies"] == *hash);
            of.any(|task| self.passed.contains(&task.name_any()))
        };
        for (of, pod) in pods(&self.place).await {
            let (up, open) = (is_true(&pod, "ContainersReady"), is_true(&pod, "pilothouse.dev/verified"));
            assert!(!open || verified(&pod), "{} takes work before it has passed", pod.name_any());
            let ip = format!("10.8.0.{tag}");
            let status = match (of == format!("devbox:{tag}"), up, open, is_true(&pod, "Ready")) {
                (true, false, ..) => json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                    "conditions": [{"type": "ContainersReady", "status": "True"}]}),
                (true, true, true, false) => json!({"conditions": [{"type": "Ready", "status": "True"}]}),
                _ => continue,
            };
            // It may be gone by now.
            let patch = Patch::Strategic(json!({ "status": status }));
            let _ = self.place.api::<Pod>().patch_status(&pod.name_any(), &PatchParams::default(), &patch).await;
        }
    }

    async fn is_out(&self, tag: usize) -> bool {
        let agent = self.place.api::<Agent>().get("a").await.unwrap();
        let Some(live) = self.place.api::<Deployment>().get_opt("a-server").await.unwrap() else { return false };
        let status = agent.status.clone().unwrap_or_default();
        let rollout = status.rollout.unwrap_or_default();
        image(&live) == format!("devbox:{tag}")
            && status.observed_generation == agent.metadata.generation
            && status.ready == Some(true)
            && rollout.rolled_out_revision.is_some()
            && rollout.rolled_out_revision == rollout.desired_revision
            && rollout.verifying.is_none()
    }

    /// A revision comes, while the controller is to die once; whether it did.
    async fn comes(&mut self, tag: usize, stop: Option<Stop>) -> bool {
        if let Some(stop) = stop {
            self.between.stop_at(stop);
        }
        self.place.agent("a", spec(u32::try_from(tag).unwrap(), "SideBySide")).await;
        let mut killed = false;
        let end = std::time::Instant::now() + std::time::Duration::from_secs(90);
        while !self.is_out(tag).await {
            assert!(std::time::Instant::now() < end, "revision {tag} does not come: {stop:?}");
            if !killed && self.between.stopped().is_some() {
                killed = true;
                self.place.controller.kill();
                self.between.go_on();
                self.place.controller = self.place.release.start(&["--leader-elect", "false"]);
            }
            self.play(tag).await;
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        // At the last write it may have died just now.
        if !killed && self.between.stopped().is_some() {
            killed = true;
            self.place.controller.kill();
            self.between.go_on();
            self.place.controller = self.place.release.start(&["--leader-elect", "false"]);
        }
        self.between.go_on();
        killed
    }
}

#[tokio::test]
async fn a_controller_that_dies_while_a_revision_is_verified_verifies_it_once() {
    let mut scene = Scene::new().await;
    scene.comes(1, None).await;
    let mut tag = 1;
    for (of, after) in PARTS {
        for carried_out in [false, true] {
            tag += 1;
            let stop = Stop { of, after, carried_out };
            let died = scene.comes(tag, Some(stop)).await;
            // How often a status is written differs from time to time.
            assert!(died || after > 1, "{stop:?} is never written");
            let tasks = scene.tasks().await;
            let hashes: BTreeSet<_> = tasks.iter().map(|t| t.labels()["pilothouse.dev/verifies"].clone()).collect();
            assert_eq!((tasks.len(), hashes.len()), (tag, tag), "one for each revision: {stop:?}");
        }
    }
    eventually("the last one is told", 20, || async {
        (!scene.place.events("VerificationPassed").await.is_empty()).then_some(())
    })
    .await;
}
