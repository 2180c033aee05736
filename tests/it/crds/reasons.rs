//! Reasons that the code writes as texts are in the table that the documentation is made from.

use std::{fs, path::Path};

use pilothouse::api::names;

/// Calls, and how many arguments come before the reason.
const CALLS: [(&str, usize); 6] = [
    ("Failure::transient(", 0),
    ("Failure::waiting(", 0),
    ("Failure::stalled(", 0),
    ("Condition::yes(", 1),
    ("Condition::no(", 1),
    ("Condition::unknown(", 1),
];

/// The text literal at the given argument; `None` where it is an expression (a constant is in the table by itself).
fn literal(arguments: &str, skip: usize) -> Option<&str> {
    let argument = arguments.splitn(skip + 2, ',').nth(skip)?.trim_start();
    argument.strip_prefix('"')?.split('"').next()
}

fn sources(folder: &Path, out: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            out.push((path.display().to_string(), code.into()));
        }
    }
}

#[test]
fn every_reason_in_the_code_is_documented() {
    let mut files = vec![];
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let mut unknown = vec![];
    let mut seen = 0;
    for (file, code) in &files {
        for (call, skip) in CALLS {
            for rest in code.split(call).skip(1) {
                let Some(reason) = literal(rest, skip) else { continue };
                seen += 1;
                if names::reason(reason).is_none() {
                    unknown.push(format!("{file}: {reason}"));
                }
            }
        }
    }
    assert!(seen > 0, "the scan finds nothing any more");
    assert!(unknown.is_empty(), "add to src/api/names/reason_table.rs:\n{}", unknown.join("\n"));
}

/// A reason in the documentation that nothing ever says would be looked for in vain.
#[test]
fn every_documented_reason_is_in_the_code() {
    let mut files = vec![];
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let (table, code): (Vec<_>, Vec<_>) = files.into_iter().partition(|(file, _)| file.ends_with("reason_table.rs"));
    let code: String = code.into_iter().map(|(_, code)| code).collect();
    let unused: Vec<_> = names::REASONS
        .iter()
        .map(|r| (r.name, constant(&table[0].1, r.name)))
        .filter(|(name, constant)| !says(&code, name, constant))
        .map(|(name, _)| name)
        .collect();
    assert!(unused.is_empty(), "remove from src/api/names/reason_table.rs: {unused:?}");
}

/// The constant of a reason, from its line in the table.
fn constant<'a>(table: &'a str, name: &str) -> &'a str {
    let line = table.lines().find(|line| line.contains(&format!(" \"{name}\" "))).unwrap();
    line.trim_start().split(' ').next().unwrap()
}

/// Whether code uses the constant, or the text itself.
fn says(code: &str, name: &str, constant: &str) -> bool {
    let whole = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    code.contains(&format!("\"{name}\"")) || code.split(&format!("reasons::{constant}")).skip(1).any(whole)
}

#[test]
fn a_constant_is_found_whole() {
    assert!(says("Condition::yes(x, reasons::READY)", "Ready", "READY"));
    assert!(!says("reasons::READY_SOON", "Ready", "READY"));
    assert!(says("\"Ready\"", "Ready", "READY") && !says("\"ReadySoon\"", "Ready", "READY"));
}

#[test]
fn the_scan_reads_arguments() {
    assert_eq!(literal("\"A\", x)", 0), Some("A"));
    assert_eq!(literal("\n  condition::READY,\n  \"B\",", 1), Some("B"));
    assert_eq!(literal("reasons::APPLIED, \"text\")", 0), None);
}
