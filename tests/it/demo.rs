//! The demo: its tables on terminals of any width, and the half of it that needs no real pods.

#![allow(dead_code, reason = "the other half is told by `make demo`")]

#[path = "../demo/embedded.rs"]
mod embedded;
#[path = "../demo/ending.rs"]
mod ending;
#[path = "../demo/foreign.rs"]
mod foreign;
#[path = "../demo/half.rs"]
mod half;
#[path = "../demo/live.rs"]
mod live;
#[path = "../demo/screen.rs"]
mod screen;
#[path = "../demo/serve.rs"]
mod serve;
#[path = "../demo/shell.rs"]
mod shell;
#[path = "../demo/story.rs"]
mod story;
#[path = "../demo/world.rs"]
mod world;

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use live::{Live, Size};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_half_without_pods_is_told() {
    let told = tokio::spawn(half::tell(true)).await.unwrap();
    assert_eq!(told, Err("only the half without pods was shown: see above what is missing".into()));
}

/// The command as nobody, who may open files as we do and nothing else: no namespaces, no mounts, no addresses.
fn as_nobody(program: &str) -> Command {
    let capabilities = "-all,+dac_override,+dac_read_search";
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    for set in ["inh-caps", "ambient-caps", "bounding-set"] {
        command.arg(format!("--{set}={capabilities}"));
    }
    command.arg(program);
    command
}

/// As a user types it who is not root and names no context.
#[test]
fn without_root_make_demo_tells_the_half_and_says_what_is_missing() {
    let id = Command::new("id").arg("-u").output().unwrap();
    let root = id.stdout == b"0\n";
    // What cargo tells this test would be news to build scripts: everything would be built anew.
    let forget = |command: &mut Command| {
        let of_cargo = |name: &str| name.starts_with("CARGO_MANIFEST") || name.starts_with("CARGO_PKG_");
        for (name, _) in std::env::vars().filter(|(name, _)| of_cargo(name)) {
            command.env_remove(name);
        }
    };
    // Nobody finds everything built: a linker asks by the user's own rights what it may read.
    let mut build = Command::new("cargo");
    forget(&mut build);
    build.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--locked", "--bin", "pilothouse", "--test", "demo"]);
    assert!(build.env("CARGO_NET_OFFLINE", "true").status().unwrap().success());
    let mut demo = if root { as_nobody("tests/demo/run") } else { Command::new("tests/demo/run") };
    forget(&mut demo);
    demo.current_dir(env!("CARGO_MANIFEST_DIR")).env("DEMO_ONCE", "1").env("CARGO_NET_OFFLINE", "true");
    for unset in ["DEMO_CONTEXT", "DEMO_REGISTRY", "DEMO_HALF", "KUBECONFIG"] {
        demo.env_remove(unset);
    }
    let out = demo.output().unwrap();
    let told = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "a half is not the whole: {told}");
    for part in
        ["This is not root on Linux", "this half happened", "sudo make demo", "only the half without pods was shown"]
    {
        assert!(told.contains(part), "{part:?} is not in\n{told}");
    }
}

/// Set in the process that [`ctrl_c_takes_everything_away`] breaks off: it tells the story.
const TELLS: &str = "PILOTHOUSE_TEST_TELLS_THE_DEMO";

/// What the demo's `main` does.
fn tell() -> ! {
    let once = std::env::var_os("DEMO_ONCE").is_some();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let told = runtime.block_on(async {
        tokio::spawn(ending::interrupts());
        tokio::spawn(half::tell(once)).await.unwrap_or_else(|_| Err("the demo broke".into()))
    });
    std::process::exit(ending::code(told, once).into())
}

/// The exit code of a process that ends within a minute and a half.
fn ended(child: &mut Child) -> Option<i32> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(90) {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = child.kill();
    panic!("it did not end");
}

/// Files below a folder, and command lines that name it. Reserved numbers of ports stay, for all clusters of a user.
fn left(folder: &Path) -> Vec<String> {
    let files = ignore::WalkBuilder::new(folder).standard_filters(false).build();
    let files = files
        .filter_map(Result::ok)
        .filter(|e| !e.path().is_dir() && !e.path().to_str().unwrap().contains("/.ports/"))
        .map(|e| e.path().display().to_string());
    let lines = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).filter_map(|process| {
        let line = std::fs::read(process.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(folder.to_str().unwrap()).then_some(line)
    });
    files.chain(lines).collect()
}

