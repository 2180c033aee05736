//! Which keys a kustomization may have, at each level.

use serde_json::Value;

use crate::{
    object::yaml::Document,
    render::error::{Reason, RenderError, Result},
    tree::RepoPath,
};

const TOP: &[&str] = &[
    "apiVersion",
    "commonAnnotations",
    "commonLabels",
    "configMapGenerator",
    "generatorOptions",
    "images",
    "kind",
    "labels",
    "metadata",
    "namePrefix",
    "nameSuffix",
    "namespace",
    "patches",
    "resources",
    "secretGenerator",
];

/// Keys that kustomize knows and we do not, and what to write instead where there is something.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("bases", "name the folders under resources"),
    ("buildMetadata", "leave it out"),
    ("components", "name a folder with a kustomization under resources"),
    ("configurations", "leave it out"),
    ("crds", "name the files under resources"),
    ("generators", "use configMapGenerator, secretGenerator or a template"),
    ("helmCharts", "render the chart into the repository"),
    ("helmChartInflationGenerator", "render the chart into the repository"),
    ("helmGlobals", "render the chart into the repository"),
    ("openapi", "leave it out"),
    ("patchesJson6902", "move the entries to patches"),
    ("patchesStrategicMerge", "move the entries to patches"),
    ("replacements", "use a template"),
    ("replicas", "use patches"),
    ("sortOptions", "leave it out; objects are applied in an order that works"),
    ("transformers", "use patches"),
    ("validators", "leave it out"),
    ("vars", "use a template"),
];

const GENERATOR: &[&str] = &["behavior", "envs", "files", "literals", "name", "namespace", "options"];
const SECRET_GENERATOR: &[&str] = &["behavior", "envs", "files", "literals", "name", "namespace", "options", "type"];
const GENERATOR_OPTIONS: &[&str] = &["annotations", "disableNameSuffixHash", "immutable", "labels"];
const LABEL: &[&str] = &["fields", "includeSelectors", "includeTemplates", "pairs"];
const FIELD: &[&str] = &["create", "group", "kind", "path", "version"];
const IMAGE: &[&str] = &["digest", "name", "newName", "newTag"];
const PATCH: &[&str] = &["options", "patch", "path", "target"];
const TARGET: &[&str] = &["annotationSelector", "group", "kind", "labelSelector", "name", "namespace", "version"];

/// Keys below the top: where (`*` is every item), and what is allowed.
const NESTED: &[(&str, &[&str])] = &[
    ("labels/*", LABEL),
    ("labels/*/fields/*", FIELD),
    ("images/*", IMAGE),
    ("patches/*", PATCH),
    ("patches/*/target", TARGET),
    ("patches/*/options", &[]),
    ("configMapGenerator/*", GENERATOR),
    ("configMapGenerator/*/options", GENERATOR_OPTIONS),
    ("secretGenerator/*", SECRET_GENERATOR),
    ("secretGenerator/*/options", GENERATOR_OPTIONS),
    ("generatorOptions", GENERATOR_OPTIONS),
];

/// The allowed keys at the top.
pub(super) fn allowed() -> String {
    TOP.join(", ")
}

pub(super) fn check(file: &RepoPath, document: &Document) -> Result<()> {
    let error =
        |pointer: &str, reason, message| Err(RenderError::new(file, document.lines.at(pointer), reason, message));
    let Some(map) = document.value.as_object() else {
        return error("", Reason::InvalidKustomization, "a kustomization is a mapping".to_owned());
    };
    for (key, want) in [("kind", "Kustomization"), ("apiVersion", "kustomize.config.k8s.io/v1beta1")] {
        if map.get(key).is_some_and(|v| v != want) {
            let message = format!("{key} must be {want}, not {}", map[key]);
            return error(&format!("/{key}"), Reason::NotSupported, message);
        }
    }
    if let Some(key) = map.keys().find(|key| !TOP.contains(&key.as_str())) {
        let pointer = format!("/{key}");
        let allowed = allowed();
        return match UNSUPPORTED.iter().find(|(known, _)| known == key) {
            Some((_, instead)) => error(
                &pointer,
                Reason::NotSupported,
                format!("{key} is not supported; {instead}. Allowed keys are {allowed}"),
            ),
            None => error(&pointer, Reason::InvalidKustomization, unknown(key, "a kustomization", TOP)),
        };
    }
    NESTED.iter().try_for_each(|(path, keys)| nested(file, document, path, keys))
}

/// Checks the keys of every mapping at `path`.
fn nested(file: &RepoPath, document: &Document, path: &str, allowed: &[&str]) -> Result<()> {
    let mut found = vec![(String::new(), &document.value)];
    for step in path.split('/') {
        found = found.into_iter().flat_map(|(pointer, value)| children(&pointer, value, step)).collect();
    }
    for (pointer, value) in found {
        let Some(map) = value.as_object() else { continue };
        if let Some(key) = map.keys().find(|key| !allowed.contains(&key.as_str())) {
            let pointer = format!("{pointer}/{key}");
            let place = path.replace("/*", "[]").replace('/', ".");
            let (reason, message) = if allowed.is_empty() {
                (Reason::NotSupported, format!("{place}.{key} is not supported"))
            } else {
                (Reason::InvalidKustomization, unknown(key, &place, allowed))
            };
            return Err(RenderError::new(file, document.lines.at(&pointer), reason, message));
        }
    }
    Ok(())
}

fn children<'v>(pointer: &str, value: &'v Value, step: &str) -> Vec<(String, &'v Value)> {
    match (value, step) {
        (Value::Array(items), "*") => {
            items.iter().enumerate().map(|(index, item)| (format!("{pointer}/{index}"), item)).collect()
        }
        (Value::Object(map), _) => map.get(step).map(|v| (format!("{pointer}/{step}"), v)).into_iter().collect(),
        _ => vec![],
    }
}

fn unknown(key: &str, place: &str, allowed: &[&str]) -> String {
    let near = crate::render::suggest::nearest(key, allowed.iter().copied());
    let near = near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
    format!("{place} has no key {key}{near}; allowed are {}", allowed.join(", "))
}
