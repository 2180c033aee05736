//! Validation rules by table (`tests/data/cel`), evaluated without a cluster.

use std::{collections::BTreeSet, fs, path::Path};

use kube::core::cel::{ValidationErrors, Validator, apply_defaults};
use pilothouse::{
    api::{
        self,
        crd::{self, Crd},
    },
    render,
    tree::RepoPath,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// One case, put together.
#[derive(Debug)]
pub(super) struct Case {
    /// `file: kind: case`.
    pub(super) title: String,
    pub(super) kind: String,
    pub(super) object: Value,
    /// The message; `None` where the object is good.
    pub(super) refused: Option<String>,
    /// A CEL rule decides, and `refused` is its whole message.
    pub(super) by_rule: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    kinds: Vec<String>,
    #[serde(default)]
    at: String,
    #[serde(default)]
    by: By,
    cases: Vec<Row>,
}

#[derive(Clone, Copy, Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum By {
    #[default]
    Rule,
    Schema,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    case: String,
    #[serde(default = "any_name")]
    name: String,
    value: Value,
    expect: String,
}

fn any_name() -> String {
    "a-name".into()
}

/// What a kind requires besides the value of a case.
fn base(kind: &str) -> Value {
    match kind {
        "AgentTemplate" => json!({"workspaceDir": "/workspace", "serviceAccountName": "agent"}),
        "Task" => json!({"agentRef": {"name": "a"}}),
        "CronTask" => json!({"schedule": "0 2 * * *", "taskTemplate": {"spec": base("Task")}}),
        _ => json!({}),
    }
}

/// Puts `value` at `contexts[]` or `a.b`; an empty path replaces all.
fn put(spec: &mut Value, at: &str, value: &Value) {
    if at.is_empty() {
        *spec = value.clone();
        return;
    }
    let (head, rest) = at.split_once('.').unwrap_or((at, ""));
    match head.strip_suffix("[]") {
        Some(list) => {
            spec[list] = json!([{}]);
            put(&mut spec[list][0], rest, value);
        }
        None => put(&mut spec[head], rest, value),
    }
}

fn case(file: &str, kind: &str, head: &File, row: &Row) -> Case {
    let mut spec = base(kind);
    put(&mut spec, &head.at, &row.value);
    built(file, kind, &spec, head, row)
}

/// The same within the Task that a `CronTask` makes.
fn case_in_crontask(file: &str, head: &File, row: &Row) -> Case {
    let mut spec = base("CronTask");
    let at = format!("taskTemplate.spec.{}", head.at);
    put(&mut spec, at.trim_end_matches('.'), &row.value);
    built(file, "CronTask", &spec, head, row)
}

fn built(file: &str, kind: &str, spec: &Value, head: &File, row: &Row) -> Case {
    Case {
        title: format!("{file}: {kind}: {}", row.case),
        kind: kind.into(),
        object: json!({
            "apiVersion": "pilothouse.dev/v1alpha1", "kind": kind, "metadata": {"name": row.name}, "spec": spec,
        }),
        refused: (row.expect != "ok").then(|| row.expect.clone()),
        by_rule: head.by == By::Rule,
    }
}

/// All cases of all files.
pub(super) fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cel");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().flatten().map(|e| e.path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    let mut cases = vec![];
    for path in files {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let file: File =
            serde_saphyr::from_str(&fs::read_to_string(&path).unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"));
        for kind in &file.kinds {
            cases.extend(file.cases.iter().map(|row| case(&name, kind, &file, row)));
            if kind == "Task" && file.by == By::Rule {
                cases.extend(file.cases.iter().map(|row| case_in_crontask(&name, &file, row)));
            }
        }
    }
    cases
}

fn crd_of<'a>(crds: &'a [Crd], kind: &str) -> &'a Crd {
    crds.iter().find(|c| c.kind == kind).unwrap_or_else(|| panic!("no kind {kind}"))
}

#[test]
fn rules_accept_and_refuse_as_the_table_says() {
    let crds = crd::all().unwrap();
    for case in cases().iter().filter(|c| c.by_rule) {
        let result = Validator::new().validate_with_defaults(crd_of(&crds, &case.kind).schema(), &case.object, None);
        let found: Vec<_> = result.err().into_iter().flat_map(ValidationErrors::into_vec).map(|e| e.message).collect();
        assert_eq!(found, case.refused.iter().cloned().collect::<Vec<_>>(), "{}", case.title);
    }
}

/// What the older API's manifests come to, one for each row of its reference.
pub(super) fn imported() -> Vec<Value> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/import");
    let tree = crate::render_golden::tree(&data);
    let rendered = render::render(&tree, &RepoPath::root(), &render::Context::default()).unwrap();
    let ours = rendered.objects.into_iter().filter(|item| *item.object.gvk().group == *api::GROUP);
    ours.map(|item| item.object.into_value()).collect()
}