/// In the middle of a step, as a terminal does it: the signal goes to all processes of the group.
#[test]
fn ctrl_c_takes_everything_away() {
    if std::env::var_os(TELLS).is_some() {
        tell();
    }
    for (once, code, step) in [(true, 130, "3. A push becomes agents"), (false, 0, "2. The controller")] {
        // Short: sockets lie in it.
        let folder = tempfile::Builder::new().prefix("d").tempdir_in("/tmp").unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "demo::ctrl_c_takes_everything_away", "--nocapture"]);
        command.env(TELLS, "1").env("TMPDIR", folder.path()).env_remove("DEMO_ONCE");
        if once {
            command.env("DEMO_ONCE", "1");
        }
        let mut child = command.process_group(0).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|line| line.contains(step)), "it ended before {step:?}");
        assert!(!left(folder.path()).is_empty(), "nothing runs that could be taken away");
        let group = format!("-{}", child.id());
        assert!(Command::new("kill").args(["-s", "INT", "--", &group]).status().unwrap().success());
        let rest: Vec<String> = lines.collect();
        assert_eq!(ended(&mut child), Some(code), "{rest:#?}");
        assert_eq!(left(folder.path()), Vec::<String>::new(), "{rest:#?}");
        assert!(rest.iter().any(|line| line.contains("cleaning up")), "{rest:#?}");
    }
}

#[test]
fn a_task_that_says_nothing_is_no_answer() {
    for (answer, said) in [("", false), (" \n", false), ("The README is clear.\n", true)] {
        assert_eq!(story::said(answer).is_ok(), said, "{answer:?}");
    }
}

/// A terminal: what stands in its rows, and where the cursor is. It has scrolled nothing away.
struct Terminal {
    width: usize,
    rows: Vec<String>,
    row: usize,
}

impl Terminal {
    fn new(width: usize) -> Self {
        Self { width, rows: vec![String::new()], row: 0 }
    }

    fn write(&mut self, text: &str) {
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if let Some(escape) = rest.strip_prefix("\x1b[") {
                let end = escape.find(|c: char| c.is_ascii_alphabetic()).expect("an end of the sequence");
                self.obey(&escape[end..=end], escape[..end].parse().unwrap_or(1));
                rest = &escape[end + 1..];
                continue;
            }
            match c {
                '\n' => self.next_row(),
                '\r' => {} // what follows erases the row
                c => {
                    if self.rows[self.row].chars().count() == self.width {
                        self.next_row();
                    }
                    self.rows[self.row].push(c);
                }
            }
            rest = &rest[c.len_utf8()..];
        }
    }

    fn next_row(&mut self) {
        self.row += 1;
        if self.row == self.rows.len() {
            self.rows.push(String::new());
        }
    }

    fn obey(&mut self, command: &str, number: usize) {
        match command {
            "A" => self.row = self.row.checked_sub(number).expect("the cursor stays on the screen"),
            "J" => {
                self.rows.truncate(self.row + 1);
                self.rows[self.row].clear();
            }
            other => panic!("a terminal of these tests does not know {other}"),
        }
    }
}

#[test]
fn a_table_stands_once_on_terminals_of_any_width() {
    let table = |age: usize| {
        let row = |name: &str| {
            format!("{name:<41}https://git.example.com/platform/agents.git   True    main@1a2b3c4   {age}s")
        };
        ["repository.pilothouse.dev/team", "sync.pilothouse.dev/agents", "agent.pilothouse.dev/on-call"]
            .map(row)
            .join("\n")
    };
    for width in [1, 2, 20, 80, 100, 101, 102, 300] {
        let (mut live, mut terminal) = (Live::default(), Terminal::new(width));
        terminal.write("before\n");
        let above = terminal.rows.len() - 1;
        for age in 0..20 {
            terminal.write(&live.redraw(&table(age), Size { width, height: 24 }));
            assert_eq!(terminal.rows.len(), above + 4, "width {width}: {:#?}", terminal.rows);
        }
        let last = &terminal.rows[above];
        let cut = width <= table(19).lines().next().unwrap().chars().count();
        assert_eq!(last.ends_with('…'), cut, "width {width}: {last}");
        assert!(cut || last.ends_with("19s"), "{last}");
    }
}

#[test]
fn a_table_is_replaced_on_a_terminal_that_became_narrower() {
    let mut live = Live::default();
    live.redraw(&format!("{}\nb", "a".repeat(70)), Size { width: 80, height: 24 });
    assert!(live.redraw("c", Size { width: 40, height: 24 }).starts_with("\x1b[3A\r\x1b[J"));
}

#[test]
fn a_table_is_not_higher_than_the_terminal() {
    let mut live = Live::default();
    let long = (0..50).map(|n| n.to_string()).collect::<Vec<_>>().join("\n");
    let drawn = live.redraw(&long, Size { width: 80, height: 10 });
    assert_eq!(drawn.lines().count(), 8);
    assert!(drawn.ends_with("… and 43 more lines\n"), "{drawn}");
    assert!(live.redraw("", Size { width: 80, height: 10 }).starts_with("\x1b[8A"));
}
