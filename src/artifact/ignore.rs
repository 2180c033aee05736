//! Files that stay out of an artifact (pure): `spec.ignore`, and `.sourceignore` files in the tree.

use std::collections::BTreeMap;

use ignore::{
    Match,
    gitignore::{Gitignore, GitignoreBuilder},
};

use crate::tree::{FileTree, RepoPath};

/// Name of the files that hold patterns for the folder they lie in.
pub const FILE: &str = ".sourceignore";

/// A pattern that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}, line {line}: the pattern is malformed: {problem}")]
pub struct IgnoreError {
    /// `spec.ignore` or the path of a file.
    pub place: String,
    /// From 1.
    pub line: usize,
    /// What is wrong.
    pub problem: String,
}

/// The tree without what is ignored. Patterns have the syntax of `.gitignore`.
///
/// `spec` has the last word, then the `.sourceignore` nearest to the file. These files themselves stay out too.
pub fn filter(tree: &FileTree, spec: Option<&str>) -> Result<FileTree, IgnoreError> {
    let spec = compile("spec.ignore", spec.unwrap_or_default())?;
    let mut nested = BTreeMap::new();
    for (path, entry) in tree.iter().filter(|(path, _)| path.file_name() == Some(FILE)) {
        nested.insert(path.parent(), compile(path.as_str(), &String::from_utf8_lossy(&entry.bytes))?);
    }
    if spec.is_empty() && nested.is_empty() {
        return Ok(tree.clone());
    }
    let keeps = |path: &RepoPath| path.file_name() != Some(FILE) && !ignored(path, &spec, &nested);
    Ok(tree.iter().filter(|(path, _)| keeps(path)).map(|(path, entry)| (path.clone(), entry.clone())).collect())
}

fn compile(place: &str, text: &str) -> Result<Gitignore, IgnoreError> {
    let mut builder = GitignoreBuilder::new("");
    let error =
        |line: usize, problem: ignore::Error| IgnoreError { place: place.into(), line, problem: problem.to_string() };
    for (number, line) in text.lines().enumerate() {
        builder.add_line(None, line).map_err(|problem| error(number + 1, problem))?;
    }
    builder.build().map_err(|problem| error(1, problem))
}

fn ignored(path: &RepoPath, spec: &Gitignore, nested: &BTreeMap<RepoPath, Gitignore>) -> bool {
    match spec.matched_path_or_any_parents(path.as_str(), false) {
        Match::Ignore(_) => return true,
        Match::Whitelist(_) => return false,
        Match::None => {}
    }
    let mut folder = path.parent();
    loop {
        if let Some(patterns) = nested.get(&folder)
            && let Some(relative) = path.relative_to(&folder)
        {
            match patterns.matched_path_or_any_parents(relative.as_str(), false) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
                Match::None => {}
            }
        }
        if folder.is_root() {
            return false;
        }
        folder = folder.parent();
    }
}
