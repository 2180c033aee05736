//! Reasons that the code writes as texts are in the table that the documentation is made from.

use std::{fs, path::Path};

use pilothouse::api::names;

/// Calls, and how many arguments come before the reason.
const CALLS: [(&str, usize); 8] = [
    ("Failure::transient(", 0),
    ("Failure::waiting(", 0),
    ("Failure::stalled(", 0),
    ("Condition::yes(", 1),
    ("Condition::no(", 1),
    ("Condition::unknown(", 1),
    ("Note::normal(", 0),
    ("Note::warning(", 0),
];

/// The text literal, or the type of a condition, at the given argument; `None` where it is another expression (a
/// constant of reasons is in the table by itself).
fn literal(arguments: &str, skip: usize) -> Option<&str> {
    let argument = arguments.splitn(skip + 2, ',').nth(skip)?.trim_start();
    if argument.starts_with("kinds::") || argument.starts_with("condition::") {
        return argument.split(',').next();
    }
    argument.strip_prefix('"')?.split('"').next()
}

/// Folders and files below `src` that speak for some kinds only; all other places may speak for each.
const SPEAKERS: &[(&str, &[&str])] = &[
    ("git/", &["Repository", "Agent", "Task"]),
    ("controller/repository", &["Repository"]),
    ("artifact/", &["Repository", "Sync", "Agent", "Task"]),
    ("render/", &["Sync"]),
    ("plan/", &["Sync"]),
    ("apply/", &["Sync"]),
    ("controller/sync/", &["Sync"]),
    // A Task with a pod of its own is built as an agent is, and gets from Git what one would.
    ("agent/build/", &["Agent", "Task"]),
    ("agent/config.rs", &["Agent", "Task"]),
    ("agent/", &["Agent"]),
    ("controller/agent/sources/", &["Agent", "Task"]),
    ("controller/agent", &["Agent"]),
    ("task/", &["Task"]),
    ("controller/task", &["Task"]),
    ("schedule/", &["CronTask"]),
    ("controller/crontask", &["CronTask"]),
    ("pod/task_run/", &["Task"]),
    ("controller/template.rs", &["AgentTemplate", "PilothouseConfig"]),
    ("server/voice/certificate.rs", &["the controller's log"]),
];

/// The kinds that a file speaks for; `None` for each.
fn speaks_for(file: &str) -> Option<&'static [&'static str]> {
    let below = file.rsplit_once("/src/").map_or(file, |(_, below)| below);
    SPEAKERS.iter().find(|(place, _)| below.starts_with(place)).map(|(_, kinds)| *kinds)
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
    let (table, code) = without_names(files);
    let code: String = code.into_iter().map(|(_, code)| code).collect();
    let unused: Vec<_> = names::REASONS
        .iter()
        .map(|r| (r.name, constant(&table, r.name)))
        .filter(|(name, constant)| !says(&code, name, constant))
        .map(|(name, _)| name)
        .collect();
    assert!(unused.is_empty(), "remove from src/api/names/reason_table.rs: {unused:?}");
}

/// The table, and all files but those that only give names: a condition's type may have the text of a reason.
fn without_names(files: Vec<(String, String)>) -> (String, Vec<(String, String)>) {
    let (names, code): (Vec<_>, Vec<_>) = files.into_iter().partition(|(file, _)| file.contains("/src/api/names/"));
    let table = names.into_iter().find(|(file, _)| file.ends_with("reason_table.rs")).unwrap().1;
    (table, code)
}

/// A reason is claimed for no kind whose code never says it.
#[test]
fn every_documented_reason_is_said_of_its_kinds() {
    let mut files = vec![];
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let (table, code) = without_names(files);
    let mut wrong = vec![];
    for r in names::REASONS {
        let constant = constant(&table, r.name);
        let places: Vec<_> = code.iter().filter(|(_, code)| says(code, r.name, constant)).map(|(f, _)| f).collect();
        let kinds: Option<Vec<_>> = places.iter().map(|file| speaks_for(file)).collect();
        let Some(kinds) = kinds.map(|k| k.concat()) else { continue };
        wrong.extend(r.kinds.iter().filter(|k| !kinds.contains(k)).map(|k| format!("{}: {k}", r.name)));
    }
    assert!(wrong.is_empty(), "nothing says these reasons of these kinds:\n{}", wrong.join("\n"));
}

#[test]
fn a_file_speaks_for_its_kinds() {
    assert_eq!(speaks_for("/x/src/git/error.rs"), Some(&["Repository", "Agent", "Task"][..]));
    assert_eq!(speaks_for("/x/src/controller/repository/hook.rs"), Some(&["Repository"][..]));
    assert_eq!(speaks_for("/x/src/controller/runtime/mod.rs"), None);
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
    assert_eq!(literal("kinds::TEXT_PENDING, \"Text\")", 0), Some("kinds::TEXT_PENDING"));
}
