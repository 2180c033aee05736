use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::{
    agent::{Pieces, SecretKeys},
    api::{Agent, AgentSpec},
};

#[allow(clippy::needless_pass_by_value)] // as json! gives it
fn read(contexts: Value, maps: &[(&str, Value)]) -> Result<Content, Invalid> {
    let mut agent = Agent::new("a", AgentSpec::default());
    agent.metadata.namespace = Some("ns".into());
    let spec: AgentSpec = serde_json::from_value(json!({ "contexts": contexts })).unwrap();
    let data = |value: &Value| ConfigMapData {
        text: serde_json::from_value(value.clone()).unwrap(),
        binary: [("bin".to_string(), vec![0xff])].into_iter().filter(|_| value.get("bin!").is_some()).collect(),
    };
    let config_maps = maps.iter().map(|(name, value)| ((*name).to_string(), data(value))).collect();
    let secrets: BTreeMap<String, SecretKeys> = BTreeMap::new();
    let inputs = Inputs {
        agent: &agent,
        spec: &spec,
        config: None,
        grace: None,
        layout: crate::agent::build::layout::NEWEST,
        upgrade: None,
        upgraded: None,
        system_image: None,
        voice_address: None,
        suspended: false,
        pieces: &Pieces::new(),
        unread: &BTreeSet::new(),
        config_maps: &config_maps,
        secrets: &secrets,
    };
    content(&inputs, "/workspace")
}

#[test]
fn text_without_a_path_is_gathered_in_order() {
    let contexts = json!([
        {"name": "rules", "type": "Text", "text": "Be kind.\n"},
        {"name": "runbook", "type": "ConfigMap", "configMap": {"name": "m"}},
        {"name": "a \"<b>\"", "type": "ConfigMap", "configMap": {"name": "m", "key": "b"}},
        {"name": "gone", "type": "ConfigMap", "configMap": {"name": "no", "optional": true}},
        {"name": "gone too", "type": "ConfigMap", "configMap": {"name": "m", "key": "no", "optional": true}},
    ]);
    let content = read(contexts, &[("m", json!({"b": "two\n", "a": "one"}))]).unwrap();
    assert_eq!(
        content.text,
        "<context name=\"rules\" namespace=\"ns\" type=\"Text\">\nBe kind.\n</context>\n\n\
         <context name=\"runbook\" namespace=\"ns\" type=\"ConfigMap\">\n\
         <file name=\"a\">\none\n</file>\n<file name=\"b\">\ntwo\n</file>\n</context>\n\n\
         <context name=\"a &quot;&lt;b>&quot;\" namespace=\"ns\" type=\"ConfigMap\">\ntwo\n</context>\n"
    );
    assert!(content.files.is_empty());
}

#[test]
fn paths_are_relative_to_the_workspace_unless_absolute() {
    let contexts = json!([
        {"name": "b", "type": "ConfigMap", "configMap": {"name": "m"}, "mountPath": "./docs//", "fileMode": 493},
        {"name": "a", "type": "Text", "text": "x", "mountPath": "/etc/app/a.txt"},
    ]);
    let content = read(contexts, &[("m", json!({"k1": "1", "k2": "2"}))]).unwrap();
    let seen: Vec<_> =
        content.files.iter().map(|f| (f.path.as_str(), f.directory.as_deref(), f.mode, f.context.as_str())).collect();
    assert_eq!(
        seen,
        [
            ("/etc/app/a.txt", None, 0o644, "a"),
            ("/workspace/docs/k1", Some("/workspace/docs"), 0o755, "b"),
            ("/workspace/docs/k2", Some("/workspace/docs"), 0o755, "b"),
        ]
    );
    assert_eq!(content.text, "");
}

#[test]
fn missing_references_wait_and_are_named() {
    let map = |extra: Value| {
        let mut reference = json!({"name": "m"});
        reference.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!([{"name": "c", "type": "ConfigMap", "configMap": reference}])
    };
    let failure = read(map(json!({})), &[]).unwrap_err();
    assert_eq!((failure.class, failure.reason), (crate::status::Class::Waiting, "ConfigMapNotFound"));
    assert_eq!(failure.message, "context \"c\" waits for ConfigMap \"m\"");
    let failure = read(map(json!({"key": "k"})), &[("m", json!({}))]).unwrap_err();
    assert_eq!((failure.class, failure.reason), (crate::status::Class::Waiting, "ConfigMapNotFound"));
    assert_eq!(failure.message, "context \"c\" waits for key \"k\" in ConfigMap \"m\"");
}

