//! A pod that is told to end while it works: a node is drained, an evicted pod's work ends first, and where it takes too
//! long somebody is told.

use serde_json::{Value, json};

use super::{
    jobs::{ended, running},
    world::{CONTROLLER, Place, place, uid},
};

fn name(pod: &Value) -> String {
    pod["metadata"]["name"].as_str().unwrap().to_owned()
}

/// Asks for a pod's eviction, as `kubectl drain` does.
fn evict(place: &Place, pod: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}});
    std::fs::write(file.path(), eviction.to_string()).unwrap();
    let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", place.namespace);
    place.kubectl(&["create", "--raw", &path, "-f", file.path().to_str().unwrap()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evicted_pod_ends_its_work_first_and_says_when_it_cannot() {
    let Some(place) = place("drains").await else { return };
    let mut spec = place.spec();
    place.push(&spec, &[]);
    let pod = place.ready("").await;

    running(&place, "long", "Think through the drain. [[words=6 hold]]").await;
    evict(&place, &name(&pod));
    let next = place.ready(uid(&pod)).await;
    assert_ne!(name(&pod), name(&next));
    // The Service leads to the new pod by now. The Task's session is in the old one, and nothing ends it.
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let old = place.get(&format!("pod/{}", name(&pod)));
    assert!(old["metadata"]["deletionTimestamp"].is_string(), "{old:#}");
    assert_eq!(place.get("task/long")["status"]["phase"], "Running");
    place.model.release();
    let task = ended(&place, "long").await;
    assert_eq!(task["status"]["phase"], "Completed", "{task:#}\n{}", place.story());
    let log = place.kubectl(&["logs", "long-pod"]);
    assert!(log.contains("word0 word1 word2 word3 word4 word5"), "{log}");
    place.until("the old pod is gone", &format!("pod/{}", name(&pod)), Value::is_null).await;

    // 30 s to end: work that takes longer is cut, and the Agent says so.
    spec["rollout"] = json!({"timeout": "30s"});
    spec["podSpec"] = json!({"extraEnv": [{"name": "TEAM", "value": "blue"}]});
    place.push(&spec, &[]);
    let pod = place.ready(uid(&next)).await;
    assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 30);
    // It is told by a controller that runs when the time is over.
    let _alive = CONTROLLER.read().await;
    let answer = place.ask("Never ends. [[words=6 hold]]").await;
    evict(&place, &name(&pod));
    let told = |events: &Value| {
        let events = events["items"].as_array().cloned().unwrap_or_default();
        events.iter().any(|e| e["reason"] == "WorkCut" && e["note"].as_str().unwrap().contains(&name(&pod)))
    };
    place.until("the Agent says that work is cut", "events.events.k8s.io", told).await;
    place.until("the pod is gone", &format!("pod/{}", name(&pod)), Value::is_null).await;
    answer.abort();
}
