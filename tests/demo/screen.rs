//! What the demo prints.

use std::{
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use super::live::{Live, Size};

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

/// A table that replaces its former self on a terminal, with what is waited for below it; elsewhere it is printed anew
/// when it changed.
#[derive(Default)]
struct Table {
    live: Live,
    shown: String,
}

impl Table {
    fn show(&mut self, text: Option<&str>, waits: Option<&str>) {
        if !std::io::stdout().is_terminal() {
            self.print(text.unwrap_or_default());
            return;
        }
        if let Some(text) = text {
            text.clone_into(&mut self.shown);
        }
        let lines = self.shown.lines().map(|line| format!("     {line}"));
        let lines: Vec<String> = lines.chain(waits.map(|w| format!("   … {w}"))).collect();
        let drawn = self.live.redraw(&lines.join("\n"), size());
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(drawn.as_bytes()).and_then(|()| out.flush());
    }

    fn print(&mut self, text: &str) {
        if text.is_empty() || same_but_age(text, &self.shown) {
            return;
        }
        let mut out = std::io::stdout().lock();
        if !self.shown.is_empty() {
            let _ = writeln!(out, "     …");
        }
        for line in text.lines() {
            let _ = writeln!(out, "     {line}");
        }
        text.clone_into(&mut self.shown);
    }
}

/// The terminal's size: as it says, else as `COLUMNS` and `LINES` do.
fn size() -> Size {
    let told = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let of = |told: Option<u16>, name: &str, usual| {
        let set = || std::env::var(name).ok()?.parse().ok();
        told.map(usize::from).filter(|n| *n > 0).or_else(set).unwrap_or(usual)
    };
    Size { width: of(told.map(|t| t.ws_col), "COLUMNS", 80), height: of(told.map(|t| t.ws_row), "LINES", 24) }
}

/// Whether two tables differ in their last column at most: ages tick.
fn same_but_age(a: &str, b: &str) -> bool {
    let columns = |text: &str| -> Vec<String> {
        text.lines().map(|l| l.trim_end().rsplit_once(' ').map_or(l, |(rest, _)| rest.trim_end()).to_owned()).collect()
    };
    columns(a) == columns(b)
}

/// Runs `check` until it gives a value, showing `table` and what is waited for meanwhile; an error says what did not
/// happen.
pub(crate) async fn until<T>(
    what: &str,
    limit: Duration,
    mut table: impl FnMut() -> Option<String>,
    mut check: impl FnMut() -> Option<T>,
) -> Result<(T, Duration), String> {
    let started = Instant::now();
    let (mut shown, mut drawn) = (Table::default(), None::<Instant>);
    if !std::io::stdout().is_terminal() {
        say(&format!("… until {what}"));
    }
    loop {
        let value = check();
        // Ages tick, and so do the seconds that it takes.
        if value.is_some() || drawn.is_none_or(|at| at.elapsed() >= Duration::from_millis(500)) {
            let waits = value.is_none().then(|| format!("until {what} ({} s)", started.elapsed().as_secs()));
            shown.show(table().as_deref(), waits.as_deref());
            drawn = Some(Instant::now());
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
