use serde_json::json;

use super::*;
use crate::api::pod::Scheduling;

fn task() -> Task {
    serde_json::from_value(json!({
        "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Task",
        "metadata": {"name": "fix-it", "namespace": "team", "uid": "0123456789-uid"},
        "spec": {"agentRef": {"name": "coder"}, "description": "Fix the $(HOME) test.\n--help\n"},
    }))
    .unwrap()
}

fn agent() -> AgentView {
    AgentView { name: "coder".into(), revision: Some("main@1a2b3c4".into()), ..AgentView::default() }
}

fn built(agent: &AgentView, settings: &Settings) -> Start {
    let server = Server { url: "http://coder.team.svc.cluster.local:4096", pod: None };
    start(&task(), agent, server, "example.org/pilothouse:1", settings, "Be kind.")
}

#[test]
fn golden_pod_and_prompt() {
    insta::assert_yaml_snapshot!(built(&agent(), &Settings::default()).pod);
    insta::assert_yaml_snapshot!(built(&agent(), &Settings::default()).prompt);
}

/// A further try has what the ones before have left.
#[test]
fn the_budget_goes_to_the_pod() {
    let limits = |budget: serde_json::Value, tries: serde_json::Value| {
        let mut task = task();
        task.spec.budget = serde_json::from_value(budget).unwrap();
        task.status = serde_json::from_value(json!({ "tries": tries })).unwrap();
        let pod = start(&task, &agent(), Server { url: "http://x", pod: None }, "i", &Settings::default(), "").pod;
        let env = pod.spec.unwrap().containers.remove(0).env.unwrap().into_iter();
        env.filter(|e| e.name.contains("_MAX_")).map(|e| e.value.unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(limits(json!(null), json!([])), Vec::<String>::new());
    assert_eq!(limits(json!({"maxCost": "2.50", "maxTokens": 9}), json!([])), ["2500000", "9"]);
    let tried = json!([{"reason": "AgentError", "session": {"id": "s", "summary": {"cost": "1.000000"}}}]);
    assert_eq!(limits(json!({"maxCost": 2}), tried), ["1000000"]);
}

#[test]
fn the_prompt_is_no_argument_and_no_environment() {
    let pod = serde_json::to_string(&built(&agent(), &Settings::default()).pod).unwrap();
    assert!(!pod.contains("Fix the"), "{pod}");
}

#[test]
fn what_the_agent_demands_of_nodes_holds_for_its_tasks() {
    let agent = AgentView {
        scheduling: Some(Scheduling {
            node_selector: [("disk".to_owned(), "ssd".to_owned())].into(),
            ..Default::default()
        }),
        labels: [("team".to_owned(), "x".to_owned()), (label::AGENT.to_owned(), "coder".to_owned())].into(),
        image_pull_secrets: vec![crate::api::ImagePullSecret { name: "registry".into() }],
        pod_security_context: Some(PodSecurityContext { run_as_user: Some(4242), ..Default::default() }),
        ..agent()
    };
    let pod = built(&agent, &Settings { image: None, pull_policy: Some(PullPolicy::Always) }).pod;
    let (labels, spec) = (pod.metadata.labels.unwrap(), pod.spec.unwrap());
    assert_eq!(labels.get("team").map(String::as_str), Some("x"));
    assert!(!labels.contains_key(label::AGENT), "the agent's Service would choose this pod");
    assert_eq!(spec.node_selector.unwrap().get("disk").map(String::as_str), Some("ssd"));
    assert_eq!(spec.image_pull_secrets.unwrap()[0].name, "registry");
    assert_eq!(spec.security_context.unwrap().run_as_user, Some(4242));
    assert_eq!(spec.containers[0].image_pull_policy.as_deref(), Some("Always"));
}

#[test]
fn long_names_give_valid_labels() {
    let mut task = task();
    task.metadata.name = Some("x".repeat(200));
    let pod = start(&task, &agent(), Server { url: "http://a", pod: None }, "i", &Settings::default(), "").pod;
    assert!(pod.metadata.labels.unwrap()[label::TASK].len() <= 63);
}
