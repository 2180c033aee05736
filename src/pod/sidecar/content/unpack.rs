//! An archive becomes a folder among others' files.

use std::{
    collections::BTreeSet,
    fs::{File, Permissions},
    io::{self, Read},
    os::unix::fs::PermissionsExt as _,
};

use super::{
    folder::Folder,
    index::{ALONE, Index},
};
use crate::{
    api::content::{Form, Piece},
    artifact::archive::{self, ArchiveError},
};

/// How files are put down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rights {
    /// 0644 and 0755: the agent may edit them.
    Editable,
    /// 0444 and 0555.
    ReadOnly,
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Disk(#[from] io::Error),
}

/// Makes `slot` in `trees` from the archive: a folder, or a file where the piece is one. What is half made when it fails
/// is removed.
pub(super) fn unpack(from: impl Read, trees: &Folder, slot: &str, piece: &Piece, rights: Rights) -> io::Result<Index> {
    let made = match piece.form {
        Form::Tree => tree(from, &trees.make(slot)?, rights),
        Form::File => file(from, trees, slot, piece.mode),
        Form::Checkout => {
            let text = "this release of the sidecar does not support whole repositories with .git (NotYetSupported)";
            Err(Trouble::Disk(io::Error::new(io::ErrorKind::Unsupported, text)))
        }
    };
    made.map_err(|trouble| {
        let _ = trees.remove(slot);
        match trouble {
            Trouble::Disk(error) => error,
            Trouble::Archive(error) => io::Error::new(io::ErrorKind::InvalidData, error),
        }
    })
}

fn tree(from: impl Read, folder: &Folder, rights: Rights) -> Result<Index, Trouble> {
    let (mut index, mut folders) = (Index::default(), BTreeSet::new());
    // Files come by path: mostly the next one is in the folder of the last.
    let mut open: Option<(String, Folder)> = None;
    archive::for_each(from, |path, executable, content| {
        let (parent, name) = (path.parent(), path.file_name().unwrap_or_default());
        let here = match open.take() {
            Some((at, here)) if at == parent.as_str() => here,
            _ => folder.descend(parent.as_str(), Some(&mut 0))?,
        };
        let mode = match (rights, executable) {
            (Rights::Editable, false) => 0o644,
            (Rights::Editable, true) => 0o755,
            (Rights::ReadOnly, false) => 0o444,
            (Rights::ReadOnly, true) => 0o555,
        };
        write(&here, name, content, mode)?;
        if let Some(stat) = here.stat(name)? {
            index.add(path.as_str(), &stat);
        }
        let mut above = parent.clone();
        while rights == Rights::ReadOnly && !above.is_root() && folders.insert(above.clone()) {
            above = above.parent();
        }
        open = Some((parent.as_str().to_owned(), here));
        Ok::<_, Trouble>(())
    })?;
    for path in folders {
        // The root of the tree stays writable: to be moved it must be.
        folder.descend(path.as_str(), None)?.set_own_mode(0o555)?;
    }
    folder.set_own_mode(0o755)?;
    Ok(index)
}

fn file(from: impl Read, trees: &Folder, slot: &str, mode: Option<u32>) -> Result<Index, Trouble> {
    let (mut index, mut files) = (Index::default(), 0);
    archive::for_each(from, |_, executable, content| {
        files += 1;
        if files > 1 {
            return Err(ArchiveError::Foreign("more files than one".into()).into());
        }
        let own = if executable { 0o755 } else { 0o644 };
        write(trees, slot, content, mode.map_or(own, |mode| mode & 0o777))?;
        if let Some(stat) = trees.stat(slot)? {
            index.add(ALONE, &stat);
        }
        Ok::<_, Trouble>(())
    })?;
    if files == 0 { Err(ArchiveError::Malformed("it holds no file".into()).into()) } else { Ok(index) }
}

fn write(folder: &Folder, name: &str, content: &mut dyn Read, mode: u32) -> io::Result<()> {
    let mut file: File = folder.create(name)?;
    io::copy(content, &mut file)?;
    file.set_permissions(Permissions::from_mode(mode))
}
