//! An archive becomes a folder among others' files.

use std::{
    collections::BTreeSet,
    fs::{File, Permissions},
    io::{self, Read},
    os::unix::fs::PermissionsExt as _,
};

use super::{
    folder::Folder,
    index::{ALONE, Index, Mark},
    whole::{Hashing, content_of_link, is_pointer},
};
use crate::{
    api::content::{
        Form, Piece,
        checkout::{self as layout, Rest},
    },
    artifact::archive::{self, ArchiveError},
    tree::RepoPath,
};

/// Longest list of links that is read.
const MAX_REST: u64 = 64 << 20;

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
        Form::Tree => trees.make(slot).map_err(Trouble::from).and_then(|folder| tree(from, &folder, rights)),
        Form::File => file(from, trees, slot, piece.mode),
        Form::Overlay => trees.make(slot).map_err(Trouble::from).and_then(|folder| overlay(from, &folder)),
        Form::Checkout => trees.make(slot).map_err(Trouble::from).and_then(|folder| checkout(from, &folder)),
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

/// Files for a folder that is the agent's own: what each holds is remembered.
fn overlay(from: impl Read, folder: &Folder) -> Result<Index, Trouble> {
    let mut index = Index::default();
    archive::for_each(from, |path, executable, content| {
        let here = folder.descend(path.parent().as_str(), Some(&mut 0))?;
        let (name, mut hashing) = (path.file_name().unwrap_or_default(), Hashing::new(content));
        write(&here, name, &mut hashing, if executable { 0o755 } else { 0o644 })?;
        index.add_content(path.as_str(), here.stat(name)?.as_ref().map(Mark::of), hashing.content(executable));
        Ok::<_, Trouble>(())
    })?;
    Ok(index)
}

/// A work tree with its `.git`. Links come last: nothing is written through one.
fn checkout(from: impl Read, folder: &Folder) -> Result<Index, Trouble> {
    let (mut index, mut rest) = (Index::default(), None);
    archive::for_each(from, |path, executable, content| {
        let name = path.as_str();
        if name == layout::REST {
            let mut bytes = vec![];
            content.take(MAX_REST).read_to_end(&mut bytes)?;
            rest = serde_json::from_slice::<Rest>(&bytes).ok();
            return Ok(());
        }
        let (below, mode) = match (name.strip_prefix(layout::TREE), name.strip_prefix(layout::GIT)) {
            (Some(below), _) => (below.to_owned(), if executable { 0o755 } else { 0o644 }),
            (None, Some(git)) if is_allowed(git) => (format!(".git/{git}"), 0o644),
            _ => return Err(ArchiveError::Foreign(name.into()).into()),
        };
        let (parent, name) = below.rsplit_once('/').unwrap_or(("", &below));
        let here = folder.descend(parent, Some(&mut 0))?;
        let mut hashing = Hashing::new(content);
        write(&here, name, &mut hashing, mode)?;
        if !below.starts_with(".git/") || is_pointer(&below) {
            index.add_content(&below, here.stat(name)?.as_ref().map(Mark::of), hashing.content(executable));
        }
        Ok::<_, Trouble>(())
    })?;
    let rest = rest.ok_or_else(|| ArchiveError::Malformed(format!("it holds no {}", layout::REST)))?;
    put_rest(folder, &rest, &mut index)?;
    for needed in [".git/refs/heads", ".git/refs/tags", ".git/objects/info", ".git/info"] {
        folder.descend(needed, Some(&mut 0))?;
    }
    Ok(index)
}

fn put_rest(folder: &Folder, rest: &Rest, index: &mut Index) -> Result<(), Trouble> {
    let checked = |path: &str| {
        let good = RepoPath::parse(path).is_ok_and(|parsed| parsed.as_str() == path && !parsed.is_root());
        if good { Ok(()) } else { Err(ArchiveError::Foreign(path.into())) }
    };
    for path in &rest.folders {
        checked(path)?;
        folder.descend(path, Some(&mut 0))?;
    }
    for (path, target) in &rest.links {
        checked(path)?;
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let here = folder.descend(parent, Some(&mut 0))?;
        here.symlink(name, target)?;
        index.add_content(path, here.stat(name)?.as_ref().map(Mark::of), content_of_link(target.as_bytes()));
    }
    Ok(())
}

fn is_allowed(git: &str) -> bool {
    git.split('/').next().is_some_and(|first| layout::ALLOWED.contains(&first))
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
