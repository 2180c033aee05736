//! A revision that has to pass a Task first: the real server of the new pod works it off, while the old one serves.

use serde_json::{Value, json};

use super::world::{NEXT_EXECUTOR, Place, condition, place, uid};

/// The Task that verifies what comes with this description.
async fn verification(place: &Place, description: &str) -> Value {
    let is = |task: &&Value| task["spec"]["description"] == description;
    let all = place
        .until("the verification", "tasks", |tasks| {
            tasks["items"].as_array().is_some_and(|all| all.iter().any(|t| is(&t)))
        })
        .await;
    all["items"].as_array().unwrap().iter().find(is).unwrap().clone()
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

fn asks(spec: &mut Value, description: &str) {
    spec["rollout"] = json!({"strategy": "SideBySide", "verify": {"description": description, "timeout": "1m"}});
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_works_off_its_task_before_it_takes_the_place_of_the_old_one() {
    let Some(place) = place("verify").await else { return };
    let mut spec = place.spec();
    asks(&mut spec, "Are you well? [[words=2]]");
    place.push(&spec, &[]);
    let first = place.ready("").await;
    assert!(place.asked("Are you well?") > 0, "verified before it was ready");
    let task = verification(&place, "Are you well? [[words=2]]").await;
    assert_eq!(task["status"]["phase"], "Completed", "{task:#}");

    // One that cannot do its Task takes no work, and goes; what was begun goes on.
    let answer = place.ask("A person asks. [[words=6 hold]]").await;
    spec["executorImage"] = json!(NEXT_EXECUTOR);
    asks(&mut spec, "And now? [[fail=400]]");
    place.push(&spec, &[]);
    let failed = |agent: &Value| {
        condition(agent, "RolloutFailed")[..2] == ["True", "VerificationFailed"] && agent["status"]["ready"] == true
    };
    let agent = place.until("it has not passed", "agent/coder", failed).await;
    let task = verification(&place, "And now? [[fail=400]]").await;
    assert!(condition(&agent, "RolloutFailed")[2].contains(&name(&task)), "{agent:#}");
    assert_eq!(task["status"]["phase"], "Failed", "{task:#}");
    assert_eq!(agent["status"]["state"], "Stalled");
    let alone = |pods: &Value| {
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        let agents: Vec<_> = pods.iter().filter(|p| p["metadata"]["labels"]["pilothouse.dev/task"].is_null()).collect();
        agents.len() == 1 && uid(agents[0]) == uid(&first)
    };
    place.until("the good pod is alone", "pods", alone).await;
    place.stays(&first, 2).await;
    assert!(!answer.is_finished(), "what was begun is not cut");
    place.model.release();
    assert_eq!(answer.await.unwrap().trim(), "word0 word1 word2 word3 word4 word5");
    let tasks = place.kubectl(&["get", "tasks", "-l", "pilothouse.dev/verifies", "-o", "name"]);
    assert_eq!(tasks.lines().count(), 2, "one for each revision: {tasks}");
}
