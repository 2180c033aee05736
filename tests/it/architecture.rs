//! Which room may import which, what a pure room may name, and that no test file is forgotten.

mod rules;
mod source;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rules::{File, ROOMS, broken};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every `.rs` file below `folder`, relative to it, with its text.
fn rust_files(folder: &Path) -> Vec<(String, String)> {
    let (mut found, mut open) = (vec![], vec![folder.to_path_buf()]);
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).unwrap_or_else(|e| panic!("{}: {e}", next.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(folder).unwrap().to_string_lossy().replace('\\', "/");
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// Names of the dependencies in Cargo.toml, as Rust writes them.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut inside = false;
    let mut found = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.trim() == "[dependencies]";
        } else if inside && let Some((name, _)) = line.split_once('=') {
            found.insert(name.trim().replace('-', "_"));
        }
    }
    found.into_iter().filter(|n| !n.is_empty() && !n.starts_with('#')).collect()
}

#[test]
fn rooms_import_only_what_the_table_allows() {
    let crates = dependencies(&fs::read_to_string(root().join("Cargo.toml")).unwrap());
    assert!(crates.contains(&"kube".into()) && crates.contains(&"gix".into()), "no dependencies found: {crates:?}");
    let files = rust_files(&root().join("src"));
    assert!(files.len() > 20, "only {} files found", files.len());
    let found: Vec<String> = files.iter().flat_map(|(path, text)| broken(&File { path, text }, &crates)).collect();
    assert!(found.is_empty(), "{} violations of the rooms:\n{}", found.len(), found.join("\n"));
}

/// Whether the head of the library, which holds no code, compiles with this strategy.
fn compiles_with(panic: &str) -> bool {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let (head, _) = text.split_once("\npub mod ").expect("a list of rooms");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("head.rs");
    fs::write(&file, head).unwrap();
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition=2024", "--crate-type=lib", "--emit=metadata", &format!("-Cpanic={panic}"), "--out-dir"]);
    rustc.arg(folder.path()).arg(&file).output().unwrap().status.success()
}

/// The controller catches the panic of one object. With `abort` there is nothing to catch, and all of it ends.
#[test]
fn no_profile_ends_the_process_at_a_panic() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let mut section = "";
    let mut strategies = vec![];
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if section.starts_with("[profile.") && line.starts_with("panic") {
            strategies.push((section, line.split('"').nth(1).unwrap_or_default()));
        }
    }
    assert_eq!(strategies, [("[profile.release]", "unwind")], "a profile whose panics cannot be caught");
    // Whatever else may set it, such as the environment.
    assert!(compiles_with("unwind") && !compiles_with("abort"));
}

/// A request without a limit holds an agent's turn for as long as a dead connection says nothing.
#[test]
fn requests_for_agents_are_made_in_one_place() {
    let files = rust_files(&root().join("src/controller/agent"));
    let writes = |text: &str| text.contains("Api::<") || text.contains("kube::Api");
    let found: Vec<_> = files.iter().filter(|(_, text)| writes(text)).map(|(path, _)| path.as_str()).collect();
    assert_eq!(found, ["write.rs"], "make requests with the functions of write.rs, which limit their time");
}

/// A loop that nobody looks after ends in silence when it panics.
#[test]
fn loops_of_the_controller_are_looked_after() {
    let files = rust_files(&root().join("src/controller"));
    let spawns = |path: &str, text: &str| text.contains("tokio::spawn(") && !path.ends_with("tests.rs");
    let found: Vec<_> = files.iter().filter(|(path, text)| spawns(path, text)).map(|(path, _)| path.as_str()).collect();
    // Beside the crew itself: one artifact, whose panic is its failure; a test; orders that are sent once, and not missed.
    let allowed = ["agent/sources/packer.rs", "artifacts/collect.rs", "runtime/supervise.rs", "voice.rs"];
    assert_eq!(found, allowed, "start loops with `Crew::vital` or `Crew::keep`");
}

#[test]
fn every_room_of_the_table_exists() {
    for room in ROOMS {
        let (folder, file) = (format!("src/{}", room.name), format!("src/{}.rs", room.name));
        assert!(root().join(&folder).is_dir() || root().join(file).is_file(), "there is no {folder}");
        for other in room.may {
            assert!(ROOMS.iter().any(|r| r.name == *other), "{} may import {other}, which is no room", room.name);
        }
    }
}

/// The rows of the table in docs/DESIGN.md: room, kind, what it may import.
fn documented(design: &str) -> Vec<[String; 3]> {
    let table = design.lines().skip_while(|line| !line.starts_with("| room | kind | may import |")).skip(2);
    let cells = |line: &str| {
        let mut cells = line.trim_matches('|').split('|').map(|cell| cell.replace('`', "").trim().to_string());
        [(); 3].map(|()| cells.next().unwrap_or_default())
    };
    table.take_while(|line| line.starts_with('|')).map(cells).collect()
}

