//! A read-only file tree in memory with safe paths (pure).
//!
//! Everything that Pilothouse renders or publishes is such a tree: it has no links that lead out of it, no absolute
//! paths and no `..`, so no later room has to check for them again.

use std::{collections::BTreeMap, fmt, ops::Bound, sync::Arc};

/// A normalised path inside a [`FileTree`]: relative, `/`-separated, without empty, `.` or `..` components.
///
/// The root is the empty path.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoPath(Arc<str>);

/// Why a text is no [`RepoPath`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The path starts at a file system root.
    #[error("path {0:?} is absolute; write it relative to the root of the repository")]
    Absolute(String),
    /// The path leaves the tree.
    #[error("path {0:?} leaves the repository; `..` must not go above its root")]
    Escapes(String),
    /// A component is not allowed: `.git`, a NUL byte, a backslash or a control character.
    #[error("path {0:?} has a component that is not allowed (`.git`, backslashes and control characters are refused)")]
    Component(String),
    /// The path is longer than 4096 bytes.
    #[error("path is {0} bytes long; at most 4096 are allowed")]
    TooLong(usize),
}

impl RepoPath {
    /// The root of the tree.
    pub fn root() -> Self {
        Self::default()
    }

    /// Parses and normalises `text`; `./a//b/../c` becomes `a/c`.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        Self::root().join(text)
    }

    /// Resolves `text` against this path, which is taken as a folder. `..` may climb, but never above the root.
    pub fn join(&self, text: &str) -> Result<Self, PathError> {
        if text.len() > 4096 {
            return Err(PathError::TooLong(text.len()));
        }
        if text.starts_with('/') {
            return Err(PathError::Absolute(text.into()));
        }
        let mut parts: Vec<&str> = if self.is_root() { vec![] } else { self.0.split('/').collect() };
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop().ok_or_else(|| PathError::Escapes(text.into()))?;
                }
                _ if !component_allowed(part) => return Err(PathError::Component(text.into())),
                _ => parts.push(part),
            }
        }
        Ok(Self(parts.join("/").into()))
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path as text; the root is `""`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last component; `None` for the root.
    pub fn file_name(&self) -> Option<&str> {
        if self.is_root() { None } else { self.0.rsplit('/').next() }
    }

    /// The folder that holds this path; the root is its own parent.
    #[must_use]
    pub fn parent(&self) -> Self {
        self.0.rsplit_once('/').map_or_else(Self::root, |(dir, _)| Self(dir.into()))
    }

    /// Whether this path is `dir` or lies below it.
    pub fn is_within(&self, dir: &Self) -> bool {
        dir.is_root() || self.0.strip_prefix(dir.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// This path relative to `dir`; `None` when it does not lie within it.
    pub fn relative_to(&self, dir: &Self) -> Option<Self> {
        if !self.is_within(dir) {
            return None;
        }
        Some(Self(self.0[dir.0.len()..].trim_start_matches('/').into()))
    }
}

/// `.git` is refused in any case because case-insensitive checkouts would run its hooks and read its config.
fn component_allowed(part: &str) -> bool {
    !part.eq_ignore_ascii_case(".git") && !part.chars().any(|c| c.is_control() || c == '\\')
}

impl fmt::Display for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_root() { "." } else { &self.0 })
    }
}

/// One file of a tree.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The content.
    pub bytes: Arc<[u8]>,
    /// Whether Git marks it executable (mode 100755).
    pub executable: bool,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entry({} bytes{})", self.bytes.len(), if self.executable { ", executable" } else { "" })
    }
}

/// A read-only tree of files, sorted by path. Folders exist only through their files, as in Git.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileTree {
    files: BTreeMap<RepoPath, Entry>,
}

impl FileTree {
    /// The file at `path`.
    pub fn get(&self, path: &RepoPath) -> Option<&Entry> {
        self.files.get(path)
    }

    /// Whether any file lies below `dir` (the root of an empty tree is no folder).
    pub fn is_dir(&self, dir: &RepoPath) -> bool {
        self.under(dir).any(|(path, _)| path != dir)
    }

    /// All files, by path.
    pub fn iter(&self) -> impl Iterator<Item = (&RepoPath, &Entry)> {
        self.files.iter()
    }

    /// The files at or below `dir`, by path.
    pub fn under<'a>(&'a self, dir: &'a RepoPath) -> impl Iterator<Item = (&'a RepoPath, &'a Entry)> {
        self.files
            .range::<RepoPath, _>((Bound::Included(dir), Bound::Unbounded))
            .take_while(move |(path, _)| path.as_str().starts_with(dir.as_str()))
            .filter(move |(path, _)| path.is_within(dir))
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is no file.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Adds or replaces a file; for builders of trees (Git, a local folder, tests).
    pub fn insert(&mut self, path: RepoPath, entry: Entry) {
        self.files.insert(path, entry);
    }
}

impl FromIterator<(RepoPath, Entry)> for FileTree {
    fn from_iter<T: IntoIterator<Item = (RepoPath, Entry)>>(iter: T) -> Self {
        Self { files: iter.into_iter().collect() }
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for FileTree {
    /// For tests and examples: paths that do not parse are left out.
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a str)>>(iter: T) -> Self {
        iter.into_iter()
            .filter_map(|(path, text)| {
                Some((RepoPath::parse(path).ok()?, Entry { bytes: text.as_bytes().into(), executable: false }))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised_and_confined() {
        for (text, want) in [("./a//b/../c", "a/c"), ("", ""), ("./", ""), ("a/..", ""), ("x/y", "x/y")] {
            assert_eq!(RepoPath::parse(text).unwrap().as_str(), want, "{text}");
        }
        for bad in ["/etc/passwd", "../x", "a/../../x", ".git/config", "a/.GIT/hooks", "a\\b", "a\0b"] {
            assert!(RepoPath::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn under_takes_whole_components() {
        let tree: FileTree = [("a/x", "1"), ("a-b/y", "2"), ("a/z/w", "3"), ("b", "4")].into_iter().collect();
        let a = RepoPath::parse("a").unwrap();
        assert_eq!(tree.under(&a).map(|(p, _)| p.as_str()).collect::<Vec<_>>(), ["a/x", "a/z/w"]);
        assert!(tree.is_dir(&a));
        assert!(!tree.is_dir(&RepoPath::parse("b").unwrap()));
        assert_eq!(tree.under(&RepoPath::root()).count(), 4);
    }
}
