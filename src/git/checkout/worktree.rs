//! The files of a commit as they lie in a work tree: nothing may be left out, or Git would call it deleted.

use std::collections::BTreeSet;

use gix::{ObjectId, bstr::ByteSlice as _, objs::tree::EntryKind};

use super::{index::Staged, too_large};
use crate::{
    api::content::checkout::{Rest, TREE},
    git::{
        error::{GitError, Reason},
        remote::{Limits, Stop},
        walk::{MAX_TARGET, checked, missing},
    },
    tree::{Entry, FileTree, RepoPath},
};

/// Folders in folders.
const MAX_DEPTH: usize = 128;

/// A work tree.
#[derive(Debug, Default)]
pub(super) struct WorkTree {
    /// Below [`TREE`].
    pub(super) files: FileTree,
    pub(super) rest: Rest,
    pub(super) entries: Vec<Staged>,
    /// Of files and names.
    pub(super) bytes: u64,
}

/// Reads it.
pub(super) fn read(
    repo: &gix::Repository,
    commit: ObjectId,
    limits: Limits,
    stop: &Stop,
) -> Result<WorkTree, GitError> {
    let object = repo.find_object(commit).map_err(|_| missing())?;
    let root = object
        .peel_to_tree()
        .map_err(|_| GitError::new(Reason::CommitNotFound, "the reference leads to something that is no commit"))?;
    let mut reader = Reader { repo, limits, stop, count: 0, found: WorkTree::default() };
    reader.folder(&root, "", 0)?;
    Ok(reader.found)
}

struct Reader<'a> {
    repo: &'a gix::Repository,
    limits: Limits,
    stop: &'a Stop,
    count: usize,
    found: WorkTree,
}

impl Reader<'_> {
    fn folder(&mut self, tree: &gix::Tree<'_>, prefix: &str, depth: usize) -> Result<(), GitError> {
        self.stop.check()?;
        let (mut names, too_deep) = (BTreeSet::new(), depth > MAX_DEPTH);
        for entry in tree.iter() {
            let entry = entry.map_err(|_| missing())?;
            let name = entry.filename();
            let text = name.to_str_lossy();
            let full = if prefix.is_empty() { text.to_string() } else { format!("{prefix}/{text}") };
            let path = checked(name, &full).map_err(|why| refused(&full, why))?;
            if !names.insert(text.to_string()) {
                return Err(refused(&full, "in its folder twice"));
            }
            self.count += 1;
            if too_deep || self.count > self.limits.files {
                return Err(too_large(self.limits.tree));
            }
            let (id, kind) = (entry.object_id(), entry.mode().kind());
            if kind == EntryKind::Tree {
                let inner = self.repo.find_tree(id).map_err(|_| missing())?;
                self.folder(&inner, &full, depth + 1)?;
            } else {
                self.leaf(&path, id, kind)?;
            }
        }
        Ok(())
    }

    fn leaf(&mut self, path: &RepoPath, id: ObjectId, kind: EntryKind) -> Result<(), GitError> {
        self.spend(path.as_str().len() as u64)?;
        let mode = match kind {
            EntryKind::Link => {
                self.link(path, id)?;
                0o120_000
            }
            EntryKind::Commit => {
                self.found.rest.folders.push(path.as_str().into());
                0o160_000
            }
            kind => {
                let executable = kind == EntryKind::BlobExecutable;
                let bytes = self.blob(path, id, self.limits.file)?.into();
                let below = RepoPath::parse(&format!("{TREE}{path}"));
                let below = below.map_err(|_| refused(path.as_str(), "a path of more than 4096 bytes"))?;
                self.found.files.insert(below, Entry { bytes, executable });
                if executable { 0o100_755 } else { 0o100_644 }
            }
        };
        self.found.entries.push(Staged { path: path.as_str().into(), mode, id });
        Ok(())
    }

    fn link(&mut self, path: &RepoPath, id: ObjectId) -> Result<(), GitError> {
        let target = self.blob(path, id, MAX_TARGET)?;
        let target = String::from_utf8(target).ok().filter(|text| !text.is_empty() && !text.contains('\0'));
        let target = target.ok_or_else(|| refused(path.as_str(), "a link whose target is no text"))?;
        self.found.rest.links.insert(path.as_str().into(), target);
        Ok(())
    }

    fn blob(&mut self, path: &RepoPath, id: ObjectId, limit: u64) -> Result<Vec<u8>, GitError> {
        let size = self.repo.find_header(id).map_err(|_| missing())?.size();
        if size > limit {
            let message = format!("{path} is larger than {limit} bytes, the limit for one file or link");
            return Err(GitError::new(Reason::TooLarge, message));
        }
        self.spend(size)?;
        Ok(self.repo.find_blob(id).map_err(|_| missing())?.take_data())
    }

    fn spend(&mut self, bytes: u64) -> Result<(), GitError> {
        self.found.bytes = self.found.bytes.saturating_add(bytes);
        if self.found.bytes > self.limits.tree { Err(too_large(self.limits.tree)) } else { Ok(()) }
    }
}

fn refused(path: &str, why: &str) -> GitError {
    let message = format!(
        "{path} is {why}, so the repository cannot be checked out as a whole; set path to a directory without it"
    );
    GitError::new(Reason::CheckoutRefused, message)
}
