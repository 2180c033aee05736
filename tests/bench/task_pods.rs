//! What a kubelet does for pods that no node has: it says how they are. What runs in them is somebody else's concern.

use std::collections::HashSet;

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher},
};
use pilothouse::api::names::label;
use serde_json::{Value, json};

/// Calls `play` with each pod of a Task, once.
pub(crate) fn of_tasks(pods: &Api<Pod>, play: impl Fn(Pod) + Send + 'static) {
    follow(pods.clone(), label::TASK.to_owned(), play);
}

/// Says of all pods of agents that they are ready.
pub(crate) fn of_agents(pods: &Api<Pod>) {
    let all = pods.clone();
    follow(pods.clone(), format!("{},!{}", label::AGENT, label::TASK), move |pod| {
        let pods = all.clone();
        tokio::spawn(async move {
            let ready = json!([{"type": "Ready", "status": "True"}]);
            say(&pods, &pod.name_any(), json!({"phase": "Running", "conditions": ready})).await;
        });
    });
}

fn follow(pods: Api<Pod>, labels: String, play: impl Fn(Pod) + Send + 'static) {
    tokio::spawn(async move {
        let mut seen = HashSet::new();
        let mut pods = std::pin::pin!(watcher(pods, watcher::Config::default().labels(&labels)).applied_objects());
        while let Some(pod) = pods.next().await {
            let pod = pod.unwrap();
            if seen.insert(pod.uid()) {
                play(pod);
            }
        }
    });
}

/// The container of a Task's pod has started.
pub(crate) async fn begins(pods: &Api<Pod>, pod: &str) {
    let state = json!({"running": {"startedAt": second()}});
    say(pods, pod, json!({"phase": "Running", "containerStatuses": [container(&state)]})).await;
}

/// It has ended with this code and these last words.
pub(crate) async fn ends(pods: &Api<Pod>, pod: &str, code: i32, words: &str) {
    let terminated = json!({"exitCode": code, "reason": if code == 0 { "Completed" } else { "Error" }, "message": words,
        "startedAt": second(), "finishedAt": second(), "containerID": "containerd://x"});
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    let state = json!({ "terminated": terminated });
    say(pods, pod, json!({"phase": phase, "containerStatuses": [container(&state)]})).await;
}

async fn say(pods: &Api<Pod>, pod: &str, status: Value) {
    let patch = Patch::Merge(json!({ "status": status }));
    pods.patch_status(pod, &PatchParams::default(), &patch).await.unwrap();
}

fn container(state: &Value) -> Value {
    json!({"name": "task", "image": "i", "imageID": "i", "ready": false, "restartCount": 0, "state": state})
}

fn second() -> String {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap().to_string()
}
