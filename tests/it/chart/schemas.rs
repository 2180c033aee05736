//! What the chart, the examples and the documentation say, checked by kubeconform: strictly, without a network, against
//! schemas of our own CRDs and of the API server's kinds as it describes them itself.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use pilothouse::object::yaml::parse_documents;
use serde_json::{Map, Value, json};

use crate::common::{
    cluster::control_plane,
    controller::{pilothouse, program, template},
};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// A folder with one schema a kind, made once a run.
fn schemas() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let core = definitions();
            for (id, schema) in &core {
                for gvk in schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
                    let text = |key: &str| gvk[key].as_str().unwrap_or_default().to_owned();
                    let whole = json!({"$ref": format!("#/definitions/{id}"), "definitions": closure(&core, id)});
                    write(dir.path(), &text("group"), &text("version"), &text("kind"), &whole);
                }
            }
            for crd in our_crds() {
                let (spec, version) = (&crd["spec"], &crd["spec"]["versions"][0]);
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                let mut schema = strict(version["schema"]["openAPIV3Schema"].clone());
                for (field, of) in [("apiVersion", json!({"type": "string"})), ("kind", json!({"type": "string"}))] {
                    schema["properties"][field] = of;
                }
                schema["properties"]["metadata"] = json!({"$ref": format!("#/definitions/{META}")});
                schema["definitions"] = closure(&core, META);
                write(
                    dir.path(),
                    &text(&spec["group"]),
                    &text(&version["name"]),
                    &text(&spec["names"]["kind"]),
                    &schema,
                );
            }
            dir
        })
        .path()
}

fn write(dir: &Path, group: &str, version: &str, kind: &str, schema: &Value) {
    let group = if group.is_empty() { version } else { group }; // what kubeconform makes of `apiVersion: v1`
    let file = dir.join(format!("{group}_{version}_{}.json", kind.to_lowercase()));
    std::fs::write(file, schema.to_string()).unwrap();
}

fn our_crds() -> Vec<Value> {
    let out = Command::new(pilothouse()).args(["crds", "--log", "error"]).output().unwrap();
    parse_documents(&String::from_utf8(out.stdout).unwrap()).unwrap().into_iter().map(|d| d.value).collect()
}

/// The API server's own kinds, strict.
fn definitions() -> Map<String, Value> {
    let out = control_plane().kubectl(["get", "--raw", "/openapi/v2"]);
    let mut all: Value = serde_json::from_slice(&out.stdout).expect("the API server's description of itself");
    let Value::Object(all) = all["definitions"].take() else { panic!("there are no definitions") };
    let strict = all.into_iter().map(|(id, schema)| (id, strict(schema)));
    strict.filter(|(id, _)| !id.starts_with("dev.pilothouse.")).collect()
}

/// The schema with unknown fields refused, and what Kubernetes says in words of its own in those of JSON Schema.
fn strict(mut schema: Value) -> Value {
    let Some(object) = schema.as_object_mut() else { return schema };
    let on = |key: &str| object.get(key) == Some(&json!(true));
    let free = on("x-kubernetes-preserve-unknown-fields") || object.contains_key("additionalProperties");
    let either = on("x-kubernetes-int-or-string") || object.get("format") == Some(&json!("int-or-string"));
    let nullable = on("nullable");
    if object.contains_key("properties") && !free {
        object.insert("additionalProperties".into(), json!(false));
    }
    if either {
        object.remove("format");
        object.insert("type".into(), json!(["integer", "string"]));
    }
    // A quantity may be written as a number.
    if object.get("description").and_then(Value::as_str).is_some_and(|d| d.starts_with("Quantity is a fixed-point")) {
        object.insert("type".into(), json!(["number", "string"]));
    }
    if nullable && let Some(kind) = object.get("type").and_then(Value::as_str) {
        let kinds = json!([kind, "null"]);
        object.insert("type".into(), kinds);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = object.remove(key) {
            object.insert(key.into(), strict(inner));
        }
    }
    if let Some(Value::Object(properties)) = object.remove("properties") {
        let inner = properties.into_iter().map(|(name, schema)| (name, strict(schema)));
        object.insert("properties".into(), Value::Object(inner.collect()));
    }
    schema
}