/// A list of rooms; `all` and `all but …` count from the others of the table.
fn listed(room: &str, text: &str) -> BTreeSet<String> {
    let names = |text: &str| text.split(',').map(|n| n.trim().to_string()).collect::<BTreeSet<_>>();
    let Some(but) = text.strip_prefix("all") else { return if text == "–" { BTreeSet::new() } else { names(text) } };
    let but = names(but.trim().trim_start_matches("but"));
    ROOMS.iter().map(|r| r.name.to_string()).filter(|name| name != room && !but.contains(name)).collect()
}

#[test]
fn the_design_has_the_same_table() {
    let design = fs::read_to_string(root().join("docs/DESIGN.md")).unwrap();
    let found: Vec<_> =
        documented(&design).into_iter().map(|[room, kind, may]| (room.clone(), kind, listed(&room, &may))).collect();
    let wanted: Vec<_> = ROOMS
        .iter()
        .map(|room| {
            let kind = if room.nature == rules::Nature::Pure { "pure" } else { "effects" };
            let may: BTreeSet<String> = room.may.iter().map(ToString::to_string).collect();
            (room.name.to_string(), kind.to_string(), may)
        })
        .collect();
    assert_eq!(found, wanted, "docs/DESIGN.md against tests/it/architecture/rules.rs, in the same order");
}

#[test]
fn pure_rooms_import_no_room_with_effects() {
    let pure = |name: &str| ROOMS.iter().any(|r| r.name == name && r.nature == rules::Nature::Pure);
    for room in ROOMS.iter().filter(|r| r.nature == rules::Nature::Pure) {
        assert!(room.may.iter().all(|other| pure(other)), "{}", room.name);
    }
}

/// A file that nobody declares is a test that never runs.
fn forgotten(main: &str, entries: &[String]) -> Vec<String> {
    let tokens = source::tokens(main);
    let declared: BTreeSet<&str> =
        tokens.windows(2).filter(|w| w[0].text == "mod").map(|w| w[1].text.as_str()).collect();
    entries.iter().filter(|e| *e != "main" && !declared.contains(e.as_str())).cloned().collect()
}

#[test]
fn no_test_file_is_forgotten() {
    let folder = root().join("tests/it");
    let entries: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "rs") || p.join("mod.rs").is_file())
        .map(|p| p.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    assert!(entries.contains(&"architecture".into()), "{entries:?}");
    let found = forgotten(&fs::read_to_string(folder.join("main.rs")).unwrap(), &entries);
    assert!(found.is_empty(), "tests/it/main.rs has no `mod` for: {}", found.join(", "));
}

#[test]
fn a_forgotten_file_is_found() {
    let entries = ["main", "one", "two", "three"].map(String::from);
    assert_eq!(forgotten("mod one; // mod two;\n#[cfg(unix)]\nmod three;", &entries), ["two"]);
}

/// `text` in a file of a pure room (`plan`), or where `path` says.
fn verdict(path: &str, text: &str) -> Vec<String> {
    let crates = ["gix", "tokio", "kube", "rand", "clap", "anyhow", "jiff", "serde_json", "axum"].map(String::from);
    broken(&File { path, text }, &crates)
}

