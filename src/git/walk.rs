//! From a Git tree to a [`FileTree`].

use std::collections::BTreeMap;

use gix::{bstr::ByteSlice, objs::tree::EntryKind};

use super::{
    error::{GitError, Reason},
    remote::{Fetched, Limits, Skipped, Stop},
};
use crate::tree::{Entry, PathError, RepoPath};

/// Links to links are followed this far.
const MAX_LINKS: usize = 8;

/// Reads all regular files of `commit`. Links that lead to a regular file of the tree become that file; other links,
/// submodules and names that no path may have are left out and listed.
pub(super) fn read(
    repo: &gix::Repository,
    commit: gix::ObjectId,
    limits: Limits,
    stop: &Stop,
) -> Result<Fetched, GitError> {
    let object = repo.find_object(commit).map_err(|_| missing())?;
    let root = object
        .peel_to_tree()
        .map_err(|_| GitError::new(Reason::CommitNotFound, "the reference leads to something that is no commit"))?;
    let mut walk = Walk { repo, limits, stop, bytes: 0, links: BTreeMap::new(), fetched: Fetched::default() };
    walk.folder(&root, "", 0)?;
    walk.resolve_links();
    walk.fetched.skipped.sort();
    Ok(walk.fetched)
}

fn missing() -> GitError {
    GitError::new(Reason::CommitNotFound, "an object of the commit is missing from what the server sent")
}

struct Walk<'a> {
    repo: &'a gix::Repository,
    limits: Limits,
    stop: &'a Stop,
    bytes: u64,
    links: BTreeMap<RepoPath, String>,
    fetched: Fetched,
}

impl Walk<'_> {
    fn folder(&mut self, tree: &gix::Tree<'_>, prefix: &str, depth: usize) -> Result<(), GitError> {
        self.stop.check()?;
        if depth > 128 {
            return Err(GitError::new(Reason::TooLarge, "folders are nested more than 128 deep"));
        }
        for entry in tree.iter() {
            let entry = entry.map_err(|_| missing())?;
            let name = entry.filename();
            let text = name.to_str_lossy();
            let full = if prefix.is_empty() { text.to_string() } else { format!("{prefix}/{text}") };
            let path = match checked(name, &full) {
                Ok(path) => path,
                Err(why) => {
                    self.skip(&full, why);
                    continue;
                }
            };
            match entry.mode().kind() {
                EntryKind::Tree => {
                    let inner = self.repo.find_tree(entry.object_id()).map_err(|_| missing())?;
                    self.folder(&inner, &full, depth + 1)?;
                }
                EntryKind::Blob => self.file(path, entry.object_id(), false)?,
                EntryKind::BlobExecutable => self.file(path, entry.object_id(), true)?,
                EntryKind::Link => self.link(path, entry.object_id())?,
                EntryKind::Commit => self.skip(&full, "a submodule"),
            }
        }
        Ok(())
    }

    fn skip(&mut self, path: &str, why: &'static str) {
        let printable = path.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        // A tree full of oddities is no reason to keep a list of them all.
        if self.fetched.skipped.len() < 100 {
            self.fetched.skipped.push(Skipped { path: printable, why });
        }
    }

    fn blob(&mut self, id: gix::ObjectId, path: &RepoPath) -> Result<Vec<u8>, GitError> {
        let header = self.repo.find_header(id).map_err(|_| missing())?;
        let size = header.size();
        if size > self.limits.file {
            let limit = self.limits.file >> 20;
            return Err(GitError::new(
                Reason::TooLarge,
                format!("{path} is larger than {limit} MiB, the limit for one file"),
            ));
        }
        self.bytes += size;
        if self.bytes > self.limits.tree {
            let limit = self.limits.tree >> 20;
            return Err(GitError::new(
                Reason::TooLarge,
                format!("the files of the commit exceed {limit} MiB together"),
            ));
        }
        Ok(self.repo.find_blob(id).map_err(|_| missing())?.take_data())
    }

    fn file(&mut self, path: RepoPath, id: gix::ObjectId, executable: bool) -> Result<(), GitError> {
        if self.fetched.tree.len() >= self.limits.files {
            let message = format!("the commit has more than {} files", self.limits.files);
            return Err(GitError::new(Reason::TooLarge, message));
        }
        let bytes = self.blob(id, &path)?.into();
        self.fetched.tree.insert(path, Entry { bytes, executable });
        Ok(())
    }

    fn link(&mut self, path: RepoPath, id: gix::ObjectId) -> Result<(), GitError> {
        let target = self.blob(id, &path)?;
        match String::from_utf8(target) {
            Ok(target) => {
                self.links.insert(path, target);
            }
            Err(_) => self.skip(path.as_str(), "a link whose target is no text"),
        }
        Ok(())
    }

    fn resolve_links(&mut self) {
        let links = std::mem::take(&mut self.links);
        let mut found = Vec::new();
        for path in links.keys() {
            match follow(path, &links, &self.fetched.tree) {
                Ok(entry) => found.push((path.clone(), entry)),
                Err(why) => self.skip(path.as_str(), why),
            }
        }
        for (path, entry) in found {
            self.bytes += entry.bytes.len() as u64;
            self.fetched.tree.insert(path, entry);
        }
    }
}

fn checked(name: &gix::bstr::BStr, full: &str) -> Result<RepoPath, &'static str> {
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
) -> Result<Entry, &'static str> {
    let mut at = start.clone();
    for _ in 0..MAX_LINKS {
        let Some(target) = links.get(&at) else { break };
        at = at.parent().join(target).map_err(|_| "a link that leads out of the repository")?;
        if let Some(entry) = tree.get(&at) {
            return Ok(entry.clone());
        }
    }
    let folder = tree.is_dir(&at) || links.keys().any(|link| *link != at && link.is_within(&at));
    Err(if folder { "a link to a folder" } else { "a link that leads nowhere" })
}
