//! Filters that make values safe inside YAML.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use minijinja::{Environment, Error, ErrorKind, value::Value};
use sha2::{Digest as _, Sha256};

use crate::object::yaml;

pub(super) fn add(environment: &mut Environment<'_>) {
    environment.add_filter("tojson", to_json);
    environment.add_filter("quote", quote);
    environment.add_filter("toyaml", to_yaml);
    environment.add_filter("b64encode", b64encode);
    environment.add_filter("sha256", sha256);
}

fn json(value: &Value) -> Result<serde_json::Value, Error> {
    if value.is_undefined() {
        return Err(ErrorKind::UndefinedError.into());
    }
    serde_json::to_value(value).map_err(|_| Error::new(ErrorKind::BadSerialization, "the value has no JSON form"))
}

/// JSON on one line, which is YAML too: right for any value at any place that takes one.
fn to_json(value: &Value) -> Result<Value, Error> {
    Ok(Value::from_safe_string(json(value)?.to_string()))
}

/// A text in double quotes, whatever the value is: `{{ 1.10 | quote }}` stays a text.
fn quote(value: &Value) -> Result<Value, Error> {
    let text = match json(value)? {
        serde_json::Value::String(text) => text,
        serde_json::Value::Null => String::new(),
        other => other.to_string(),
    };
    Ok(Value::from_safe_string(serde_json::Value::String(text).to_string()))
}

/// Block YAML without the last newline; `{{ x | toyaml | indent(4) }}` puts it below a key.
fn to_yaml(value: &Value) -> Result<Value, Error> {
    Ok(Value::from_safe_string(yaml::to_string(&json(value)?).trim_end_matches('\n').to_owned()))
}

fn bytes(value: &Value) -> Result<Vec<u8>, Error> {
    match json(value)? {
        serde_json::Value::String(text) => Ok(text.into_bytes()),
        _ => Err(Error::new(ErrorKind::InvalidOperation, "a text is needed; use tojson before")),
    }
}

fn b64encode(value: &Value) -> Result<String, Error> {
    Ok(STANDARD.encode(bytes(value)?))
}

/// Lower-case hex, for annotations that change with a text.
fn sha256(value: &Value) -> Result<String, Error> {
    Ok({
        let digest = Sha256::digest(bytes(value)?);
        digest.iter().fold(String::new(), |hex, b| hex + &format!("{b:02x}"))
    })
}
