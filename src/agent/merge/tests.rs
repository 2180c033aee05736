use serde_json::{Value, json};

use super::*;

#[allow(clippy::needless_pass_by_value)] // as json! gives it
fn merged(agent: Value, template: Value) -> Value {
    let agent: AgentSpec = serde_json::from_value(agent).unwrap();
    let mut base = json!({"workspaceDir": "/base", "serviceAccountName": "base"});
    base.as_object_mut().unwrap().extend(template.as_object().unwrap().clone());
    let template: AgentTemplateSpec = serde_json::from_value(base).unwrap();
    serde_json::to_value(merge(&agent, Some(&template))).unwrap()
}

/// Field, the Agent's value (`null`: absent), the template's value, what comes out.
#[test]
fn every_field() {
    let text = |name: &str| json!([{"name": name, "type": "Text", "text": "x"}]);
    let skill = |name: &str| json!([{"name": name, "git": {"repository": "https://h/r", "ref": "main", "depth": 1}}]);
    let credential = |name: &str| json!([{"name": name, "secretRef": {"name": "s"}}]);
    let port = |name: &str| json!([{"name": name, "port": 1, "protocol": "TCP"}]);
    let rows: Vec<(&str, Value, Value, Value)> = vec![
        ("agentImage", json!("a"), json!("t"), json!("a")),
        ("agentImage", Value::Null, json!("t"), json!("t")),
        ("agentImage", json!(""), json!("t"), json!("t")),
        ("executorImage", Value::Null, json!("t"), json!("t")),
        ("executorImage", json!("a"), json!("t"), json!("a")),
        ("attachImage", Value::Null, json!("t"), json!("t")),
        ("workspaceDir", Value::Null, json!("/t"), json!("/t")),
        ("workspaceDir", json!("/a"), json!("/t"), json!("/a")),
        ("serviceAccountName", Value::Null, json!("t"), json!("t")),
        ("serviceAccountName", json!("a"), json!("t"), json!("a")),
        ("command", json!([]), json!(["t"]), json!(["t"])),
        ("command", json!(["a"]), json!(["t"]), json!(["a"])),
        ("contexts", Value::Null, text("t"), text("t")),
        ("contexts", json!([]), text("t"), json!([])),
        ("contexts", text("a"), text("t"), text("a")),
        ("skills", Value::Null, skill("t"), skill("t")),
        ("skills", json!([]), skill("t"), json!([])),
        ("plugins", json!([]), json!([{"name": "t", "target": "server"}]), json!([])),
        ("credentials", json!([]), credential("t"), json!([])),
        ("credentials", credential("a"), credential("t"), credential("a")),
        ("imagePullSecrets", json!([]), json!([{"name": "t"}]), json!([])),
        ("extraPorts", json!([]), port("t"), json!([])),
        ("extraPorts", Value::Null, port("t"), port("t")),
        ("config", json!({"model": "a"}), json!({"model": "t", "small_model": "t"}), json!({"model": "a"})),
        ("config", Value::Null, json!("{}"), json!("{}")),
        ("podSpec", json!({"runtimeClassName": "a"}), json!({"labels": {"t": "t"}}), json!({"runtimeClassName": "a"})),
        ("caBundle", Value::Null, json!({"secretRef": {"name": "t"}}), json!({"secretRef": {"name": "t"}})),
        ("proxy", json!({"httpProxy": "a"}), json!({"httpsProxy": "t"}), json!({"httpProxy": "a"})),
        ("maxConcurrentTasks", json!(0), json!(3), json!(3)),
        ("maxConcurrentTasks", json!(2), json!(3), json!(2)),
        (
            "quota",
            Value::Null,
            json!({"maxTaskStarts": 1, "windowSeconds": 60}),
            json!({"maxTaskStarts": 1, "windowSeconds": 60}),
        ),
    ];
    for (field, agent, template, expected) in rows {
        let agent = if agent.is_null() { json!({}) } else { json!({ field: agent }) };
        let out = merged(agent.clone(), json!({ field: template }));
        assert_eq!(out[field], expected, "{field}: {agent} over {template}");
    }
}

#[test]
fn the_agents_own_fields_stay() {
    let own = json!({
        "templateRef": {"name": "t"}, "profile": "p", "port": 4100, "suspend": true,
        "persistence": {"sessions": {"size": "1Gi"}}, "standby": {"idleTimeout": "5m"},
    });
    let out = merged(own.clone(), json!({}));
    for (field, value) in own.as_object().unwrap() {
        assert_eq!(&out[field], value, "{field}");
    }
}

#[test]
fn without_a_template_only_zeroes_go() {
    let spec = AgentSpec { agent_image: Some(String::new()), max_concurrent_tasks: Some(0), ..AgentSpec::default() };
    assert_eq!(merge(&spec, None), AgentSpec { agent_image: None, max_concurrent_tasks: None, ..spec.clone() });
}
