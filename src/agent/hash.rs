//! Hashes that do not depend on the order of keys.

use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Writes `value` with sorted keys and without spaces: the same bytes for the same content.
pub fn canonical(value: &Value) -> String {
    let mut out = String::new();
    write(value, &mut out);
    out
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.iter().collect();
            keys.sort_by_key(|(key, _)| *key);
            list(out, '{', '}', keys, |(key, value), out| {
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write(value, out);
            });
        }
        Value::Array(items) => list(out, '[', ']', items, write),
        scalar => out.push_str(&scalar.to_string()),
    }
}

fn list<T>(
    out: &mut String,
    open: char,
    close: char,
    items: impl IntoIterator<Item = T>,
    each: impl Fn(T, &mut String),
) {
    out.push(open);
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        each(item, out);
    }
    out.push(close);
}

/// SHA-256 of the canonical form, 16 hexadecimal digits: names versions, guards nothing.
pub fn short(value: &Value) -> String {
    hex(&Sha256::digest(canonical(value).as_bytes()), 16)
}

/// SHA-256 of a text, 64 hexadecimal digits.
pub fn text(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()), 64)
}

/// A keyed hash of a secret value, 16 hexadecimal digits. Without the key, which is the agent's own password, it tells
/// nothing about the value; equal values of two agents have different hashes.
pub fn keyed(key: &[u8], value: &[u8]) -> String {
    // HMAC takes keys of every length.
    Hmac::<Sha256>::new_from_slice(key).map_or_else(
        |_| String::new(),
        |mut mac| {
            mac.update(value);
            hex(&mac.finalize().into_bytes(), 16)
        },
    )
}

fn hex(bytes: &[u8], digits: usize) -> String {
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).take(digits).filter_map(|d| char::from_digit(d.into(), 16)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn canonical_is_sorted_json() {
        let value = json!({"b": [1, {"d": null, "c": "\"\n"}], "a": {}, "": []});
        assert_eq!(canonical(&value), r#"{"":[],"a":{},"b":[1,{"c":"\"\n","d":null}]}"#);
        assert_eq!(serde_json::from_str::<Value>(&canonical(&value)).unwrap(), value);
    }

    #[test]
    fn known_hashes() {
        assert_eq!(text(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        // RFC 4231, test case 2.
        assert_eq!(keyed(b"Jefe", b"what do ya want for nothing?"), "5bdcc146bf60754e");
    }
}
