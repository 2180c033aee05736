//! Trees to archives and back (pure): sorted, without times or owners, so that equal trees are equal bytes.

use std::io::{self, Read, Write};

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
    let malformed = |error: io::Error| ArchiveError::Malformed(error.to_string());
    let mut archive = tar::Archive::new(from);
    let mut tree = FileTree::default();
    for entry in archive.entries().map_err(malformed)? {
        let mut entry = entry.map_err(malformed)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let path = RepoPath::parse(&name).ok().filter(|path| path.as_str() == name && !path.is_root());
        let Some(path) = path.filter(|_| entry.header().entry_type().is_file()) else {
            return Err(ArchiveError::Foreign(name));
        };
        let executable = entry.header().mode().map_err(malformed)? & 0o100 != 0;
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(malformed)?;
        tree.insert(path, Entry { bytes: bytes.into(), executable });
    }
    Ok(tree)
}
