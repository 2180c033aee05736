//! A pack and its index, the same bytes for the same objects.

use gix::{ObjectId, hash::Hasher};

use super::{history::Objects, malformed, too_large};
use crate::git::{error::GitError, objects::know, remote::Stop};

/// As `git` does by default.
const LEVEL: u8 = 6;
/// Unpacked, all objects may have this many times the bytes that they may have packed: what takes time is bounded too.
const MAX_RATIO: u64 = 16;

/// What [`write()`] made.
pub(super) struct Packed {
    /// The hash at the end of the pack, which is its name.
    pub(super) name: ObjectId,
    pub(super) data: Vec<u8>,
    pub(super) index: Vec<u8>,
}

/// Where an object is.
struct Place {
    id: ObjectId,
    crc: u32,
    offset: u32,
}

/// Writes all objects, each by itself: deltas would depend on what a server had sent.
pub(super) fn write(repo: &gix::Repository, objects: &Objects, limit: u64, stop: &Stop) -> Result<Packed, GitError> {
    let count = u32::try_from(objects.count()).map_err(|_| too_large(limit))?;
    let mut data = [b"PACK".as_slice(), &2u32.to_be_bytes(), &count.to_be_bytes()].concat();
    let (mut places, mut raw) = (Vec::with_capacity(objects.count()), 0u64);
    for (kind, ids) in [(1, &objects.commits), (2, &objects.trees), (3, &objects.blobs)] {
        for id in ids {
            let object = know((repo, *id), stop)?.object()?;
            if number(object.kind) != kind {
                return Err(malformed(&format!("object {id}, which is of another kind than it is named as,")));
            }
            raw += object.data.len() as u64;
            let start = data.len();
            header(&mut data, kind, object.data.len());
            data.extend(miniz_oxide::deflate::compress_to_vec_zlib(&object.data, LEVEL));
            if data.len() as u64 > limit || raw > limit.saturating_mul(MAX_RATIO) {
                return Err(too_large(limit));
            }
            let offset = u32::try_from(start).map_err(|_| too_large(limit))?;
            places.push(Place { id: *id, crc: crc32fast::hash(&data[start..]), offset });
        }
    }
    let name = hash(repo.object_hash(), &data)?;
    data.extend(name.as_slice());
    places.sort_by_key(|place| place.id);
    let index = index(&places, &name)?;
    Ok(Packed { name, data, index })
}

fn number(kind: gix::objs::Kind) -> u8 {
    match kind {
        gix::objs::Kind::Commit => 1,
        gix::objs::Kind::Tree => 2,
        gix::objs::Kind::Blob => 3,
        gix::objs::Kind::Tag => 4,
    }
}

/// Kind and size: four bits of it beside the kind, then seven a byte.
pub(super) fn header(data: &mut Vec<u8>, kind: u8, size: usize) {
    let low = |bits: usize, mask: usize| u8::try_from(bits & mask).unwrap_or_default();
    let (mut byte, mut rest) = (kind << 4 | low(size, 0x0f), size >> 4);
    while rest > 0 {
        data.push(byte | 0x80);
        byte = low(rest, 0x7f);
        rest >>= 7;
    }
    data.push(byte);
}

/// Version 2 of the index: how many ids begin with at most each byte, ids, checksums, offsets.
fn index(places: &[Place], pack: &ObjectId) -> Result<Vec<u8>, GitError> {
    let mut bytes = [b"\xfftOc".as_slice(), &2u32.to_be_bytes()].concat();
    for first in 0..=u8::MAX {
        let until = places.partition_point(|place| place.id.as_slice()[0] <= first);
        bytes.extend(u32::try_from(until).unwrap_or(u32::MAX).to_be_bytes());
    }
    bytes.extend(places.iter().flat_map(|place| place.id.as_slice()));
    bytes.extend(places.iter().flat_map(|place| place.crc.to_be_bytes()));
    bytes.extend(places.iter().flat_map(|place| place.offset.to_be_bytes()));
    bytes.extend(pack.as_slice());
    let end = hash(pack.kind(), &bytes)?;
    bytes.extend(end.as_slice());
    Ok(bytes)
}

/// The hash of a file of Git's.
pub(super) fn hash(kind: gix::hash::Kind, bytes: &[u8]) -> Result<ObjectId, GitError> {
    let mut hasher: Hasher = gix::hash::hasher(kind);
    hasher.update(bytes);
    hasher.try_finalize().map_err(|_| malformed("an object that forges a hash"))
}
