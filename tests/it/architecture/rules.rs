//! The table of rooms, and what breaks it.

use super::source::{self, Path, Token};

/// Whether a room may touch the world.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Nature {
    /// No I/O, clock, randomness or async.
    Pure,
    /// Touches the world.
    Effects,
}

/// A room and the rooms it may import.
pub(super) struct Room {
    pub name: &'static str,
    pub nature: Nature,
    pub may: &'static [&'static str],
}

const fn pure(name: &'static str, may: &'static [&'static str]) -> Room {
    Room { name, nature: Nature::Pure, may }
}

const fn effects(name: &'static str, may: &'static [&'static str]) -> Room {
    Room { name, nature: Nature::Effects, may }
}

/// Who may import whom; a test holds it against the table in docs/DESIGN.md. `status` holds what every room says with: reasons, error
/// classes, notes.
pub(super) const ROOMS: &[Room] = &[
    pure("api", &[]),
    pure("object", &["api"]),
    pure("tree", &["api"]),
    pure("status", &["api", "object"]),
    // The kinds of another API group are mapped to ours: names of groups and annotations are in api. Schedules are read.
    pure("render", &["object", "tree", "status", "api", "schedule"]),
    pure("plan", &["object", "api", "status"]),
    pure("schedule", &["api", "status"]),
    // Windows of the fleet open by schedule.
    pure("agent", &["api", "object", "tree", "status", "schedule"]),
    // A pod of a Task's own is an agent's without the Deployment around it.
    pure("task", &["api", "object", "status", "agent"]),
    effects("git", &["tree", "api", "status"]),
    effects("artifact", &["tree", "api", "status", "net"]),
    effects("apply", &["object", "plan", "api", "status"]),
    effects("net", &[]),
    effects("store", &["api"]),
    effects("server", &["api", "object", "status", "artifact", "net", "store"]),
    effects("pod", &["api", "tree", "artifact", "status", "net"]),
    // The wiring knows everything but the commands.
    effects(
        "controller",
        &[
            "api", "object", "tree", "status", "render", "plan", "agent", "task", "schedule", "git", "artifact",
            "apply", "store", "server",
        ],
    ),
    effects(
        "cli",
        &[
            "api",
            "object",
            "tree",
            "status",
            "render",
            "plan",
            "agent",
            "task",
            "schedule",
            "git",
            "artifact",
            "apply",
            "store",
            "server",
            "pod",
            "controller",
        ],
    ),
];

/// Crates that a pure room may name. Everything else is I/O, async, a clock, randomness, or not its business.
const PURE_CRATES: &[&str] = &[
    "alloc",
    "base64",
    "bytes",
    "core",
    "granit_parser",
    "hmac",
    "ignore",
    "jiff",
    "k8s_openapi",
    "kube",
    "minijinja",
    "regex",
    "schemars",
    "serde",
    "serde_json",
    "serde_saphyr",
    "sha2",
    "similar",
    "std",
    "subtle",
    "thiserror",
];

/// Paths that a pure room may not name although their crate is allowed, and why.
const IMPURE: &[(&[&str], &str)] = &[
    (&["std", "fs"], "reads and writes files"),
    (&["std", "net"], "opens connections"),
    (&["std", "process"], "starts or ends processes"),
    (&["std", "thread"], "starts threads"),
    (&["std", "env"], "reads the environment"),
    (&["std", "io", "stdin"], "reads the terminal"),
    (&["std", "io", "stdout"], "writes to the terminal"),
    (&["std", "io", "stderr"], "writes to the terminal"),
    (&["std", "time", "Instant"], "is a clock"),
    (&["std", "time", "SystemTime"], "is a clock"),
    (&["std", "hash", "RandomState"], "is random"),
    (&["kube", "client"], "talks to a cluster"),
    (&["kube", "Client"], "talks to a cluster"),
    (&["kube", "Api"], "talks to a cluster"),
    (&["kube", "api"], "talks to a cluster"),
    (&["kube", "config"], "reads the kubeconfig"),
    (&["kube", "Config"], "reads the kubeconfig"),
    (&["kube", "runtime"], "watches a cluster"),
    (&["kube", "discovery"], "talks to a cluster"),
    (&["ignore", "Walk"], "reads files"),
    (&["ignore", "WalkBuilder"], "reads files"),
];

/// Functions that read the clock, by their last two segments.
const CLOCKS: &[[&str; 2]] =
    &[["Timestamp", "now"], ["Zoned", "now"], ["Instant", "now"], ["SystemTime", "now"], ["Utc", "now"]];

/// Macros that write to the terminal.
const PRINTS: &[&str] = &["println", "print", "eprintln", "eprint", "dbg"];

/// Crates that one room alone may name.
const RESERVED: &[(&str, &str)] =
    &[("gix", "git"), ("gix_hash", "git"), ("sqlx", "store"), ("clap", "cli"), ("anyhow", "cli")];

/// Exceptions: (room, crate, why it is sensible).
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("controller", "clap", "its flags are its settings, kept beside what they set"),
    ("pod", "clap", "flags of what runs in pods, kept beside what they set"),
];

/// A file of the crate.
pub(super) struct File<'a> {
    /// Path below `src`, with slashes.
    pub path: &'a str,
    pub text: &'a str,
}

