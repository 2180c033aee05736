//! Where pieces go, and whether what is there is what was put there.

use std::{io, path::Path};

use rustix::fs::FileType;

use super::{Area, Kind, Staged, is_same, read_index};
use crate::{
    api::content::{Form, Piece},
    pod::sidecar::content::{CONTROL, folder::Folder, index::Edits, mount, state::Placing, whole},
    tree::RepoPath,
};

impl Area {
    /// Path of the target below the root.
    ///
    /// # Errors
    /// It is no path below it that is ours to write.
    pub(in super::super) fn relative(&self, target: &str) -> io::Result<RepoPath> {
        let bad = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{target} {why}"));
        let below = Path::new(target).strip_prefix(&self.root).map_err(|_| bad("is not in this volume"))?;
        let below = below.to_str().ok_or_else(|| bad("is no text"))?;
        let path = RepoPath::parse(below).map_err(|error| bad(&error.to_string()))?;
        if path.is_root() != (self.kind == Kind::Mount) || path.as_str() != below {
            return Err(bad("cannot be a target: name a folder or a file below the workspace"));
        }
        if path.as_str().split('/').next() == Some(CONTROL) {
            return Err(bad("is where content is prepared: choose another path"));
        }
        Ok(path)
    }

    /// Where below the root a piece goes: what is brought forward may be the root itself.
    pub(super) fn home(&self, piece: &Piece) -> io::Result<RepoPath> {
        let is_root = Path::new(&piece.target) == self.root && self.kind != Kind::Mount;
        if is_root && piece.form.is_brought_forward() { Ok(RepoPath::root()) } else { self.relative(&piece.target) }
    }

    /// Whether a piece may go where it wants to.
    pub(in super::super) fn check(&self, piece: &Piece) -> io::Result<()> {
        self.home(piece).map(drop)
    }

    /// The folder of what is brought forward; `None` where nothing is.
    pub(super) fn work_tree(&self, piece: &Piece) -> io::Result<Option<Folder>> {
        match Folder::open(&self.root)?.descend(self.home(piece)?.as_str(), None) {
            Ok(folder) => Ok(Some(folder)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether exactly this is in place.
    pub(in super::super) fn holds(&self, piece: &Piece) -> bool {
        let now = self.state.pieces.get(&piece.id).and_then(|entry| entry.now.as_ref());
        let same = now.is_some_and(|now| is_same(&now.piece, piece) && self.is_there(now).unwrap_or(false));
        same && !self.doubtful.contains(&piece.id)
    }

    /// What is unpacked of this piece.
    pub(in super::super) fn staged(&self, piece: &Piece) -> Option<Staged> {
        self.staged.iter().find(|staged| staged.piece.id == piece.id && is_same(&staged.piece, piece)).cloned()
    }

    pub(super) fn is_there(&self, now: &Placing) -> io::Result<bool> {
        if self.kind == Kind::Mount {
            let root = Folder::open(&self.root)?;
            return Ok(mount::slot(&root).as_deref() == Some(now.slot.as_str()));
        }
        if now.piece.form.is_brought_forward() {
            let tree = self.work_tree(&now.piece)?;
            let has_git = |tree: Folder| tree.kind(".git").is_ok_and(|kind| kind.is_some());
            return Ok(tree.is_some_and(|tree| now.piece.form == Form::Overlay || has_git(tree)));
        }
        let (parent, name) = self.parent(&now.piece.target, None)?;
        let wanted = match (now.linked, now.piece.form) {
            (true, _) => FileType::Symlink,
            (false, crate::api::content::Form::File) => FileType::RegularFile,
            (false, _) => FileType::Directory,
        };
        Ok(parent.kind(&name)? == Some(wanted))
    }

    /// The folder of a target and the target's name in it.
    pub(super) fn parent(&self, target: &str, made: Option<&mut usize>) -> io::Result<(Folder, String)> {
        let path = self.relative(target)?;
        let name = path.file_name().unwrap_or_default().to_owned();
        Ok((Folder::open(&self.root)?.descend(path.parent().as_str(), made)?, name))
    }

    /// How what is in place differs from what was put there.
    pub(super) fn edits(&self, root: &Folder, placing: &Placing) -> io::Result<Edits> {
        let (_, trees, indexes) = self.folders()?;
        let index = read_index(&indexes, &placing.slot)?;
        if placing.piece.form.is_brought_forward() {
            let tree = self.work_tree(&placing.piece)?.ok_or(io::ErrorKind::NotFound)?;
            return whole::edits(&tree, &index);
        }
        if placing.linked || self.kind == Kind::Mount {
            return index.compare(&trees, &placing.slot);
        }
        let path = self.relative(&placing.piece.target)?;
        let parent = root.descend(path.parent().as_str(), None)?;
        index.compare(&parent, path.file_name().unwrap_or_default())
    }

    /// The folder of a piece in place.
    pub(in super::super) fn target(&self, piece: &Piece) -> io::Result<Folder> {
        let root = Folder::open(&self.root)?;
        let now = self.state.pieces.get(&piece.id).and_then(|entry| entry.now.as_ref());
        match now.filter(|now| now.linked || self.kind == Kind::Mount) {
            Some(now) => self.folders()?.1.enter(&now.slot),
            None => root.descend(self.relative(&piece.target)?.as_str(), None),
        }
    }
}
