//! A revision that does not get ready.

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{ConfigMap, Pod},
};
use kube::{
    ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use pilothouse::api::{Agent, AgentState};
use serde_json::{Value, json};

use crate::{
    agents::{Place, annotation, condition, image, state},
    common::wait::eventually,
};

/// The agent's pods by image, those that do not end.
pub(crate) async fn pods(place: &Place) -> Vec<(String, Pod)> {
    let list = ListParams::default().labels("pilothouse.dev/agent=a");
    let all = place.api::<Pod>().list(&list).await.unwrap().items.into_iter();
    let staying = all.filter(|p| p.metadata.deletion_timestamp.is_none());
    staying.map(|p| (p.spec.as_ref().unwrap().containers[0].image.clone().unwrap(), p)).collect()
}

/// Plays the kubelet of the pod that has this image.
pub(crate) async fn says(place: &Place, image: &str, status: Value) -> Pod {
    let pod = eventually(&format!("a pod with {image}"), 30, || async {
        pods(place).await.into_iter().find(|(i, _)| i == image).map(|(_, pod)| pod)
    })
    .await;
    let patch = Patch::Merge(json!({ "status": status }));
    place.api::<Pod>().patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.unwrap()
}

pub(crate) async fn gets_ready(place: &Place, image: &str) -> Pod {
    let pod =
        says(place, image, json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})).await;
    place
        .agent_where("it is rolled out", "a", |a| {
            let rollout = a.status.as_ref().unwrap().rollout.clone().unwrap_or_default();
            rollout.rolled_out_revision.is_some() && rollout.rolled_out_revision == rollout.desired_revision
        })
        .await;
    pod
}

async fn cannot_be_pulled(place: &Place, image: &str) {
    let waiting = json!({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}});
    let container = json!({"name": "opencode-server", "image": image, "imageID": "", "ready": false,
        "restartCount": 0, "state": waiting});
    says(place, image, json!({"phase": "Pending", "containerStatuses": [container]})).await;
}

fn spec(tag: &str, auto: bool) -> Value {
    json!({"executorImage": tag, "rollout": {"progressDeadline": "12s", "autoRollback": auto},
        "config": {"model": format!("p/{}", tag.replace(':', "-"))}})
}

fn failed(reason: &'static str) -> impl Fn(&Agent) -> bool {
    move |a| condition(a, "RolloutFailed").is_some_and(|c| (c.0, c.1) == ("True", reason))
}

#[tokio::test]
async fn what_does_not_get_ready_is_reported_in_the_pods_own_words() {
    let place = Place::new("deadline").await;
    place.agent("a", spec("good:1", false)).await;
    let first = gets_ready(&place, "good:1").await;
    place.agent("a", spec("bad:1", false)).await;
    cannot_be_pulled(&place, "bad:1").await;
    let agent = place
        .agent_where("it has failed, in the pod's words", "a", |agent| {
            let message = condition(agent, "RolloutFailed").map(|c| c.2).unwrap_or_default();
            failed("ProgressDeadlineExceeded")(agent)
                && message.ends_with("the image bad:1 of container opencode-server cannot be pulled")
        })
        .await;
    assert_eq!((state(&agent), condition(&agent, "Ready").unwrap().0), (Some(AgentState::Stalled), "False"));
    assert_eq!(agent.status.as_ref().unwrap().ready, Some(true), "the old pod serves");
    let rollout = agent.status.unwrap().rollout.unwrap();
    assert_ne!(rollout.desired_revision, rollout.rolled_out_revision);
    assert_eq!(image(&place.api::<Deployment>().get("a-server").await.unwrap()), "bad:1", "nobody asked to go back");
    eventually("an event", 20, || async { (!place.events("ProgressDeadlineExceeded").await.is_empty()).then_some(()) })
        .await;
    assert!(pods(&place).await.iter().any(|(_, pod)| pod.uid() == first.uid()));
}

#[tokio::test]
async fn the_last_good_revision_comes_back_with_its_pod_and_its_files() {
    let mut place = Place::new("rollback").await;
    place.agent("a", spec("good:1", true)).await;
    let first = gets_ready(&place, "good:1").await;
    // Work that goes on in the good pod is no reason to wait.
    let running = json!({"name": "opencode-server", "image": "good:1", "imageID": "", "ready": true, "restartCount": 0,
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}});
    for bad in ["bad:1", "bad:2"] {
        place.agent("a", spec(bad, true)).await;
        cannot_be_pulled(&place, bad).await;
        let agent = place
            .agent_where("it is rolled back", "a", |a| {
                failed("RolledBack")(a)
                    && a.status.as_ref().unwrap().ready == Some(true)
                    && condition(a, "RolloutFailed").unwrap().2.contains(&format!("image {bad}"))
                    && condition(a, "RolloutFailed").unwrap().2.contains("runs in its place")
            })
            .await;
        assert_eq!(state(&agent), Some(AgentState::Stalled));
        let live = place.api::<Deployment>().get("a-server").await.unwrap();
        let rollout = agent.status.unwrap().rollout.unwrap();
        assert_eq!(image(&live), "good:1");
        assert_eq!(annotation(&live, "failed-hash"), rollout.desired_revision.as_deref());
        assert_eq!(rollout.rolled_out_revision, rollout.applied);
        // The pod was never replaced, and what it mounts is still there.
        eventually("only the good pod is left", 30, || async {
            let all = pods(&place).await;
            (all.len() == 1 && all[0].1.uid() == first.uid()).then_some(())
        })
        .await;
        let volumes = first.spec.clone().unwrap().volumes.unwrap();
        let files = volumes.iter().find_map(|v| v.config_map.as_ref().filter(|m| m.name.contains("-files-")));
        place.api::<ConfigMap>().get(&files.unwrap().name).await.unwrap();
    }
    let sets = place.api::<ReplicaSet>().list(&ListParams::default()).await.unwrap().items;
    assert_eq!(sets.len(), 3, "one for each revision that was tried");

    // Another controller does not try it again, and nothing is written.
    place.controller.kill();
    place.controller = place.release.start(&["--leader-elect", "false"]);
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(place.writes_during(3).await, Vec::<String>::new());
    assert_eq!(image(&place.api::<Deployment>().get("a-server").await.unwrap()), "good:1");

    // What is good replaces it, through the gate: the good pod works.
    says(&place, "good:1", json!({"containerStatuses": [running]})).await;
    place.agent("a", spec("good:2", true)).await;
    place.deployment_where("it waits", "a-server", |d| annotation(d, "pending-hash").is_some()).await;
    says(&place, "good:1", json!({"containerStatuses": []})).await;
    gets_ready(&place, "good:2").await;
    let agent = place
        .agent_where("nothing has failed", "a", |a| condition(a, "RolloutFailed").is_some_and(|c| c.0 == "False"))
        .await;
    assert_eq!(state(&agent), Some(AgentState::Ready));
    let live = place.api::<Deployment>().get("a-server").await.unwrap();
    assert!(annotation(&live, "failed-hash").is_none());
}
