//! The demo: its tables on terminals of any width, and the half of it that needs no real pods.

#![allow(dead_code, reason = "the other half is told by `make demo`")]

#[path = "../demo/embedded.rs"]
mod embedded;
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

use live::{Live, Size};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_half_without_pods_is_told() {
    let told = tokio::spawn(half::tell(true)).await.unwrap();
    assert_eq!(told, Err("only the half without pods was shown: see above what is missing".into()));
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
