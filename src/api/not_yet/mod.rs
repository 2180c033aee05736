//! Fields that the API has and this release does not implement: found, so that they are refused by name.
//!
//! A field that is silently ignored may be a hole (`verify`) or lost work (`retry`). So whatever is set and not
//! implemented stalls its object with reason `NotYetSupported` and the paths that this module finds. A value that asks
//! for nothing (absent, `false`, `0`, empty) is no use of a field.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::{AgentSpec, AgentTemplateSpec, CronTaskSpec, PilothouseConfigSpec, RepositorySpec, SyncSpec, TaskSpec};

/// Where in an object a field is: `spec.contexts[2].type (Git)`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldPath {
    /// Path from the object's root, with indexes of lists from 0.
    pub path: String,
    /// The value, where the field is implemented for others.
    pub value: Option<String>,
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        self.value.as_ref().map_or(Ok(()), |value| write!(f, " ({value})"))
    }
}

/// A field that is not implemented, or not for these values. Lists are written `contexts[]`.
#[derive(Clone, Copy, Debug)]
pub struct Gap {
    /// Path below `spec`.
    pub path: &'static str,
    /// Values that are not implemented; all where empty.
    pub values: &'static [&'static str],
}

/// A spec of one of our kinds.
pub trait Spec: Serialize {
    /// What this release does not implement of it.
    const GAPS: &'static [Gap];

    /// What it does not implement of this one, beside [`GAPS`](Self::GAPS).
    fn further(&self) -> &'static [Gap] {
        &[]
    }
}

const fn all(path: &'static str) -> Gap {
    Gap { path, values: &[] }
}

const fn only(path: &'static str, values: &'static [&'static str]) -> Gap {
    Gap { path, values }
}

impl Spec for RepositorySpec {
    const GAPS: &'static [Gap] = &[all("ref.semver"), all("verify")];
}

impl Spec for SyncSpec {
    const GAPS: &'static [Gap] =
        &[all("decryption"), all("dependsOn"), all("force"), all("images"), all("patches"), all("valuesFrom")];
}

impl Spec for AgentSpec {
    const GAPS: &'static [Gap] = &[
        all("attachImage"),
        all("contexts[].runtime"),
        only("contexts[].type", &["Runtime", "URL"]),
        all("contexts[].url"),
        all("persistence"),
        all("plugins"),
        all("podSpec.systemContainers.pluginInit"),
        only("rollout.strategy", &["Recreate"]),
        all("share"),
        all("standby"),
    ];
}

impl Spec for AgentTemplateSpec {
    const GAPS: &'static [Gap] = &[
        all("attachImage"),
        all("contexts[].runtime"),
        only("contexts[].type", &["Runtime", "URL"]),
        all("contexts[].url"),
        all("plugins"),
        all("podSpec.systemContainers.pluginInit"),
        only("rollout.strategy", &["Recreate"]),
    ];
}

impl Spec for TaskSpec {
    const GAPS: &'static [Gap] =
        &[all("contexts[].runtime"), only("contexts[].type", &["Runtime", "URL"]), all("contexts[].url")];

    /// Files reach a pod of the Task's own, and not yet the pod of an agent.
    fn further(&self) -> &'static [Gap] {
        if self.template_ref.is_none() { ON_AN_AGENT } else { &[] }
    }
}

const ON_AN_AGENT: &[Gap] = &[
    all("contexts[].fileMode"),
    all("contexts[].git"),
    all("contexts[].mountPath"),
    only("contexts[].type", &["Git"]),
];

impl Spec for CronTaskSpec {
    // The Task that it makes has gaps of its own: see [`unsupported_in_template`].
    const GAPS: &'static [Gap] = &[];
}

impl Spec for PilothouseConfigSpec {
    const GAPS: &'static [Gap] = &[all("network"), all("observability")];
}

/// The fields that are set and not implemented, sorted.
pub fn unsupported<S: Spec>(spec: &S) -> Vec<FieldPath> {
    // A spec that is no JSON cannot come from the API; then nothing can be said about its fields.
    let value = serde_json::to_value(spec).unwrap_or_default();
    let mut found = Vec::new();
    for gap in S::GAPS.iter().chain(spec.further()) {
        find(&value, gap.path, "spec", gap.values, &mut found);
    }
    found.sort();
    found
}

/// The same of the Task that a `CronTask` makes.
pub fn unsupported_in_template(spec: &TaskSpec) -> Vec<FieldPath> {
    let there = |path: &str| path.replacen("spec", "spec.taskTemplate.spec", 1);
    unsupported(spec).into_iter().map(|field| FieldPath { path: there(&field.path), ..field }).collect()
}

/// The message of a condition for these paths; empty for none.
pub fn message(paths: &[FieldPath]) -> String {
    if paths.is_empty() {
        return String::new();
    }
    let list: Vec<_> = paths.iter().map(ToString::to_string).collect();
    format!("this release does not support {}; remove what is named, or use a release that has it", list.join(", "))
}

fn find(value: &Value, path: &str, at: &str, values: &[&str], found: &mut Vec<FieldPath>) {
    let (head, rest) = path.split_once('.').unwrap_or((path, ""));
    let (name, is_list) = head.strip_suffix("[]").map_or((head, false), |name| (name, true));
    let Some(child) = value.get(name) else { return };
    let here = format!("{at}.{name}");
    match (is_list, child) {
        (true, Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                find(item, rest, &format!("{here}[{index}]"), values, found);
            }
        }
        (false, child) if !rest.is_empty() => find(child, rest, &here, values, found),
        (_, child) => found.extend(use_of(child, here, values)),
    }
}

fn use_of(value: &Value, path: String, values: &[&str]) -> Option<FieldPath> {
    if values.is_empty() {
        return (!asks_for_nothing(value)).then_some(FieldPath { path, value: None });
    }
    let text = value.as_str().filter(|text| values.contains(text))?;
    Some(FieldPath { path, value: Some(text.into()) })
}

fn asks_for_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        // An empty object inside asks for its defaults: `persistence: {sessions: {}}` is a volume.
        Value::Object(fields) => fields.values().all(|v| asks_for_nothing(v) && v.as_object().is_none()),
    }
}

#[cfg(test)]
mod tests;
