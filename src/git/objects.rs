//! Objects out of packs that strangers filled: each read looks at the deadline first, and at what the object takes.
//!
//! A pack of a few KiB can hold an object that takes hours to work out: a delta of a delta of a delta of large files.
//! gix ends such a chain nowhere and cannot be stopped within one, so it is counted before it is begun.

use std::{collections::HashMap, mem, sync::Arc};

use gix::{
    ObjectId, Repository,
    objs::Kind,
    odb::{find::Header, pack::cache::DecodeEntry},
};
use parking_lot::Mutex;

use super::{
    error::{GitError, Reason},
    remote::Stop,
};

/// Deltas that one object may be made of: as many as Git writes at most.
pub(super) const MAX_DELTAS: u32 = 4095;
/// Tags of tags.
const MAX_TAGS: usize = 8;
/// Bytes of objects that are kept because others are made of them, of all repositories together.
const KEPT: usize = 32 << 20;

pub(super) fn missing() -> GitError {
    GitError::new(Reason::CommitNotFound, "an object of the commit is missing from what the server sent")
}

/// An object and where it is.
pub(super) type Object<'a> = (&'a Repository, ObjectId);

/// An object that may be read: it is there, and what that takes is bounded.
pub(super) struct Known<'a> {
    object: Object<'a>,
    /// Its bytes.
    pub(super) size: u64,
}

/// Looks an object up, without reading it.
pub(super) fn know<'a>(object: Object<'a>, stop: &Stop) -> Result<Known<'a>, GitError> {
    stop.check()?;
    let header = object.0.find_header(object.1).map_err(|_| missing())?;
    if let Header::Packed(packed) = &header
        && packed.num_deltas > MAX_DELTAS
    {
        let message = format!(
            "object {} is a chain of more than {MAX_DELTAS} deltas, which Git itself never writes; repack the repository \
             (git repack -a -d -F)",
            object.1
        );
        return Err(GitError::new(Reason::TooLarge, message));
    }
    Ok(Known { object, size: header.size() })
}

impl<'a> Known<'a> {
    /// As it is.
    pub(super) fn object(self) -> Result<gix::Object<'a>, GitError> {
        self.object.0.find_object(self.object.1).map_err(|_| missing())
    }

    /// A folder.
    pub(super) fn tree(self) -> Result<gix::Tree<'a>, GitError> {
        self.object()?.try_into_tree().map_err(|_| missing())
    }

    /// A commit.
    pub(super) fn commit(self) -> Result<gix::Commit<'a>, GitError> {
        self.object()?.try_into_commit().map_err(|_| missing())
    }

    /// The bytes of a file.
    pub(super) fn blob(self) -> Result<Vec<u8>, GitError> {
        Ok(self.object()?.try_into_blob().map_err(|_| missing())?.take_data())
    }
}

/// The files of a commit.
pub(super) fn root<'a>(repo: &'a Repository, commit: ObjectId, stop: &Stop) -> Result<gix::Tree<'a>, GitError> {
    let mut id = commit;
    for _ in 0..=MAX_TAGS {
        let object = know((repo, id), stop)?.object()?;
        id = match object.kind {
            Kind::Tree => return Ok(object.into_tree()),
            Kind::Commit => object.into_commit().tree_id().map_err(|_| missing())?.detach(),
            Kind::Tag => object.into_tag().target_id().map_err(|_| missing())?.detach(),
            Kind::Blob => break,
        };
    }
    Err(GitError::new(Reason::CommitNotFound, "the reference leads to something that is no commit"))
}

/// Objects that were worked out lately, for all repositories of the process.
#[derive(Clone, Default)]
pub(super) struct Kept {
    shared: Arc<Mutex<Generations>>,
    /// Which opened repository this is: its packs have numbers of their own.
    repository: u64,
}

type Place = (u64, u32, u64);

struct Entry {
    data: Vec<u8>,
    kind: Kind,
    packed: usize,
}

/// The young become the old when they are half of what there may be; the old before them go.
#[derive(Default)]
struct Generations {
    repositories: u64,
    bytes: usize,
    young: HashMap<Place, Entry>,
    old: HashMap<Place, Entry>,
}

impl Kept {
    /// Lets a repository that was just opened keep here what it works out.
    pub(super) fn serve(&self, repo: &mut Repository) {
        let repository = {
            let mut shared = self.shared.lock();
            shared.repositories += 1;
            shared.repositories
        };
        let kept = Self { shared: self.shared.clone(), repository };
        repo.objects.set_pack_cache(move || Box::new(kept.clone()));
    }
}

impl Generations {
    fn put(&mut self, place: Place, entry: Entry) {
        let size = entry.data.len();
        if size > KEPT / 4 {
            return;
        }
        if self.bytes + size > KEPT / 2 {
            self.old = mem::take(&mut self.young);
            self.bytes = 0;
        }
        self.bytes += size;
        if let Some(before) = self.young.insert(place, entry) {
            self.bytes -= before.data.len();
        }
    }

    fn get(&mut self, place: Place) -> Option<&Entry> {
        if let Some(entry) = self.old.remove(&place) {
            self.put(place, entry);
        }
        self.young.get(&place)
    }
}

impl DecodeEntry for Kept {
    fn put(&mut self, pack: u32, offset: u64, data: &[u8], kind: Kind, packed: usize) {
        let place = (self.repository, pack, offset);
        self.shared.lock().put(place, Entry { data: data.to_vec(), kind, packed });
    }

    fn get(&mut self, pack: u32, offset: u64, out: &mut Vec<u8>) -> Option<(Kind, usize)> {
        let mut shared = self.shared.lock();
        let found = shared.get((self.repository, pack, offset))?;
        out.clear();
        out.extend_from_slice(&found.data);
        Some((found.kind, found.packed))
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes of young objects", self.shared.lock().bytes)
    }
}

#[cfg(test)]
mod tests;
