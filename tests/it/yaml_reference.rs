//! Our reading of YAML against what `kubectl` does: a small Go program on the libraries that `kubectl` uses.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use pilothouse::object::yaml;
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde::Deserialize;
use serde_json::Value;

const TABLE: &str = include_str!("../data/yaml/table.tsv");

/// What we refuse although `kubectl` takes it, on purpose.
const STRICTER: [&str; 19] = [
    "simple key expected ':'",
    "comments must be separated",
    "invalid trailing content",
    "plain scalar cannot start with '-'",
    "an anchor's name has",
    // `{a: b:}` and the like.
    "while parsing a flow",
    "a block text cannot be a whole document",
    // What stands behind a document that ended early is lost there.
    "expected <document start>",
    "comment intercepting the multiline text",
    "`...` ends a document that has not begun",
    // Invalid in every version of YAML.
    "invalid indentation in multiline quoted scalar",
    "is written twice",
    "left out by kubectl",
    "is not allowed; write",
    "multiply the text",
    "nested deeper",
    "!!timestamp is not supported",
    "!!binary holds invalid",
    "infinite numbers",
];

/// What `kubectl` cannot read and we can, with the meaning that YAML gives it.
const LENIENT: [&str; 6] = [
    "did not find expected whitespace or line break",
    "found character that cannot start any token",
    "found a tab character",
    "did not find expected node content",
    // `{a: ?x}` and anchors with unusual names.
    "json: offset",
    "did not find expected alphabetic or numeric character",
];

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    documents: Option<Vec<Value>>,
    #[serde(default)]
    error: String,
}

/// Builds the Go program; Go's own cache makes that quick the second time.
fn program() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/yamlref");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("yamlref");
    let status = Command::new("go")
        .args(["build", "-trimpath", "-o"])
        .arg(&target)
        .arg(".")
        .current_dir(source)
        .env("CGO_ENABLED", "0")
        .status()
        .expect("Go is needed to compare with kubectl's YAML: install 1.26 or newer from https://go.dev/dl");
    assert!(status.success(), "tests/tools/yamlref does not build");
    target
}

fn ask(texts: &[String]) -> Vec<Answer> {
    let mut child =
        Command::new(program()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("yamlref starts");
    let input = serde_json::to_vec(texts).unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&input).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "yamlref failed");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// JSON texts are passed on unread by the Go program; the apiserver reads `1.0` there as 1.
fn plain_numbers(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(plain_numbers),
        Value::Object(map) => map.values_mut().for_each(plain_numbers),
        Value::Number(n) if n.is_f64() => {
            let float = n.as_f64().unwrap();
            if float == 0.0 {
                *value = 0.into();
            } else if float.fract() == 0.0 && float.abs() < 1e21 {
                let text = float.to_string();
                if let Some(int) =
                    text.parse::<i64>().map(Value::from).ok().or(text.parse::<u64>().map(Value::from).ok())
                {
                    *value = int;
                }
            }
        }
        _ => {}
    }
}

/// Every text on which we differ, with both readings.
fn differences(texts: &[String]) -> Vec<String> {
    let answers = ask(texts);
    assert_eq!(answers.len(), texts.len());
    texts.iter().zip(answers).filter_map(|(text, theirs)| difference(text, theirs)).collect()
}

fn difference(text: &str, theirs: Answer) -> Option<String> {
    let mut want = theirs.documents.unwrap_or_default();
    want.iter_mut().for_each(plain_numbers);
    match yaml::parse_documents(text) {
        Err(ours)
            if theirs.error.is_empty()
                && !text.contains("...\n")
                && !STRICTER.iter().any(|s| ours.message.contains(s)) =>
        {
            Some(format!("{text:?}\n  ours:   {ours}\n  theirs: {want:?}"))
        }
        // What stands behind `...` kubectl does not read at all.
        Err(_) => None,
        Ok(_) if text.contains(['\t', '.', '?', ':', '&']) && LENIENT.iter().any(|s| theirs.error.contains(s)) => None,
        Ok(ours) => {
            let ours: Vec<Value> = ours.into_iter().map(|d| d.value).collect();
            (!theirs.error.is_empty() || ours != want)
                .then(|| format!("{text:?}\n  ours:   {ours:?}\n  theirs: {want:?} {}", theirs.error))
        }
    }
}

