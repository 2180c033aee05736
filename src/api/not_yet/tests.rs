use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::{Map, json};

use super::*;

fn paths<S: Spec + DeserializeOwned>(spec: Value) -> Vec<String> {
    unsupported(&serde_json::from_value::<S>(spec).unwrap()).iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_set_and_missing_is_named_in_order() {
    let agent = json!({
        "workspaceDir": "/w",
        "skills": [{"name": "s", "git": {"repository": "https://example.org/s", "path": "x"}}],
        "plugins": [{"name": "p"}],
        "contexts": [
            {"type": "Text", "text": "hello"},
            {"type": "Runtime"},
            {"type": "Git", "mountPath": "x", "git": {"repository": "https://example.org/r", "push": true,
                "sync": {"enabled": true}, "recurseSubmodules": false}},
        ],
        "rollout": {"strategy": "Recreate", "timeout": "5m"},
        "podSpec": {"systemContainers": {"pluginInit": {"extraEnv": [{"name": "A", "value": "b"}]}}},
    });
    assert_eq!(
        paths::<AgentSpec>(agent),
        [
            "spec.contexts[1].type (Runtime)",
            "spec.plugins",
            "spec.podSpec.systemContainers.pluginInit",
            "spec.rollout.strategy (Recreate)",
        ]
    );
}

#[test]
fn values_that_ask_for_nothing_are_no_use() {
    let agent = json!({
        "skills": [], "plugins": [], "persistence": {}, "proxy": {}, "attachImage": "",
        "rollout": {"verify": null, "strategy": "SideBySide"},
    });
    assert_eq!(paths::<AgentSpec>(agent), [""; 0]);
    assert_eq!(paths::<TaskSpec>(json!({"agentRef": {"name": "a"}, "priority": 0})), [""; 0]);
    assert_eq!(paths::<SyncSpec>(json!({"repositoryRef": {"name": "r"}, "force": false})), [""; 0]);
}

#[test]
fn an_empty_object_inside_asks_for_its_defaults() {
    assert_eq!(paths::<AgentSpec>(json!({"persistence": {"sessions": {}}})), ["spec.persistence"]);
}

#[test]
fn the_message_names_everything_and_says_what_to_do() {
    assert_eq!(message(&[]), "");
    let spec =
        json!({"url": "https://example.org/r", "ref": {"semver": "1.x"}, "verify": {"secretRef": {"name": "k"}}});
    let found = unsupported(&serde_json::from_value::<RepositorySpec>(spec).unwrap());
    assert_eq!(
        message(&found),
        "this release does not support spec.ref.semver, spec.verify; remove what is named, or use a release that has it"
    );
}

#[test]
fn files_reach_a_pod_of_the_tasks_own_and_no_agents() {
    let contexts = json!([
        {"type": "Text", "text": "t", "mountPath": "a", "fileMode": 420},
        {"type": "Git", "mountPath": "b", "git": {"repository": "https://example.org/r"}},
        {"type": "Runtime"},
    ]);
    let of = |who: &str| paths::<TaskSpec>(json!({who: {"name": "x"}, "description": "d", "contexts": contexts}));
    let runtime = "spec.contexts[2].type (Runtime)";
    assert_eq!(of("templateRef"), [runtime]);
    let files = [
        "spec.contexts[0].fileMode",
        "spec.contexts[0].mountPath",
        "spec.contexts[1].git",
        "spec.contexts[1].mountPath",
        "spec.contexts[1].type (Git)",
    ];
    assert_eq!(of("agentRef"), [&files[..], &[runtime]].concat());
}

/// What is implemented, path by path. `.*` is a core type of Kubernetes, handed on as it is.
fn supported(kind: &str) -> Vec<&'static str> {
    const CONTEXTS: &[&str] = &[
        "contexts",
        "contexts[].name",
        "contexts[].description",
        "contexts[].type",
        "contexts[].mountPath",
        "contexts[].fileMode",
        "contexts[].text",
        "contexts[].configMap",
        "contexts[].configMap.name",
        "contexts[].configMap.key",
        "contexts[].configMap.optional",
        "contexts[].git",
        "contexts[].git.repository",
        "contexts[].git.repositoryRef",
        "contexts[].git.repositoryRef.name",
        "contexts[].git.repositoryRef.follow",
        "contexts[].git.path",
        "contexts[].git.ref",
        "contexts[].git.depth",
        "contexts[].git.secretRef",
        "contexts[].git.secretRef.name",
        "contexts[].git.push",
        "contexts[].git.recurseSubmodules",
        "contexts[].git.sync",
        "contexts[].git.sync.enabled",
        "contexts[].git.sync.interval",
        "contexts[].git.sync.policy",
        "skills",
        "skills[].name",
        "skills[].git",
        "skills[].git.repository",
        "skills[].git.repositoryRef",
        "skills[].git.repositoryRef.name",
        "skills[].git.repositoryRef.follow",
        "skills[].git.path",
        "skills[].git.names",
        "skills[].git.ref",
        "skills[].git.depth",
        "skills[].git.secretRef",
        "skills[].git.secretRef.name",
        "skills[].git.recurseSubmodules",
        "skills[].git.sync",
        "skills[].git.sync.enabled",
        "skills[].git.sync.interval",
        "skills[].git.sync.policy",
    ];
    const SHARED: &[&str] = &[
        "agentImage",
        "executorImage",
        "caBundle",
        "caBundle.configMapRef",
        "caBundle.configMapRef.name",
        "caBundle.configMapRef.key",
        "caBundle.secretRef",
        "caBundle.secretRef.name",
        "caBundle.secretRef.key",
        "proxy",
        "proxy.httpProxy",
        "proxy.httpsProxy",
        "proxy.noProxy",
        "workspaceDir",
        "command",
        "config",
        "credentials",
        "credentials[].name",
        "credentials[].secretRef",
        "credentials[].secretRef.name",
        "credentials[].secretRef.key",
        "credentials[].mountPath",
        "credentials[].env",
        "credentials[].fileMode",
        "podSpec",
        "podSpec.labels",
        "podSpec.scheduling",
        "podSpec.scheduling.nodeSelector",
        "podSpec.scheduling.tolerations.*",
        "podSpec.scheduling.affinity.*",
        "podSpec.runtimeClassName",
        "podSpec.resources.*",
        "podSpec.securityContext.*",
        "podSpec.podSecurityContext.*",
        "podSpec.lifecycle.*",
        "podSpec.extraVolumes.*",
        "podSpec.extraVolumeMounts.*",
        "podSpec.extraEnv.*",
        "podSpec.systemContainers",
        "podSpec.systemContainers.openCodeInit.*",
        "podSpec.systemContainers.contextInit.*",
        "podSpec.systemContainers.gitInit.*",
        "podSpec.systemContainers.gitSync.*",
        "serviceAccountName",
        "maxConcurrentTasks",
        "quota",
        "quota.maxTaskStarts",
        "quota.windowSeconds",
        "imagePullSecrets",
        "imagePullSecrets[].name",
        "extraPorts",
        "extraPorts[].name",
        "extraPorts[].port",
        "extraPorts[].protocol",
        "rollout",
        "rollout.protect",
        "rollout.timeout",
        "rollout.onTimeout",
        "rollout.live",
        "rollout.drain",
        "rollout.strategy",
        "rollout.verify",
        "rollout.verify.description",
        "rollout.verify.timeout",
        "rollout.progressDeadline",
        "rollout.autoRollback",
    ];
    match kind {
        "Agent" => [&["templateRef", "templateRef.name", "profile", "port", "suspend"], CONTEXTS, SHARED].concat(),
        "AgentTemplate" => [CONTEXTS, SHARED].concat(),
        "Task" => {
            const OWN: &[&str] = &[
                "description",
                "agentRef",
                "agentRef.name",
                "templateRef",
                "templateRef.name",
                "timeout",
                "priority",
                "retry",
                "retry.limit",
                "retry.backoff",
                "budget",
                "budget.maxCost",
                "budget.maxTokens",
            ];
            let contexts = CONTEXTS.iter().filter(|path| path.starts_with("contexts"));
            OWN.iter().chain(contexts).copied().collect()
        }
        // Of the Task's own fields the Task's table speaks.
        "CronTask" => vec![
            "schedule",
            "timeZone",
            "concurrencyPolicy",
            "suspend",
            "startingDeadlineSeconds",
            "maxRetainedTasks",
            "jitterSeconds",
            "taskTemplate.*",
        ],
        "Repository" => vec![
            "url",
            "ref",
            "ref.branch",
            "ref.tag",
            "ref.commit",
            "ref.name",
            "interval",
            "timeout",
            "secretRef",
            "secretRef.name",
            "proxySecretRef",
            "proxySecretRef.name",
            "recurseSubmodules",
            "ignore",
            "suspend",
            "webhook",
            "webhook.type",
            "webhook.secretRef",
            "webhook.secretRef.name",
            "webhook.events",
        ],
        "Sync" => vec![
            "repositoryRef",
            "repositoryRef.name",
            "path",
            "targetNamespace",
            "serviceAccountName",
            "interval",
            "retryInterval",
            "timeout",
            "prune",
            "deletionPolicy",
            "wait",
            "values",
            "suspend",
        ],
        "PilothouseConfig" => vec![
            "clusterDomain",
            "systemImage",
            "systemImage.image",
            "systemImage.imagePullPolicy",
            "agentImage",
            "executorImage",
            "proxy",
            "proxy.httpProxy",
            "proxy.httpsProxy",
            "proxy.noProxy",
            "fleet.*",
            "cleanup",
            "cleanup.ttlSecondsAfterFinished",
            "cleanup.maxRetainedTasks",
        ],
        _ => unreachable!("{kind}"),
    }
}

