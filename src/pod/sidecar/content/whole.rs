//! Whole repositories: a work tree with `.git` that the agent works in, and that is brought forward under its hands.
//!
//! The work tree is the agent's. It is filled once, and nothing that is there is overwritten. A new commit replaces
//! only the files that it changes, one after another, each by a rename; where one of them has local edits, or the branch has
//! commits of its own, nothing at all is touched and the reason is told. What Git does not know or ignores stays.

use std::{
    collections::BTreeSet,
    io::{self, Read},
    path::Path,
};

use rustix::fs::FileType;
use sha2::{Digest as _, Sha256};

use super::{
    folder::Folder,
    index::{Edits, Index, Mark},
};
use crate::api::content::DIRTY;

const HEAD: &str = ".git/HEAD";
const HEADS: &str = ".git/refs/heads/";
/// Files that only we would write are not longer.
const MAX_FILE: u64 = 64 << 20;
const MAX_SHALLOW: u64 = 8 << 20;
const MAX_REFS: u64 = 16 << 20;
/// While one of these is in `.git`, an operation is under way that a new commit would spoil.
const UNDER_WAY: [&str; 7] =
    ["index.lock", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "BISECT_START", "rebase-merge", "rebase-apply"];

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is in place.
    Done,
    /// Somebody else's repository is there, which is left alone.
    Foreign,
    /// Nothing was changed; why.
    Held(String),
}

/// Whether the file says which commit is checked out.
pub(super) fn is_pointer(path: &str) -> bool {
    path == HEAD || path.starts_with(HEADS)
}

/// Names what it reads.
pub(super) struct Hashing<'a> {
    inner: &'a mut dyn Read,
    hasher: Sha256,
}

impl<'a> Hashing<'a> {
    pub(super) fn new(inner: &'a mut dyn Read) -> Self {
        Self { inner, hasher: Sha256::new() }
    }

    /// The name of a file with what was read.
    pub(super) fn content(self, executable: bool) -> String {
        named(if executable { 'x' } else { 'f' }, self.hasher)
    }
}

impl Read for Hashing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

/// The name of a link to that target.
pub(super) fn content_of_link(target: &[u8]) -> String {
    named('l', Sha256::new_with_prefix(target))
}

fn named(kind: char, hasher: Sha256) -> String {
    use std::fmt::Write as _;
    hasher.finalize().iter().take(16).fold(kind.to_string(), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    })
}

fn content_of(bytes: &[u8]) -> String {
    named('f', Sha256::new_with_prefix(bytes))
}

/// Something that no commit has.
const OTHER: &str = "?";

/// A work tree, read by paths that mostly follow each other.
struct Reader<'a> {
    root: &'a Folder,
    open: Option<(String, Option<Folder>)>,
}

impl<'a> Reader<'a> {
    fn new(root: &'a Folder) -> Self {
        Self { root, open: None }
    }

    /// What a path holds now; `None` for nothing. One that leads through a file or a link holds [`OTHER`].
    fn content(&mut self, path: &str, known: &Index) -> io::Result<Option<String>> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if self.open.as_ref().is_none_or(|(at, _)| at != parent) {
            let folder = match self.root.descend(parent, None) {
                Ok(folder) => Some(folder),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(_) => return Ok(Some(OTHER.into())),
            };
            self.open = Some((parent.to_owned(), folder));
        }
        let Some((_, Some(folder))) = &self.open else { return Ok(None) };
        content_at(folder, name, known.content(path))
    }
}

fn content_at(folder: &Folder, name: &str, known: (Option<&str>, Option<Mark>)) -> io::Result<Option<String>> {
    let Some(stat) = folder.stat(name)? else { return Ok(None) };
    if let (Some(content), Some(mark)) = known
        && mark == Mark::of(&stat)
    {
        return Ok(Some(content.to_owned()));
    }
    Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => match folder.read(name, MAX_FILE) {
            Ok(Some(bytes)) => named(if stat.st_mode & 0o100 == 0 { 'f' } else { 'x' }, Sha256::new_with_prefix(bytes)),
            _ => OTHER.into(),
        },
        FileType::Symlink => {
            use std::os::unix::ffi::OsStrExt as _;
            folder.link_target(name).map_or(OTHER.into(), |to| content_of_link(to.as_os_str().as_bytes()))
        }
        _ => OTHER.into(),
    }))
}