fn generate(strategy: &impl Strategy<Value = String>, count: usize) -> Vec<String> {
    let seed = std::env::var("YAML_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(7u8);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

fn check(texts: &[String]) {
    let wrong = differences(texts);
    assert!(
        wrong.is_empty(),
        "{} of {} differ:\n{}",
        wrong.len(),
        texts.len(),
        wrong[..wrong.len().min(40)].join("\n")
    );
}

#[test]
fn the_table_is_what_kubectl_does() {
    let texts: Vec<String> =
        TABLE.lines().map(|line| serde_json::from_str(line.split('\t').next().unwrap()).unwrap()).collect();
    check(&texts);
}

#[test]
fn scalars_mean_the_same() {
    let scalar = prop_oneof![
        "[0-9_+.eExobyYnN~-]{1,8}",
        "[+-]?0[xXoObB]?[0-9a-fA-F_]{0,8}",
        "[+-]?[0-9]{0,22}\\.?[0-9]{0,4}([eE][+-]?[0-9]{1,3})?",
        "(?i)yes|no|on|off|y|n|null|true|false|\\.inf|\\.nan|-\\.inf",
        "[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ][0-9:.]{1,12}Z?)?",
        "!!(str|int|float|bool|null) ('[0-9yestruen.~]{0,5}'|[0-9yestruen.~]{1,5})",
        "[a-zA-Z0-9._/+=@~$^(;%-][ a-zA-Z0-9._/:+=@~#'\"$^()<>;%-]{0,12}",
    ];
    let text = (scalar, 0..4).prop_map(|(s, shape)| match shape {
        0 => format!("a: {s}\n"),
        1 => format!("- {s}\n- x\n"),
        2 => format!("{s}: v\n"),
        _ => format!("{{a: {s}, b: [{s}]}}\n"),
    });
    check(&generate(&text, 20_000));
}

#[test]
fn structures_mean_the_same() {
    let line = (
        0usize..6,
        prop_oneof![
            3 => Just(""), 2 => Just("- "), 1 => Just("- - "), 1 => Just("? "),
        ],
        prop_oneof![6 => "[a-e]: ", 1 => "\"[a-e]\": ", 1 => "<<: ", 1 => "[0-9]: ", 1 => Just(String::new()), 1 => ": "],
        prop_oneof![
            4 => "[a-z]{1,4}", 1 => "&[xy] [a-z]{0,2}", 1 => "\\*[xy]", 1 => "[|>][+-]?", 1 => "'[a-z \n]{0,6}'", 1 => "\"[a-z \\\\n\n]{0,6}\"",
            1 => "\\{[a-c]: [0-9], [a-c]: x\\}", 1 => "\\[[a-c], [0-9]\\]", 1 => "# [a-z]", 1 => Just(String::new()), 1 => "&[xy] \\{a: 1\\}",
            1 => "[a-z] #[a-z]", 1 => "\t[a-z]",
        ],
    )
        .prop_map(|(indent, dash, key, value)| format!("{}{dash}{key}{value}\n", " ".repeat(indent / 2 * 2)));
    let line = prop_oneof![12 => line, 1 => Just("---\n".to_owned()), 1 => Just("...\n".to_owned()), 1 => Just("\n".to_owned()), 1 => Just("  # c\n".to_owned())];
    let text = prop::collection::vec(line, 1..7).prop_map(|lines| lines.concat());
    check(&generate(&text, 20_000));
}

#[test]
fn what_we_write_kubectl_reads_as_the_same() {
    let text =
        prop_oneof![any::<String>(), "[0-9_+.eExobyYnN~<>:# '\"|-]{0,8}", "([a-z :#-]{0,6}\n){0,4}[ a-z]{0,5}\n{0,2}",];
    let texts = generate(&text, 5_000);
    let written: Vec<String> = texts
        .iter()
        .map(|t| yaml::to_string(&serde_json::json!({"k": t, "l": [t, [t], {"m": t}], t.clone(): 1})))
        .collect();
    let answers = ask(&written);
    for ((text, written), answer) in texts.iter().zip(&written).zip(answers) {
        let want = serde_json::json!({"k": text, "l": [text, [text], {"m": text}], text.clone(): 1});
        assert_eq!(answer.documents, Some(vec![want]), "{written} {}", answer.error);
    }
}
