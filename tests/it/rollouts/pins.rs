//! An older revision in the place of what is wanted.

use std::time::Duration;

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{ConfigMap, Pod},
};
use kube::{ResourceExt, api::ListParams};
use pilothouse::api::{Agent, AgentState};
use serde_json::{Value, json};

use super::outcome::{gets_ready, pods};
use crate::{
    agents::{Place, annotation, condition, image, state},
    common::wait::eventually,
};

fn rollback(place: &Place, arguments: &[&str]) -> (i32, String, String) {
    place.run(&[&["rollback", "agent", "a"], arguments].concat())
}

fn spec(tag: u32) -> Value {
    json!({
        "executorImage": format!("devbox:{tag}"), "config": {"model": format!("p/{tag}")},
        "contexts": [{"name": "rules", "type": "Text", "text": format!("text {tag}")}],
    })
}

async fn text(place: &Place) -> String {
    let map = place.api::<ConfigMap>().get("a-server-context").await.unwrap();
    map.data.unwrap()["context.md"].clone()
}

/// Applies a revision, plays the kubelet, and waits until it is kept; its id.
async fn use_revision(place: &Place, tag: u32) -> String {
    let before = place.api::<Agent>().get_opt("a").await.unwrap().and_then(|a| a.status).unwrap_or_default();
    let known = before.revisions.first().map(|kept| kept.id.clone());
    place.agent("a", spec(tag)).await;
    gets_ready(place, &format!("devbox:{tag}")).await;
    let agent = place
        .agent_where("it is kept", "a", |a| {
            let newest = a.status.as_ref().unwrap().revisions.first();
            newest.is_some_and(|kept| {
                Some(&kept.id) != known.as_ref() && kept.image.as_deref() == Some(&format!("devbox:{tag}"))
            })
        })
        .await;
    agent.status.unwrap().revisions[0].id.clone()
}

