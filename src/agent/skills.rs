//! Which skills of a tree the server can load, found before any of them reaches a pod (pure).
//!
//! A skill is a folder with a file `SKILL.md`, whose front matter has the folder's name and a description. One that
//! breaks the rules is left out by name, so that the others load.

mod front_matter;

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::{Entry, FileTree, RepoPath};

/// Name of the file that makes a folder a skill.
const FILE: &str = "SKILL.md";
/// Longest name, in characters.
const MAX_NAME: usize = 64;
/// Longest description, in characters.
const MAX_DESCRIPTION: usize = 1024;
/// Most that are said of what was left out, so that an annotation holds it.
const MAX_BAD: usize = 50;
/// Most skills of one source, for the same reason.
const MAX_GOOD: usize = 500;
/// Longest reason why one was left out, in characters.
const MAX_WHY: usize = 200;

/// What was taken, and what was left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// The tree without the folders of bad skills; where names were given, only the folders of those.
    pub tree: FileTree,
    /// Names of the skills in it, sorted.
    pub good: Vec<String>,
    /// Skills that were left out, sorted: name or path of the folder, and why.
    pub bad: Vec<(String, String)>,
}

/// Chooses from `tree`, whose root is the directory that holds the skills. `names` are folders right below it.
pub fn skills(tree: &FileTree, names: Option<&[String]>) -> Chosen {
    let mut found = Found::default();
    for (folder, entry) in folders(tree, names) {
        found.add(&folder, entry);
    }
    for name in names.into_iter().flatten() {
        let taken = |folder: &RepoPath| folder.as_str() == name;
        if !found.good.values().any(taken) && !found.bad.keys().any(taken) {
            let why = format!("there is no {name}/{FILE} at this commit; add it, or take the name out of names");
            found.leave(&RepoPath::parse(name).unwrap_or_default(), name, &why);
        }
    }
    let tree = found.kept(tree, names);
    let good = found.good.into_keys().collect();
    let mut bad: Vec<_> = found.bad.into_values().collect();
    let more = bad.len().saturating_sub(MAX_BAD);
    if more > 0 {
        bad.truncate(MAX_BAD);
        bad.push(("…".into(), format!("and {more} more")));
    }
    Chosen { tree, good, bad }
}

/// Folders that are a skill, or look like one: with the file where its name is right.
fn folders<'a>(tree: &'a FileTree, names: Option<&[String]>) -> Vec<(RepoPath, Option<&'a Entry>)> {
    let mut folders: BTreeMap<RepoPath, Option<&Entry>> = BTreeMap::new();
    for (path, entry) in tree.iter() {
        let folder = path.parent();
        let wanted = names.is_none_or(|names| names.iter().any(|name| folder.as_str().split('/').next() == Some(name)));
        match path.file_name() {
            Some(FILE) if wanted => _ = folders.insert(folder, Some(entry)),
            Some(name) if wanted && name.eq_ignore_ascii_case(FILE) => _ = folders.entry(folder).or_default(),
            _ => {}
        }
    }
    folders.into_iter().collect()
}

#[derive(Default)]
struct Found {
    /// Name, and its folder.
    good: BTreeMap<String, RepoPath>,
    /// Folder; name and why.
    bad: BTreeMap<RepoPath, (String, String)>,
}

impl Found {
    fn add(&mut self, folder: &RepoPath, entry: Option<&Entry>) {
        let shown = folder.to_string();
        let Some(entry) = entry else {
            return self.leave(folder, &shown, &format!("its file must be named {FILE}, in these letters"));
        };
        match check(folder, entry) {
            Err(why) => self.leave(folder, &shown, &why),
            Ok(name) => match self.good.get(&name) {
                Some(first) => {
                    let why = format!("the name {name} is taken by {first}; give it another name");
                    self.leave(folder, &shown, &why);
                }
                None if self.good.len() >= MAX_GOOD => {
                    self.leave(folder, &shown, &format!("a source has at most {MAX_GOOD} skills; use two"));
                }
                None => _ = self.good.insert(name, folder.clone()),
            },
        }
    }

    fn leave(&mut self, folder: &RepoPath, name: &str, why: &str) {
        self.bad.insert(folder.clone(), (name.into(), crate::status::truncate(why, MAX_WHY)));
    }

    /// Of each file the nearest folder with a skill decides; files outside of all stay, since skills may use them.
    fn kept(&self, tree: &FileTree, names: Option<&[String]>) -> FileTree {
        let good: BTreeSet<&RepoPath> = self.good.values().collect();
        let keep = |path: &RepoPath| {
            let mut folder = path.parent();
            loop {
                if good.contains(&folder) {
                    return true;
                }
                if self.bad.contains_key(&folder) && !is_outside(&folder, path) {
                    return false;
                }
                if folder.is_root() {
                    return names.is_none();
                }
                folder = folder.parent();
            }
        };
        tree.iter().filter(|(path, _)| keep(path)).map(|(path, entry)| (path.clone(), entry.clone())).collect()
    }
}

/// A `SKILL.md` at the root makes no skill of all that is there.
fn is_outside(folder: &RepoPath, path: &RepoPath) -> bool {
    folder.is_root() && !path.file_name().is_some_and(|name| name.eq_ignore_ascii_case(FILE) && path.parent().is_root())
}

/// The name of the skill, or why it is none.
fn check(folder: &RepoPath, entry: &Entry) -> Result<String, String> {
    let Some(directory) = folder.file_name() else {
        return Err(format!("{FILE} lies beside the folders of skills; put it into a folder of its name"));
    };
    let text = std::str::from_utf8(&entry.bytes).map_err(|_| format!("{FILE} is no UTF-8 text"))?;
    let fields = front_matter::read(text)?;
    let name = fields.name.ok_or_else(|| format!("{FILE} has no name in its front matter"))?;
    if !is_name(&name) {
        return Err(format!(
            "the name {name:?} in {FILE} must be 1 to {MAX_NAME} lower-case letters and digits, with single hyphens \
             between"
        ));
    }
    if name != directory {
        return Err(format!("the name {name:?} in {FILE} must be that of its folder, {directory:?}"));
    }
    let description = fields.description.ok_or_else(|| format!("{FILE} has no description in its front matter"))?;
    match description.chars().count() {
        1..=MAX_DESCRIPTION => Ok(name),
        0 => Err(format!("the description in {FILE} is empty")),
        length => {
            Err(format!("the description in {FILE} has {length} characters; at most {MAX_DESCRIPTION} are allowed"))
        }
    }
}

fn is_name(name: &str) -> bool {
    let part = |p: &str| !p.is_empty() && p.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    name.len() <= MAX_NAME && name.split('-').all(part)
}

#[cfg(test)]
mod tests;
