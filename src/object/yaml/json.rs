//! A stream of JSON objects, which `kubectl` tries first where a text begins with `{`.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{Document, Lines, YamlError, resolve};

const DUPLICATE: &str = "is written twice in one object; remove one";

/// The objects of a JSON stream; `None` when the text is something else, YAML perhaps.
pub(super) fn parse_stream(text: &str) -> Result<Option<Vec<Document>>, YamlError> {
    let start = text.len() - text.trim_start().len();
    if !text[start..].starts_with('{') {
        return Ok(None);
    }
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Strict>();
    let mut documents = vec![];
    let mut from = start;
    while let Some(next) = stream.next() {
        match next {
            Ok(Strict(value)) => {
                let line = text[..from].matches('\n').count() + 1;
                documents.push(Document { line, value, lines: Lines::scalar(line) });
            }
            Err(e) if e.to_string().contains(DUPLICATE) => {
                let message = e.to_string();
                let message = message.split(" at line ").next().unwrap_or_default();
                return Err(YamlError::new(e.line(), e.column(), message));
            }
            Err(_) => return Ok(None),
        }
        let end = stream.byte_offset();
        from = end + text[end..].len() - text[end..].trim_start().len();
    }
    Ok(Some(documents))
}

/// A JSON value in which no key stands twice and numbers mean what they mean in YAML.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Value, E> {
        resolve::json_float(v).map(Value::Number).map_err(E::custom)
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = vec![];
        while let Some(Strict(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(de::Error::custom(format!("key {key:?} {DUPLICATE}")));
            }
            let Strict(value) = access.next_value()?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
