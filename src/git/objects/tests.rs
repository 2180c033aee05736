use std::{io::BufReader, sync::atomic::AtomicBool, time::Duration};

use gix::objs::{
    Tree,
    tree::{Entry as TreeEntry, EntryKind},
};

use super::*;
use crate::git::{budget::Budget, checkout, remote::Limits, session, submodules::Modules, walk};

/// A pack of a hostile server: a file of `size` bytes, `deltas` deltas each of the one before, and `tips` small deltas of
/// the last of them.
struct Hostile {
    data: Vec<u8>,
    count: u32,
}

fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = vec![];
    while number > 0x7f {
        bytes.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
        number >>= 7;
    }
    bytes.push(u8::try_from(number).unwrap());
    bytes
}

impl Hostile {
    fn new() -> Self {
        Self { data: vec![0; 12], count: 0 }
    }

    /// Where the object begins.
    fn add(&mut self, kind: u8, content: &[u8], base: Option<usize>) -> usize {
        let start = self.data.len();
        let (mut byte, mut rest) = (kind << 4 | u8::try_from(content.len() & 0x0f).unwrap(), content.len() >> 4);
        while rest > 0 {
            self.data.push(byte | 0x80);
            byte = u8::try_from(rest & 0x7f).unwrap();
            rest >>= 7;
        }
        self.data.push(byte);
        if let Some(base) = base {
            let mut distance = start - base;
            let mut bytes = vec![u8::try_from(distance & 0x7f).unwrap()];
            while distance > 0x7f {
                distance = (distance >> 7) - 1;
                bytes.insert(0, u8::try_from(distance & 0x7f).unwrap() | 0x80);
            }
            self.data.extend(bytes);
        }
        self.data.extend(miniz_oxide::deflate::compress_to_vec_zlib(content, 6));
        self.count += 1;
        start
    }

    /// A delta that keeps all but the first four bytes, which become `mark`.
    fn link(&mut self, base: usize, size: usize, mark: u32) -> usize {
        let kept = size - 4;
        let copy = [0x80 | 0x01 | 0x10 | 0x20 | 0x40, 4];
        let length = [kept & 0xff, kept >> 8 & 0xff, kept >> 16].map(|byte| u8::try_from(byte).unwrap());
        let insert = [&[4][..], &mark.to_be_bytes()].concat();
        let delta = [varint(size), varint(size), insert, copy.to_vec(), length.to_vec()].concat();
        self.add(6, &delta, Some(base))
    }

    /// A delta that keeps nothing, and is `mark`.
    fn tip(&mut self, base: usize, size: usize, mark: u32) {
        let delta = [varint(size), varint(4), vec![4], mark.to_be_bytes().to_vec()].concat();
        self.add(6, &delta, Some(base));
    }

    fn chain(size: usize, deltas: u32, tips: u32) -> Self {
        let mut pack = Self::new();
        let mut last = pack.add(3, &vec![b'x'; size], None);
        for mark in 1..=deltas {
            last = pack.link(last, size, mark);
        }
        for mark in 0..tips {
            pack.tip(last, size, mark);
        }
        pack
    }

    fn store(mut self, folder: &std::path::Path) -> Repository {
        let repo = gix::init_bare(folder).unwrap();
        let head = [b"PACK".as_slice(), &2u32.to_be_bytes(), &self.count.to_be_bytes()].concat();
        self.data[..12].copy_from_slice(&head);
        let mut hasher = gix::hash::hasher(gix::hash::Kind::Sha1);
        hasher.update(&self.data);
        self.data.extend(hasher.try_finalize().unwrap().as_slice());
        let packs = folder.join("objects/pack");
        let (mut pack, stop) = (BufReader::new(&self.data[..]), AtomicBool::new(false));
        session::store_pack(&mut pack, &packs, &mut gix::progress::Discard, &stop, &repo, 16 << 20).unwrap();
        gix::open(folder).unwrap()
    }
}

fn id(content: &[u8]) -> ObjectId {
    gix::objs::compute_hash(gix::hash::Kind::Sha1, Kind::Blob, content).unwrap()
}

