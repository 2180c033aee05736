//! Archives in a local folder.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    io::{self, BufReader, BufWriter, Seek as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::{Mutex, RwLock};
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;

use super::{
    Digest, archive,
    hashing::{Checking, Counting, Hashing},
    recent::Recent,
    room::Room,
    verified::Verified,
};
use crate::{status::Failure, tree::FileTree};

/// What [`Store::put`] made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Name of the content.
    pub digest: Digest,
    /// Size of the archive in bytes.
    pub size: u64,
}

/// An archive to be sent.
#[derive(Debug)]
pub struct Opened {
    /// At its beginning. What becomes of the name in the store meanwhile does not matter to it.
    pub file: File,
    /// Its size in bytes.
    pub size: u64,
}

/// What [`Store::collect`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Number of archives.
    pub archives: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Why the store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Never put here, or collected.
    #[error("the artifact {0} is not in the store")]
    Missing(Digest),
    /// The bytes are not what their name says; they have been removed.
    #[error("the artifact {0} was damaged on disk and has been removed; it is made again from Git")]
    Damaged(Digest),
    /// The disk is full.
    #[error("the disk of the artifact store is full")]
    Full,
    /// It would take more than all artifacts may, or more than those of one namespace may.
    #[error(
        "no room for an artifact of {} MiB on the controller's disk: all artifacts together may take {} MiB of it, and those \
         of one namespace no more than they leave free; it is tried again. Leave out files (spec.ignore of a Repository, path \
         of a context), keep fewer repositories and revisions in the namespace, or ask who runs Pilothouse for more \
         (--data-size; chart: artifacts.sizeLimit, artifacts.persistence.size)",
        bytes.div_ceil(1 << 20), total >> 20
    )]
    NoRoom {
        /// Bytes of the artifact.
        bytes: u64,
        /// Bytes that all artifacts may take.
        total: u64,
    },
    /// Any other trouble with the disk.
    #[error("the artifact store cannot be used: {0}")]
    Io(io::ErrorKind),
}

impl StoreError {
    /// For a condition: a missing or damaged artifact is waited for, the disk is tried again.
    pub fn to_failure(&self) -> Failure {
        match self {
            Self::Missing(_) | Self::Damaged(_) => Failure::waiting("ArtifactInvalid", self.to_string()),
            Self::Full | Self::NoRoom { .. } | Self::Io(_) => Failure::transient("StorageFailed", self.to_string()),
        }
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            kind => Self::Io(kind),
        }
    }
}

/// No archive takes this long to write.
const LEFT_BEHIND: Duration = Duration::from_hours(1);

/// A folder of archives. Calls block; only [`Store::recent`] never does.
pub struct Store {
    folder: PathBuf,
    recent: Mutex<Recent>,
    verified: Mutex<Verified>,
    /// One reads the disk at a time; whoever waited finds what the other found.
    checking: Mutex<()>,
    /// Who reads which tree: others who want the same wait, and find it in memory.
    reading: Mutex<HashMap<Digest, Arc<Mutex<()>>>>,
    missing: RwLock<Vec<Listener>>,
    held: Mutex<HashMap<String, BTreeSet<Digest>>>,
    room: Room,
    /// Somebody was refused for want of room.
    pressed: Notify,
}

type Listener = Box<dyn Fn(&Digest) + Send + Sync>;

impl Store {
    /// Uses `folder`, which is made when it is missing, and keeps up to `memory` bytes of verified trees at hand.
    pub fn new(folder: &Path, memory: u64) -> Result<Self, StoreError> {
        fs::create_dir_all(folder.join("sha256"))?;
        let parts = folder.join("parts");
        fs::create_dir_all(&parts)?;
        // What a crash left half written; a younger one may be another process's work.
        for part in fs::read_dir(&parts)?.flatten() {
            let age = part.metadata().and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
            if age.is_some_and(|age| age > LEFT_BEHIND) {
                fs::remove_file(part.path())?;
            }
        }
        let (verified, checking, reading, missing, held) = Default::default();
        let (recent, room, pressed) = (Mutex::new(Recent::new(memory)), Room::new(u64::MAX), Notify::new());
        Ok(Self { folder: folder.to_owned(), recent, verified, checking, reading, missing, held, room, pressed })
    }

    /// Keeps all archives together within so many bytes, those included that are there.
    pub fn within(mut self, bytes: u64) -> Result<Self, StoreError> {
        self.room = Room::new(bytes);
        let there = self.archives()?.into_iter().map(|(digest, meta)| (digest, meta.len())).collect();
        self.room.found(&there, |_| false);
        Ok(self)
    }

    /// Bytes of all archives, and how many they may be.
    pub fn usage(&self) -> (u64, u64) {
        (self.room.taken(), self.room.total)
    }

    /// Whether one of these namespaces may put so many bytes more.
    pub fn has_room(&self, namespaces: &BTreeSet<String>, bytes: u64) -> bool {
        self.room.has(namespaces, bytes)
    }