#[test]
fn rules_accept_what_the_older_api_accepted() {
    let crds = crd::all().unwrap();
    for object in imported() {
        let kind = object["kind"].as_str().unwrap();
        let result = Validator::new().validate_with_defaults(crd_of(&crds, kind).schema(), &object, None);
        let found: Vec<_> = result.err().into_iter().flat_map(ValidationErrors::into_vec).map(|e| e.message).collect();
        assert_eq!(found, Vec::<String>::new(), "{}", object["metadata"]["name"]);
        let stored = apply_defaults(crd_of(&crds, kind).schema(), &object);
        let written = read_and_written(kind, &stored);
        assert_eq!(written["metadata"]["name"], object["metadata"]["name"], "the types read it");
    }
}

/// Every rule: where it stands, and its message.
fn rules(schema: &Value, at: &str, out: &mut BTreeSet<(String, String)>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let message = rule["message"].as_str().unwrap_or_else(|| panic!("{at}: a rule without a message: {rule}"));
        out.insert((at.into(), message.into()));
    }
    for (name, child) in schema["properties"].as_object().into_iter().flatten() {
        rules(child, &format!("{at}/{name}"), out);
    }
    for key in ["items", "additionalProperties"] {
        if schema[key].is_object() {
            rules(&schema[key], &format!("{at}/*"), out);
        }
    }
}

/// Whether the object has something at a place.
fn reaches(value: &Value, place: &str) -> bool {
    let Some(rest) = place.strip_prefix('/') else { return true };
    let (head, _) = rest.split_once('/').unwrap_or((rest, ""));
    let rest = &rest[head.len()..];
    match (head, value) {
        ("*", Value::Array(items)) => items.iter().any(|item| reaches(item, rest)),
        ("*", Value::Object(fields)) => fields.values().any(|item| reaches(item, rest)),
        (name, value) => value.get(name).is_some_and(|child| reaches(child, rest)),
    }
}

#[test]
fn every_rule_is_seen_to_accept_and_to_refuse() {
    let cases = cases();
    for crd in crd::all().unwrap() {
        let mut all = BTreeSet::new();
        rules(crd.schema(), "", &mut all);
        for (place, message) in all {
            let here: Vec<_> = cases.iter().filter(|c| c.kind == crd.kind && reaches(&c.object, &place)).collect();
            assert!(here.iter().any(|c| c.refused.is_none()), "{} {place}: no good case for: {message}", crd.kind);
            let refused = here.iter().any(|c| c.refused.as_ref() == Some(&message));
            assert!(refused, "{} {place}: no bad case for: {message}", crd.kind);
        }
    }
}

/// An object with its defaults, read by the types and written again.
fn read_and_written(kind: &str, object: &Value) -> Value {
    fn through<T: DeserializeOwned + serde::Serialize>(object: &Value) -> Value {
        serde_json::to_value(serde_json::from_value::<T>(object.clone()).unwrap()).unwrap()
    }
    match kind {
        "Agent" => through::<api::Agent>(object),
        "AgentTemplate" => through::<api::AgentTemplate>(object),
        "PilothouseConfig" => through::<api::PilothouseConfig>(object),
        "Repository" => through::<api::Repository>(object),
        "Sync" => through::<api::Sync>(object),
        "Task" => through::<api::Task>(object),
        "CronTask" => through::<api::CronTask>(object),
        _ => panic!("no kind {kind}"),
    }
}

#[test]
fn types_keep_what_the_schema_accepts() {
    let crds = crd::all().unwrap();
    for case in cases().iter().filter(|c| c.refused.is_none()) {
        let stored = apply_defaults(crd_of(&crds, &case.kind).schema(), &case.object);
        let written = read_and_written(&case.kind, &stored)["spec"].clone();
        // Quantities are written as texts.
        let expected =
            stored["spec"].to_string().replace(r#""size":5"#, r#""size":"5""#).replace(r#""cpu":1"#, r#""cpu":"1""#);
        assert_eq!(written, serde_json::from_str::<Value>(&expected).unwrap(), "{}", case.title);
    }
}

/// A pattern is shown as it is to whoever misses it.
#[test]
fn no_schema_shows_a_pattern() {
    fn patterns(schema: &Value, place: &str, found: &mut Vec<String>) {
        match schema {
            Value::Object(fields) => {
                let keyword = fields.get("pattern").filter(|p| p.is_string());
                found.extend(keyword.map(|pattern| format!("{place}: {pattern}")));
                fields.iter().for_each(|(key, child)| patterns(child, &format!("{place}/{key}"), found));
            }
            Value::Array(items) => items.iter().for_each(|child| patterns(child, place, found)),
            _ => {}
        }
    }
    let mut found = vec![];
    for crd in crd::all().unwrap() {
        patterns(crd.schema(), crd.kind, &mut found);
    }
    assert!(found.is_empty(), "give them a meaning in api::form:\n{}", found.join("\n"));
}
