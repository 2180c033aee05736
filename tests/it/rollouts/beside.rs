//! Side by side: a new revision comes at once, whatever goes on in the old one.

use std::time::Duration;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{Api, ResourceExt};
use pilothouse::api::{Agent, AgentState, Task};
use serde_json::{Value, json};

use super::outcome::{gets_ready, says};
use crate::{
    agents::{Place, annotation, condition, image, state},
    common::wait::eventually,
};

fn spec(tag: u32) -> Value {
    json!({"executorImage": format!("devbox:{tag}"), "rollout": {"strategy": "SideBySide"}})
}

/// Plays a pod that works: nobody can say what its server does, and when it is told to end it stays.
async fn works(place: &Place, image: &str) -> Pod {
    let running = json!({"name": "opencode-server", "image": image, "imageID": "", "ready": true, "restartCount": 0,
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}});
    let pod = says(place, image, json!({"containerStatuses": [running]})).await;
    place.merge::<Pod>(&pod.name_any(), json!({"metadata": {"finalizers": ["test.pilothouse.dev/work"]}})).await;
    // Until the controller has seen it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    pod
}

async fn has_ended(place: &Place, pod: &Pod) {
    place.merge::<Pod>(&pod.name_any(), json!({"metadata": {"finalizers": null}})).await;
}

async fn is_told_to_end(place: &Place, pod: &Pod) {
    let pods: Api<Pod> = place.api();
    eventually("the old pod is told to end", 30, || async {
        pods.get(&pod.name_any()).await.unwrap().metadata.deletion_timestamp.map(drop)
    })
    .await;
}

#[tokio::test]
async fn a_revision_comes_at_once_and_the_next_waits_for_the_one_that_is_left() {
    let place = Place::new("beside").await;
    place.agent("a", spec(1)).await;
    gets_ready(&place, "devbox:1").await;
    let first = works(&place, "devbox:1").await;

    place.agent("a", spec(2)).await;
    let live = place.deployment_where("it does not wait", "a-server", |d| image(d) == "devbox:2").await;
    assert!(annotation(&live, "pending-hash").is_none());
    // Until its pod is ready the old one serves.
    let old = place.api::<Pod>().get(&first.name_any()).await.unwrap();
    assert!(old.metadata.deletion_timestamp.is_none());
    gets_ready(&place, "devbox:2").await;
    is_told_to_end(&place, &first).await;
    let second = works(&place, "devbox:2").await;

    place.agent("a", spec(3)).await;
    let waits = |a: &Agent| condition(a, "RolloutPending").is_some_and(|c| c.0 == "True");
    let agent = place.agent_where("the next waits", "a", waits).await;
    let message = condition(&agent, "RolloutPending").unwrap().2;
    assert!(message.contains("or for a pod of an older revision to end its own"), "{message}");
    assert_eq!(image(&place.api::<Deployment>().get("a-server").await.unwrap()), "devbox:2");
    has_ended(&place, &first).await;
    place.deployment_where("its turn", "a-server", |d| image(d) == "devbox:3").await;
    gets_ready(&place, "devbox:3").await;
    is_told_to_end(&place, &second).await;
    has_ended(&place, &second).await;

    // Nothing is to come beside a pod that is to go.
    let third = works(&place, "devbox:3").await;
    let mut asleep = spec(3);
    asleep["suspend"] = json!(true);
    place.agent("a", asleep).await;
    place.agent_where("a suspension waits for work", "a", waits).await;
    place.agent("a", spec(3)).await;
    has_ended(&place, &third).await;
}

/// A Task that comes while a new pod starts goes to the old one, which ends it; where the old one would not, it waits.
#[tokio::test]
async fn new_work_goes_to_the_old_pod_until_the_new_one_is_ready() {
    let place = Place::new("beside-tasks").await;
    let plain = |tag: u32| json!({"executorImage": format!("devbox:{tag}"), "serviceAccountName": "default"});
    let side = |tag: u32| {
        let mut spec = plain(tag);
        spec["rollout"] = json!({"strategy": "SideBySide", "drain": true});
        spec
    };
    let coming = |ready: bool| {
        move |a: &Agent| {
            let status = a.status.as_ref().unwrap();
            let rollout = status.rollout.clone().unwrap_or_default();
            rollout.applied != rollout.rolled_out_revision
                && rollout.applied == rollout.desired_revision
                && status.ready == Some(ready)
        }
    };
    let task =
        |name: &str| json!({"metadata": {"name": name}, "spec": {"agentRef": {"name": "a"}, "description": "x"}});
    place.agent("a", plain(1)).await;
    gets_ready(&place, "devbox:1").await;
    // Pods of the first revision were not made for it.
    place.agent("a", side(2)).await;
    place.agent_where("nobody takes work", "a", coming(false)).await;
    place.create::<Task>(task("early")).await;
    eventually("it waits", 30, || async {
        let task = place.api::<Task>().get("early").await.unwrap();
        task.status?.conditions.iter().any(|c| c.type_ == "Queued" && c.status == "True").then_some(())
    })
    .await;
    gets_ready(&place, "devbox:2").await;
    let pod = async |task: &str| {
        eventually("the Task's pod", 30, || async { place.api::<Pod>().get_opt(&format!("{task}-pod")).await.unwrap() })
            .await
    };
    pod("early").await;

    place.agent("a", side(3)).await;
    let agent = place.agent_where("the old one takes work", "a", coming(true)).await;
    assert_eq!(condition(&agent, "Ready").unwrap().0, "False", "the new one is not ready");
    place.create::<Task>(task("late")).await;
    pod("late").await;
    let agent = place.api::<Agent>().get("a").await.unwrap();
    assert!(coming(true)(&agent), "it did not wait for the new pod: {agent:#?}");
    gets_ready(&place, "devbox:3").await;
}

#[tokio::test]
async fn what_two_pods_cannot_have_at_a_time_is_refused_by_name() {
    let place = Place::new("beside-claims").await;
    let mut with_claim = spec(1);
    let claim = json!({"name": "data", "persistentVolumeClaim": {"claimName": "data"}});
    with_claim["podSpec"] = json!({"extraVolumes": [claim]});
    place.agent("a", with_claim).await;
    let agent = place
        .agent_where("it is refused", "a", |a| condition(a, "Stalled").is_some_and(|c| c.1 == "InvalidSpec"))
        .await;
    let message = condition(&agent, "Stalled").unwrap().2;
    assert!(message.contains("SideBySide") && message.contains("\"data\""), "{message}");
    assert_eq!(state(&agent), Some(AgentState::Stalled));
    place.agent("a", spec(1)).await;
    place.deployment_where("it is made without it", "a-server", |_| true).await;
}
