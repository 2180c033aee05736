//! Manifests of the API that Pilothouse grew out of, mapped to ours.

use serde_json::{Map, Value};

use super::{
    error::{Reason, Result},
    manifest::Resource,
};
use crate::api::{
    API_VERSION, GROUP,
    names::{OLD_GROUP, OLD_PREFIX, PREFIX},
};

/// Kinds that are mapped, by their old name.
const KINDS: [(&str, &str); 5] = [
    ("Agent", "Agent"),
    ("AgentTemplate", "AgentTemplate"),
    ("CronTask", "CronTask"),
    ("KubeOpenCodeConfig", "PilothouseConfig"),
    ("Task", "Task"),
];

/// Maps a manifest of the old group, and the labels of ours that any other manifest selects by.
pub(super) fn map(resource: &mut Resource) -> Result<()> {
    if resource.group() == OLD_GROUP {
        map_kind(resource)?;
    }
    map_keys(&mut resource.value);
    Ok(())
}

fn map_kind(resource: &mut Resource) -> Result<()> {
    if resource.version() != "v1alpha1" {
        let message =
            format!("{} is not known; {OLD_GROUP}/v1alpha1 is mapped to {API_VERSION}", resource.api_version());
        return Err(resource.error_at(Reason::NotSupported, "/apiVersion", message));
    }
    let kind = resource.kind();
    let Some((_, ours)) = KINDS.iter().find(|(old, _)| *old == kind) else {
        let known: Vec<&str> = KINDS.iter().map(|(old, _)| *old).collect();
        let message =
            format!("kind {kind} of {OLD_GROUP} has no counterpart in {GROUP}; known are {}", known.join(", "));
        return Err(resource.error_at(Reason::NotSupported, "/kind", message));
    };
    let ours = (*ours).to_owned();
    if resource.value.pointer("/spec/share").is_some() {
        let message = "spec.share has no counterpart here yet; remove it";
        return Err(resource.error_at(Reason::NotSupported, "/spec/share", message));
    }
    if let Some(map) = resource.value.as_object_mut() {
        map.insert("apiVersion".into(), API_VERSION.into());
        map.insert("kind".into(), ours.into());
        // Written by controllers; present in exports only.
        map.remove("status");
    }
    drop_zero_intervals(&mut resource.value);
    Ok(())
}

/// Go clients write an unset `git.sync.interval` as `0s`, which means the default there.
fn drop_zero_intervals(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(drop_zero_intervals),
        Value::Object(map) => {
            if let Some(Value::Object(sync)) = map.get_mut("sync")
                && sync.get("interval").is_some_and(|v| v == "0s")
            {
                sync.remove("interval");
            }
            map.values_mut().for_each(drop_zero_intervals);
        }
        _ => {}
    }
}

/// Renames the keys of labels, annotations and selectors, wherever they stand.
fn map_keys(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(map_keys),
        Value::Object(map) => {
            for (field, value) in map.iter_mut() {
                match (field.as_str(), value) {
                    ("labels" | "annotations" | "matchLabels" | "selector", Value::Object(keys)) => rename(keys),
                    ("matchExpressions", Value::Array(terms)) => terms.iter_mut().for_each(map_term),
                    _ => {}
                }
            }
            map.values_mut().for_each(map_keys);
        }
        _ => {}
    }
}

fn rename(keys: &mut Map<String, Value>) {
    let old: Vec<String> = keys.keys().filter(|key| key.starts_with(OLD_PREFIX)).cloned().collect();
    for key in old {
        let ours = format!("{PREFIX}{}", &key[OLD_PREFIX.len()..]);
        if let Some(value) = keys.remove(&key) {
            keys.entry(ours).or_insert(value);
        }
    }
}

fn map_term(term: &mut Value) {
    if let Some(Value::String(key)) = term.get_mut("key")
        && let Some(rest) = key.strip_prefix(OLD_PREFIX)
    {
        *key = format!("{PREFIX}{rest}");
    }
}