fn a_minute() -> Arc<Stop> {
    Arc::new(Stop::after(Duration::from_mins(1)))
}

#[test]
fn a_chain_that_git_never_writes_is_not_begun() {
    let folder = tempfile::tempdir().unwrap();
    // The last link is of 4095 deltas, its tip of one more.
    let repo = Hostile::chain(8, MAX_DELTAS, 1).store(folder.path());
    let link = [&MAX_DELTAS.to_be_bytes()[..], b"xxxx"].concat();
    let stop = a_minute();
    let found = know((&repo, id(&link)), &stop).map(|known| (known.size, known.blob().unwrap())).ok().unwrap();
    assert_eq!(found, (8, link), "as long as Git's own");
    let error = know((&repo, id(&0u32.to_be_bytes())), &stop).err().unwrap();
    assert!(error.is_final() && error.message.contains("more than 4095 deltas"), "{error}");
    let error = know((&repo, id(b"nowhere")), &stop).err().unwrap();
    assert_eq!(error, missing());
}

/// Each file takes a chain of 400 deltas of 64 KiB, which nothing keeps: all of them take far longer than the deadline.
#[test]
fn a_commit_that_takes_too_long_ends_at_its_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let tips = 5000;
    let repo = Hostile::chain(64 << 10, 400, tips).store(folder.path());
    let entry = |mark: u32| TreeEntry {
        mode: EntryKind::Blob.into(),
        filename: format!("{mark:05}").into(),
        oid: id(&mark.to_be_bytes()),
    };
    let tree = repo.write_object(Tree { entries: (0..tips).map(entry).collect() }).unwrap().detach();
    let (modules, limits) = (Modules::default(), Limits::STANDARD);
    let budget = Budget::new(limits.all_trees, limits.tree);
    let soon = || Stop::after(Duration::from_millis(300));
    let read = walk::read((&repo, tree), &modules, limits, (&budget, &[]), &soon());
    assert_eq!(read.unwrap_err().reason, Reason::Timeout);
    let whole = checkout::Whole::default();
    let url = crate::git::RemoteUrl::parse("https://h/a", false).unwrap();
    let made = checkout::make((&repo, tree), &modules, (&url, &[]), &whole, (limits, &budget, &soon()));
    assert_eq!(made.unwrap_err().reason, Reason::Timeout);
}

#[test]
fn what_is_over_reads_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let repo = Hostile::chain(8, 1, 0).store(folder.path());
    let over = Stop::after(Duration::ZERO);
    assert_eq!(know((&repo, id(b"xxxxxxxx")), &over).err().unwrap().reason, Reason::Timeout);
    assert_eq!(root(&repo, id(b"xxxxxxxx"), &over).err().unwrap().reason, Reason::Timeout);
    assert_eq!(root(&repo, id(b"xxxxxxxx"), &a_minute()).err().unwrap().reason, Reason::CommitNotFound);
}

#[test]
fn what_is_kept_is_bounded_and_by_repository() {
    let mut kept = Kept::default();
    let mut other = Kept { repository: 1, ..kept.clone() };
    let mut out = vec![];
    kept.put(1, 12, b"data", Kind::Blob, 7);
    assert_eq!((kept.get(1, 12, &mut out), out.as_slice()), (Some((Kind::Blob, 7)), &b"data"[..]));
    assert_eq!(other.get(1, 12, &mut out), None, "another repository has other packs");
    for offset in 100..300 {
        other.put(1, offset, &vec![0; 1 << 20], Kind::Blob, 7);
        // Used again and again, it stays.
        assert!(kept.get(1, 12, &mut out).is_some(), "{offset}");
    }
    other.put(1, 400, &vec![0; KEPT], Kind::Blob, 7);
    assert_eq!(other.get(1, 400, &mut out), None, "one that would fill it");
    let shared = kept.shared.lock();
    let sizes = |map: &HashMap<Place, Entry>| map.values().map(|entry| entry.data.len()).sum::<usize>();
    assert_eq!(shared.bytes, sizes(&shared.young));
    assert!(sizes(&shared.young) + sizes(&shared.old) <= KEPT);
}
