//! Disk for archives: all of them together stay within one budget, and no namespace takes more of it than it leaves free.
//!
//! A share that follows what is free needs no number of tenants: however many take as much as they may, the next one finds
//! room. What is there is never removed for it; who would take too much is refused.

use std::collections::{BTreeSet, HashMap};

use parking_lot::Mutex;

use super::Digest;

/// What is taken, and by whom.
#[derive(Debug)]
pub(super) struct Room {
    /// Bytes.
    pub(super) total: u64,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    /// Bytes of all archives, and of those that are being written.
    bytes: u64,
    /// The same of each namespace; what several have counts for each.
    by_owner: HashMap<String, u64>,
    archives: HashMap<Digest, Archive>,
}

#[derive(Debug, Default)]
struct Archive {
    bytes: u64,
    owners: BTreeSet<String>,
}

impl Room {
    pub(super) fn new(total: u64) -> Self {
        Self { total, books: Mutex::default() }
    }

    /// Bytes of all archives.
    pub(super) fn taken(&self) -> u64 {
        self.books.lock().bytes
    }

    /// Whether one of these namespaces may take so many bytes more; without any, whether there are as many.
    pub(super) fn has(&self, owners: &BTreeSet<String>, bytes: u64) -> bool {
        let books = self.books.lock();
        if owners.is_empty() { books.has(self.total, bytes) } else { !books.who(self.total, owners, bytes).is_empty() }
    }

    /// Takes bytes for an archive that is about to be written, for those of the namespaces that may.
    pub(super) fn reserve(&self, owners: &BTreeSet<String>, bytes: u64) -> Option<Reserved<'_>> {
        let mut books = self.books.lock();
        let may = books.who(self.total, owners, bytes);
        let fits = if owners.is_empty() { books.has(self.total, bytes) } else { !may.is_empty() };
        fits.then(|| {
            books.bytes += bytes;
            books.charge(&may, bytes);
            Reserved { room: self, archive: Archive { bytes, owners: may } }
        })
    }

    /// Namespaces have an archive that is there already.
    pub(super) fn share(&self, digest: &Digest, owners: &BTreeSet<String>) {
        let mut books = self.books.lock();
        let Some(archive) = books.archives.get_mut(digest) else { return };
        let new: BTreeSet<String> = owners.difference(&archive.owners).cloned().collect();
        archive.owners.extend(new.iter().cloned());
        let bytes = archive.bytes;
        books.charge(&new, bytes);
    }

    /// Who names archives has them, instead of who had them before; what nobody names stays whose it was.
    pub(super) fn belongs(&self, named: &HashMap<Digest, BTreeSet<String>>) {
        let mut books = self.books.lock();
        for (digest, owners) in named.iter().filter(|(_, owners)| !owners.is_empty()) {
            let Some(archive) = books.archives.get_mut(digest).filter(|archive| archive.owners != *owners) else {
                continue;
            };
            let (before, bytes) = (std::mem::replace(&mut archive.owners, owners.clone()), archive.bytes);
            books.release(&before, bytes);
            books.charge(owners, bytes);
        }
    }

    /// An archive is gone.
    pub(super) fn gone(&self, digest: &Digest) {
        let mut books = self.books.lock();
        if let Some(archive) = books.archives.remove(digest) {
            books.bytes -= archive.bytes;
            books.release(&archive.owners, archive.bytes);
        }
    }

    /// What lies on the disk, whoever wrote and removed it.
    pub(super) fn found(&self, found: &HashMap<Digest, u64>, is_there: impl Fn(&Digest) -> bool) {
        let mut books = self.books.lock();
        for (digest, bytes) in found {
            if !books.archives.contains_key(digest) {
                books.bytes += bytes;
                books.archives.insert(*digest, Archive { bytes: *bytes, owners: BTreeSet::new() });
            }
        }
        let lost = books.archives.keys().filter(|digest| !found.contains_key(digest) && !is_there(digest));
        let lost: Vec<Digest> = lost.copied().collect();
        drop(books);
        for digest in &lost {
            self.gone(digest);
        }
    }
}

impl Books {
    fn has(&self, total: u64, bytes: u64) -> bool {
        self.bytes.saturating_add(bytes) <= total
    }

    /// Those that may take so many bytes more.
    fn who(&self, total: u64, owners: &BTreeSet<String>, bytes: u64) -> BTreeSet<String> {
        let Some(left) = total.checked_sub(self.bytes.saturating_add(bytes)) else { return BTreeSet::new() };
        let own = |owner: &String| self.by_owner.get(owner).copied().unwrap_or_default();
        let may = |owner: &&String| own(owner).saturating_add(bytes) <= left;
        owners.iter().filter(may).cloned().collect()
    }

    fn charge(&mut self, owners: &BTreeSet<String>, bytes: u64) {
        for owner in owners {
            *self.by_owner.entry(owner.clone()).or_default() += bytes;
        }
    }

    fn release(&mut self, owners: &BTreeSet<String>, bytes: u64) {
        for owner in owners {
            if let Some(own) = self.by_owner.get_mut(owner) {
                *own -= bytes;
                if *own == 0 {
                    self.by_owner.remove(owner);
                }
            }
        }
    }
}

/// Bytes that an archive may take; given back when dropped.
#[derive(Debug)]
pub(super) struct Reserved<'a> {
    room: &'a Room,
    archive: Archive,
}

