//! The end of what was written, for the time when the pod is gone.

use std::{
    collections::VecDeque,
    io::{Result, Write},
};

/// Bytes that are kept.
const KEPT: usize = 1024;

/// Hands on what is written, and remembers the end of it.
pub(super) struct Tail<'a, W> {
    out: &'a mut W,
    kept: VecDeque<u8>,
}

impl<'a, W: Write> Tail<'a, W> {
    pub(super) fn new(out: &'a mut W) -> Self {
        Self { out, kept: VecDeque::with_capacity(KEPT) }
    }

    /// The end of it: whole characters, and whole lines where it was cut and has several.
    pub(super) fn text(&self) -> String {
        let bytes: Vec<u8> = self.kept.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_start_matches('\u{fffd}').trim_end();
        match text.split_once('\n') {
            Some((_, whole)) if self.kept.len() == KEPT => whole.to_owned(),
            _ => text.to_owned(),
        }
    }
}

impl<W: Write> Write for Tail<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let written = self.out.write(bytes)?;
        self.kept.extend(&bytes[..written]);
        let surplus = self.kept.len().saturating_sub(KEPT);
        self.kept.drain(..surplus);
        Ok(written)
    }

    fn flush(&mut self) -> Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_in_whole_lines() {
        let mut out = vec![];
        let mut tail = Tail::new(&mut out);
        tail.write_all(b"one\ntwo\n").unwrap();
        assert_eq!(tail.text(), "one\ntwo");
        tail.write_all("\u{e9}".repeat(600).as_bytes()).unwrap();
        assert!(tail.text().chars().all(|c| c == '\u{e9}'), "no half characters: {}", tail.text());
        tail.write_all(b"\nlast line\n").unwrap();
        assert_eq!(tail.text(), "last line");
        assert!(out.starts_with(b"one\n") && out.len() > KEPT, "all of it is handed on");
    }
}
