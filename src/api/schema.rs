//! Pieces of schemas that derives alone do not give.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value};

use super::form::Form;

/// A core type of Kubernetes, with its structure and without its prose (which alone is 300 KiB an Agent).
pub(crate) fn embedded<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = generator.subschema_for::<T>();
    if let Some(object) = schema.as_object_mut() {
        strip_prose(object);
    }
    schema
}

/// A list of core types, likewise.
pub(crate) fn embedded_list<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": embedded::<T>(generator) })
}

/// Conditions: a list that server-side apply merges by type.
pub(crate) fn conditions(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": embedded::<Condition>(generator),
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}

/// Any value at all, kept as given.
pub(crate) fn any(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-preserve-unknown-fields": true })
}

/// Any object, kept as given.
pub(crate) fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// An integer or a string, such as `3` and `10%`.
pub(crate) fn int_or_string(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-int-or-string": true })
}

fn strip_prose(schema: &mut Map<String, Value>) {
    schema.remove("description");
    for_each_child(schema, strip_prose);
}

/// Calls `visit` for every direct subschema. Properties are told from keywords by position, so a property named
/// `description` or `items` is none.
pub(crate) fn for_each_child(schema: &mut Map<String, Value>, visit: fn(&mut Map<String, Value>)) {
    for key in ["items", "additionalProperties", "not"] {
        if let Some(Value::Object(child)) = schema.get_mut(key) {
            visit(child);
        }
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().filter_map(Value::as_object_mut).for_each(visit);
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        if let Some(Value::Array(children)) = schema.get_mut(key) {
            children.iter_mut().filter_map(Value::as_object_mut).for_each(visit);
        }
    }
}

/// Brings a derived schema into the form that a Go generator would give it.
///
/// - No `nullable`: a `null` in a manifest is an error that names the field, not a silent absence.
/// - No number formats that the API server does not know (`uint32`, …).
/// - Bounds of integers as integers, not as `1.0`.
/// - Rules with a message in the place of patterns: see [`form`](super::form).
/// - No titles; they repeat the name of a Rust type.
/// - Descriptions in one line a paragraph.
pub(crate) fn settle(schema: &mut Map<String, Value>) {
    schema.remove("nullable");
    schema.remove("title");
    say_the_form(schema);
    if schema.get("format").and_then(Value::as_str).is_some_and(|f| f.starts_with("uint") || f == "double") {
        schema.remove("format");
    }
    for bound in ["minimum", "maximum"] {
        if let Some(whole) = schema.get(bound).and_then(Value::as_f64).and_then(whole) {
            schema.insert(bound.into(), whole.into());
        }
    }
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.split("\n\n").map(|p| p.replace('\n', " ")).collect::<Vec<_>>().join("\n\n");
    }
    for_each_child(schema, settle);
}

/// A rule that says what is allowed, in the place of a pattern.
fn say_the_form(schema: &mut Map<String, Value>) {
    let Some(form) = schema.get("pattern").and_then(Value::as_str).and_then(Form::of) else { return };
    schema.remove("pattern");
    let rules = schema.entry("x-kubernetes-validations").or_insert_with(|| Value::Array(vec![]));
    if let Some(rules) = rules.as_array_mut() {
        rules.push(form.rule());
    }
}

/// The number as an integer, where it is one that every `f64` holds exactly.
#[allow(clippy::cast_possible_truncation)] // checked
fn whole(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
}
