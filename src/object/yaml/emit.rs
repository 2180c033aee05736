//! Values to YAML that every reader takes for the same value.

use serde_json::Value;

use super::resolve::{self, Scalar};

/// Block-style YAML with a newline at its end. Read by [`super::parse_documents`], or by `kubectl`, it is the same
/// value again: texts that could be taken for something else (`yes`, `0400`, `1e3`) are quoted.
pub fn to_string(value: &Value) -> String {
    let mut out = String::new();
    node(&mut out, value, 0, Place::Top);
    out
}

/// Several values, each after a `---` line.
pub fn to_documents<'a>(values: impl IntoIterator<Item = &'a Value>) -> String {
    values.into_iter().fold(String::new(), |out, value| out + "---\n" + &to_string(value))
}

/// What stands before a node on its line.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// Nothing.
    Top,
    /// `key:`
    Key,
    /// `-`
    Item,
}

fn node(out: &mut String, value: &Value, indent: usize, place: Place) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            let mut first = place == Place::Item;
            if place == Place::Key {
                out.push('\n');
            }
            for (name, value) in map {
                if first {
                    out.push(' ');
                    first = false;
                } else {
                    pad(out, indent);
                }
                key(out, name, indent);
                node(out, value, indent + 2, Place::Key);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            // Lists of a mapping stand at the mapping's indentation, as kubectl and gofmt-like tools write them.
            let indent = if place == Place::Key { indent - 2 } else { indent };
            if place != Place::Top {
                out.push('\n');
            }
            for item in items {
                pad(out, indent);
                out.push('-');
                node(out, item, indent + 2, Place::Item);
            }
        }
        // A block text that is a whole document is refused by our own reader.
        Value::String(text) if place == Place::Top => {
            quoted(out, text);
            out.push('\n');
        }
        scalar => {
            if place != Place::Top {
                out.push(' ');
            }
            self::scalar(out, scalar, indent);
            out.push('\n');
        }
    }
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn key(out: &mut String, name: &str, indent: usize) {
    // YAML readers look only 1024 characters far for the colon of a simple key.
    let long = name.len() > 256;
    if long {
        out.push_str("? ");
    }
    if plain_is_safe(name) {
        out.push_str(name);
    } else {
        quoted(out, name);
    }
    if long {
        out.push('\n');
        pad(out, indent);
    }
    out.push(':');
}

fn scalar(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) => out.push_str(&n.to_string()),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
        Value::String(text) if plain_is_safe(text) => out.push_str(text),
        Value::String(text) if literal_is_safe(text) => literal(out, text, indent),
        Value::String(text) => quoted(out, text),
    }
}

/// Whether a plain text cannot be taken for anything else by any reader, YAML 1.1 or 1.2.
fn plain_is_safe(text: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '_' | '.');
    let inner = |c: char| {
        c.is_ascii_alphanumeric()
            || matches!(c, '/' | '_' | '.' | '-' | '+' | '=' | '@' | ' ' | ':' | ',' | '(' | ')' | ';')
    };
    text.starts_with(first)
        && text.chars().all(inner)
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !text.contains(',')
        && text.len() < 4096
        && resolve::untagged(text) == Scalar::Text(text.into())
        && text.parse::<f64>().is_err()
}

/// Whether `|` keeps the text as it is: no control characters, no blank at its begin, at most one newline at its end.
fn literal_is_safe(text: &str) -> bool {
    let printable = |c: char| matches!(c, '\n' | ' '..='~' | '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}');
    text.trim_end_matches('\n').contains('\n')
        && !text.ends_with("\n\n")
        && !text.starts_with([' ', '\n'])
        && text.chars().all(printable)
}

fn literal(out: &mut String, text: &str, indent: usize) {
    let body = text.strip_suffix('\n');
    out.push_str(if body.is_some() { "|" } else { "|-" });
    for line in body.unwrap_or(text).split('\n') {
        out.push('\n');
        if !line.is_empty() {
            pad(out, indent.max(2));
            out.push_str(line);
        }
    }
}

/// A double-quoted text; its escapes are those that JSON and both versions of YAML share.
fn quoted(out: &mut String, text: &str) {
    use std::fmt::Write as _;
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            ' '..='~' | '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{10000}'.. => {
                out.push(c);
            }
            c => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
        }
    }
    out.push('"');
}
