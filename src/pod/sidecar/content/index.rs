//! What was put into a folder, so that edits by others show: of each file its size, time and permissions. Nothing is
//! read for it; who forges a file's time hides an edit from the report, and no more.

use std::{collections::BTreeMap, fmt::Write as _, io};

use rustix::fs::{FileType, Stat};

use super::folder::Folder;

/// Edited files that are named; the others are counted.
const NAMED: usize = 3;
/// Files of others that are looked at beside those that are expected.
const FOREIGN: usize = 10_000;

/// Stands for the path of a single file.
pub(super) const ALONE: &str = ".";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    size: u64,
    time: (i64, u64),
    mode: u32,
}

impl Mark {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            time: (stat.st_mtime, stat.st_mtime_nsec),
            mode: stat.st_mode & 0o777,
        }
    }
}

/// The files of a tree, or one file as [`ALONE`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    marks: BTreeMap<String, Mark>,
    /// Of whole repositories: what each file holds.
    contents: BTreeMap<String, String>,
}

/// How a tree differs from its index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Edits {
    /// The first few, sorted.
    names: Vec<String>,
    count: usize,
}

impl Edits {
    pub(super) fn any(&self) -> bool {
        self.count > 0
    }

    pub(super) fn add(&mut self, name: &str) {
        self.count += 1;
        self.names.push(name.chars().filter(|c| !c.is_control()).take(100).collect());
        self.names.sort_unstable();
        self.names.truncate(NAMED);
    }
}

impl std::fmt::Display for Edits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.names.join(", "))?;
        match self.count.saturating_sub(self.names.len()) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl Index {
    /// Adds a file as it is now.
    pub(super) fn add(&mut self, path: &str, stat: &Stat) {
        self.marks.insert(path.to_owned(), Mark::of(stat));
    }

    /// Adds a file with the name of its content, which has no spaces.
    pub(super) fn add_content(&mut self, path: &str, mark: Option<Mark>, content: String) {
        self.marks.extend(mark.map(|mark| (path.to_owned(), mark)));
        self.contents.insert(path.to_owned(), content);
    }

    /// What a file holds, and how it looked.
    pub(super) fn content(&self, path: &str) -> (Option<&str>, Option<Mark>) {
        (self.contents.get(path).map(String::as_str), self.marks.get(path).copied())
    }

    /// Files that are the same in both look as they did before.
    pub(super) fn inherit(&mut self, old: &Self) {
        for (path, mark) in &mut self.marks {
            if let (Some(content), Some(before)) = old.content(path)
                && self.contents.get(path).is_some_and(|own| own == content)
            {
                *mark = before;
            }
        }
    }

    /// Paths of whole repositories.
    pub(super) fn contents(&self) -> impl Iterator<Item = &str> {
        self.contents.keys().map(String::as_str)
    }

    /// One line a file.
    pub(super) fn to_text(&self) -> String {
        let mut text = self.marks.iter().fold(String::new(), |mut text, (path, m)| {
            let _ = writeln!(text, "{} {} {} {:o} {path}", m.size, m.time.0, m.time.1, m.mode);
            text
        });
        for (path, content) in &self.contents {
            let _ = writeln!(text, "= {content} {path}");
        }
        text
    }

    /// Reads what [`Self::to_text`] wrote; lines that are none are left out.
    pub(super) fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let mut parts = line.splitn(5, ' ');
            let size = parts.next()?.parse().ok()?;
            let time = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            let mode = u32::from_str_radix(parts.next()?, 8).ok()?;
            Some((parts.next()?.to_owned(), Mark { size, time, mode }))
        };
        let content = |line: &str| {
            let (content, path) = line.strip_prefix("= ")?.split_once(' ')?;
            Some((path.to_owned(), content.to_owned()))
        };
        Self { marks: text.lines().filter_map(line).collect(), contents: text.lines().filter_map(content).collect() }
    }

    /// How what has `name` now differs from it.
    pub(super) fn compare(&self, parent: &Folder, name: &str) -> io::Result<Edits> {
        let mut edits = Edits::default();
        let mut left = self.marks.clone();
        if let Some(alone) = left.remove(ALONE) {
            let now = parent.stat(name)?;
            if now.is_none_or(|stat| !is_plain(&stat) || Mark::of(&stat) != alone) {
                edits.add(name);
            }
            return Ok(edits);
        }
        if parent.kind(name)? != Some(FileType::Directory) {
            edits.add(name);
            return Ok(edits);
        }
        let mut foreign = 0;
        parent.enter(name)?.walk(&mut |path, folder, name| {
            match (left.remove(path), folder.stat(name)?) {
                (_, None) => {}
                (Some(mark), Some(stat)) if is_plain(&stat) && Mark::of(&stat) == mark => {}
                (_, Some(_)) => {
                    foreign += 1;
                    edits.add(path);
                }
            }
            Ok(foreign < FOREIGN)
        })?;
        if foreign < FOREIGN {
            for missing in left.keys() {
                edits.add(missing);
            }
        }
        Ok(edits)
    }
}

fn is_plain(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}
