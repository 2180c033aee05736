//! A stream of JSON objects, which `kubectl` tries first where a text begins with `{`.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{Budget, Document, Lines, YamlError, resolve};

const DUPLICATE: &str = "is written twice in one object; remove one";

/// The objects of a JSON stream; `None` when the text is something else, YAML perhaps.
pub(super) fn parse_stream(text: &str, budget: &Budget) -> Result<Option<Vec<Document>>, YamlError> {
    let mut from = text.len() - text.trim_start().len();
    if !text[from..].starts_with('{') {
        return Ok(None);
    }
    let (mut documents, mut line) = (vec![], 1 + text[..from].matches('\n').count());
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    while let Some(next) = stream.next() {
        let end = stream.byte_offset();
        if next.is_err() {
            // What is wrong may stand in an object that has a key twice, which is told rather.
            return one(&text[from..], line, budget).map(|_| None);
        }
        let Some(value) = one(&text[from..end], line, budget)? else { return Ok(None) };
        documents.push(Document { line, value, lines: Lines::scalar(line) });
        let next = end + text[end..].len() - text[end..].trim_start().len();
        line += text[from..next].matches('\n').count();
        from = next;
    }
    Ok(Some(documents))
}

/// The object that a text begins with, `line` being where; `None` when it is none.
fn one(text: &str, line: usize, budget: &Budget) -> Result<Option<Value>, YamlError> {
    let error = match Strict(budget).deserialize(&mut serde_json::Deserializer::from_str(text)) {
        Ok(value) => return Ok(Some(value)),
        Err(error) => error,
    };
    let line = line + error.line().saturating_sub(1);
    if budget.is_exhausted() {
        return Err(YamlError::too_large(line, error.column(), budget));
    }
    let message = error.to_string();
    if message.contains(DUPLICATE) {
        let message = message.split(" at line ").next().unwrap_or_default();
        return Err(YamlError::new(line, error.column(), message));
    }
    Ok(None)
}

/// A JSON value in which no key stands twice and numbers mean what they mean in YAML; it is paid for as it is read.
#[derive(Clone, Copy)]
struct Strict<'b>(&'b Budget);

impl Strict<'_> {
    fn pay<E: de::Error>(self, bytes: usize) -> Result<(), E> {
        if self.0.spend(bytes) { Ok(()) } else { Err(E::custom("more than the budget")) }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.pay(Budget::NODE)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
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

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Value, E> {
        self.pay(v.len())?;
        Ok(Value::String(v.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = vec![];
        while let Some(item) = seq.next_element_seed(self)? {
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
            self.pay(Budget::entry(map.len(), key.len()))?;
            let value = access.next_value_seed(self)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