#[tokio::test]
async fn an_older_revision_stays_until_it_is_released() {
    let mut place = Place::new("pins").await;
    place.agent("a", spec(1)).await;
    let (code, said, error) = rollback(&place, &[]);
    assert_eq!((code, said.contains("no revision is kept yet")), (0, true), "{said}{error}");
    let one = use_revision(&place, 1).await;
    let two = use_revision(&place, 2).await;
    let (_, said, _) = rollback(&place, &["--list", "-o", "json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    let ids: Vec<_> = said["revisions"].as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [&two, &one]);
    let (code, _, error) = rollback(&place, &["--to", "nothing"]);
    assert_eq!((code, error.contains(&format!("known are, newest first: {two}, {one}"))), (1, true), "{error}");
    assert_eq!(rollback(&place, &["--release"]).0, 1, "it is not pinned");

    // Back through the gate: it waits for work.
    place.let_run("a").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (code, said, error) = rollback(&place, &["--to", &one]);
    assert_eq!((code, said.contains("--release")), (0, true), "{error}");
    place.deployment_where("it waits", "a-server", |d| annotation(d, "pending-hash").is_some()).await;
    let agent = place.agent_where("it says so", "a", |a| condition(a, "Pinned").is_some_and(|c| c.0 == "True")).await;
    let message = condition(&agent, "Pinned").unwrap().2;
    assert!(message.contains(&format!("revision {one}")) && message.contains(&format!("newest is {two}")), "{message}");
    assert_eq!((state(&agent), text(&place).await.contains("text 2")), (Some(AgentState::RolloutPending), true));
    let pods_now = pods(&place).await;
    let stop = json!({"status": {"phase": "Running", "containerStatuses": []}});
    for (_, pod) in pods_now {
        let params = kube::api::PatchParams::default();
        let pods = place.api::<Pod>();
        pods.patch_status(&pod.name_any(), &params, &kube::api::Patch::Merge(&stop)).await.unwrap();
    }
    place.deployment_where("the old one is back", "a-server", |d| image(d) == "devbox:1").await;
    gets_ready(&place, "devbox:1").await;
    let agent = place.agent_where("it is pinned", "a", |a| state(a) == Some(AgentState::Pinned)).await;
    assert_eq!(agent.status.unwrap().revisions.len(), 2, "nothing new is kept");
    assert!(text(&place).await.contains("text 1"));
    assert_eq!(place.api::<ReplicaSet>().list(&ListParams::default()).await.unwrap().items.len(), 2, "the same bytes");
    let live = place.api::<Deployment>().get("a-server").await.unwrap();
    let volumes = live.spec.unwrap().template.spec.unwrap().volumes.unwrap();
    let files = volumes.iter().find_map(|v| v.config_map.as_ref().filter(|m| m.name.contains("-files-"))).unwrap();
    let files = place.api::<ConfigMap>().get(&files.name).await.unwrap();
    assert!(files.data.unwrap()["opencode.json"].contains("p/1"));

    // A push meanwhile does not undo it, nor does another controller; and then nothing is written.
    place.agent("a", spec(3)).await;
    let newest = |a: &Agent| condition(a, "Pinned").map(|c| c.2.to_owned()).unwrap_or_default();
    place.agent_where("the newest is another", "a", |a| !newest(a).contains(&two)).await;
    place.controller.kill();
    place.controller = place.release.start(&["--leader-elect", "false"]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(place.writes_during(3).await, Vec::<String>::new());
    assert_eq!(image(&place.api::<Deployment>().get("a-server").await.unwrap()), "devbox:1");
    assert!(text(&place).await.contains("text 1"));

    // A revision that is not kept changes nothing and is said.
    place.merge::<Agent>("a", json!({"metadata": {"annotations": {"pilothouse.dev/pinned-to": "nothing"}}})).await;
    let agent = place.agent_where("it is said", "a", |a| condition(a, "Ready").unwrap().1 == "RevisionUnknown").await;
    assert!(condition(&agent, "Ready").unwrap().2.contains(&one), "{agent:#?}");
    assert_eq!(image(&place.api::<Deployment>().get("a-server").await.unwrap()), "devbox:1");

    let (code, _, error) = rollback(&place, &["--release"]);
    assert_eq!(code, 0, "{error}");
    place.deployment_where("the newest comes", "a-server", |d| image(d) == "devbox:3").await;
    gets_ready(&place, "devbox:3").await;
    place.agent_where("it is released", "a", |a| condition(a, "Pinned").is_some_and(|c| c.1 == "Released")).await;
    eventually("it is told", 20, || async { (!place.events("Released").await.is_empty()).then_some(()) }).await;
    assert_eq!(place.events("Pinned").await.len(), 1);
}

/// What is broken is what one goes back from.
#[tokio::test]
async fn a_spec_of_which_nothing_can_be_made_keeps_nobody_from_going_back() {
    let mut place = Place::new("pins-broken").await;
    let one = use_revision(&place, 1).await;
    use_revision(&place, 2).await;
    let mut broken = spec(3);
    broken["extraPorts"] = json!([{"name": "web", "port": 3000}, {"name": "web", "port": 3001}]);
    place.agent("a", broken.clone()).await;
    let invalid = |a: &Agent| condition(a, "Stalled").is_some_and(|c| c.1 == "InvalidSpec");
    place.agent_where("it is refused", "a", invalid).await;
    assert_eq!(image(&place.api::<Deployment>().get("a-server").await.unwrap()), "devbox:2");

    let (code, _, error) = rollback(&place, &["--to", &one]);
    assert_eq!(code, 0, "{error}");
    place.deployment_where("the old one is back", "a-server", |d| image(d) == "devbox:1").await;
    gets_ready(&place, "devbox:1").await;
    let says = |what: &'static str| {
        move |a: &Agent| {
            state(a) == Some(AgentState::Pinned)
                && condition(a, "Pinned").is_some_and(|c| c.0 == "True" && c.2.contains(what))
                && condition(a, "Stalled").is_none()
        }
    };
    place.agent_where("and what is wrong is said", "a", says("nothing can be made of the newest, InvalidSpec")).await;
    assert!(text(&place).await.contains("text 1"));
    assert_eq!(place.api::<ReplicaSet>().list(&ListParams::default()).await.unwrap().items.len(), 2, "the same bytes");
    place.controller.kill();
    place.controller = place.release.start(&["--leader-elect", "false"]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(place.writes_during(3).await, Vec::<String>::new());

    // Whatever is wrong with it.
    let mut missing = spec(3);
    missing["templateRef"] = json!({"name": "nowhere"});
    place.agent("a", missing).await;
    place.agent_where("a template that is missing", "a", says("newest, TemplateNotFound")).await;
    broken["suspend"] = json!(true);
    place.agent("a", broken).await;
    let replicas = |d: &Deployment| d.spec.as_ref().unwrap().replicas;
    place.deployment_where("suspension is today's", "a-server", |d| replicas(d) == Some(0)).await;
    place.agent("a", spec(3)).await;
    place.deployment_where("it wakes up", "a-server", |d| replicas(d) == Some(1) && image(d) == "devbox:1").await;
    place.agent_where("the newest is valid", "a", |a| condition(a, "Pinned").unwrap().2.contains("and waits")).await;
    let (code, _, error) = rollback(&place, &["--release"]);
    assert_eq!(code, 0, "{error}");
    place.deployment_where("the newest comes", "a-server", |d| image(d) == "devbox:3").await;
    gets_ready(&place, "devbox:3").await;
}

/// Whoever may write ConfigMaps cannot name a revision.
#[tokio::test]
async fn what_somebody_else_wrote_is_no_revision() {
    let place = Place::new("pins-forged").await;
    let one = use_revision(&place, 1).await;
    let history = place.api::<ConfigMap>().get("a-server-history").await.unwrap();
    let forged = history.data.unwrap()[&one].replace("devbox:1", "evil:1");
    place.merge::<ConfigMap>("a-server-history", json!({"data": {(one.as_str()): forged}})).await;
    place.merge::<Agent>("a", json!({"metadata": {"annotations": {"pilothouse.dev/pinned-to": one}}})).await;
    let gone = |a: &Agent| condition(a, "Ready").is_some_and(|c| c.1 == "RevisionUnknown" && c.2.contains("is gone"));
    place.agent_where("it is refused", "a", gone).await;
    let entries = history.metadata.annotations.unwrap()["pilothouse.dev/revisions"].replace(&one, "0000000000");
    let patch = json!({"metadata": {"annotations": {"pilothouse.dev/revisions": entries}}});
    place.merge::<ConfigMap>("a-server-history", patch).await;
    let none = |a: &Agent| condition(a, "Ready").is_some_and(|c| c.2.contains("none yet"));
    place.agent_where("nothing is known", "a", none).await;
    assert_eq!(image(&place.api::<Deployment>().get("a-server").await.unwrap()), "devbox:1");

    // Released, it is kept anew.
    place.merge::<Agent>("a", json!({"metadata": {"annotations": {"pilothouse.dev/pinned-to": null}}})).await;
    place
        .agent_where("it is kept", "a", |a| a.status.as_ref().unwrap().revisions.first().is_some_and(|r| r.id == one))
        .await;
}
