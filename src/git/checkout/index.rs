//! The index of a work tree nobody has looked at yet: no times and sizes, so the first `git status` compares the files
//! and fills them in.

use gix::ObjectId;

use super::pack::hash;
use crate::git::error::GitError;

/// One path of a commit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Staged {
    pub(super) path: String,
    pub(super) mode: u32,
    pub(super) id: ObjectId,
}

/// Times, device, inode, owner and size, but for the mode: zeros.
const BEFORE_MODE: [u8; 24] = [0; 24];
const AFTER_MODE: [u8; 12] = [0; 12];
/// Longer paths have this length.
const LONGEST: usize = 0xfff;

/// Version 2 of the format.
pub(super) fn write(kind: gix::hash::Kind, entries: &mut [Staged]) -> Result<Vec<u8>, GitError> {
    entries.sort();
    let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    let mut bytes = [b"DIRC".as_slice(), &2u32.to_be_bytes(), &count.to_be_bytes()].concat();
    for entry in entries {
        let start = bytes.len();
        bytes.extend(BEFORE_MODE);
        bytes.extend(entry.mode.to_be_bytes());
        bytes.extend(AFTER_MODE);
        bytes.extend(entry.id.as_slice());
        bytes.extend(u16::try_from(entry.path.len().min(LONGEST)).unwrap_or_default().to_be_bytes());
        bytes.extend(entry.path.as_bytes());
        let long = bytes.len() - start;
        bytes.resize(start + (long / 8 + 1) * 8, 0);
    }
    let end = hash(kind, &bytes)?;
    bytes.extend(end.as_slice());
    Ok(bytes)
}
