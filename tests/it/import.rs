//! Manifests of the older API: one for each row of its reference, rendered as ours. The golden file is
//! `tests/data/import.yaml`; `UPDATE=1` writes it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use pilothouse::{
    api::{GROUP, crd},
    object::yaml,
    render,
    tree::RepoPath,
};
use serde_json::Value;

use crate::render_golden::tree;

#[test]
fn the_corpus_is_mapped() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let tree = tree(&data.join("import"));
    let rendered = render::render(&tree, &RepoPath::root(), &render::Context::default()).unwrap();
    let got = yaml::to_documents(rendered.objects.iter().map(|item| item.object.value()));
    let golden = data.join("import.yaml");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&golden, &got).unwrap();
    }
    let want = std::fs::read_to_string(&golden).unwrap_or_default();
    let diff = similar::TextDiff::from_lines(&want, &got).unified_diff().to_string();
    assert!(want == got, "{diff}\nUPDATE=1 writes what comes out");
    assert!(!got.contains("kubeopencode"), "something is left of the old names");
    // Every kind that the old API has in common with ours is there.
    for kind in ["Agent", "AgentTemplate", "CronTask", "Task", "PilothouseConfig"] {
        assert!(rendered.objects.iter().any(|i| i.object.kind() == kind && *i.object.gvk().group == *GROUP), "{kind}");
    }
}

/// Kubernetes' own types: their fields are no concern of a mapping.
const CORE: [&str; 9] = [
    "affinity",
    "extraEnv",
    "extraVolumeMounts",
    "extraVolumes",
    "lifecycle",
    "podSecurityContext",
    "resources",
    "securityContext",
    "tolerations",
];

/// Ours, not the old API's, by the end of their paths.
const OURS: [&str; 13] = [
    ".agentImage", // of the settings
    ".budget",
    ".executorImage",
    ".fleet",
    ".git.push",
    ".git.repositoryRef",
    ".jitterSeconds",
    ".network",
    ".priority",
    ".retry",
    ".rollout",
    ".share",
    ".skills[].git.sync",
];

/// Paths of all fields of a schema.
fn fields(schema: &Value, at: &str, kind: &str, found: &mut BTreeSet<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{at}.{name}");
        let images = name.ends_with("Image") && kind != "PilothouseConfig";
        if !images && OURS.iter().any(|end| path.ends_with(end)) {
            continue;
        }
        found.insert(path.clone());
        if !CORE.contains(&name.as_str()) {
            fields(field, &path, kind, found);
            fields(&field["items"], &format!("{path}[]"), kind, found);
        }
    }
}

/// Paths of all fields that a manifest sets.
fn set(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(all) => {
            for (name, value) in all {
                let path = format!("{at}.{name}");
                set(value, &path, found);
                found.insert(path);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| set(item, &format!("{at}[]"), found)),
        _ => {}
    }
}

/// A field of a schema, however deep, that no manifest of the corpus uses was forgotten in it.
#[test]
fn the_corpus_uses_every_field_of_the_old_api() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, entry) in tree(&data.join("import")).iter() {
        let text = std::str::from_utf8(&entry.bytes).unwrap();
        for document in yaml::parse_documents(text).unwrap_or_else(|e| panic!("{path}: {e}")) {
            let kind =
                document.value["kind"].as_str().unwrap_or_default().replace("KubeOpenCodeConfig", "PilothouseConfig");
            set(&document.value["spec"], "spec", used.entry(kind).or_default());
        }
    }
    for crd in crd::all().unwrap() {
        let kind = crd.kind;
        let Some(used) = used.get(kind) else { continue };
        let mut known = BTreeSet::new();
        fields(&crd.schema()["properties"]["spec"], "spec", kind, &mut known);
        assert!(known.len() > 15, "{kind}: the walk ended early: {known:?}");
        let missing: Vec<_> = known.difference(used).collect();
        assert!(missing.is_empty(), "{kind}: {missing:#?}");
    }
    for kind in ["Agent", "AgentTemplate", "CronTask", "PilothouseConfig", "Task"] {
        assert!(used.contains_key(kind), "{kind}");
    }
}
