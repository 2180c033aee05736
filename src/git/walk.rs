//! From a Git tree to a [`FileTree`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use gix::{Repository, bstr::ByteSlice, objs::tree::EntryKind};

use super::{
    budget::Budget,
    error::{GitError, Reason},
    objects::{self, Object, know, missing},
    remote::{Fetched, Limits, Skipped, Stop},
    submodules::{Module, Modules},
};
use crate::{
    status::text,
    tree::{Entry, PathError, RepoPath},
};

/// Links to links are followed this far.
const MAX_LINKS: usize = 8;
/// Bytes of a link's target; no system follows longer ones.
pub(super) const MAX_TARGET: u64 = 4096;

/// Reads all regular files of `commit`, and those of its submodules where they are wanted. Links that lead to a regular file of
/// the tree become that file; other links, other submodules and names that no path may have are left out and listed.
pub(super) fn read(
    (repo, commit): (&gix::Repository, gix::ObjectId),
    modules: &Modules,
    limits: Limits,
    (budget, namespaces): (&Arc<Budget>, &[String]),
    stop: &Stop,
) -> Result<Fetched, GitError> {
    let mut share = budget.take(namespaces, limits.tree, stop.left()).ok_or_else(busy)?;
    let root = objects::root(repo, commit, stop)?;
    let mut walk = Walk {
        modules,
        limits,
        stop,
        bytes: 0,
        entries: 0,
        links: BTreeMap::new(),
        folders: BTreeSet::new(),
        fetched: Fetched::default(),
    };
    walk.folder(repo, &root, "", 0)?;
    walk.resolve_links()?;
    walk.fetched.skipped.sort();
    share.shrink_to(walk.bytes);
    walk.fetched.share = Some(Arc::new(share));
    Ok(walk.fetched)
}

pub(super) fn busy() -> GitError {
    GitError::new(Reason::Timeout, "other large trees are being published; this one is read when they are done")
}

struct Walk<'a> {
    modules: &'a Modules,
    limits: Limits,
    stop: &'a Stop,
    /// Of files, copies that links stand for, names, and folders' lists.
    bytes: u64,
    /// Files, links and folders that were visited, kept or not.
    entries: usize,
    links: BTreeMap<RepoPath, String>,
    folders: BTreeSet<RepoPath>,
    fetched: Fetched,
}