/// What of the work tree is not as it was put there: tracked files, and what is checked out. Files of nobody are not
/// counted.
pub(super) fn edits(root: &Folder, index: &Index) -> io::Result<Edits> {
    let (mut edits, mut reader) = (Edits::default(), Reader::new(root));
    for path in index.contents() {
        let now = if is_pointer(path) { pointer(root, path) } else { reader.content(path, index)? };
        if now.as_deref() != index.content(path).0 {
            edits.add(path);
        }
    }
    Ok(edits)
}

/// Content of HEAD or of a branch, also where Git has packed it.
fn pointer(root: &Folder, path: &str) -> Option<String> {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let loose = match root.descend(parent, None) {
        Ok(folder) => folder.read(name, MAX_REFS).unwrap_or_default(),
        Err(_) => None,
    };
    if let Some(bytes) = loose {
        return Some(content_of(&bytes));
    }
    let packed = root.enter(".git").and_then(|git| git.read("packed-refs", MAX_REFS)).ok().flatten();
    let packed = String::from_utf8_lossy(&packed.unwrap_or_default()).into_owned();
    let full = path.strip_prefix(".git/").unwrap_or(path);
    let id = packed.lines().find_map(|line| line.strip_suffix(full)?.strip_suffix(' '));
    id.map(|id| content_of(format!("{id}\n").as_bytes()))
}

/// Puts the tree in `slot` at `target`, which is there already: fills it for the first time, or brings it forward from `old`.
pub(super) fn put(target: &Folder, slot: &Folder, new: &Index, old: Option<&Index>) -> io::Result<Outcome> {
    let has_git = target.kind(".git")?.is_some();
    match old {
        Some(old) if has_git => forward(target, slot, new, old),
        _ if has_git => Ok(Outcome::Foreign),
        _ => fill(target, slot, new).map(|()| Outcome::Done),
    }
}

/// What is there stays.
pub(super) fn fill_files(target: &Folder, slot: &Folder, new: &Index) -> io::Result<()> {
    let mut reader = Reader::new(target);
    for path in work_tree(new) {
        if reader.content(path, &Index::default())?.is_none() {
            move_over(slot, target, path)?;
            reader.open = None;
        }
    }
    Ok(())
}

/// `.git` comes last and in one step: without it the next start goes on here.
pub(super) fn fill(target: &Folder, slot: &Folder, new: &Index) -> io::Result<()> {
    fill_files(target, slot, new)?;
    empty_folders(slot, target)?;
    if target.kind(".git")?.is_none() {
        slot.rename(".git", target, ".git")?;
    }
    Ok(())
}

fn work_tree(index: &Index) -> impl Iterator<Item = &str> {
    index.contents().filter(|path| !is_pointer(path))
}

/// Folders without files, which stand for submodules.
fn empty_folders(slot: &Folder, target: &Folder) -> io::Result<()> {
    slot.each(|name, kind| {
        if kind == FileType::Directory && name != ".git" {
            let inner = slot.enter(name)?;
            match target.make(name) {
                Ok(there) => empty_folders(&inner, &there)?,
                // Somebody's file has the name.
                Err(_) => return Ok(true),
            }
        }
        Ok(true)
    })
}

fn move_over(slot: &Folder, target: &Folder, path: &str) -> io::Result<()> {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let to = target.descend(parent, Some(&mut 0))?;
    if to.kind(name)? == Some(FileType::Directory) {
        to.remove_empty(name);
    }
    slot.descend(parent, None)?.rename_over(name, &to, name)
}

/// From one commit to another. It may begin again where it was interrupted: what is as it will be counts as done.
fn forward(target: &Folder, slot: &Folder, new: &Index, old: &Index) -> io::Result<Outcome> {
    let mut in_the_way = Edits::default();
    let git = target.enter(".git").map_err(|error| io::Error::new(error.kind(), format!(".git: {error}")))?;
    for name in UNDER_WAY {
        if git.kind(name)?.is_some() {
            in_the_way.add(&format!(".git/{name}"));
        }
    }
    for path in old.contents().chain(new.contents()).filter(|path| is_pointer(path)).collect::<BTreeSet<_>>() {
        let now = pointer(target, path);
        if ![old, new].iter().any(|index| index.content(path).0 == now.as_deref()) {
            in_the_way.add(path);
        }
    }
    let changed = changed(target, new, old, &mut in_the_way)?;
    if in_the_way.any() {
        return Ok(Outcome::Held(format!(
            "{DIRTY}: {in_the_way} was changed in the pod and by the new commit, or is not where the last one left \
             it; push it elsewhere or undo it (nothing was touched)"
        )));
    }
    objects(slot, &git)?;
    replace(target, slot, new, &changed)?;
    empty_folders(slot, target)?;
    pointers(&slot.enter(".git")?, &git, new, old)?;
    Ok(Outcome::Done)
}

