//! Manifests of the older API: one for each row of its reference, rendered as ours. The golden file is
//! `tests/data/import.yaml`; `UPDATE=1` writes it.

use std::path::Path;

use pilothouse::{
    api::{GROUP, crd},
    object::yaml,
    render,
    tree::RepoPath,
};

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
    for kind in ["Agent", "AgentTemplate", "Task", "PilothouseConfig"] {
        assert!(rendered.objects.iter().any(|i| i.object.kind() == kind && *i.object.gvk().group == *GROUP), "{kind}");
    }
}

/// A field of a schema that no manifest of the corpus uses was forgotten in it.
#[test]
fn the_corpus_uses_every_field_of_the_old_api() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let text: String =
        tree(&data.join("import")).iter().map(|(_, e)| String::from_utf8_lossy(&e.bytes).into_owned()).collect();
    // Ours, not the old API's, or refused by name.
    let ours = [
        "retry",
        "rollout",
        "share",
        "fleet",
        "network",
        "agentImage",
        "executorImage",
        "attachImage",
        "priority",
        "retries",
        "inputs",
        "outputs",
        "verify",
    ];
    for crd in crd::all().unwrap().iter().filter(|c| ["Agent", "PilothouseConfig", "Task"].contains(&c.kind)) {
        let fields = crd.schema()["properties"]["spec"]["properties"].as_object().unwrap();
        let missing: Vec<&String> =
            fields.keys().filter(|f| !ours.contains(&f.as_str()) && !text.contains(&format!("{f}:"))).collect();
        assert!(missing.is_empty(), "{}.spec: {missing:?}", crd.kind);
    }
}
