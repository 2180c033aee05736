//! The reference of the API for people, made from the CRDs: one table a kind, one row a field.

use std::fmt::Write;

use serde_json::Value;

use super::{
    crd::{self, Crd, CrdError},
    form,
};

/// The whole document, in Markdown.
pub fn markdown() -> Result<String, CrdError> {
    let mut out = String::from(HEAD);
    for crd in crd::all()? {
        kind(&mut out, &crd);
    }
    Ok(out)
}

const HEAD: &str = "# API reference

All kinds belong to `pilothouse.dev/v1alpha1`. This page is made from the types (`make generate`).

- A field is optional unless its type says *required*.
- A *duration* is written as Go writes it: `30s`, `5m`, `1h30m`.
- *as in Kubernetes* marks a core type; `kubectl explain` and the Kubernetes reference describe its fields.
- Not every field is implemented in every release: one that is not is refused, by the condition `Stalled` with reason
  `NotYetSupported`, which names it.
";

fn kind(out: &mut String, crd: &Crd) {
    let spec = &crd.json["spec"];
    let names = &spec["names"];
    line(out, &format!("\n## {}\n", crd.kind));
    line(out, text(&crd.schema()["description"]));
    let scope = if spec["scope"] == "Namespaced" { "in a namespace" } else { "for the whole cluster" };
    line(
        out,
        &format!("\n`kubectl get {}`, short `{}`; {scope}.", text(&names["plural"]), text(&names["shortNames"][0])),
    );
    for message in messages(crd.schema()) {
        line(out, &format!("Rule: {message}."));
    }
    let columns = spec["versions"][0]["additionalPrinterColumns"].as_array();
    let columns: Vec<_> = columns.into_iter().flatten().map(column).collect();
    line(out, &format!("Columns: {}.", columns.join(", ")));
    for part in ["spec", "status"] {
        line(out, &format!("\n### {}.{part}\n", crd.kind));
        line(out, "| field | type | default | rules | description |\n| --- | --- | --- | --- | --- |");
        fields(out, &crd.schema()["properties"][part], "");
    }
}

fn column(column: &Value) -> String {
    let wide = if column["priority"] == 1 { " (wide)" } else { "" };
    format!("{}{wide}", text(&column["name"]))
}

fn fields(out: &mut String, schema: &Value, at: &str) {
    let required: Vec<_> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{at}{name}");
        let must = if required.contains(&name.as_str()) { ", *required*" } else { "" };
        let default = field.get("default").map(|d| format!("`{d}`")).unwrap_or_default();
        let cells =
            [format!("`{path}`"), type_of(field) + must, default, rules(field), text(&field["description"]).into()];
        line(out, &format!("| {} |", cells.map(|cell| cell.replace('|', "\\|").replace('\n', " ")).join(" | ")));
        if is_core(field) {
            continue;
        }
        fields(out, field, &format!("{path}."));
        fields(out, &field["items"], &format!("{path}[]."));
        fields(out, &field["additionalProperties"], &format!("{path}.*."));
    }
}

/// Core types have no prose, ours describe every field.
fn is_core(field: &Value) -> bool {
    let properties = |schema: &Value| schema["properties"].as_object().cloned().unwrap_or_default();
    let all: Vec<_> = [properties(field), properties(&field["items"])].into_iter().flatten().collect();
    !all.is_empty() && all.iter().all(|(_, property)| property.get("description").is_none())
}

fn type_of(field: &Value) -> String {
    let name = match field["type"].as_str() {
        Some("array") => format!("list of {}", bare_type(&field["items"])),
        Some("object") if field["additionalProperties"].is_object() => {
            format!("map of {}", bare_type(&field["additionalProperties"]))
        }
        _ => bare_type(field),
    };
    if is_core(field) { format!("{name} as in Kubernetes") } else { name }
}

fn bare_type(schema: &Value) -> String {
    if is_duration(schema) {
        return "duration".into();
    }
    if schema["format"] == "date-time" {
        return "time".into();
    }
    let fallback = if schema["x-kubernetes-int-or-string"] == true { "integer or string" } else { "any" };
    schema["type"].as_str().unwrap_or(fallback).into()
}

/// What the API server checks, besides the type.
fn rules(field: &Value) -> String {
    let mut rules = vec![];
    for schema in [field, &field["items"]] {
        if let Some(values) = schema["enum"].as_array() {
            rules.push(format!(
                "one of {}",
                values.iter().map(|v| format!("`{}`", text(v))).collect::<Vec<_>>().join(", ")
            ));
        }
        rules.extend(bounds(schema, "minimum", "maximum", ""));
        if !is_duration(schema) {
            rules.extend(bounds(schema, "minLength", "maxLength", " characters"));
        }
        rules.extend(bounds(schema, "minItems", "maxItems", " items"));
        if !is_duration(schema) {
            rules.extend(messages(schema));
        }
    }
    rules.extend(bounds(field, "minProperties", "maxProperties", " entries"));
    rules.extend(messages(&field["additionalProperties"]));
    rules.join("; ")
}

fn is_duration(schema: &Value) -> bool {
    schema["x-kubernetes-validations"].as_array().is_some_and(|rules| rules.contains(&form::DURATION.rule()))
}

fn bounds(schema: &Value, low: &str, high: &str, unit: &str) -> Option<String> {
    match (schema.get(low), schema.get(high)) {
        (Some(low), Some(high)) => Some(format!("{low} to {high}{unit}")),
        (Some(low), None) => Some(format!("{low} or more{unit}")),
        (None, Some(high)) => Some(format!("{high} or less{unit}")),
        (None, None) => None,
    }
}

fn messages(schema: &Value) -> Vec<String> {
    let rules = schema["x-kubernetes-validations"].as_array();
    rules.into_iter().flatten().map(|rule| text(&rule["message"]).into()).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn line(out: &mut String, line: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{line}");
}