/// The definitions that `id` needs.
fn closure(all: &Map<String, Value>, id: &str) -> Value {
    let (mut todo, mut seen) = (vec![id.to_owned()], Map::new());
    while let Some(id) = todo.pop() {
        if seen.contains_key(&id) {
            continue;
        }
        let schema = all.get(&id).unwrap_or_else(|| panic!("there is no definition {id}")).clone();
        references(&schema, &mut todo);
        seen.insert(id, schema);
    }
    Value::Object(seen)
}

fn references(schema: &Value, into: &mut Vec<String>) {
    match schema {
        Value::Object(object) => {
            let own = object.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/definitions/"));
            into.extend(own.map(String::from));
            object.values().for_each(|inner| references(inner, into));
        }
        Value::Array(list) => list.iter().for_each(|inner| references(inner, into)),
        _ => {}
    }
}

/// What kubeconform says of manifests: how many it found valid, or its complaints.
fn check(name: &str, manifests: &str) -> Result<usize, String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("manifests.yaml");
    std::fs::write(&file, manifests).unwrap();
    let location = schemas().join("{{ .Group }}_{{ .ResourceAPIVersion }}_{{ .ResourceKind }}.json");
    let out = Command::new(program("kubeconform"))
        .args(["-strict", "-output", "json", "-verbose", "-schema-location"])
        .args([&location, &file])
        .output()
        .unwrap();
    let said: Value = serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|e| panic!("{name}: {e}: {}", String::from_utf8_lossy(&out.stderr)));
    let all: Vec<&Value> = said["resources"].as_array().into_iter().flatten().collect();
    let bad: Vec<String> = all
        .iter()
        .filter(|r| r["status"] != "statusValid")
        .map(|r| format!("{} {}: {} {}", r["kind"], r["name"], r["status"], r["msg"]))
        .collect();
    if bad.is_empty() && out.status.success() { Ok(all.len()) } else { Err(format!("{name}:\n{}", bad.join("\n"))) }
}

fn valid(name: &str, manifests: &str, least: usize) {
    let found = check(name, manifests).unwrap_or_else(|e| panic!("{e}"));
    assert!(found >= least, "{name}: only {found} objects");
}

fn files(root: &str, extension: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
    let entries = std::fs::read_dir(&root).unwrap_or_else(|e| panic!("{}: {e}", root.display()));
    let all = entries.map(|e| e.unwrap().path());
    let mut all: Vec<_> = all.filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    all.sort();
    assert!(!all.is_empty(), "nothing in {}", root.display());
    all
}

#[test]
fn the_chart_is_valid_in_every_shape() {
    for settings in [
        &["agentNamespaces={a,b}"][..],
        &["rbac.clusterWide=true", "controller.replicas=3", "metrics.annotations=true"],
        &["agentNamespaces={a}", "artifacts.persistence.enabled=true", "artifacts.persistence.storageClassName=fast"],
        &[
            "agentNamespaces={a}",
            "syncAccounts[0].namespace=a,syncAccounts[0].name=default",
            "config.agentImage=opencode:1,config.executorImage=work:1,config.cleanup.maxRetainedTasks=5",
            "imagePullSecrets={pull},serviceAccount.annotations.x=y",
            "controller.extraEnv[0].name=HTTPS_PROXY,controller.extraEnv[0].value=http://proxy",
            "controller.tolerations[0].operator=Exists,controller.nodeSelector.disk=ssd,controller.podLabels.a=b",
            "controller.extraVolumes[0].name=ca,controller.extraVolumes[0].configMap.name=ca",
            "controller.extraVolumeMounts[0].name=ca,controller.extraVolumeMounts[0].mountPath=/ca",
        ],
        &[
            "rbac.clusterWide=true,receiver.enabled=true,receiver.admissionPolicy=false",
            "controller.networkPolicy.enabled=true",
        ],
        &[
            "agentNamespaces={a,b},controller.networkPolicy.enabled=true",
            "controller.networkPolicy.apiServerCIDRs={10.0.0.1/32,fd00::1/128}",
            "controller.networkPolicy.gitTo[0].podSelector.matchLabels.a=b,controller.networkPolicy.gitPorts={3000}",
            "controller.networkPolicy.metricsFrom[0].podSelector.matchLabels.a=b",
        ],
        &[
            "agentNamespaces={a,b},receiver.enabled=true,receiver.replicas=3,receiver.secretNames={hook}",
            "metrics.annotations=true,receiver.service.annotations.a=b,receiver.serviceAccount.annotations.a=b",
            "receiver.ingress.enabled=true,receiver.ingress.host=h.example.com,receiver.ingress.tlsSecretName=tls",
            "receiver.ingress.className=nginx,receiver.ingress.annotations.a=b,receiver.podAnnotations.a=b",
            "receiver.networkPolicy.enabled=true,receiver.networkPolicy.apiServerCIDRs={10.0.0.1/32}",
            "receiver.networkPolicy.from[0].namespaceSelector.matchLabels.a=b",
            "receiver.networkPolicy.metricsFrom[0].podSelector.matchLabels.a=b,receiver.podLabels.a=b",
            "receiver.tolerations[0].operator=Exists,receiver.nodeSelector.disk=ssd,imagePullSecrets={pull}",
            "receiver.extraEnv[0].name=A,receiver.extraEnv[0].value=b,receiver.priorityClassName=high",
        ],
    ] {
        let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
        valid(&settings.join(" "), &template("ph", "system", &settings).unwrap(), 10);
    }
}

