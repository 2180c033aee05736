use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::agent::{
    decide::{self, Action, Situation},
    gate::{Activity, Policy, Work},
    preview::sample,
};

/// A cluster with one Deployment: what is written is what is there.
struct Cluster {
    live: Value,
    /// Names of images whose pods get ready.
    good: Vec<String>,
    /// What was applied, in order.
    rollouts: Vec<String>,
}

fn revision(image: &str) -> Desired {
    sample(&json!({"workspaceDir": "/w", "agentImage": "a:1", "executorImage": image}))
}

fn image(deployment: &Value) -> String {
    deployment.pointer("/spec/template/spec/containers/0/image").unwrap().as_str().unwrap().into()
}

impl Cluster {
    fn start(image: &str) -> Self {
        let mut cluster = Self { live: json!({}), good: vec![image.into()], rollouts: vec![] };
        let desired = revision(image);
        cluster.write(&desired, state::applied_annotations(&desired.hash, &desired.parts));
        cluster
    }

    fn write(&mut self, desired: &Desired, mut marks: Annotations) {
        marks.insert(state::OBJECT_HASH.into(), decide::object_hash(desired.deployment.value()));
        let mut live = desired.deployment.value().clone();
        live["metadata"]["annotations"] = json!(marks);
        // A default of the API server.
        live["spec"]["template"]["spec"]["restartPolicy"] = json!("Always");
        self.rollouts.push(image(&live));
        self.rollouts.dedup();
        self.live = live;
    }

    fn is_ready(&self) -> bool {
        self.good.contains(&image(&self.live))
    }

    /// One reconcile, as the controller does it; with `crash` it ends before the write.
    fn reconcile(&mut self, wanted: &str, auto: bool, asked: Option<&str>, crash: bool) -> Action {
        let desired = revision(wanted);
        let failed = (!self.is_ready()).then_some("the image cannot be pulled");
        let back = instead(&desired, Some(&self.live), &Look { wanted: auto, asked, failed });
        let (desired, failed) = back.map_or((desired, None), |(good, failed)| (good, Some(failed)));
        let at = Situation {
            work: Work { running_tasks: 0, activity: Activity::NoServer },
            policy: Policy::default(),
            old: None,
            asked,
            now: jiff::Timestamp::UNIX_EPOCH,
        };
        let action = decide::server(&desired, Some(&self.live), &at);
        if let (Action::Apply { .. }, false) = (&action, crash) {
            let mut marks = state::applied_annotations(&desired.hash, &desired.parts);
            marks.extend(memory(&desired, Some(&self.live), failed.as_ref(), auto, self.is_ready()));
            marks.extend(state::seen_annotation(asked));
            self.write(&desired, marks);
        }
        action
    }

    /// Until nothing is left to do.
    fn settle(&mut self, wanted: &str, auto: bool, asked: Option<&str>) {
        for _ in 0..10 {
            if self.reconcile(wanted, auto, asked, false) == Action::Keep {
                return;
            }
        }
        panic!("it goes on for ever: {:?}", self.rollouts);
    }

    fn state(&self) -> State {
        State::of_deployment(&annotations(&self.live))
    }
}

#[test]
fn the_last_good_revision_comes_back_and_what_failed_is_not_tried_again() {
    let mut cluster = Cluster::start("good:1");
    let template = cluster.live["spec"]["template"].clone();
    cluster.settle("bad:1", true, None);
    assert_eq!(cluster.rollouts, ["good:1", "bad:1", "good:1"]);
    assert_eq!(cluster.live["spec"]["template"], template, "the same bytes, so the same ReplicaSet");
    let failed = Failed { hash: revision("bad:1").hash, why: "the image cannot be pulled".into() };
    assert_eq!(cluster.state().failed, Some(failed));
    assert_eq!(cluster.state().applied, Some(revision("good:1").hash));
    cluster.settle("bad:1", true, None);
    assert_eq!(cluster.rollouts.len(), 3, "it is not tried again");

    // Another one that is bad, and then one that is good, whose predecessor is the first.
    cluster.settle("bad:2", true, None);
    assert_eq!(cluster.rollouts[3..], ["bad:2", "good:1"]);
    cluster.good.push("good:2".into());
    cluster.settle("good:2", true, None);
    assert_eq!((cluster.rollouts.len(), cluster.state().failed), (6, None));
    cluster.settle("bad:1", true, None);
    assert_eq!(cluster.rollouts[6..], ["bad:1", "good:2"], "it was something else meanwhile");
}