#[test]
fn each_rule_finds_a_bad_snippet() {
    let table: &[(&str, &str, &[&str])] = &[
        ("plan/mod.rs", "use crate::git::Sources;", &["src/plan/mod.rs:1: room plan may not import room git"]),
        (
            "plan/a.rs",
            "use crate::{\n    api::names,\n    object::Object,\n    controller::{report, runtime::{Kind}},\n};",
            &["src/plan/a.rs:4: room plan may not import room controller"],
        ),
        ("plan/mod.rs", "fn f() { crate::cli::main(); }", &["src/plan/mod.rs:1: room plan may not import room cli"]),
        ("plan/mod.rs", "use super::git::X;", &["src/plan/mod.rs:1: room plan may not import room git"]),
        ("plan/a/b.rs", "use super::super::super::git::X;", &["src/plan/a/b.rs:1: room plan may not import room git"]),
        (
            "plan/mod.rs",
            "mod inner { use super::super::git::X; }",
            &["src/plan/mod.rs:1: room plan may not import room git"],
        ),
        ("git/mod.rs", "use crate::render::render;", &["src/git/mod.rs:1: room git may not import room render"]),
        (
            "pod/mod.rs",
            "fn f(s: &crate::controller::Settings) {}",
            &["src/pod/mod.rs:1: room pod may not import room controller"],
        ),
        ("plan/mod.rs", "use tokio::sync::mpsc;", &["src/plan/mod.rs:1: pure room plan may not name crate tokio"]),
        (
            "plan/mod.rs",
            "fn f() -> u8 { rand::random() }",
            &["src/plan/mod.rs:1: pure room plan may not name crate rand"],
        ),
        (
            "plan/mod.rs",
            "use kube::{Client, Resource};",
            &["src/plan/mod.rs:1: pure room plan may not name kube::Client: it talks to a cluster"],
        ),
        (
            "plan/mod.rs",
            "use kube::runtime::watcher;",
            &["src/plan/mod.rs:1: pure room plan may not name kube::runtime::watcher: it watches a cluster"],
        ),
        (
            "plan/mod.rs",
            "use std::{collections::BTreeMap,\n fs};",
            &["src/plan/mod.rs:2: pure room plan may not name std::fs: it reads and writes files"],
        ),
        (
            "plan/mod.rs",
            "fn f() { std::net::TcpStream::connect(a); }",
            &["src/plan/mod.rs:1: pure room plan may not name std::net::TcpStream::connect: it opens connections"],
        ),
        (
            "plan/mod.rs",
            "use std::time::{Duration, Instant};",
            &["src/plan/mod.rs:1: pure room plan may not name std::time::Instant: it is a clock"],
        ),
        (
            "plan/mod.rs",
            "use jiff::Timestamp;\nfn f() { Timestamp::now(); }",
            &["src/plan/mod.rs:2: pure room plan may not call Timestamp::now: it is a clock"],
        ),
        (
            "plan/mod.rs",
            "let t = jiff::Zoned::now();",
            &["src/plan/mod.rs:1: pure room plan may not call jiff::Zoned::now: it is a clock"],
        ),
        ("plan/mod.rs", "async fn f() {}", &["src/plan/mod.rs:1: pure room plan may not be async"]),
        ("plan/mod.rs", "fn f() { g().await }", &["src/plan/mod.rs:1: pure room plan may not be async"]),
        ("plan/mod.rs", "fn f() { println!(\"\") }", &["src/plan/mod.rs:1: pure room plan may not print"]),
        ("apply/mod.rs", "use gix::Repository;", &["src/apply/mod.rs:1: only room git may name gix"]),
        ("apply/mod.rs", "use anyhow::Context;", &["src/apply/mod.rs:1: only room cli may name anyhow"]),
        ("server/mod.rs", "use clap::Args;", &["src/server/mod.rs:1: only room cli may name clap"]),
        (
            "kitchen/mod.rs",
            "",
            &["src/kitchen/mod.rs:1: room kitchen is not in the table of tests/it/architecture/rules.rs"],
        ),
    ];
    for (path, text, expected) in table {
        assert_eq!(verdict(path, text), *expected, "{path}: {text}");
    }
}

#[test]
fn what_is_allowed_is_not_found() {
    let table: &[(&str, &str)] = &[
        ("lib.rs", "pub mod git; use tokio::x;"),
        ("main.rs", "fn main() { pilothouse::cli::main() }"),
        ("plan/mod.rs", "use crate::{api, object::Object, status::Failure}; use super::plan::order;"),
        ("plan/a/mod.rs", "use super::git::Local; mod tests { use super::super::git; }"),
        ("plan/mod.rs", "// use crate::git;\n/* tokio::x /* gix::y */ std::fs::z */"),
        ("plan/mod.rs", "/// like std::fs::read\nfn f() { \"std::fs::x\"; r#\"crate::git::x\"#; b'\\''; 'a'; }"),
        ("plan/mod.rs", "fn f<'a>(x: &'a str) -> std::time::Duration { g('\"', x) }"),
        ("plan/mod.rs", "#[cfg(test)]\nmod tests { use std::fs; async fn f() { tokio::spawn(x).await } }"),
        ("plan/tests.rs", "use std::fs; use crate::git;"),
        ("plan/mod.rs", "use jiff::Timestamp as Now; fn f(now: Now) -> jiff::Timestamp { now }"),
        ("controller/settings.rs", "use clap::Args;"),
        ("git/mod.rs", "use gix::Repository; use crate::tree::FileTree;"),
        ("cli/mod.rs", "use anyhow::Context; use crate::controller::Settings; use clap::Args;"),
    ];
    for (path, text) in table {
        assert_eq!(verdict(path, text), Vec::<String>::new(), "{path}: {text}");
    }
}

#[test]
fn code_after_a_test_module_is_read_again() {
    let text = "#[cfg(test)]\nmod tests { fn f() { if x { } } }\nuse std::fs;";
    assert_eq!(verdict("plan/mod.rs", text).len(), 1);
    let text = "#[cfg(test)]\nmod tests;\nuse std::fs;";
    assert_eq!(verdict("plan/mod.rs", text).len(), 1);
}

#[test]
fn dependencies_are_read_from_the_manifest() {
    let manifest = "[package]\nname = \"x\"\n[dependencies]\n# a comment\nserde-saphyr = \"2\"\ntokio = { version = \"1\" }\n\n[dev-dependencies]\ninsta = \"1\"\n";
    assert_eq!(dependencies(manifest), ["serde_saphyr", "tokio"]);
}
