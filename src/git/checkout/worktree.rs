//! The files of a commit as they lie in a work tree: nothing may be left out, or Git would call it deleted.

use std::collections::BTreeSet;

use gix::{ObjectId, Repository, bstr::ByteSlice as _, objs::tree::EntryKind};

use super::{index::Staged, too_large};
use crate::{
    api::content::checkout::{Rest, TREE},
    git::{
        error::{GitError, Reason},
        objects::{self, Object, know, missing},
        remote::{Limits, Stop},
        submodules::{Module, Modules},
        walk::{MAX_TARGET, checked},
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

/// Reads it. The files of submodules have no `.git` of their own: Git takes no notice of what is at the path of a submodule that
/// is no repository.
pub(super) fn read(
    (repo, commit): (&Repository, ObjectId),
    modules: &Modules,
    limits: Limits,
    stop: &Stop,
) -> Result<WorkTree, GitError> {
    let root = objects::root(repo, commit, stop)?;
    let mut reader = Reader { modules, limits, stop, count: 0, is_inside: false, found: WorkTree::default() };
    reader.folder(repo, &root, "", 0)?;
    Ok(reader.found)
}

struct Reader<'a> {
    modules: &'a Modules,
    limits: Limits,
    stop: &'a Stop,
    count: usize,
    /// Whether a submodule is being read.
    is_inside: bool,
    found: WorkTree,
}

impl Reader<'_> {
    fn folder(&mut self, repo: &Repository, tree: &gix::Tree<'_>, prefix: &str, depth: usize) -> Result<(), GitError> {
        let (mut names, too_deep) = (BTreeSet::new(), depth > MAX_DEPTH);
        for entry in tree.iter() {
            let entry = entry.map_err(|_| missing())?;
            self.stop.check()?;
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
            match kind {
                EntryKind::Tree => {
                    let inner = know((repo, id), self.stop)?.tree()?;
                    self.folder(repo, &inner, &full, depth + 1)?;
                }
                EntryKind::Commit => {
                    self.stage(&path, 0o160_000, id);
                    self.submodule(&path, depth)?;
                }
                kind => self.leaf(&path, (repo, id), kind)?,
            }
        }
        Ok(())
    }

    fn submodule(&mut self, path: &RepoPath, depth: usize) -> Result<(), GitError> {
        self.spend(path.as_str().len() as u64)?;
        match self.modules.look(path.as_str(), self.stop)? {
            Module::Nothing(_) => self.found.rest.folders.push(path.as_str().into()),
            Module::Files(repo, root) => {
                let was = std::mem::replace(&mut self.is_inside, true);
                self.folder(repo, &root, path.as_str(), depth + 1)?;
                self.is_inside = was;
            }
        }
        Ok(())
    }

    /// What a submodule has is not in the index of its superproject.
    fn stage(&mut self, path: &RepoPath, mode: u32, id: ObjectId) {
        if !self.is_inside {
            self.found.entries.push(Staged { path: path.as_str().into(), mode, id });
        }
    }

    fn leaf(&mut self, path: &RepoPath, (repo, id): Object<'_>, kind: EntryKind) -> Result<(), GitError> {
        self.spend(path.as_str().len() as u64)?;
        let mode = match kind {
            EntryKind::Link => {
                self.link(path, (repo, id))?;
                0o120_000
            }
            kind => {
                let executable = kind == EntryKind::BlobExecutable;
                let bytes = self.blob(path, (repo, id), self.limits.file)?.into();
                let below = RepoPath::parse(&format!("{TREE}{path}"));
                let below = below.map_err(|_| refused(path.as_str(), "a path of more than 4096 bytes"))?;
                self.found.files.insert(below, Entry { bytes, executable });
                if executable { 0o100_755 } else { 0o100_644 }
            }
        };
        self.stage(path, mode, id);
        Ok(())
    }

    fn link(&mut self, path: &RepoPath, object: Object<'_>) -> Result<(), GitError> {
        let target = self.blob(path, object, MAX_TARGET)?;
        let target = String::from_utf8(target).ok().filter(|text| !text.is_empty() && !text.contains('\0'));
        let target = target.ok_or_else(|| refused(path.as_str(), "a link whose target is no text"))?;
        self.found.rest.links.insert(path.as_str().into(), target);
        Ok(())
    }

    fn blob(&mut self, path: &RepoPath, object: Object<'_>, limit: u64) -> Result<Vec<u8>, GitError> {
        let found = know(object, self.stop)?;
        if found.size > limit {
            let message = format!("{path} is larger than {limit} bytes, the limit for one file or link");
            return Err(GitError::new(Reason::TooLarge, message));
        }
        self.spend(found.size)?;
        found.blob()
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
