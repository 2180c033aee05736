//! A Task that a new revision must pass before it takes work.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use pilothouse::api::{AgentState, Task};
use serde_json::{Value, json};

use super::outcome::{gets_ready, says};
use crate::{
    agents::{Place, condition, image, state},
    common::wait::eventually,
};

pub(crate) fn spec(tag: u32, strategy: &str) -> Value {
    json!({"executorImage": format!("devbox:{tag}"), "serviceAccountName": "default",
        "rollout": {"strategy": strategy, "verify": {"description": "Say that you are well.", "timeout": "2m"}}})
}

/// Plays a pod whose containers are ready; the Task that is made for it, and where its own pod goes.
pub(crate) async fn comes_up(place: &Place, tag: u32, agent: &str) -> (String, String) {
    let ip = format!("10.9.0.{tag}");
    let up = json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
        "conditions": [{"type": "ContainersReady", "status": "True"}]});
    says(place, &format!("devbox:{tag}"), up).await;
    let named = place
        .agent_where("it is verified", agent, |a| {
            let rollout = a.status.as_ref().unwrap().rollout.clone().unwrap_or_default();
            rollout.verifying.is_some_and(|v| v.url.contains(&ip))
        })
        .await;
    let verifying = named.status.unwrap().rollout.unwrap().verifying.unwrap();
    let task = verifying.task;
    let pod = eventually("the pod of its Task", 30, || async {
        place.api::<Pod>().get_opt(&format!("{task}-pod")).await.unwrap()
    })
    .await;
    let env = pod.spec.unwrap().containers[0].env.clone().unwrap();
    let value = |name: &str| env.iter().find(|v| v.name == name).and_then(|v| v.value.clone());
    let url = value("PILOTHOUSE_AGENT_URL").unwrap();
    assert_eq!(url, format!("http://{ip}:14096"));
    assert!(verifying.pod.is_some() && value("PILOTHOUSE_AGENT_POD") == verifying.pod, "{:?}", verifying.pod);
    (task, url)
}

pub(crate) async fn ends(place: &Place, task: &str, exit: i32, words: &str) {
    let now = jiff::Timestamp::now().to_string();
    let ended = json!({"exitCode": exit, "reason": "Completed", "message": words, "startedAt": now, "finishedAt": now,
        "containerID": "containerd://x"});
    let container = json!({"name": "task", "image": "i", "imageID": "i", "ready": false, "restartCount": 0,
        "state": {"terminated": ended}});
    let phase = if exit == 0 { "Succeeded" } else { "Failed" };
    let patch = Patch::Merge(json!({"status": {"phase": phase, "containerStatuses": [container]}}));
    place.api::<Pod>().patch_status(&format!("{task}-pod"), &PatchParams::default(), &patch).await.unwrap();
}

pub(crate) async fn gate_opens(place: &Place, image: &str) {
    let list = ListParams::default().labels("pilothouse.dev/agent=a");
    eventually("its gate is opened", 30, || async {
        let all = place.api::<Pod>().list(&list).await.unwrap().items.into_iter();
        let mut of = all.filter(|p| p.spec.as_ref().unwrap().containers[0].image.as_deref() == Some(image));
        let open = |pod: Pod| {
            let conditions = pod.status.unwrap().conditions.unwrap_or_default();
            conditions.iter().any(|c| c.type_ == "pilothouse.dev/verified" && c.status == "True")
        };
        of.any(open).then_some(())
    })
    .await;
}

async fn verifications(place: &Place) -> usize {
    place.api::<Task>().list(&ListParams::default().labels("pilothouse.dev/verifies")).await.unwrap().items.len()
}

pub(crate) const NO_CREDIT: &str = r#"{"reason": "AgentError", "message": "no credit", "session": {"id": "ses_2"}}"#;

#[tokio::test]
async fn a_revision_takes_work_when_it_has_passed_and_goes_when_it_has_not() {
    let mut place = Place::new("verify").await;
    place.agent("a", spec(1, "SideBySide")).await;
    let (task, _) = comes_up(&place, 1, "a").await;
    place.agent_where("it takes no work", "a", |a| a.status.as_ref().unwrap().ready == Some(false)).await;
    ends(&place, &task, 0, r#"{"session": {"id": "ses_1"}}"#).await;
    gate_opens(&place, "devbox:1").await;
    let first = gets_ready(&place, "devbox:1").await;

    place.agent("a", spec(2, "SideBySide")).await;
    let (task, _) = comes_up(&place, 2, "a").await;
    ends(&place, &task, 10, NO_CREDIT).await;
    let failed = place
        .agent_where("it has failed, and the old one is back", "a", |a| {
            let message = condition(a, "RolloutFailed").filter(|c| (c.0, c.1) == ("True", "VerificationFailed"));
            message.is_some_and(|c| c.2.contains("AgentError: no credit") && c.2.contains("runs in its place"))
                && a.status.as_ref().unwrap().ready == Some(true)
        })
        .await;
    assert_eq!(state(&failed), Some(AgentState::Stalled));
    assert_eq!(image(&place.api::<Deployment>().get("a-server").await.unwrap()), "devbox:1");
    assert!(place.api::<Pod>().get(&first.name_any()).await.unwrap().metadata.deletion_timestamp.is_none());
    eventually("an event", 20, || async { (!place.events("VerificationFailed").await.is_empty()).then_some(()) }).await;

    // Another controller asks for nothing again.
    place.controller.kill();
    place.controller = place.release.start(&["--leader-elect", "false"]);
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(verifications(&place).await, 2, "one for each revision");
    assert_eq!(place.writes_during(2).await, Vec::<String>::new());
}

#[tokio::test]
async fn without_a_way_back_it_takes_no_work_and_says_why() {
    let place = Place::new("verify-plain").await;
    place.agent("a", spec(1, "RollingUpdate")).await;
    let (task, _) = comes_up(&place, 1, "a").await;
    ends(&place, &task, 10, NO_CREDIT).await;
    let agent = place
        .agent_where("it has failed", "a", |a| {
            condition(a, "Ready").is_some_and(|c| (c.0, c.1) == ("False", "VerificationFailed"))
        })
        .await;
    assert_eq!((state(&agent), agent.status.unwrap().ready), (Some(AgentState::Stalled), Some(false)));
    // What is pushed next is another revision.
    place.agent("a", spec(2, "RollingUpdate")).await;
    let (next, _) = comes_up(&place, 2, "a").await;
    assert_ne!(task, next);
    ends(&place, &next, 0, r#"{"session": {"id": "ses_1"}}"#).await;
    gate_opens(&place, "devbox:2").await;
    gets_ready(&place, "devbox:2").await;
    place
        .agent_where("nothing has failed", "a", |a| condition(a, "RolloutFailed").is_some_and(|c| c.0 == "False"))
        .await;
}
