//! Which files were read and found whole lately.

use std::{
    collections::HashMap,
    fs::Metadata,
    os::unix::fs::MetadataExt as _,
    time::{Duration, Instant},
};

use super::Digest;

/// Disks forget too.
const AGAIN: Duration = Duration::from_mins(10);
/// Entries, of some hundred bytes.
const KEPT: usize = 10_000;

/// A file as it was: whatever writes to it changes one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Version {
    fn of(meta: &Metadata) -> Self {
        Self {
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Verified(HashMap<Digest, (Version, Instant)>);

impl Verified {
    /// Whether this very file was found whole.
    pub(super) fn is(&self, digest: &Digest, meta: &Metadata) -> bool {
        self.0.get(digest).is_some_and(|(version, at)| *version == Version::of(meta) && at.elapsed() < AGAIN)
    }

    pub(super) fn remember(&mut self, digest: Digest, meta: &Metadata) {
        if self.0.len() >= KEPT {
            self.0.retain(|_, (_, at)| at.elapsed() < AGAIN);
        }
        if self.0.len() < KEPT {
            self.0.insert(digest, (Version::of(meta), Instant::now()));
        }
    }
}
