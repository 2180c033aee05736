//! Which objects a history of some depth consists of.

use std::collections::{BTreeSet, HashSet, VecDeque};

use gix::{ObjectId, objs::tree::EntryKind};

use crate::git::{
    error::{GitError, Reason},
    objects::{Object, know, missing},
    remote::Stop,
};

/// Most objects of one checkout.
const MAX_OBJECTS: usize = 500_000;
/// Folders in folders.
const MAX_DEPTH: usize = 128;

/// All objects, by kind and sorted: the order of a pack does not depend on how they were found.
#[derive(Debug, Default)]
pub(super) struct Objects {
    pub(super) commits: BTreeSet<ObjectId>,
    pub(super) trees: BTreeSet<ObjectId>,
    pub(super) blobs: BTreeSet<ObjectId>,
    /// Commits whose parents are left out.
    pub(super) shallow: BTreeSet<ObjectId>,
}

/// Everything that `commit` and its ancestors have; those that are fewer than `depth` steps away, all for 0.
pub(super) fn collect(repo: &gix::Repository, commit: ObjectId, depth: u32, stop: &Stop) -> Result<Objects, GitError> {
    let cut: HashSet<ObjectId> =
        repo.shallow_commits().ok().flatten().map(|all| all.iter().copied().collect()).unwrap_or_default();
    let mut objects = Objects { commits: BTreeSet::from([commit]), ..Objects::default() };
    let mut next = VecDeque::from([(commit, 1)]);
    while let Some((id, distance)) = next.pop_front() {
        let found = know((repo, id), stop)?.commit()?;
        objects.tree((repo, found.tree_id().map_err(|_| missing())?.detach()), 0, stop)?;
        let parents: Vec<ObjectId> = found.parent_ids().map(gix::Id::detach).collect();
        if distance == depth && !parents.is_empty() || cut.contains(&id) {
            objects.shallow.insert(id);
            continue;
        }
        for parent in parents {
            if objects.commits.insert(parent) {
                next.push_back((parent, distance.saturating_add(1)));
            }
        }
        objects.check()?;
    }
    Ok(objects)
}

impl Objects {
    pub(super) fn count(&self) -> usize {
        self.commits.len() + self.trees.len() + self.blobs.len()
    }

    fn check(&self) -> Result<(), GitError> {
        if self.count() <= MAX_OBJECTS {
            return Ok(());
        }
        let message = format!(
            "the history has more than {MAX_OBJECTS} objects, the limit for a context with .git; take less (depth: 1)"
        );
        Err(GitError::new(Reason::TooLarge, message))
    }

    fn tree(&mut self, (repo, id): Object<'_>, depth: usize, stop: &Stop) -> Result<(), GitError> {
        if !self.trees.insert(id) {
            return Ok(());
        }
        self.check()?;
        if depth > MAX_DEPTH {
            return Err(GitError::new(Reason::TooLarge, "folders are nested more than 128 deep"));
        }
        let tree = know((repo, id), stop)?.tree()?;
        for entry in tree.iter() {
            let entry = entry.map_err(|_| missing())?;
            stop.check()?;
            match entry.mode().kind() {
                EntryKind::Tree => self.tree((repo, entry.object_id()), depth + 1, stop)?,
                EntryKind::Commit => {}
                EntryKind::Blob | EntryKind::BlobExecutable | EntryKind::Link => {
                    self.blobs.insert(entry.object_id());
                }
            }
        }
        Ok(())
    }
}
