//! The head of a `SKILL.md`, between two lines of three hyphens.

use serde_json::Value;

use crate::object::yaml::{Budget, parse_within};

/// Longest head, in bytes.
const MAX: usize = 64 * 1024;
/// Memory that reading one may take.
const MEMORY: usize = 4 * 1024 * 1024;

/// What a skill says about itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    pub name: Option<String>,
    pub description: Option<String>,
}

/// Reads the head, or says why there is none.
pub(super) fn read(text: &str) -> Result<Fields, String> {
    let head =
        head(text).ok_or("SKILL.md does not begin with front matter: a line ---, fields, and another line ---")?;
    if head.len() > MAX {
        return Err(format!("the front matter of SKILL.md is longer than {MAX} bytes"));
    }
    // The server reads a value with a colon as text where YAML has no meaning for it.
    let value = parse(head).or_else(|error| parse(&with_colons_quoted(head)).map_err(|_| error))?;
    let text = |key: &str| match value.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.trim().to_string())),
        Some(_) => Err(format!("{key} in the front matter of SKILL.md must be a text; put it in quotes")),
    };
    Ok(Fields { name: text("name")?, description: text("description")? })
}

fn head(text: &str) -> Option<&str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let rest = text.strip_prefix("---")?;
    let rest = rest.strip_prefix("\r\n").or_else(|| rest.strip_prefix('\n'))?;
    let mut end = 0;
    for line in rest.split_inclusive('\n') {
        if line.trim_end() == "---" {
            return Some(&rest[..end]);
        }
        end += line.len();
    }
    None
}

fn parse(head: &str) -> Result<Value, String> {
    let documents = parse_within(head, &Budget::new(MEMORY)).map_err(|error| {
        // One line is before it.
        format!("the front matter of SKILL.md is no YAML: line {}: {}", error.line + 1, error.message)
    })?;
    match documents.into_iter().next().map(|document| document.value) {
        None => Ok(Value::Null),
        Some(value @ Value::Object(_)) => Ok(value),
        Some(_) => Err("the front matter of SKILL.md must be fields, such as name: review".into()),
    }
}

/// Plain values of top-level fields that hold a colon, as quoted texts.
fn with_colons_quoted(head: &str) -> String {
    let line = |line: &str| match line.split_once(':') {
        Some((key, value)) if is_key(key) && is_plain(value.trim()) && value.contains(':') => {
            format!("{key}: {}\n", Value::from(value.trim()))
        }
        _ => format!("{line}\n"),
    };
    head.lines().map(line).collect()
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

fn is_plain(value: &str) -> bool {
    !value.starts_with(['"', '\'', '|', '>', '[', '{', '&', '*', '!', '#'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> (Option<String>, Option<String>) {
        let fields = read(text).unwrap();
        (fields.name, fields.description)
    }

    #[test]
    fn fields_are_read() {
        let some = |a: &str, b: &str| (Some(a.to_string()), Some(b.to_string()));
        let table = [
            ("---\nname: a\ndescription: b c\n---\n# Text\n", some("a", "b c")),
            ("---\r\nname: a\r\ndescription: \"b\"\r\n---\r\n", some("a", "b")),
            ("\u{feff}---\nname: a\ndescription: >\n  b\n  c\nmetadata: {x: [1]}\n---", some("a", "b c")),
            ("---\nname: a\ndescription: Use when: it \"burns\"\n---\n", some("a", "Use when: it \"burns\"")),
            ("---\nname: a\ndescription: |\n  ---x\n---\n---\n", some("a", "---x")),
            ("---\n# nothing\n---\n", (None, None)),
            ("---\n---\n", (None, None)),
            ("---\nname: null\n---\n", (None, None)),
        ];
        for (text, expected) in table {
            assert_eq!(fields(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_head_is_said() {
        let long = format!("---\nname: {}\n---\n", "x".repeat(MAX));
        let table = [
            ("# Text", "does not begin with front matter"),
            ("---\nname: a\n", "does not begin with front matter"),
            (" ---\nname: a\n---\n", "does not begin with front matter"),
            ("---\nname: a\n  - b: [\n---\n", "is no YAML: line 3"),
            ("---\nname: 12\n---\n", "name in the front matter of SKILL.md must be a text"),
            ("---\ndescription: [a]\n---\n", "description in the front matter"),
            ("---\n- a\n---\n", "must be fields"),
            (&long, "longer than 65536 bytes"),
        ];
        for (text, expected) in table {
            let why = read(text).unwrap_err();
            assert!(why.contains(expected), "{why} should say {expected}");
        }
    }
}
