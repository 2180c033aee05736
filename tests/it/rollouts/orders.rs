//! `pilothouse rollout`: now, hold, resume.

use std::{process::Command, time::Duration};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap};
use pilothouse::api::Agent;
use serde_json::{Value, json};

use crate::{
    agents::{Place, annotation, condition, image},
    common::{
        cluster::control_plane,
        wait::{eventually, get},
    },
};

fn rollout(place: &Place, arguments: &[&str]) -> (i32, String, String) {
    place.run(&[&["rollout"], arguments].concat())
}

fn spec(tag: u32, text: &str) -> Value {
    json!({"executorImage": format!("devbox:{tag}"), "contexts": [{"name": "rules", "type": "Text", "text": text}]})
}

fn pending(reason: &'static str) -> impl Fn(&Agent) -> bool {
    move |a| condition(a, "RolloutPending").is_some_and(|c| (c.0, c.1) == ("True", reason))
}

#[tokio::test]
async fn a_hold_keeps_everything_and_now_counts_once() {
    let place = Place::new("orders").await;
    place.agent("a", spec(1, "one")).await;
    place.deployment_where("a Deployment", "a-server", |_| true).await;
    place.agent_where("a status", "a", |a| condition(a, "ServerReady").is_some()).await;
    let (code, _, error) = rollout(&place, &["agent", "a", "--now"]);
    assert_eq!((code, error.contains("nothing waits")), (1, true), "{error}");
    let (code, _, error) = rollout(&place, &["agent", "b"]);
    assert_eq!((code, error.contains("there are: a")), (1, true), "{error}");

    // Nothing runs yet, so only the hold keeps the change.
    let (code, said, error) = rollout(&place, &["agent/a", "--hold", "--because", "ask Jo", "-o", "json"]);
    assert_eq!(code, 0, "{error}");
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["asked"], "hold: ask Jo");
    place.agent("a", spec(2, "two")).await;
    let agent = place.agent_where("it is held", "a", pending("Held")).await;
    let message = condition(&agent, "RolloutPending").unwrap().2;
    assert!(message.contains("(ask Jo)") && message.contains("--resume"), "{message}");
    assert_eq!(condition(&agent, "TextPending").map(|c| (c.0, c.1)), Some(("True", "Held")));
    // Neither a Sync's apply nor another command takes it away.
    let asked = Command::new(env!("CARGO_BIN_EXE_pilothouse"))
        .env("KUBECONFIG", &control_plane().ready.kubeconfig)
        .args(["reconcile", "agent", "a", "-n", &place.namespace])
        .output()
        .unwrap();
    assert!(asked.status.success());
    place.agent("a", spec(2, "two")).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(place.writes_during(2).await, Vec::<String>::new(), "a hold writes nothing");
    let held = place.api::<Deployment>().get("a-server").await.unwrap();
    assert_eq!((image(&held).as_str(), annotation(&held, "pending-held")), ("devbox:1", Some("true")));
    let (_, said, _) = rollout(&place, &["agent", "a"]);
    assert!(said.contains("asked: hold: ask Jo") && said.contains("wanted: "), "{said}");

    // Work begins meanwhile. Released, it waits for that, and its time begins now.
    place.let_run("a").await;
    assert_eq!(rollout(&place, &["agent", "a", "--resume"]).0, 0);
    place.agent_where("it waits for work", "a", pending("WaitingForTasks")).await;
    let waits = place.api::<Deployment>().get("a-server").await.unwrap();
    let since = |d: &Deployment| annotation(d, "pending-since").unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(since(&waits) > since(&held), "the time on hold was no waiting for work");

    let (code, said, error) = rollout(&place, &["agent", "a", "--now"]);
    assert_eq!((code, said.contains("goes out now")), (0, true), "{error}");
    let forced = place.deployment_where("it goes out", "a-server", |d| image(d) == "devbox:2").await;
    assert!(annotation(&forced, "rollout-seen").unwrap().starts_with("now-"));
    let events = eventually("it is told what was cut", 20, || async {
        let events = place.events("RolloutForced").await;
        (!events.is_empty()).then_some(events)
    })
    .await;
    let note = events[0].note.clone().unwrap();
    assert!(note.contains("sessions that cannot be asked for") && note.contains("image"), "{note}");
    let metrics = get(&format!("{}/metrics", place.controller.health)).await.unwrap().1;
    let forced = format!("pilothouse_rollouts_forced_total{{namespace=\"{}\",agent=\"a\"}} 1", place.namespace);
    assert!(metrics.contains(&forced), "{metrics}");

    // The annotation is still there, and counts no more.
    place.let_run("a").await;
    // Until the controller has seen it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    place.agent("a", spec(3, "two")).await;
    let agent = place.agent_where("the next one waits", "a", pending("WaitingForTasks")).await;
    assert!(agent.metadata.annotations.unwrap()["pilothouse.dev/rollout"].starts_with("now-"));
    let of = |name: &str| format!("pilothouse_{name}{{namespace=\"{}\",agent=\"a\"}} ", place.namespace);
    eventually("metrics tell of the wait", 30, || async {
        let metrics = get(&format!("{}/metrics", place.controller.health)).await.unwrap().1;
        let value = |name| metrics.lines().find_map(|l| l.strip_prefix(&of(name))?.parse::<i64>().ok());
        let (age, limit) = (value("rollout_wait_seconds")?, value("rollout_timeout_seconds")?);
        ((0..60).contains(&age) && limit == 3600).then_some(())
    })
    .await;
    // Taken back, nothing waits, and that is told.
    place.agent("a", spec(2, "two")).await;
    eventually("it is told", 20, || async { (!place.events("WaitEnded").await.is_empty()).then_some(()) }).await;
    let map = place.api::<ConfigMap>().get("a-server-context").await.unwrap();
    assert!(map.data.unwrap()["context.md"].contains("two"), "text did not wait either");
}