#[test]
fn the_crds_are_valid() {
    for file in files("crds", "yaml") {
        valid(&file.display().to_string(), &std::fs::read_to_string(&file).unwrap(), 1);
    }
}

#[test]
fn the_examples_are_valid() {
    for overlay in ["dev", "prod"] {
        valid(overlay, &crate::examples::rendered(overlay), 5);
    }
    for file in files("examples-repo/bootstrap", "yaml") {
        valid(&file.display().to_string(), &std::fs::read_to_string(&file).unwrap(), 2);
    }
}

/// Whole objects in the documentation are what a reader copies.
#[test]
fn manifests_of_the_documentation_are_valid() {
    let mut kinds = BTreeSet::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in files("docs", "md").into_iter().chain([root.join("README.md"), root.join("examples-repo/README.md")]) {
        let text = std::fs::read_to_string(&file).unwrap();
        for block in text.split("```yaml\n").skip(1).map(|rest| rest.split("\n```").next().unwrap()) {
            for document in block.split("\n---\n").filter(|d| d.contains("apiVersion:") && d.contains("\nkind:")) {
                let value = parse_documents(document).unwrap().remove(0).value;
                if !value["apiVersion"].as_str().is_some_and(|v| v.starts_with("kustomize.")) {
                    valid(&format!("{}:\n{document}", file.display()), document, 1);
                    kinds.insert(value["kind"].to_string());
                }
            }
        }
    }
    assert!(kinds.len() >= 3, "{kinds:?}");
}

#[test]
fn a_typo_is_found_at_every_depth_and_in_every_kind() {
    let head = |kind: &str, rest: &str| {
        format!("apiVersion: pilothouse.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: x}}\n{rest}")
    };
    for (manifest, typo) in [
        (head("Repository", "spec: {url: 'https://x/y', intervall: 1m}"), "intervall"),
        (head("Sync", "spec: {repositoryRef: {nme: r}}"), "nme"),
        (head("Agent", "spec: {podSpec: {resources: {limit: {}}}}"), "limit"),
        (head("Agent", "spec: {credentials: [{name: a, secretRef: {name: s}, envv: A}]}"), "envv"),
        (head("Task", "spec: {agentRef: {name: a}, desription: x}"), "desription"),
        (head("Agent", "spec: {port: 'many'}"), "port"),
        (head("Agent", "").replace("{name: x}", "{name: x, lables: {}}"), "lables"),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndta: {}\n".into(), "dta"),
        ("apiVersion: v1\nkind: Servic\nmetadata: {name: x}\n".into(), "could not find schema"),
        ("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {selector: {}, template: {spec: {containers: [{name: c, imge: y}]}}}\n".into(), "imge"),
    ] {
        let said = check("typo", &manifest).expect_err(&manifest);
        assert!(said.contains(typo), "{manifest}\n{said}");
    }
}