fn gaps(kind: &str) -> &'static [Gap] {
    match kind {
        "Agent" => AgentSpec::GAPS,
        "AgentTemplate" => AgentTemplateSpec::GAPS,
        "CronTask" => CronTaskSpec::GAPS,
        "Task" => TaskSpec::GAPS,
        "Repository" => RepositorySpec::GAPS,
        "Sync" => SyncSpec::GAPS,
        "PilothouseConfig" => PilothouseConfigSpec::GAPS,
        _ => unreachable!("{kind}"),
    }
}

fn found(kind: &str, spec: Value) -> Vec<String> {
    match kind {
        "Agent" => paths::<AgentSpec>(spec),
        "AgentTemplate" => paths::<AgentTemplateSpec>(spec),
        "CronTask" => paths::<CronTaskSpec>(spec),
        "Task" => paths::<TaskSpec>(spec),
        "Repository" => paths::<RepositorySpec>(spec),
        "Sync" => paths::<SyncSpec>(spec),
        "PilothouseConfig" => paths::<PilothouseConfigSpec>(spec),
        _ => unreachable!("{kind}"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    Implemented,
    Missing,
    Nothing,
}

/// Every path below `spec`, down to what the two tables know.
fn walk(schema: &Value, at: &str, answer: &dyn Fn(&str) -> (Answer, bool), out: &mut BTreeMap<String, Answer>) {
    for (name, child) in schema["properties"].as_object().unwrap_or(&Map::new()) {
        let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        let (said, stop) = answer(&path);
        out.insert(path.clone(), said);
        if stop {
            continue;
        }
        walk(child, &path, answer, out);
        walk(&child["items"], &format!("{path}[]"), answer, out);
    }
}

#[test]
fn every_property_is_implemented_or_refused() {
    for crd in crate::api::crd::all().unwrap() {
        let supported = supported(crd.kind);
        let gaps = gaps(crd.kind);
        let answer = |path: &str| {
            if gaps.iter().any(|gap| gap.path == path && gap.values.is_empty()) {
                (Answer::Missing, true)
            } else if supported.contains(&format!("{path}.*").as_str()) {
                (Answer::Implemented, true)
            } else if supported.contains(&path) {
                (Answer::Implemented, false)
            } else {
                (Answer::Nothing, true)
            }
        };
        let mut seen = BTreeMap::new();
        walk(&crd.schema()["properties"]["spec"], "", &answer, &mut seen);
        let unknown: Vec<_> = seen.iter().filter(|(_, a)| **a == Answer::Nothing).map(|(p, _)| p).collect();
        assert!(unknown.is_empty(), "{}: neither implemented nor refused: {unknown:?}", crd.kind);
        for path in supported {
            let path = path.trim_end_matches(".*");
            assert_eq!(seen.get(path), Some(&Answer::Implemented), "{}: no such field: {path}", crd.kind);
        }
        for gap in gaps {
            assert!(seen.contains_key(gap.path), "{}: no such field: {}", crd.kind, gap.path);
        }
    }
}

/// A value of the schema that sets as little as it may and asks for something.
fn sample(schema: &Value) -> Value {
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    match schema["type"].as_str() {
        Some("object") => {
            let mut fields = Map::new();
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            let mut names: Vec<_> = required.iter().filter_map(Value::as_str).collect();
            let properties = schema["properties"].as_object().cloned().unwrap_or_default();
            names.extend(properties.keys().map(String::as_str).take(usize::from(names.is_empty())));
            for name in names {
                fields.insert(name.into(), sample(&properties[name]));
            }
            if fields.is_empty() {
                fields.insert("any".into(), json!("x"));
            }
            Value::Object(fields)
        }
        Some("array") => json!([sample(&schema["items"])]),
        Some("boolean") => json!(true),
        Some("integer") => json!(1),
        _ => json!("1m"),
    }
}

/// A spec that sets `path` and what is required around it.
fn spec_with(schema: &Value, path: &str) -> Value {
    let mut fields = Map::new();
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        fields.insert(name.into(), sample(&schema["properties"][name]));
    }
    let (head, rest) = path.split_once('.').unwrap_or((path, ""));
    let (name, list) = head.strip_suffix("[]").map_or((head, false), |name| (name, true));
    let child = &schema["properties"][name];
    let value = match (list, rest) {
        (_, "") => sample(child),
        (true, rest) => json!([spec_with(&child["items"], rest)]),
        (false, rest) => spec_with(child, rest),
    };
    fields.insert(name.into(), value);
    Value::Object(fields)
}

#[test]
fn every_gap_is_reported_when_it_is_set_and_nothing_implemented_is() {
    for crd in crate::api::crd::all().unwrap() {
        let schema = &crd.schema()["properties"]["spec"];
        for gap in gaps(crd.kind).iter().filter(|gap| gap.values.is_empty()) {
            // `runtime: {}` has no field to set; its type is what is refused.
            if gap.path == "contexts[].runtime" {
                continue;
            }
            let expected = format!("spec.{}", gap.path.replace("[]", "[0]"));
            let found = found(crd.kind, spec_with(schema, gap.path));
            assert!(found.contains(&expected), "{} {}: {found:?}", crd.kind, gap.path);
        }
        for path in supported(crd.kind) {
            let mut spec = spec_with(schema, path.trim_end_matches(".*"));
            if let Some(item) = spec.pointer_mut("/contexts/0") {
                item["type"] = json!("ConfigMap");
            }
            // On an agent it is another question.
            if crd.kind == "Task" {
                spec["templateRef"] = json!({"name": "t"});
            }
            if path == "rollout" {
                spec["rollout"] = json!({"protect": "Tasks"});
            }
            if path == "ref" {
                spec["ref"] = json!({"branch": "main"});
            }
            assert_eq!(found(crd.kind, spec), [""; 0], "{} {path}", crd.kind);
        }
    }
}