/// What `file` breaks, each as `path:line: …`. `crates` are the dependencies of the crate.
pub(super) fn broken(file: &File<'_>, crates: &[String]) -> Vec<String> {
    let Some(room) = room_of(file.path) else {
        return vec![];
    };
    let Some(room) = ROOMS.iter().find(|r| r.name == room) else {
        return vec![format!("src/{}:1: room {room} is not in the table of tests/it/architecture/rules.rs", file.path)];
    };
    if is_test(file.path) {
        return vec![];
    }
    let tokens = source::without_tests(&source::tokens(file.text));
    let mut found: Vec<(usize, String)> = vec![];
    for path in source::paths(&tokens) {
        found.extend(check(room, file.path, &path, crates).into_iter().map(|rule| (path.line, rule)));
    }
    if room.nature == Nature::Pure {
        found.extend(words(room, &tokens));
    }
    found.sort();
    found.dedup();
    found.into_iter().map(|(line, rule)| format!("src/{}:{line}: {rule}", file.path)).collect()
}

/// The room of a file below `src`; the roots of the crate belong to none.
fn room_of(path: &str) -> Option<&str> {
    let first = path.split('/').next()?;
    let first = first.strip_suffix(".rs").unwrap_or(first);
    (!matches!(first, "lib" | "main")).then_some(first)
}

fn is_test(path: &str) -> bool {
    path.split('/').any(|part| matches!(part, "tests" | "tests.rs"))
}

fn check(room: &Room, file: &str, path: &Path, crates: &[String]) -> Vec<String> {
    let mut found = vec![];
    if let Some(target) = target_room(room, file, path) {
        if target != room.name && ROOMS.iter().any(|r| r.name == target) && !room.may.contains(&target.as_str()) {
            found.push(format!("room {} may not import room {target}", room.name));
        }
        return found;
    }
    let first = path.segments[0].as_str();
    if path.segments.len() == 1 && !crates.iter().any(|c| c == first) {
        return found;
    }
    if crates.iter().any(|c| c == first) || matches!(first, "std" | "core" | "alloc") {
        found.extend(check_crate(room, first));
    }
    if room.nature == Nature::Pure {
        found.extend(impure(room, path));
    }
    found
}

fn check_crate(room: &Room, name: &str) -> Option<String> {
    let reserved: Vec<&str> = RESERVED.iter().filter(|(c, _)| *c == name).map(|(_, owner)| *owner).collect();
    let excepted = EXCEPTIONS.iter().any(|(r, c, _)| *r == room.name && *c == name);
    if !reserved.is_empty() && !reserved.contains(&room.name) && !excepted {
        return Some(format!("only room {} may name {name}", reserved.join(", ")));
    }
    (room.nature == Nature::Pure && !PURE_CRATES.contains(&name))
        .then(|| format!("pure room {} may not name crate {name}", room.name))
}

fn impure(room: &Room, path: &Path) -> Vec<String> {
    let text = path.segments.join("::");
    let mut found = vec![];
    for (prefix, why) in IMPURE {
        if path.segments.iter().map(String::as_str).take(prefix.len()).eq(prefix.iter().copied()) {
            found.push(format!("pure room {} may not name {text}: it {why}", room.name));
        }
    }
    if CLOCKS.iter().any(|clock| path.segments.iter().rev().take(2).rev().map(String::as_str).eq(clock.iter().copied()))
    {
        found.push(format!("pure room {} may not call {text}: it is a clock", room.name));
    }
    found
}

/// The room that a path leads to, if it leads into this crate.
fn target_room(room: &Room, file: &str, path: &Path) -> Option<String> {
    let first = path.segments[0].as_str();
    if matches!(first, "crate" | "pilothouse") {
        return path.segments.get(1).cloned();
    }
    if first != "super" {
        return (first == "self" || first == "Self").then(|| room.name.into());
    }
    let ups = path.segments.iter().take_while(|s| *s == "super").count();
    // Modules between the crate's root and the place of the path.
    let depth = module_depth(file) + path.depth;
    if ups < depth { Some(room.name.into()) } else { path.segments.get(ups).cloned() }
}

/// How deep the module of a file is: `tree/mod.rs` and `tree.rs` are 1.
fn module_depth(file: &str) -> usize {
    let parts = file.split('/').count();
    if file.ends_with("/mod.rs") { parts - 1 } else { parts }
}

fn words(room: &Room, tokens: &[Token]) -> Vec<(usize, String)> {
    let mut found = vec![];
    for (at, token) in tokens.iter().enumerate() {
        let next = tokens.get(at + 1).map_or("", |t| t.text.as_str());
        let before = at.checked_sub(1).map_or("", |i| tokens[i].text.as_str());
        let is_async = token.text == "async" && matches!(next, "fn" | "move" | "{" | "|");
        if is_async || (token.text == "await" && before == ".") {
            found.push((token.line, format!("pure room {} may not be async", room.name)));
        }
        if next == "!" && PRINTS.contains(&token.text.as_str()) {
            found.push((token.line, format!("pure room {} may not print", room.name)));
        }
    }
    found
}
