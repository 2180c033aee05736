//! Trees that were verified lately, bounded by bytes.

use std::{collections::HashMap, sync::Arc};

use super::Digest;
use crate::tree::FileTree;

/// What an entry costs beside its bytes.
const PER_FILE: u64 = 200;

#[derive(Debug, Default)]
pub(super) struct Recent {
    trees: HashMap<Digest, Held>,
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
        let held = self.trees.get_mut(digest)?;
        held.used = self.tick;
        Some(held.tree.clone())
    }

    /// Keeps the tree unless it alone is over the limit, and drops those that were not used for longest.
    pub(super) fn keep(&mut self, digest: Digest, tree: &Arc<FileTree>) {
        let bytes =
            tree.iter().map(|(path, entry)| entry.bytes.len() as u64 + path.as_str().len() as u64 + PER_FILE).sum();
        self.drop_one(&digest);
        if bytes > self.limit {
            return;
        }
        while self.held + bytes > self.limit {
            let Some(oldest) = self.trees.iter().min_by_key(|(_, held)| held.used).map(|(digest, _)| *digest) else {
                break;
            };
            self.drop_one(&oldest);
        }
        self.tick += 1;
        self.held += bytes;
        self.trees.insert(digest, Held { tree: tree.clone(), bytes, used: self.tick });
    }

    pub(super) fn drop_one(&mut self, digest: &Digest) {
        if let Some(held) = self.trees.remove(digest) {
            self.held -= held.bytes;
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.trees.len()
    }
}
