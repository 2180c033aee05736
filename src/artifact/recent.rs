//! Trees that were verified lately, bounded by bytes, and those that somebody still has in hand: these cost nothing.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use super::Digest;
use crate::tree::FileTree;

/// What an entry costs beside its bytes.
const PER_FILE: u64 = 200;

#[derive(Debug, Default)]
pub(super) struct Recent {
    trees: HashMap<Digest, Held>,
    in_use: HashMap<Digest, Weak<FileTree>>,
    limit: u64,
    held: u64,
    tick: u64,
}

#[derive(Debug)]
struct Held {
    tree: Arc<FileTree>,
    bytes: u64,
    used: u64,
}

impl Recent {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, ..Self::default() }
    }

    pub(super) fn get(&mut self, digest: &Digest) -> Option<Arc<FileTree>> {
        self.tick += 1;
        let Some(held) = self.trees.get_mut(digest) else { return self.in_use.get(digest)?.upgrade() };
        held.used = self.tick;
        Some(held.tree.clone())
    }

    /// Keeps the tree unless it alone is over the limit, and drops those that were not used for longest.
    pub(super) fn keep(&mut self, digest: Digest, tree: &Arc<FileTree>) {
        let bytes =
            tree.iter().map(|(path, entry)| entry.bytes.len() as u64 + path.as_str().len() as u64 + PER_FILE).sum();
        self.drop_one(&digest);
        self.in_use.retain(|_, tree| tree.strong_count() > 0);
        self.in_use.insert(digest, Arc::downgrade(tree));
        if bytes > self.limit {
            return;
        }
        while self.held + bytes > self.limit {
            let Some(oldest) = self.trees.iter().min_by_key(|(_, held)| held.used).map(|(digest, _)| *digest) else {
                break;
            };
            self.let_go(&oldest);
        }
        self.tick += 1;
        self.held += bytes;
        self.trees.insert(digest, Held { tree: tree.clone(), bytes, used: self.tick });
    }

    pub(super) fn drop_one(&mut self, digest: &Digest) {
        self.in_use.remove(digest);
        self.let_go(digest);
    }

    fn let_go(&mut self, digest: &Digest) {
        if let Some(held) = self.trees.remove(digest) {
            self.held -= held.bytes;
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.trees.len()
    }
}
