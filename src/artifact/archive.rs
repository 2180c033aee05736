//! Trees to archives and back: sorted, without times or owners, so that equal trees are equal bytes.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use crate::tree::{Entry, FileTree, RepoPath};

/// Why bytes are no archive of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// Broken or cut short.
    #[error("the archive is malformed: {0}")]
    Malformed(String),
    /// An entry that is no regular file, or whose path leaves the tree.
    #[error("the archive holds {0:?}, which no archive of ours has")]
    Foreign(String),
}

/// Why an archive did not become a folder.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It is none of ours.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The disk, or a folder of that name that is there already.
    #[error("cannot write it: {0}")]
    Disk(#[from] io::Error),
}

/// Writes `tree` as a tar archive: files by path, mode 0644 or 0755, everything else zero.
pub fn write(tree: &FileTree, to: impl Write) -> io::Result<()> {
    let mut builder = tar::Builder::new(to);
    builder.mode(tar::HeaderMode::Deterministic);
    for (path, entry) in tree.iter() {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(if entry.executable { 0o755 } else { 0o644 });
        header.set_size(entry.bytes.len() as u64);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        builder.append_data(&mut header, path.as_str(), &*entry.bytes)?;
    }
    builder.into_inner()?.flush()
}

/// Reads an archive that [`write()`] made; anything else in it is refused.
pub fn read(from: impl Read) -> Result<FileTree, ArchiveError> {
    let mut tree = FileTree::default();
    for_each(from, |path, executable, entry| {
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(|error| malformed(&error))?;
        tree.insert(path, Entry { bytes: bytes.into(), executable });
        Ok::<_, ArchiveError>(())
    })?;
    Ok(tree)
}

/// Makes the folder `to`, which must not exist, with the files of an archive that [`write()`] made, 0644 or 0755. It is
/// there complete or not at all, and no more than one file is in memory. What links lie above `to` is the caller's
/// business; below it there is none.
pub fn unpack(from: impl Read, to: &Path) -> Result<(), UnpackError> {
    if fs::symlink_metadata(to).is_ok() {
        return Err(io::Error::from(io::ErrorKind::AlreadyExists).into());
    }
    let beside = tempfile::Builder::new().prefix(".unpack-").tempdir_in(to.parent().unwrap_or(Path::new(".")))?;
    for_each(from, |path, executable, entry| {
        let target = beside.path().join(path.as_str());
        fs::create_dir_all(target.parent().unwrap_or(beside.path()))?;
        let mode = if executable { 0o755 } else { 0o644 };
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(target)?;
        io::copy(entry, &mut file)?;
        Ok::<_, UnpackError>(())
    })?;
    fs::set_permissions(beside.path(), fs::Permissions::from_mode(0o755))?;
    fs::rename(beside.path(), to)?;
    Ok(())
}

fn malformed(error: &io::Error) -> ArchiveError {
    ArchiveError::Malformed(error.to_string())
}

/// Calls `take` with each file's path, whether it is executable, and its content.
pub fn for_each<E: From<ArchiveError>>(
    from: impl Read,
    mut take: impl FnMut(RepoPath, bool, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let mut archive = tar::Archive::new(from);
    for entry in archive.entries().map_err(|error| malformed(&error))? {
        let mut entry = entry.map_err(|error| malformed(&error))?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let path = RepoPath::parse(&name).ok().filter(|path| path.as_str() == name && !path.is_root());
        let Some(path) = path.filter(|_| entry.header().entry_type().is_file()) else {
            return Err(ArchiveError::Foreign(name).into());
        };
        let executable = entry.header().mode().map_err(|error| malformed(&error))? & 0o100 != 0;
        take(path, executable, &mut entry)?;
    }
    Ok(())
}
