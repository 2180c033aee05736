use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// One line a case: the text as a JSON string, then its documents as JSON, or `error: ` and a part of the message.
/// `tests/it/yaml_reference.rs` asks the Go program about the same table.
const TABLE: &str = include_str!("../../../tests/data/yaml/table.tsv");

fn values(text: &str) -> Result<Vec<Value>, YamlError> {
    Ok(parse_documents(text)?.into_iter().map(|d| d.value).collect())
}

#[test]
fn table() {
    let mut wrong = vec![];
    for line in TABLE.lines() {
        let (text, want) = line.split_once('\t').unwrap();
        let text: String = serde_json::from_str(text).unwrap();
        let got = values(&text);
        let right = if let Some(part) = want.strip_prefix("error: ") {
            got.as_ref().is_err_and(|e| e.to_string().contains(part))
        } else {
            let want = want.split('\t').filter(|s| !s.is_empty()).map(|s| serde_json::from_str(s).unwrap());
            got.as_ref().is_ok_and(|docs| *docs == want.collect::<Vec<Value>>())
        };
        if !right {
            wrong.push(format!("{text:?}: want {want}, got {got:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn lines_are_those_of_the_text() {
    let text = "# c\n\na: 1\nb:\n  - x: 1\n    y/z: 2\n---\nc:\n  d: 1\n";
    let documents = parse_documents(text).unwrap();
    assert_eq!(documents.iter().map(|d| d.line).collect::<Vec<_>>(), [3, 8]);
    let lines = &documents[0].lines;
    let at = ["/a", "/b", "/b/0", "/b/0/y~1z", "/b/0/gone/deep", "/gone", ""].map(|p| lines.at(p));
    assert_eq!(at, [3, 5, 5, 6, 5, 3, 3]);
    assert_eq!(documents[1].lines.at("/c/d"), 9);
}

#[test]
fn errors_have_a_place() {
    let at = |text| parse_documents(text).map_err(|e| (e.line, e.column)).unwrap_err();
    assert_eq!(at("a: 1\nb: .inf\n"), (2, 4));
    assert_eq!(at("a: 1\n---\nb: 1\nb: 2\n"), (4, 1));
    assert_eq!(at("a: 1\nb: \u{7}\n"), (2, 4));
    assert_eq!(at("{\"a\": 1,\n \"a\": 2}\n").0, 2);
}

#[test]
fn bombs_are_refused() {
    let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for i in 1..12 {
        let p = i - 1;
        writeln!(text, "a{i}: &a{i} [*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p}]").unwrap();
    }
    let failed = parse_within(&text, &Budget::new(4 << 20)).unwrap_err();
    assert!(failed.too_large && failed.message.contains("more than 4 MiB"), "{failed}");
    for deep in
        ["[".repeat(5000), "a: ".repeat(300), format!("{}1{}", "[".repeat(200), "]".repeat(200)), "- ".repeat(300)]
    {
        assert!(parse_documents(&deep).is_err());
    }
    let json = format!("{}1{}", "{\"a\":".repeat(200), "}".repeat(200));
    assert!(parse_documents(&json).is_err());
    // Aliases add up: 10 levels of 20.
    let mut text = format!("a0: &a0 {}{}\n", "[".repeat(20), "]".repeat(20));
    for i in 1..10 {
        writeln!(text, "a{i}: &a{i} {}*a{}{}", "[".repeat(20), i - 1, "]".repeat(20)).unwrap();
    }
    assert!(parse_documents(&text).unwrap_err().message.contains("nested deeper"));
}

#[test]
fn emitted_yaml_is_pleasant() {
    let value = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": {"a.b/c": "yes"}},
        "data": {"x": "one\ntwo\n", "y": "0400", "z": "1e3"}, "list": [{"name": "a", "args": ["-c", "x y"]}, [], {}, [[1]]],
    });
    let want = "apiVersion: v1\ndata:\n  x: |\n    one\n    two\n  \"y\": \"0400\"\n  z: \"1e3\"\nkind: ConfigMap\nlist:\n- args:\n  - \"-c\"\n  - x y\n  name: a\n- []\n- {}\n-\n  -\n    - 1\nmetadata:\n  labels:\n    a.b/c: \"yes\"\n  name: a\n";
    let got = to_string(&value);
    assert_eq!(values(&got).unwrap(), [value]);
    assert_eq!(got, want);
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[0-9_+.eExobyYnN~<>:# '\"|-]{0,8}",
        "([a-z :#-]{0,6}\n){0,4}[ a-z]{0,5}\n{0,2}",
        "(?i)yes|no|on|off|y|n|null|true|false|\\.inf|\\.nan|infinity|nan|<<|=",
        "[a-z]{250,1200}",
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter_map("finite", |f| resolve::json_float(f).ok().map(Value::Number)),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(text(), inner, 0..5).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn emitted_yaml_reads_back_equal(value in value()) {
        let text = to_string(&value);
        let back = values(&text).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
        let want = if value.is_null() { vec![] } else { vec![value] };
        prop_assert_eq!(back, want, "{}", text);
    }

    #[test]
    fn no_text_panics(text in "[ \na-c:&*!<>|?{}\\[\\],'\"#%@`0-9~-]{0,60}") {
        let _ = parse_documents(&text);
    }
}

#[test]
fn what_beginners_write_gets_the_cure() {
    for (text, cure) in [
        ("schedule: */5 * * * *\n", "written in quotes"),
        ("schedule: * 2 * * *\n", "written in quotes"),
        ("a: b\n  c: d\n", "indentation"),
    ] {
        let error = parse_documents(text).unwrap_err();
        assert!(error.message.contains(cure), "{text}: {}", error.message);
    }
}