/// Removes what the new commit does not have, and moves over what it has.
pub(super) fn replace(target: &Folder, slot: &Folder, new: &Index, changed: &[&str]) -> io::Result<()> {
    for path in changed.iter().filter(|path| new.content(path).0.is_none()) {
        remove(target, path)?;
    }
    for path in changed.iter().filter(|path| new.content(path).0.is_some()) {
        move_over(slot, target, path)?;
    }
    Ok(())
}

/// Paths of the work tree that have to change and may.
pub(super) fn changed<'a>(
    target: &Folder,
    new: &'a Index,
    old: &'a Index,
    in_the_way: &mut Edits,
) -> io::Result<Vec<&'a str>> {
    let (mut changed, mut reader) = (vec![], Reader::new(target));
    let leaving: BTreeSet<&str> = work_tree(old).filter(|path| new.content(path).0.is_none()).collect();
    for path in work_tree(old).chain(work_tree(new)).collect::<BTreeSet<_>>() {
        let (was, will) = (old.content(path).0, new.content(path).0);
        if was == will {
            continue;
        }
        let now = reader.content(path, old)?;
        if now.as_deref() == will {
            continue;
        }
        let is_ours = now.as_deref() == was || was.is_none() && makes_room(target, path, &leaving)?;
        if is_ours { changed.push(path) } else { in_the_way.add(path) }
    }
    Ok(changed)
}

/// Whether nothing but what leaves is at a path, or where its folders will be.
fn makes_room(target: &Folder, path: &str, leaving: &BTreeSet<&str>) -> io::Result<bool> {
    let mut above = path;
    while let Some((parent, _)) = above.rsplit_once('/') {
        if leaving.contains(parent) {
            return Ok(true);
        }
        above = parent;
    }
    let Ok(folder) = target.descend(path, None) else { return Ok(false) };
    let mut only_ours = true;
    folder.walk(&mut |below, _, _| {
        only_ours = leaving.contains(format!("{path}/{below}").as_str());
        Ok(only_ours)
    })?;
    Ok(only_ours)
}

/// A file, and the folders above it that are empty then.
fn remove(target: &Folder, path: &str) -> io::Result<()> {
    let (mut parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    match target.descend(parent, None) {
        Ok(folder) => folder.unlink(name)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    while !parent.is_empty() {
        let (above, name) = parent.rsplit_once('/').unwrap_or(("", parent));
        if !target.descend(above, None)?.remove_empty(name) {
            break;
        }
        parent = above;
    }
    Ok(())
}

/// Packs before their indexes: Git looks for a pack as soon as it sees the index.
fn objects(slot: &Folder, git: &Folder) -> io::Result<()> {
    let (from, to) = (slot.descend(".git/objects/pack", None)?, git.descend("objects/pack", Some(&mut 0))?);
    let mut names = from.names()?;
    names.sort_by_key(|name| Path::new(name).extension().is_some_and(|extension| extension == "idx"));
    for name in names {
        if to.kind(&name)?.is_none() {
            from.rename(&name, &to, &name)?;
        }
    }
    Ok(())
}

/// The index, where history ends, and last of all what is checked out.
fn pointers(from: &Folder, git: &Folder, new: &Index, old: &Index) -> io::Result<()> {
    if let Some(more) = from.read("shallow", MAX_SHALLOW)? {
        let before = git.read("shallow", MAX_SHALLOW)?.unwrap_or_default();
        let (before, more) = (String::from_utf8_lossy(&before), String::from_utf8_lossy(&more));
        // The older commits are there too, and their parents are not.
        let all: BTreeSet<&str> = before.lines().chain(more.lines()).collect();
        git.replace("shallow", all.iter().fold(String::new(), |text, id| text + id + "\n").as_bytes())?;
    }
    if from.kind("index")?.is_some() {
        from.rename_over("index", git, "index")?;
    }
    let heads = new.contents().filter_map(|path| path.strip_prefix(HEADS));
    for branch in heads {
        for path in [format!("refs/remotes/origin/{branch}"), format!("refs/heads/{branch}")] {
            move_over_pointer(from, git, &path)?;
        }
    }
    if new.content(HEAD).0 != old.content(HEAD).0 {
        move_over_pointer(from, git, "HEAD")?;
    }
    Ok(())
}

fn move_over_pointer(from: &Folder, git: &Folder, path: &str) -> io::Result<()> {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let Ok(here) = from.descend(parent, None) else { return Ok(()) };
    match here.read(name, MAX_REFS)? {
        Some(bytes) => git.descend(parent, Some(&mut 0))?.replace(name, &bytes),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
