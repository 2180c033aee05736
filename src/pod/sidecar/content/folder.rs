//! Folders that somebody else writes into: what lies below is reached through open descriptors, one name at a time, and
//! never through a link. The agent owns its workspace; whatever it plants there must not lead us elsewhere.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{self as sys, AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};

/// Deeper trees are not walked: each level holds a descriptor.
const DEPTH: usize = 64;
const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What a walk is for: path, folder, name in it; whether to go on.
type Visit<'a> = dyn FnMut(&str, &Folder, &OsStr) -> io::Result<bool> + 'a;

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder(OwnedFd);

impl Folder {
    /// A folder whose path is ours to trust: a mount of the pod.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(sys::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// A folder in this one; a link is an error.
    pub(super) fn enter(&self, name: impl AsRef<OsStr>) -> io::Result<Self> {
        Ok(Self(sys::openat(&self.0, name.as_ref(), FOLDER, Mode::empty())?))
    }

    /// The same, made where it is missing.
    pub(super) fn make(&self, name: impl AsRef<OsStr>) -> io::Result<Self> {
        match sys::mkdirat(&self.0, name.as_ref(), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => self.enter(name),
            Err(error) => Err(error.into()),
        }
    }

    /// The folder that a path of names leads to. With `made`, missing ones are made, and it counts them.
    pub(super) fn descend(&self, path: &str, mut made: Option<&mut usize>) -> io::Result<Self> {
        let mut here = self.enter(".")?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let next = match (here.enter(name), made.as_deref_mut()) {
                (Err(error), Some(made)) if error.kind() == io::ErrorKind::NotFound => {
                    *made += 1;
                    here.make(name)
                }
                (entered, _) => entered,
            };
            here = next.map_err(|error| behind(path, name, &error))?;
        }
        Ok(here)
    }

    /// What has that name; `None` for nothing.
    pub(super) fn kind(&self, name: impl AsRef<OsStr>) -> io::Result<Option<FileType>> {
        Ok(self.stat(name)?.map(|stat| FileType::from_raw_mode(stat.st_mode)))
    }

    /// Its metadata; `None` where there is nothing.
    pub(super) fn stat(&self, name: impl AsRef<OsStr>) -> io::Result<Option<sys::Stat>> {
        match sys::statat(&self.0, name.as_ref(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A new file; one that exists is an error.
    pub(super) fn create(&self, name: impl AsRef<OsStr>) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(sys::openat(&self.0, name.as_ref(), flags, Mode::from_raw_mode(0o644))?))
    }

    /// The bytes of a plain file of at most `limit` bytes; `None` where there is nothing.
    pub(super) fn read(&self, name: impl AsRef<OsStr>, limit: u64) -> io::Result<Option<Vec<u8>>> {
        // NONBLOCK: a pipe that somebody put there must not stop us.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match sys::openat(&self.0, name.as_ref(), flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let meta = file.metadata()?;
        if !meta.is_file() || meta.len() > limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "is no plain file, or too long"));
        }
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Writes a file so that a reader sees the old bytes or the new ones.
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let new = format!("{name}.new");
        self.remove(&new)?;
        let mut file = self.create(&new)?;
        file.write_all(bytes)?;
        Ok(sys::renameat(&self.0, new.as_str(), &self.0, name)?)
    }

    /// All of this file system is on disk after this: of a thousand files cheaper than one at a time. It may take long.
    pub(super) fn sync_all(&self) -> io::Result<()> {
        Ok(sys::syncfs(&self.0)?)
    }

    /// Moves something; `to` must be free.
    pub(super) fn rename(&self, name: impl AsRef<OsStr>, to: &Self, new: impl AsRef<OsStr>) -> io::Result<()> {
        let (name, new) = (name.as_ref(), new.as_ref());
        match sys::renameat_with(&self.0, name, &to.0, new, RenameFlags::NOREPLACE) {
            // A file system without the flag.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if to.kind(new)?.is_none() => {
                Ok(sys::renameat(&self.0, name, &to.0, new)?)
            }
            other => Ok(other?),
        }
    }

    /// Moves a file over whatever file has the other name.
    pub(super) fn rename_over(&self, name: impl AsRef<OsStr>, to: &Self, new: impl AsRef<OsStr>) -> io::Result<()> {
        Ok(sys::renameat(&self.0, name.as_ref(), &to.0, new.as_ref())?)
    }

    /// A new link; something that has the name is an error.
    pub(super) fn symlink(&self, name: impl AsRef<OsStr>, to: &str) -> io::Result<()> {
        Ok(sys::symlinkat(to, &self.0, name.as_ref())?)
    }

    /// Removes a file or a link; a folder is an error.
    pub(super) fn unlink(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        match sys::unlinkat(&self.0, name.as_ref(), AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Exchanges two names in one step; `Ok(false)` where the file system cannot.
    pub(super) fn exchange(&self, name: impl AsRef<OsStr>, with: &Self, other: impl AsRef<OsStr>) -> io::Result<bool> {
        use rustix::io::Errno;
        match sys::renameat_with(&self.0, name.as_ref(), &with.0, other.as_ref(), RenameFlags::EXCHANGE) {
            Ok(()) => Ok(true),
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes `name` a link to `to`, in one step; what has the name must be a link or nothing.
    pub(super) fn link(&self, name: &str, to: &str) -> io::Result<()> {
        if self.kind(name)?.is_some_and(|kind| kind != FileType::Symlink) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something else than a link has the name"));
        }
        let new = format!(".{name}.new");
        self.remove(&new)?;
        sys::symlinkat(to, &self.0, new.as_str())?;
        sys::renameat(&self.0, new.as_str(), &self.0, name)?;
        Ok(())
    }

    /// Where a link leads; `None` for anything else.
    pub(super) fn link_target(&self, name: impl AsRef<OsStr>) -> Option<PathBuf> {
        let target = sys::readlinkat(&self.0, name.as_ref(), Vec::new()).ok()?;
        Some(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    /// Permissions of a folder or file in this one, which must not be a link.
    pub(super) fn set_mode(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = sys::openat(&self.0, name.as_ref(), flags, Mode::empty())?;
        Ok(sys::fchmod(&opened, Mode::from_raw_mode(mode))?)
    }

    /// Permissions of this folder.
    pub(super) fn set_own_mode(&self, mode: u32) -> io::Result<()> {
        Ok(sys::fchmod(&self.0, Mode::from_raw_mode(mode))?)
    }

    /// Calls `each` with every name in this folder and what it is, until it says `false`.
    pub(super) fn each(&self, mut each: impl FnMut(&OsStr, FileType) -> io::Result<bool>) -> io::Result<()> {
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => self.kind(name)?.unwrap_or(FileType::Unknown),
                kind => kind,
            };
            if !each(name, kind)? {
                break;
            }
        }
        Ok(())
    }

    /// All names, sorted; for folders of ours, which have few.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = vec![];
        self.each(|name, _| {
            names.extend(name.to_str().map(str::to_owned));
            Ok(true)
        })?;
        names.sort_unstable();
        Ok(names)
    }

    /// Removes whatever has that name, with all below; nothing is fine too.
    pub(super) fn remove(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        self.remove_below(name.as_ref(), DEPTH)
    }

    fn remove_below(&self, name: &OsStr, depth: usize) -> io::Result<()> {
        use rustix::io::Errno;
        match sys::unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        let deeper = depth.checked_sub(1).ok_or_else(|| io::Error::other("is nested too deeply to be removed"))?;
        let folder = self.enter(name)?;
        // Without these its content cannot be removed; whoever owns it may set them.
        let _ = folder.set_own_mode(0o700);
        folder.each(|below, _| folder.remove_below(below, deeper).map(|()| true))?;
        match sys::unlinkat(&self.0, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes an empty folder; whether it did.
    pub(super) fn remove_empty(&self, name: impl AsRef<OsStr>) -> bool {
        sys::unlinkat(&self.0, name.as_ref(), AtFlags::REMOVEDIR).is_ok()
    }

    /// Calls `each` with the path, below this folder, of everything that is no folder, until it says `false`.
    pub(super) fn walk(&self, each: &mut Visit<'_>) -> io::Result<()> {
        self.walk_below("", DEPTH, each).map(drop)
    }

    fn walk_below(&self, prefix: &str, depth: usize, each: &mut Visit<'_>) -> io::Result<bool> {
        let mut goes_on = true;
        self.each(|name, kind| {
            let path = format!("{prefix}{}", name.to_string_lossy());
            goes_on = if kind == FileType::Directory {
                let deeper = depth.checked_sub(1).ok_or_else(|| io::Error::other("is nested too deeply"))?;
                self.enter(name)?.walk_below(&format!("{path}/"), deeper, each)?
            } else {
                each(&path, self, name)?
            };
            Ok(goes_on)
        })?;
        Ok(goes_on)
    }
}

fn behind(path: &str, name: &str, error: &io::Error) -> io::Error {
    use rustix::io::Errno;
    let code = error.raw_os_error();
    let text = if [Errno::NOTDIR, Errno::LOOP].iter().any(|e| Some(e.raw_os_error()) == code) {
        format!("{name:?} in {path:?} is a link or a file, not a folder: remove it")
    } else {
        format!("{name:?} in {path:?}: {error}")
    };
    io::Error::new(error.kind(), text)
}