    /// Who names archives takes their room, instead of who put them; what nobody names stays whose it was.
    pub fn belong(&self, named: &HashMap<Digest, BTreeSet<String>>) {
        self.room.belongs(named);
    }

    /// Resolves after somebody was refused for want of room.
    pub async fn pressed(&self) {
        self.pressed.notified().await;
    }

    /// Packs and keeps a tree for nobody in particular: see [`put_for`](Self::put_for).
    pub fn put(&self, tree: &FileTree) -> Result<Stored, StoreError> {
        self.put_for(tree, &BTreeSet::new())
    }

    /// Packs and keeps a tree in the room of the namespaces that want it, one of which must have as much. What is there
    /// already needs none. The archive is complete on disk before anybody can see it under its name.
    pub fn put_for(&self, tree: &FileTree, namespaces: &BTreeSet<String>) -> Result<Stored, StoreError> {
        let mut size = Counting::default();
        archive::write(tree, &mut size)?;
        let Some(reserved) = self.room.reserve(namespaces, size.0) else {
            return self.put_again(tree, namespaces, size.0);
        };
        let mut part = Hashing::new(BufWriter::new(tempfile::NamedTempFile::new_in(self.folder.join("parts"))?));
        archive::write(tree, &mut part)?;
        let stored = Stored { digest: part.hasher.into(), size: part.size };
        if !self.renew(&stored, namespaces)? {
            let part = part.inner.into_inner().map_err(io::IntoInnerError::into_error)?;
            part.as_file().sync_all()?;
            self.publish(part, &self.path(&stored.digest))?;
            reserved.keep(stored.digest);
        }
        self.recent.lock().keep(stored.digest, &Arc::new(tree.clone()));
        Ok(stored)
    }

    /// Where there is no room for more: what is there may be used.
    fn put_again(&self, tree: &FileTree, namespaces: &BTreeSet<String>, bytes: u64) -> Result<Stored, StoreError> {
        let stored = Stored { digest: digest_of(tree), size: bytes };
        if self.renew(&stored, namespaces)? {
            return Ok(stored);
        }
        self.pressed.notify_one();
        Err(StoreError::NoRoom { bytes, total: self.room.total })
    }

    /// Whether it is there. A fresh time keeps it from being collected before somebody names it.
    fn renew(&self, stored: &Stored, namespaces: &BTreeSet<String>) -> Result<bool, StoreError> {
        let path = self.path(&stored.digest);
        if !fs::metadata(&path).is_ok_and(|meta| meta.len() == stored.size) {
            return Ok(false);
        }
        File::options().append(true).open(&path)?.set_modified(SystemTime::now())?;
        self.room.share(&stored.digest, namespaces);
        Ok(true)
    }

