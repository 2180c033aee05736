//! Disk for clones: all of them together stay within one budget, and those that nobody has used for longest make room.
//!
//! Everything here can be fetched again. What is in use is never removed; where nothing else is left to remove, a fetch is
//! refused before the budget is passed.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

use super::error::{GitError, Reason};

/// A pack gets an index, which may be larger than the pack itself: that many bytes are counted for one that arrives, until
/// it is known what both take.
const PER_BYTE: u64 = 3;

/// Marks the error of a fetch for which there is no room.
pub(super) const NO_ROOM: &str = "no room for the pack beside the other clones";

/// The folder of all clones.
#[derive(Debug)]
pub(super) struct Disk {
    folder: PathBuf,
    /// Bytes.
    total: u64,
    /// Bytes that the folders of one remote and credential may take.
    share: u64,
    clones: Mutex<Clones>,
}

#[derive(Debug, Default)]
struct Clones {
    /// Counts uses.
    now: u64,
    bytes: u64,
    by_name: HashMap<String, Clone>,
}

/// The folders of one remote and credential.
#[derive(Debug, Default)]
struct Clone {
    bytes: u64,
    used: u64,
    is_in_use: bool,
}

impl Disk {
    /// For the clones in `folder`. One remote may take a quarter of `total`, but always what one pack of `pack` bytes takes
    /// beside the one before it.
    pub(super) fn new(folder: &Path, total: u64, pack: u64) -> Self {
        let share = (total / 4).max(pack.saturating_mul(PER_BYTE + 1)).min(total);
        Self { folder: folder.to_owned(), total, share, clones: Mutex::default() }
    }

    /// The clones of one remote are used; whoever asks holds their lock.
    pub(super) fn enter<'a>(&'a self, name: &'a str) -> Room<'a> {
        let mut clones = self.clones.lock();
        clones.now += 1;
        let now = clones.now;
        let clone = clones.by_name.entry(name.to_owned()).or_default();
        (clone.used, clone.is_in_use) = (now, true);
        Room { disk: self, name }
    }

    /// Removes all folders of a remote; whoever asks holds their lock.
    pub(super) fn remove(&self, name: &str) {
        let mut clones = self.clones.lock();
        self.remove_folders(name);
        if let Some(gone) = clones.by_name.remove(name) {
            clones.bytes = clones.bytes.saturating_sub(gone.bytes);
        }
    }

    fn folders(&self, name: &str) -> impl Iterator<Item = PathBuf> {
        let below = move |file: &str| file.strip_prefix(name).is_some_and(|rest| rest.starts_with(['.', '-']));
        let all = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        all.filter(move |entry| entry.file_name().to_str().is_some_and(below)).map(|entry| entry.path())
    }

    fn remove_folders(&self, name: &str) {
        for folder in self.folders(name) {
            let _ = fs::remove_dir_all(folder);
        }
    }

    /// Removes what was used longest ago until there is room for `more`; whether there is.
    fn make_room(&self, clones: &mut Clones, more: u64) -> bool {
        while clones.bytes.saturating_add(more) > self.total {
            let idle = clones.by_name.iter().filter(|(_, clone)| !clone.is_in_use && clone.bytes > 0);
            let Some((name, _)) = idle.min_by_key(|(_, clone)| clone.used) else { return false };
            let name = name.clone();
            self.remove_folders(&name);
            if let Some(gone) = clones.by_name.remove(&name) {
                clones.bytes = clones.bytes.saturating_sub(gone.bytes);
            }
        }
        true
    }
}

/// The clones of one remote, while they are used.
pub(super) struct Room<'a> {
    disk: &'a Disk,
    name: &'a str,
}

impl Room<'_> {
    /// Counts bytes of a pack before they are written.
    ///
    /// # Errors
    /// [`NO_ROOM`].
    pub(super) fn arrive(&self, bytes: usize) -> io::Result<()> {
        let more = (bytes as u64).saturating_mul(PER_BYTE);
        let mut clones = self.disk.clones.lock();
        let own = clones.by_name.get(self.name).map_or(0, |clone| clone.bytes);
        if own.saturating_add(more) > self.disk.share || !self.disk.make_room(&mut clones, more) {
            return Err(io::Error::other(NO_ROOM));
        }
        clones.bytes += more;
        if let Some(clone) = clones.by_name.get_mut(self.name) {
            clone.bytes += more;
        }
        Ok(())
    }

    /// Counts what is there.
    pub(super) fn measure(&self) {
        let bytes = self.disk.folders(self.name).map(|folder| size(&folder)).sum();
        let mut clones = self.disk.clones.lock();
        if let Some(clone) = clones.by_name.get_mut(self.name) {
            let before = std::mem::replace(&mut clone.bytes, bytes);
            clones.bytes = clones.bytes.saturating_sub(before).saturating_add(bytes);
        }
    }

    /// Removes what is there.
    pub(super) fn clear(&self) {
        self.disk.remove_folders(self.name);
        self.measure();
    }

    /// Why a fetch is refused.
    pub(super) fn refusal(&self) -> GitError {
        let (share, total) = (self.disk.share >> 20, self.disk.total >> 20);
        let message = format!(
            "no room for the commit on the controller's disk: one remote may take {share} MiB of it, with the pack that arrives, and \
             all clones together {total} MiB; it is tried again, and who runs Pilothouse can give more (--data-size; chart: \
             artifacts.sizeLimit)"
        );
        GitError::new(Reason::StorageFailed, message)
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.measure();
        let mut clones = self.disk.clones.lock();
        if let Some(clone) = clones.by_name.get_mut(self.name) {
            clone.is_in_use = false;
            if clone.bytes == 0 {
                clones.by_name.remove(self.name);
            }
        }
    }
}

