use serde_json::{Value, json};

use super::*;

fn agent(metadata: Value, spec: Value, status: Value) -> Agent {
    let mut metadata = metadata;
    metadata["name"] = "a".into();
    let kind = json!({"apiVersion": "pilothouse.dev/v1alpha1", "kind": "Agent"});
    let mut object = kind;
    object["metadata"] = metadata;
    object["spec"] = spec;
    object["status"] = status;
    serde_json::from_value(object).unwrap()
}

#[test]
fn suspended_is_who_is_or_will_be() {
    let with = |value: &str| json!({"annotations": {"pilothouse.dev/suspend-override": value}});
    let table = [
        (json!({}), json!({}), json!({}), false),
        (json!({}), json!({"suspend": true}), json!({}), true),
        (json!({}), json!({}), json!({"suspended": true}), true),
        (with("true"), json!({"suspend": false}), json!({}), true),
        (with("false"), json!({"suspend": true}), json!({}), false),
        (with("maybe"), json!({"suspend": true}), json!({}), true),
    ];
    for (metadata, spec, status, expected) in table {
        assert_eq!(view(&agent(metadata.clone(), spec, status), None).suspended, expected, "{metadata}");
    }
}

#[test]
fn the_template_fills_what_the_agent_leaves_out() {
    let template: AgentTemplate = serde_json::from_value(json!({
        "apiVersion": "pilothouse.dev/v1alpha1", "kind": "AgentTemplate", "metadata": {"name": "t"},
        "spec": {
            "workspaceDir": "/w", "serviceAccountName": "s", "maxConcurrentTasks": 2,
            "quota": {"maxTaskStarts": 3, "windowSeconds": 60},
            "imagePullSecrets": [{"name": "of-template"}], "podSpec": {"labels": {"of": "template"}},
        },
    }))
    .unwrap();
    let bare = view(&agent(json!({}), json!({}), json!({})), Some(&template));
    assert_eq!(bare.max_running, Some(2));
    assert_eq!(bare.quota.map(|q| (q.starts, q.window.as_secs())), Some((3, 60)));
    assert_eq!(bare.image_pull_secrets[0].name, "of-template");
    assert_eq!(bare.labels.get("of").map(String::as_str), Some("template"));
    let full = json!({"maxConcurrentTasks": 0, "imagePullSecrets": [], "podSpec": {"runtimeClassName": "gvisor"}});
    let full = view(&agent(json!({}), full, json!({})), Some(&template));
    assert_eq!((full.max_running, full.image_pull_secrets.len(), full.labels.len()), (Some(2), 0, 0), "0 is no value");
}