#[test]
fn what_failed_is_tried_again_when_somebody_asks() {
    let mut cluster = Cluster::start("good:1");
    cluster.settle("bad:1", true, None);
    let now = format!("now-{}-1", revision("bad:1").hash);
    cluster.settle("bad:1", true, Some(&now));
    assert_eq!(cluster.rollouts, ["good:1", "bad:1", "good:1", "bad:1", "good:1"], "once");
    cluster.good.push("bad:1".into());
    cluster.settle("bad:1", true, Some(&now));
    assert_eq!(cluster.rollouts.len(), 5, "the order was carried out already");
    cluster.settle("bad:1", true, Some(&now.replace("-1", "-2")));
    assert_eq!((cluster.rollouts.last().unwrap().as_str(), cluster.state().failed), ("bad:1", None));
}

#[test]
fn going_back_by_hand_and_switching_it_off_are_respected() {
    let mut cluster = Cluster::start("good:1");
    cluster.settle("bad:1", false, None);
    assert_eq!(cluster.rollouts, ["good:1", "bad:1"], "nobody asked for it");
    assert!(!annotations(&cluster.live).contains_key(state::LAST_GOOD));

    let mut cluster = Cluster::start("good:1");
    cluster.settle("bad:1", true, None);
    cluster.settle("good:1", true, None);
    assert_eq!((cluster.rollouts.len(), cluster.state().failed), (3, None), "it is there already");

    let mut cluster = Cluster::start("good:1");
    cluster.settle("bad:1", true, None);
    cluster.settle("bad:1", false, None);
    assert_eq!(cluster.rollouts.last().unwrap(), "bad:1");
}

#[test]
fn config_maps_of_both_are_kept() {
    let names = |image: &str| config_maps(&revision(image).deployment.value()["spec"]["template"]);
    let mut cluster = Cluster::start("good:1");
    cluster.reconcile("bad:1", true, None, false);
    let mounted = mounted(&cluster.live);
    for name in names("good:1").into_iter().chain(names("bad:1")) {
        assert!(mounted.contains(&name), "{name}");
    }
    assert!(super::mounted(&json!({})).is_empty());
}

#[test]
fn a_pod_template_that_is_too_large_is_not_kept() {
    let mut cluster = Cluster::start("good:1");
    cluster.live["spec"]["template"]["x"] = json!("x".repeat(LARGEST));
    let desired = revision("next:1");
    let kept = memory(&desired, Some(&cluster.live), None, true, true);
    assert_eq!(kept, Annotations::new());
}

proptest! {
    /// However pushes, crashes and reconciles mix: what runs in the end is what is wanted, or the last good one where
    /// that fails, and each change is tried once.
    #[test]
    fn it_ends_on_what_is_wanted_or_on_the_last_good_one(
        steps in prop::collection::vec((0..4_usize, any::<bool>(), 1..4_usize), 1..12),
    ) {
        let images = ["good:1", "good:2", "bad:1", "bad:2"];
        let mut cluster = Cluster::start("good:1");
        cluster.good.push("good:2".into());
        let (mut last_good, mut before, mut changes) = ("good:1", "good:1", 0);
        for (which, crash, times) in steps {
            let wanted = images[which];
            changes += usize::from(wanted != before);
            before = wanted;
            for _ in 0..times {
                cluster.reconcile(wanted, true, None, crash);
            }
            cluster.settle(wanted, true, None);
            if which < 2 {
                last_good = wanted;
            }
            prop_assert_eq!(image(&cluster.live), last_good);
            prop_assert!(cluster.rollouts.len() <= 1 + 2 * changes, "{:?}", cluster.rollouts);
        }
    }
}