impl Walk<'_> {
    fn folder(&mut self, repo: &Repository, tree: &gix::Tree<'_>, prefix: &str, depth: usize) -> Result<(), GitError> {
        if depth > 128 {
            return Err(GitError::new(Reason::TooLarge, "folders are nested more than 128 deep"));
        }
        for entry in tree.iter() {
            let entry = entry.map_err(|_| missing())?;
            self.stop.check()?;
            self.count_entry()?;
            let name = entry.filename();
            let text = name.to_str_lossy();
            let full = if prefix.is_empty() { text.to_string() } else { format!("{prefix}/{text}") };
            let path = match checked(name, &full) {
                Ok(path) => path,
                Err(why) => {
                    // Its name counts only where it is kept.
                    self.skip(&full, why);
                    continue;
                }
            };
            self.spend(full.len() as u64)?;
            match entry.mode().kind() {
                EntryKind::Tree => {
                    let list = know((repo, entry.object_id()), self.stop)?;
                    self.spend(list.size)?;
                    let inner = list.tree()?;
                    self.folders.insert(path);
                    self.folder(repo, &inner, &full, depth + 1)?;
                }
                EntryKind::Blob => self.file(path, (repo, entry.object_id()), false)?,
                EntryKind::BlobExecutable => self.file(path, (repo, entry.object_id()), true)?,
                EntryKind::Link => self.link(path, (repo, entry.object_id()))?,
                EntryKind::Commit => self.submodule(&path, depth)?,
            }
        }
        Ok(())
    }

    fn submodule(&mut self, path: &RepoPath, depth: usize) -> Result<(), GitError> {
        match self.modules.look(path.as_str(), self.stop)? {
            Module::Nothing(why) => self.skip(path.as_str(), why),
            Module::Files(repo, root) => {
                self.spend(root.data.len() as u64)?;
                self.folders.insert(path.clone());
                self.folder(repo, &root, path.as_str(), depth + 1)?;
            }
        }
        Ok(())
    }

    fn skip(&mut self, path: &str, why: &'static str) {
        // A tree full of oddities is no reason to keep a list of them all.
        if self.fetched.skipped.len() < 100 {
            self.fetched.skipped.push(Skipped { path: text::line(path), why });
        }
    }

    fn blob(&mut self, object: Object<'_>, path: &RepoPath) -> Result<Vec<u8>, GitError> {
        let found = know(object, self.stop)?;
        if found.size > self.limits.file {
            let limit = self.limits.file >> 20;
            return Err(GitError::new(
                Reason::TooLarge,
                format!("{path} is larger than {limit} MiB, the limit for one file"),
            ));
        }
        self.spend(found.size)?;
        found.blob()
    }

    fn count_entry(&mut self) -> Result<(), GitError> {
        self.entries += 1;
        if self.entries > self.limits.files {
            let message = format!("the commit has more than {} files, links and folders", self.limits.files);
            return Err(GitError::new(Reason::TooLarge, message));
        }
        Ok(())
    }

    fn spend(&mut self, size: u64) -> Result<(), GitError> {
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limits.tree {
            let limit = self.limits.tree >> 20;
            return Err(GitError::new(
                Reason::TooLarge,
                format!("the files of the commit exceed {limit} MiB together"),
            ));
        }
        Ok(())
    }

    fn file(&mut self, path: RepoPath, object: Object<'_>, executable: bool) -> Result<(), GitError> {
        let bytes = self.blob(object, &path)?.into();
        self.fetched.tree.insert(path, Entry { bytes, executable });
        Ok(())
    }

    fn link(&mut self, path: RepoPath, object: Object<'_>) -> Result<(), GitError> {
        if know(object, self.stop)?.size > MAX_TARGET {
            self.skip(path.as_str(), "a link whose target is too long");
            return Ok(());
        }
        let target = self.blob(object, &path)?;
        match String::from_utf8(target) {
            Ok(target) => {
                self.links.insert(path, target);
            }
            Err(_) => self.skip(path.as_str(), "a link whose target is no text"),
        }
        Ok(())
    }

    /// Each link becomes a copy in the archive, so each counts like a file of its own.
    fn resolve_links(&mut self) -> Result<(), GitError> {
        let links = std::mem::take(&mut self.links);
        let mut found = Vec::new();
        for path in links.keys() {
            self.stop.check()?;
            match follow(path, &links, &self.fetched.tree, &self.folders) {
                Ok(entry) => {
                    self.spend(entry.bytes.len() as u64)?;
                    found.push((path.clone(), entry));
                }
                Err(why) => self.skip(path.as_str(), why),
            }
        }
        for (path, entry) in found {
            self.fetched.tree.insert(path, entry);
        }
        Ok(())
    }
}

pub(super) fn checked(name: &gix::bstr::BStr, full: &str) -> Result<RepoPath, &'static str> {
    if name.to_str().is_err() {
        return Err("a name that is no UTF-8");
    }
    // `RepoPath` would normalise these away, and two entries would become one.
    if matches!(name.as_bytes(), b"" | b"." | b"..") || name.contains(&b'/') {
        return Err("a name that is no path component");
    }
    RepoPath::parse(full).map_err(|error| match error {
        PathError::TooLong(_) => "a path of more than 4096 bytes",
        _ => "a name with `.git`, a backslash or a control character",
    })
}

fn follow(
    start: &RepoPath,
    links: &BTreeMap<RepoPath, String>,
    tree: &crate::tree::FileTree,
    folders: &BTreeSet<RepoPath>,
) -> Result<Entry, &'static str> {
    let mut at = start.clone();
    for _ in 0..MAX_LINKS {
        let Some(target) = links.get(&at) else { break };
        at = at.parent().join(target).map_err(|_| "a link that leads out of the repository")?;
        if let Some(entry) = tree.get(&at) {
            return Ok(entry.clone());
        }
    }
    Err(if folders.contains(&at) { "a link to a folder" } else { "a link that leads nowhere" })
}