#[test]
fn conflicts_and_bad_paths_are_named() {
    let text = |name: &str, path: &str| json!({"name": name, "type": "Text", "text": "x", "mountPath": path});
    let table = [
        (
            json!([text("z", "a.md"), text("b", "/workspace/./a.md")]),
            "mount path conflict: \"/workspace/a.md\" is used by both context \"b\" and context \"z\"",
        ),
        (
            json!([text("b", "a"), text("c", "a/b")]),
            "mount path conflict: \"/workspace/a\" is used by both context \"b\" and context \"c\"",
        ),
        (json!([text("b", "../a")]), "mountPath \"../a\" of \"b\" must not contain .."),
        (json!([text("b", "/")]), "mountPath \"/\" of \"b\" must not be the root directory"),
        (json!([text("b", "/a:ro")]), "mountPath \"/a:ro\" of \"b\" must not contain a colon"),
        (
            json!([text("b", "/tools/x")]),
            "mountPath \"/tools/x\" of \"b\" lies in /tools, which belongs to the pod itself",
        ),
    ];
    for (contexts, message) in table {
        assert_eq!(read(contexts, &[]).unwrap_err().message, message);
    }
    assert!(read(json!([text("b", "a"), text("c", "ab"), text("d", "a.b")]), &[]).is_ok());
}

#[test]
fn too_much_is_named_by_item() {
    let long = "x".repeat(500 * 1024);
    let both = json!([{"name": "a", "type": "Text", "text": long}, {"name": "b", "type": "Text", "text": long}]);
    let failure = read(both, &[]).unwrap_err();
    assert_eq!(failure.reason, "ContextTooLarge");
    assert!(failure.message.contains("a (512") && failure.message.contains("b (512"), "{}", failure.message);
    let files = json!([
        {"name": "a", "type": "Text", "text": long, "mountPath": "a"},
        {"name": "b", "type": "Text", "text": long, "mountPath": "b"},
    ]);
    assert_eq!(read(files, &[]).unwrap_err().reason, "ContextTooLarge");
}

/// All are named and counted, but no more is held than fits.
#[test]
fn the_same_config_map_many_times_is_counted_and_not_copied() {
    let long = json!({"k": "x".repeat(512 << 10), "l": "y".repeat(400 << 10)});
    let map: BTreeMap<String, ConfigMapData> =
        [("m".into(), ConfigMapData { text: serde_json::from_value(long.clone()).unwrap(), ..Default::default() })]
            .into();
    let item: ContextItem =
        serde_json::from_value(json!({"name": "c", "type": "ConfigMap", "configMap": {"name": "m"}})).unwrap();
    let (mut gathered, mut files) = (Gathered::new("ns"), Files::default());
    for _ in 0..256 {
        gathered.add(&item, "c", source(&map, &item, "c").unwrap()).unwrap();
        files.add(&item, "c", "/c", source(&map, &item, "c").unwrap());
    }
    let held: usize =
        files.files.iter().map(|file| if let Bytes::Text(text) = &file.bytes { text.len() } else { 0 }).sum();
    assert!(held <= LIMIT && gathered.held() <= LIMIT, "{held} and {} bytes are held", gathered.held());
    for path in [json!(null), json!("c")] {
        let contexts: Vec<_> = (0..256)
            .map(|n| {
                let path = path.as_str().map(|path| format!("{path}{n}"));
                json!({"name": format!("c{}", n % 2), "type": "ConfigMap", "configMap": {"name": "m"}, "mountPath": path})
            })
            .collect();
        let failure = read(json!(contexts), &[("m", long.clone())]).unwrap_err();
        assert_eq!(failure.reason, "ContextTooLarge");
        let all = 256 * (512 + 400) * 1024;
        let named = |name: &str| {
            let rest = failure.message.split(&format!("{name} (")).nth(1).unwrap();
            rest.split(' ').next().unwrap().parse::<usize>().unwrap()
        };
        assert!(named("c0") == named("c1") && named("c0") >= all / 2, "{}", failure.message);
    }
}

#[test]
fn other_types_are_refused() {
    let failure = read(json!([{"name": "c", "type": "Runtime", "runtime": {}}]), &[]).unwrap_err();
    assert_eq!((failure.class, failure.reason), (crate::status::Class::Stalled, "NotYetSupported"));
}

#[test]
fn bytes_cannot_be_gathered() {
    let contexts = json!([{"name": "c", "type": "ConfigMap", "configMap": {"name": "m"}}]);
    assert_eq!(read(contexts, &[("m", json!({"bin!": ""}))]).unwrap_err().reason, "InvalidSpec");
}
