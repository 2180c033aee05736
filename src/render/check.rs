//! Objects of our kinds against their schemas: a field that is not known would be dropped by the API server in silence,
//! or refused without its file and line.

use std::{collections::BTreeMap, sync::OnceLock};

use serde_json::Value;

use super::{
    error::{Reason, RenderError, Result},
    manifest::Resource,
    suggest::nearest,
};
use crate::{
    api::{API_VERSION, GROUP, crd},
    schedule::{Schedule, zone},
};

type Schemas = BTreeMap<&'static str, Value>;

/// The schemas by kind. They are built once: a render of a thousand objects needs them a thousand times.
fn schemas() -> &'static Schemas {
    static SCHEMAS: OnceLock<Schemas> = OnceLock::new();
    SCHEMAS.get_or_init(|| {
        let all = crd::all().unwrap_or_default();
        all.into_iter().map(|crd| (crd.kind, crd.schema().clone())).collect()
    })
}

/// Checks one object, if it is of a kind of ours.
pub(super) fn check(resource: &Resource) -> Result<()> {
    name(resource)?;
    if resource.group() != GROUP {
        return Ok(());
    }
    if resource.api_version() != API_VERSION {
        let message = format!("apiVersion {} is not known; write {API_VERSION}", resource.api_version());
        return Err(resource.error_at(Reason::InvalidManifest, "/apiVersion", message));
    }
    let Some(schema) = schemas().get(resource.kind()) else {
        let near = hint(resource.kind(), schemas().keys().copied());
        let known: Vec<&str> = schemas().keys().copied().collect();
        let message = format!("{GROUP} has no kind {}{near}; known are {}", resource.kind(), known.join(", "));
        return Err(resource.error_at(Reason::InvalidManifest, "/kind", message));
    };
    let mut path = vec![];
    value(&resource.value, schema, &mut path).map_err(|message| {
        let pointer = path
            .iter()
            .fold(String::new(), |pointer, step| pointer + "/" + &step.replace('~', "~0").replace('/', "~1"));
        let message = format!("{} {}: {message}", resource.kind(), resource.name());
        resource.error_at(Reason::InvalidManifest, &pointer, message)
    })
}

/// A name that the API server would refuse. RBAC and some others allow more, so only groups are looked at that are known.
fn name(resource: &Resource) -> Result<()> {
    const STRICT: [&str; 4] = [GROUP, "", "apps", "batch"];
    let name = resource.name();
    if !STRICT.contains(&resource.group()) || is_subdomain(name) {
        return Ok(());
    }
    let message = format!(
        "metadata.name {name:?} of the {} is not allowed: it is made of small letters, digits, - and ., begins and ends with \
         a letter or digit (so does each part between .), and has at most 253 characters",
        resource.kind()
    );
    Err(resource.error_at(Reason::InvalidManifest, "/metadata/name", message))
}

fn is_subdomain(name: &str) -> bool {
    let small = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let part =
        |part: &str| part.starts_with(small) && part.ends_with(small) && part.chars().all(|c| small(c) || c == '-');
    name.len() <= 253 && name.split('.').all(part)
}

/// What a schema cannot say of a schedule. Only a warning: the object can be applied, says the same in its status, and is in
/// nobody else's way.
pub(super) fn schedule(resource: &Resource) -> Option<RenderError> {
    if resource.group() != GROUP || resource.kind() != "CronTask" {
        return None;
    }
    let text = |field: &str| resource.value["spec"][field].as_str();
    let wrong = |field: &str, why: &str| {
        let message = format!("CronTask {}: spec.{field}: {why}", resource.name());
        resource.error_at(Reason::InvalidManifest, &format!("/spec/{field}"), message)
    };
    if let Some(Err(why)) = text("schedule").map(Schedule::parse) {
        return Some(wrong("schedule", &why.to_string()));
    }
    text("timeZone").and_then(|name| zone(name).err()).map(|why| wrong("timeZone", &why))
}

fn hint<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(text, candidates).map(|near| format!(" (did you mean {near}?)")).unwrap_or_default()
}

/// The path for people: `spec.contexts[0].configMap`.
fn place(path: &[String]) -> String {
    path.iter().fold(String::new(), |text, step| match step.parse::<usize>() {
        Ok(index) => format!("{text}[{index}]"),
        Err(_) if text.is_empty() => step.clone(),
        Err(_) => format!("{text}.{step}"),
    })
}

/// Checks a value. On failure `path` leads to it.
fn value(value: &Value, schema: &Value, path: &mut Vec<String>) -> std::result::Result<(), String> {
    if value.is_null() {
        return Ok(());
    }
    check_type(value, schema, path)?;
    match value {
        Value::Object(map) => mapping(map, schema, path),
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else { return Ok(()) };
            items.iter().enumerate().try_for_each(|(index, item)| step(index.to_string(), item, schema, path))
        }
        _ => Ok(()),
    }
}

fn step(name: String, next: &Value, schema: &Value, path: &mut Vec<String>) -> std::result::Result<(), String> {
    path.push(name);
    value(next, schema, path)?;
    path.pop();
    Ok(())
}

fn mapping(
    map: &serde_json::Map<String, Value>,
    schema: &Value,
    path: &mut Vec<String>,
) -> std::result::Result<(), String> {
    let properties = schema.get("properties").and_then(Value::as_object);
    let free = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    for (key, next) in map {
        if path.is_empty() && matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        let known = properties.and_then(|p| p.get(key)).or_else(|| schema.get("additionalProperties"));
        match (known, properties) {
            (Some(known), _) => step(key.clone(), next, known, path)?,
            (None, Some(properties)) if !free => {
                let names: Vec<&str> = properties.keys().map(String::as_str).collect();
                let near = hint(key, names.iter().copied());
                let holder = if path.is_empty() { "the object".to_owned() } else { place(path) };
                path.push(key.clone());
                return Err(format!("{holder} has no field {key}{near}; allowed are {}", names.join(", ")));
            }
            _ => {}
        }
    }
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    match required.into_iter().find(|name| map.get(*name).is_none_or(Value::is_null)) {
        Some(missing) if !(path.is_empty() && missing == "metadata") => {
            path.push(missing.to_owned());
            Err(format!("{} is required", place(path)))
        }
        _ => Ok(()),
    }
}

fn check_type(value: &Value, schema: &Value, path: &[String]) -> std::result::Result<(), String> {
    if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        return Ok(());
    }
    let Some(want) = schema.get("type").and_then(Value::as_str) else { return Ok(()) };
    let fits = match want {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        _ => true,
    };
    if !fits {
        let shown: String = value.to_string().chars().take(40).collect();
        let quote = if want == "string" { "; quote it" } else { "" };
        return Err(format!("{} must be of type {want}, not {shown}{quote}", place(path)));
    }
    let Some(allowed) = schema.get("enum").and_then(Value::as_array) else { return Ok(()) };
    if allowed.contains(value) {
        return Ok(());
    }
    let names: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
    let near = hint(value.as_str().unwrap_or_default(), names.iter().copied());
    Err(format!("{} must be one of {}, not {value}{near}", place(path), names.join(", ")))
}