/// Bytes of all files below a folder.
fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.fold(0, |sum: u64, entry| {
        let bytes = match entry.metadata() {
            Ok(meta) if meta.is_dir() => size(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        };
        sum.saturating_add(bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A disk of 10 MiB for packs of 64 KiB: a quarter is 2.5 MiB.
    fn disk(folder: &Path) -> Disk {
        Disk::new(folder, 10 * MIB, 64 << 10)
    }

    fn write(folder: &Path, name: &str, bytes: u64) {
        fs::create_dir_all(folder.join(name)).unwrap();
        fs::File::create(folder.join(name).join("pack")).unwrap().set_len(bytes).unwrap();
    }

    fn fill(disk: &Disk, name: &str, bytes: u64) {
        let room = disk.enter(name);
        room.arrive(usize::try_from(bytes / PER_BYTE).unwrap()).unwrap();
        write(&disk.folder, &format!("{name}.git"), bytes);
    }

    fn names(disk: &Disk) -> Vec<String> {
        let entries = fs::read_dir(&disk.folder).unwrap().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_used_longest_ago_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let disk = disk(folder.path());
        for name in ["a", "b", "c", "d", "e"] {
            fill(&disk, name, 2 * MIB);
        }
        assert_eq!(disk.clones.lock().bytes, 10 * MIB, "what is there, not what was expected");
        drop(disk.enter("a"));
        write(folder.path(), "b-3.git", 0);
        write(folder.path(), "bb.git", 0);
        fill(&disk, "f", 2 * MIB);
        assert_eq!(names(&disk), ["a.git", "bb.git", "c.git", "d.git", "e.git", "f.git"]);
        assert_eq!(disk.clones.lock().bytes, 10 * MIB);
        disk.remove("a");
        assert_eq!(disk.clones.lock().bytes, 8 * MIB);
    }

    #[test]
    fn what_is_in_use_stays_and_a_fetch_is_refused_before_the_budget_is_passed() {
        let folder = tempfile::tempdir().unwrap();
        let disk = disk(folder.path());
        for name in ["a", "b", "c", "d"] {
            fill(&disk, name, 2 * MIB);
        }
        let used: Vec<_> = ["a", "b", "c", "d"].map(|name| disk.enter(name)).into();
        let room = disk.enter("e");
        let step = usize::try_from(MIB / PER_BYTE).unwrap();
        assert!(room.arrive(step).is_ok() && room.arrive(step).is_ok());
        assert_eq!(room.arrive(step).unwrap_err().to_string(), NO_ROOM);
        let text = room.refusal().message;
        assert!(text.contains("together 10 MiB") && text.contains("--data-size"), "{text}");
        assert_eq!(names(&disk), ["a.git", "b.git", "c.git", "d.git"]);
        drop(used);
        assert!(room.arrive(1).is_ok());
        assert_eq!(names(&disk), ["b.git", "c.git", "d.git"]);
        drop(room);
        assert_eq!(disk.clones.lock().bytes, 6 * MIB, "nothing came");
    }

    #[test]
    fn one_remote_takes_its_share_and_begins_anew_when_it_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let disk = disk(folder.path());
        let step = usize::try_from(MIB / PER_BYTE).unwrap();
        let room = disk.enter("a");
        assert!(room.arrive(step).is_ok() && room.arrive(step).is_ok());
        assert_eq!(room.arrive(step).unwrap_err().to_string(), NO_ROOM, "2.5 MiB of 10");
        write(folder.path(), "a.git", 2 * MIB);
        write(folder.path(), "a-m1.git", 400 << 10);
        room.measure();
        assert_eq!(room.arrive(step).unwrap_err().to_string(), NO_ROOM);
        room.clear();
        assert!(names(&disk).is_empty() && room.arrive(step).is_ok());
        assert_eq!(
            Disk::new(folder.path(), 10 * MIB, 4 * MIB).share,
            10 * MIB,
            "never less than a pack needs, nor more than all"
        );
    }
}
