//! What the demo prints.

use std::{
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

fn paint(code: &str, text: &str) -> String {
    if std::io::stdout().is_terminal() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// A new part of the story.
pub(crate) fn chapter(number: usize, title: &str) {
    println!("\n{}", paint("1;36", &format!("── {number}. {title} ")));
}

/// One line.
pub(crate) fn say(text: &str) {
    println!("   {text}");
}

/// What was shown to work, and how long it took.
pub(crate) fn good(text: &str, took: Option<Duration>) {
    let time = took.map(|t| format!("  ({:.1} s)", t.as_secs_f64())).unwrap_or_default();
    println!(" {} {text}{}", paint("1;32", "✓"), paint("2", &time));
}

/// What did not happen.
pub(crate) fn bad(text: &str) {
    println!(" {} {text}", paint("1;31", "✗"));
}

/// A command, as a user would type it.
pub(crate) fn command(text: &str) {
    println!(" {} {}", paint("2", "$"), paint("1", text));
}

/// A table that replaces its former self on a terminal, and is printed anew elsewhere when it changed.
#[derive(Default)]
pub(crate) struct Table {
    shown: String,
    lines: usize,
}

impl Table {
    /// Shows `text`.
    pub(crate) fn show(&mut self, text: &str) {
        if same_but_age(text, &self.shown) {
            return;
        }
        let mut out = std::io::stdout().lock();
        if std::io::stdout().is_terminal() && self.lines > 0 {
            let _ = write!(out, "\x1b[{}A\x1b[J", self.lines);
        } else if self.lines > 0 {
            let _ = writeln!(out, "     …");
        }
        for line in text.lines() {
            let _ = writeln!(out, "     {line}");
        }
        let _ = out.flush();
        self.lines = text.lines().count();
        text.clone_into(&mut self.shown);
    }
}

/// Whether two tables differ in their last column at most: ages tick.
fn same_but_age(a: &str, b: &str) -> bool {
    let columns = |text: &str| -> Vec<String> {
        text.lines().map(|l| l.trim_end().rsplit_once(' ').map_or(l, |(rest, _)| rest.trim_end()).to_owned()).collect()
    };
    columns(a) == columns(b)
}

/// Runs `check` until it gives a value, showing `table` meanwhile; an error says what did not happen.
pub(crate) async fn until<T>(
    what: &str,
    limit: Duration,
    mut table: impl FnMut() -> Option<String>,
    mut check: impl FnMut() -> Option<T>,
) -> Result<(T, Duration), String> {
    let started = Instant::now();
    let mut shown = Table::default();
    loop {
        let value = check();
        if let Some(text) = table() {
            shown.show(&text);
        }
        if let Some(value) = value {
            return Ok((value, started.elapsed()));
        }
        if super::shell::interrupted() {
            return Err("interrupted".into());
        }
        if started.elapsed() > limit {
            return Err(format!("this did not happen within {} s: {what}", limit.as_secs()));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
