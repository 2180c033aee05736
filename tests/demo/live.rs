//! Text on a terminal that replaces its former self.

/// Columns and rows of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// Columns.
    pub(crate) width: usize,
    /// Rows.
    pub(crate) height: usize,
}

/// What stands on the terminal now.
#[derive(Debug, Default)]
pub(crate) struct Live {
    /// Columns that each of its lines takes.
    lines: Vec<usize>,
}

impl Live {
    /// What to write so that `text` stands where the former one does. Lines are cut to the width: a line that wraps
    /// would take more rows than one. So is the text to the height: what has scrolled away cannot be replaced.
    pub(crate) fn redraw(&mut self, text: &str, size: Size) -> String {
        let mut out = self.erase(size);
        let room = size.height.saturating_sub(2).max(1);
        let all = text.lines().count();
        let shown = if all > room { room - 1 } else { all };
        let more = (all > shown).then(|| format!("… and {} more lines", all - shown));
        for line in text.lines().take(shown).map(str::to_owned).chain(more) {
            let line = cut(&line, size.width);
            self.lines.push(line.chars().count());
            out.push_str(&line);
            out.push('\n');
        }
        out
    }

    /// Takes it away: what is written next stands in its place. The terminal may have become narrower meanwhile.
    pub(crate) fn erase(&mut self, size: Size) -> String {
        let rows: usize = self.lines.drain(..).map(|columns| columns.div_ceil(size.width.max(1)).max(1)).sum();
        if rows == 0 { String::new() } else { format!("\x1b[{rows}A\r\x1b[J") }
    }
}

/// One column stays free: terminals differ in what they do after the last one.
fn cut(line: &str, width: usize) -> String {
    let room = width.saturating_sub(1).max(1);
    if line.chars().count() <= room {
        return line.to_owned();
    }
    line.chars().take(room - 1).chain(['…']).collect()
}
