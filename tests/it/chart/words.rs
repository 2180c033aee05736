//! What the chart says after an installation, how the kubelet asks the controller, and what its values may be.

use std::{collections::BTreeSet, process::Command};

use serde_json::Value;

use super::{objects, of_kind};
use crate::common::controller::program;

/// The notes of an installation that does not happen.
fn notes(settings: &str) -> String {
    let out = Command::new(program("helm"))
        .env("KUBECONFIG", "/dev/null")
        .args(["install", "ph", concat!(env!("CARGO_MANIFEST_DIR"), "/charts/pilothouse"), "--dry-run=client"])
        .args(["--namespace", "system", "--set", settings])
        .output()
        .unwrap();
    assert!(out.status.success(), "{settings}: {}", String::from_utf8_lossy(&out.stderr));
    let all = String::from_utf8(out.stdout).unwrap();
    all.split_once("\nNOTES:\n").unwrap_or_else(|| panic!("no notes in {all}")).1.to_owned()
}

/// Who installs it learns what it may do before anything happens with it.
#[test]
fn the_notes_say_what_the_rights_mean() {
    let images = "config.agentImage=a,config.executorImage=e";
    let (some, all) = (notes("agentNamespaces={team-a,team-b}"), notes(&format!("rbac.clusterWide=true,{images}")));
    let wide = "rbac.clusterWide is on: the controller may read Secrets, change workloads and act as any ServiceAccount in EVERY\n\
                namespace. List agentNamespaces instead if that is more than you want.";
    let narrow = "It manages agents in: team-a, team-b. It sees no other namespace; in these it may read\n\
                  Secrets, change workloads, and act as their ServiceAccounts.";
    assert!(all.contains(wide) && !all.contains("It manages agents in"), "{all}");
    assert!(some.contains(narrow) && !some.contains("EVERY"), "{some}");
    let unset = "config.agentImage and config.executorImage are not both set";
    assert!(some.contains(unset) && !all.contains(unset), "{all}");
    for notes in [&some, &all] {
        for part in [
            "Pilothouse ",
            "runs in namespace system.",
            "to create an Agent is to create a Pod there",
            "to create a Sync is to act as any ServiceAccount of that namespace",
            "pod-security.kubernetes.io/enforce=restricted",
            "--clusterrole=ph-pilothouse:system:sync --serviceaccount=NAMESPACE:default",
            "To leave: \"helm uninstall\", then \"pilothouse uninstall\"",
            "pilothouse crds | kubectl apply --server-side -f -",
        ] {
            assert!(notes.contains(part), "{part} is not in:\n{notes}");
        }
    }
}

#[test]
fn the_kubelet_asks_the_controller_what_it_answers() {
    let all = objects(&["agentNamespaces={a}"]);
    let container = of_kind(&all, "Deployment")[0].pointer("/spec/template/spec/containers/0").unwrap();
    let port = container["ports"].as_array().unwrap().iter().find(|p| p["name"] == "http").unwrap();
    assert_eq!(port["containerPort"], 8080);
    for (probe, path) in [("startupProbe", "/healthz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")] {
        let asked = &container[probe]["httpGet"];
        assert_eq!((&asked["path"], &asked["port"]), (&path.into(), &"http".into()), "{probe}");
    }
    // A minute to start, and three misses, a minute, before it is restarted.
    let number = |probe: &str, field: &str, unset: u64| container[probe][field].as_u64().unwrap_or(unset);
    assert!(number("startupProbe", "periodSeconds", 10) * number("startupProbe", "failureThreshold", 3) >= 30);
    assert!(number("livenessProbe", "periodSeconds", 10) * number("livenessProbe", "failureThreshold", 3) >= 30);
}

/// What may hold anything: Kubernetes' own types, annotations and labels, and what other charts share.
const OPEN: [&str; 19] = [
    "affinity",
    "annotations",
    "databaseTo",
    "extraEnv",
    "extraVolumeMounts",
    "extraVolumes",
    "from",
    "gitTo",
    "global",
    "labels",
    "metricsFrom",
    "nodeSelector",
    "parentRefs",
    "podAnnotations",
    "podLabels",
    "readers",
    "resources",
    "tolerations",
    "topologySpreadConstraints",
];

/// Paths of objects that may have any key.
fn open(schema: &Value, definitions: &Value, at: &str, found: &mut BTreeSet<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.strip_prefix("#/definitions/").unwrap_or_else(|| panic!("{at}: {name}"));
        assert!(definitions[name].is_object(), "{at}: there is no definition {name}");
        return open(&definitions[name], definitions, at, found);
    }
    assert!(schema["type"].is_string() || schema["enum"].is_array(), "{at} may be anything: {schema}");
    match schema["type"].as_str() {
        Some("object") => {
            if schema["additionalProperties"] != false {
                found.insert(at.to_owned());
            }
            for (name, field) in schema["properties"].as_object().into_iter().flatten() {
                open(field, definitions, &format!("{at}.{name}"), found);
            }
        }
        Some("array") => open(&schema["items"], definitions, &format!("{at}[]"), found),
        _ => {}
    }
}

#[test]
fn every_object_of_the_values_is_closed() {
    let read = |file: &str| {
        let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/pilothouse");
        std::fs::read_to_string(format!("{chart}/{file}")).unwrap()
    };
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let mut found = BTreeSet::new();
    open(&schema, &schema["definitions"], "", &mut found);
    let odd: Vec<_> = found
        .iter()
        .filter(|path| {
            let name = path.rsplit('.').next().unwrap_or_default().trim_end_matches("[]");
            !OPEN.contains(&name)
        })
        .collect();
    assert!(odd.is_empty(), "these take any key: {odd:?}");
    assert!(found.contains(".controller.nodeSelector") && found.contains(".global"), "{found:?}");
    // Each value that the chart has is one that the schema knows: helm refuses its own defaults otherwise; see `lint`.
    let values = pilothouse::object::yaml::parse_documents(&read("values.yaml")).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let known = keys(&schema["properties"]);
    assert_eq!(known.difference(&keys(&values[0].value)).collect::<Vec<_>>(), ["global"], "a value without a default");
}