impl Reserved<'_> {
    /// The archive lies there under its name.
    pub(super) fn keep(mut self, digest: Digest) {
        let archive = std::mem::take(&mut self.archive);
        let mut books = self.room.books.lock();
        let Some(before) = books.archives.insert(digest, archive) else { return };
        // Two have written the same.
        books.bytes -= before.bytes;
        books.release(&before.owners, before.bytes);
        drop(books);
        self.room.share(&digest, &before.owners);
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let mut books = self.room.books.lock();
        books.bytes -= self.archive.bytes;
        books.release(&self.archive.owners, self.archive.bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn put(room: &Room, name: &str, digest: u64, bytes: u64) -> bool {
        let reserved = room.reserve(&of(&[name]), bytes);
        let fits = reserved.is_some();
        if let Some(reserved) = reserved {
            reserved.keep(Digest::of(&digest.to_be_bytes()));
        }
        fits
    }

    fn own(room: &Room, name: &str) -> u64 {
        room.books.lock().by_owner.get(name).copied().unwrap_or_default()
    }

    #[test]
    fn one_namespace_leaves_half_and_each_other_one_finds_room() {
        let room = Room::new(900);
        let filled = |name: &str, from: u64| (from..from + 1000).take_while(|n| put(&room, name, *n, 1)).count();
        assert_eq!(filled("greedy", 0), 450);
        assert_eq!(filled("too", 1000), 225, "half of what is left then");
        assert!(put(&room, "modest", 5000, 50), "and the next one");
        assert!(!put(&room, "greedy", 5001, 1) && !put(&room, "too", 5002, 1));
        for n in 0..100u64 {
            room.gone(&Digest::of(&n.to_be_bytes()));
        }
        assert!(!put(&room, "greedy", 5003, 1), "it has 350, and 275 are free");
        assert!(put(&room, "too", 5004, 20) && !put(&room, "too", 5005, 20), "245 beside 255");
    }

    #[test]
    fn what_several_share_lies_there_once() {
        let room = Room::new(300);
        assert!(put(&room, "a", 1, 100) && put(&room, "b", 1, 100));
        assert_eq!((room.taken(), own(&room, "a"), own(&room, "b")), (100, 100, 100));
        let digest = Digest::of(&1u64.to_be_bytes());
        room.share(&digest, &of(&["a", "c"]));
        assert_eq!([own(&room, "a"), own(&room, "c")], [100, 100]);
        room.belongs(&[(digest, of(&["b", "d"]))].into());
        assert_eq!(["a", "b", "c", "d"].map(|name| own(&room, name)), [0, 100, 0, 100]);
        room.belongs(&HashMap::from([(digest, of(&[]))]));
        assert_eq!(own(&room, "d"), 100, "what nobody names stays whose it was");
        assert!(room.has(&of(&["a", "b"]), 50) && !room.has(&of(&["b"]), 100), "one of them may");
        room.gone(&digest);
        assert_eq!((room.taken(), room.books.lock().by_owner.len()), (0, 0));
        assert!(room.has(&of(&[]), 300) && !room.has(&of(&[]), 301));
    }

    #[test]
    fn what_is_on_the_disk_counts_whoever_wrote_it() {
        let room = Room::new(300);
        let digest = |n: u8| Digest::of(&[n]);
        room.found(&[(digest(1), 100), (digest(2), 50)].into(), |_| false);
        assert_eq!(room.taken(), 150);
        room.belongs(&[(digest(1), of(&["a"]))].into());
        room.found(&[(digest(1), 100), (digest(3), 10)].into(), |there| *there == digest(2));
        assert_eq!((room.taken(), own(&room, "a")), (160, 100), "one that is being written is not missed");
        room.found(&HashMap::new(), |_| false);
        assert_eq!((room.taken(), room.books.lock().by_owner.len()), (0, 0));
    }

    proptest! {
        /// Whatever happens, all together stay within the budget, the books are right, and who has nothing may take
        /// something.
        #[test]
        fn there_is_always_room_for_another(ops in prop::collection::vec((0u8..3, 0u8..6, 0u64..40, 1u64..400), 1..200)) {
            let room = Room::new(1000);
            for (op, who, digest, bytes) in ops {
                let name = format!("n{who}");
                match op {
                    0 => room.gone(&Digest::of(&digest.to_be_bytes())),
                    1 => room.share(&Digest::of(&digest.to_be_bytes()), &of(&[&name])),
                    // The same content has the same size.
                    _ => { put(&room, &name, digest * 1000 + bytes, bytes); }
                }
                let books = room.books.lock();
                prop_assert!(books.bytes <= 1000);
                prop_assert_eq!(books.bytes, books.archives.values().map(|archive| archive.bytes).sum::<u64>());
                for (owner, own) in &books.by_owner {
                    let archives = books.archives.values().filter(|archive| archive.owners.contains(owner));
                    prop_assert_eq!(*own, archives.map(|archive| archive.bytes).sum::<u64>());
                }
                let free = 1000 - books.bytes;
                drop(books);
                prop_assert!(room.has(&of(&["stranger"]), free / 2));
                prop_assert!(free * 64 >= 1000, "each of six leaves half of what there was");
            }
        }
    }
}