    fn publish(&self, part: tempfile::NamedTempFile, path: &Path) -> Result<(), StoreError> {
        let folder = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder)?;
        part.persist(path).map_err(|error| error.error)?;
        // The name itself is durable only when the folder is.
        File::open(folder)?.sync_all()?;
        Ok(())
    }

    /// The tree, if it is at hand in memory.
    pub fn recent(&self, digest: &Digest) -> Option<Arc<FileTree>> {
        self.recent.lock().get(digest)
    }

    /// Calls `listener` whenever somebody wants an archive that is missing or damaged, so that it can be made again.
    pub fn on_missing(&self, listener: impl Fn(&Digest) + Send + Sync + 'static) {
        self.missing.write().push(Box::new(listener));
    }

    /// Reads a tree. Its bytes are checked against the digest whenever they come from disk.
    pub fn open(&self, digest: &Digest) -> Result<Arc<FileTree>, StoreError> {
        if let Some(tree) = self.recent(digest) {
            return Ok(tree);
        }
        let turn = self.reading.lock().entry(*digest).or_default().clone();
        let taken = turn.lock();
        let found = self.recent(digest).map_or_else(|| self.told(digest, self.read(digest)), Ok);
        drop(taken);
        drop(turn);
        self.reading.lock().retain(|_, turn| Arc::strong_count(turn) > 1);
        found
    }

    fn told<T>(&self, digest: &Digest, opened: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Missing(_) | StoreError::Damaged(_)) = &opened {
            for listener in self.missing.read().iter() {
                listener(digest);
            }
        }
        opened
    }

    /// An archive to be sent as it is. Each version of a file is read and checked once and again after ten minutes, by one
    /// caller at a time: who is sent it checks it too.
    pub fn serve(&self, digest: &Digest) -> Result<Opened, StoreError> {
        self.told(digest, self.checked(digest))
    }

    fn checked(&self, digest: &Digest) -> Result<Opened, StoreError> {
        let mut file = self.file(digest)?;
        let meta = file.metadata()?;
        if self.verified.lock().is(digest, &meta) {
            return Ok(Opened { file, size: meta.len() });
        }
        let _turn = self.checking.lock();
        if self.verified.lock().is(digest, &meta) {
            return Ok(Opened { file, size: meta.len() });
        }
        let mut hasher = Hashing::new(io::sink());
        io::copy(&mut BufReader::with_capacity(64 * 1024, &file), &mut hasher)?;
        if Digest::from(hasher.hasher) != *digest {
            self.remove_damaged(digest)?;
            return Err(StoreError::Damaged(*digest));
        }
        self.verified.lock().remember(*digest, &meta);
        file.rewind()?;
        Ok(Opened { file, size: meta.len() })
    }

    fn file(&self, digest: &Digest) -> Result<File, StoreError> {
        File::open(self.path(digest)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::Missing(*digest),
            _ => error.into(),
        })
    }

    fn remove_damaged(&self, digest: &Digest) -> Result<(), StoreError> {
        match fs::remove_file(self.path(digest)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => self.room.gone(digest),
        }
        Ok(())
    }

    /// Where somebody may write an archive that [`Store::adopt`] is given.
    pub fn parts(&self) -> PathBuf {
        self.folder.join("parts")
    }

    /// Takes in an archive that was written below [`Store::parts`] and whose bytes were checked. Somebody names it, so what
    /// counts is the room for all.
    pub fn adopt(&self, archive: tempfile::NamedTempFile, digest: &Digest) -> Result<(), StoreError> {
        let bytes = archive.as_file().metadata()?.len();
        let Some(reserved) = self.room.reserve(&BTreeSet::new(), bytes) else {
            self.pressed.notify_one();
            return Err(StoreError::NoRoom { bytes, total: self.room.total });
        };
        archive.as_file().sync_all()?;
        self.publish(archive, &self.path(digest))?;
        reserved.keep(*digest);
        Ok(())
    }

    fn read(&self, digest: &Digest) -> Result<Arc<FileTree>, StoreError> {
        let mut reader =
            Checking { inner: BufReader::with_capacity(64 * 1024, self.file(digest)?), hasher: Sha256::new() };
        let tree = archive::read(&mut reader);
        // Padding behind the last entry is part of the archive too.
        io::copy(&mut reader, &mut io::sink())?;
        let whole = Digest::from(reader.hasher) == *digest;
        match tree {
            Ok(tree) if whole => {
                let tree = Arc::new(tree);
                self.recent.lock().keep(*digest, &tree);
                Ok(tree)
            }
            _ => {
                self.remove_damaged(digest)?;
                Err(StoreError::Damaged(*digest))
            }
        }
    }

    /// Whether there is an archive of that name, unread.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).is_file()
    }

    /// Where the archive lies. Who reads it must check it.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.folder.join("sha256").join(&hex[..2]).join(format!("{hex}.tar"))
    }

    /// Keeps archives from being collected, instead of those that `owner` held before: somebody has decided for them, and
    /// no object names them yet. None lets go of all.
    pub fn hold(&self, owner: &str, digests: BTreeSet<Digest>) {
        let mut held = self.held.lock();
        if digests.is_empty() {
            held.remove(owner);
        } else if held.get(owner) != Some(&digests) {
            held.insert(owner.into(), digests);
        }
    }

    /// Removes archives that are not in `keep`, not held, and older than `min_age` says (somebody may be about to name younger
    /// ones).
    pub fn collect(
        &self,
        keep: &BTreeSet<Digest>,
        min_age: impl Fn(&Digest) -> Duration,
    ) -> Result<Collected, StoreError> {
        let now = SystemTime::now();
        let mut done = Collected::default();
        let held: BTreeSet<Digest> = self.held.lock().values().flatten().copied().collect();
        let mut there = HashMap::new();
        for (digest, meta) in self.archives()? {
            let age = meta.modified().ok().and_then(|time| now.duration_since(time).ok()).unwrap_or_default();
            if keep.contains(&digest) || held.contains(&digest) || age < min_age(&digest) {
                there.insert(digest, meta.len());
                continue;
            }
            self.recent.lock().drop_one(&digest);
            fs::remove_file(self.path(&digest))?;
            self.room.gone(&digest);
            done = Collected { archives: done.archives + 1, bytes: done.bytes + meta.len() };
        }
        self.room.found(&there, |digest| self.contains(digest));
        Ok(done)
    }

    /// What lies in the folder.
    fn archives(&self) -> io::Result<Vec<(Digest, fs::Metadata)>> {
        let shards = fs::read_dir(self.folder.join("sha256"))?.flatten();
        let files = shards.flat_map(|shard| fs::read_dir(shard.path()).into_iter().flatten().flatten());
        Ok(files.filter_map(|file| Some((digest_in(&file.path())?, file.metadata().ok()?))).collect())
    }

    #[cfg(test)]
    pub(super) fn in_memory(&self) -> usize {
        self.recent.lock().len()
    }
}

/// The digest that [`Store::put`] would give the tree.
pub fn digest_of(tree: &FileTree) -> Digest {
    let mut hashing = Hashing::new(io::sink());
    // A sink takes everything.
    let _ = archive::write(tree, &mut hashing);
    hashing.hasher.into()
}

fn digest_in(path: &Path) -> Option<Digest> {
    let hex = path.file_name()?.to_str()?.strip_suffix(".tar")?;
    Digest::parse(&format!("sha256:{hex}"))
}
