//! All volumes with content, and the manifests that say what belongs there.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use super::{
    area::{Area, Done, Kind, Unsynced},
    skills::{self, Skill},
    unpack::Rights,
};
use crate::{
    api::content::{CONTEXTS, Form, MAX_PIECES, Piece, Placed, SKILLS},
    artifact::Digest,
};

/// The volumes of a pod. Calls block.
#[derive(Debug)]
pub(super) struct Ground {
    pod: String,
    areas: Vec<Area>,
}

/// What was done in which area, so that it can be taken back.
pub(super) type Undo = Vec<(usize, Done)>;

impl Ground {
    /// The workspace and the folder of skills, where there is one; other volumes are opened when a piece names them.
    pub(super) fn open(workspace: &Path, skills: &Path, pod: &str) -> io::Result<Self> {
        let mut areas = vec![];
        for (root, rights) in [(workspace, Rights::Editable), (skills, Rights::ReadOnly)] {
            if root.is_dir() {
                areas.push(Area::open(root, Kind::Folder(rights), pod).map_err(|e| super::named(root, &e))?);
            }
        }
        Ok(Self { pod: pod.to_owned(), areas })
    }

    /// Where a piece belongs.
    fn area(&mut self, piece: &Piece) -> io::Result<usize> {
        let target = PathBuf::from(&piece.target);
        // Below the folder of skills a context has a volume of its own.
        let is_own = |area: &Area| area.kind != Kind::Folder(Rights::ReadOnly) || piece.is_cached_by_server();
        let around = self.areas.iter().position(|area| target.starts_with(&area.root) && is_own(area));
        if let Some(at) = around {
            return Ok(at);
        }
        // A volume of its own: of single files, or one that is the target itself.
        let (root, kind) = match piece.form {
            Form::File => (target.parent().unwrap_or(&target), Kind::Folder(Rights::Editable)),
            Form::Tree => (target.as_path(), Kind::Mount),
            // Nothing where the agent works may be a link of ours.
            Form::Checkout | Form::Overlay => (target.as_path(), Kind::Folder(Rights::Editable)),
        };
        self.areas.push(Area::open(root, kind, &self.pod).map_err(|error| super::named(root, &error))?);
        Ok(self.areas.len() - 1)
    }

    /// The first piece that has to be fetched before all of these can be in place.
    pub(super) fn lacks(&mut self, pieces: &[Piece]) -> io::Result<Option<Piece>> {
        for piece in pieces {
            let at = self.area(piece)?;
            let area = &self.areas[at];
            if !area.holds(piece) && area.staged(piece).is_none() {
                area.check(piece)?;
                return Ok(Some(piece.clone()));
            }
        }
        Ok(None)
    }

    /// Unpacks a piece beside its target.
    pub(super) fn stage(&mut self, piece: &Piece, archive: File) -> io::Result<()> {
        let at = self.area(piece)?;
        self.areas[at].stage(piece, archive)
    }

    /// Forgets what was unpacked and is not among these.
    pub(super) fn forget_but(&mut self, pieces: &[Piece]) {
        self.areas.iter_mut().for_each(|area| area.forget(|piece| pieces.contains(piece)));
    }

    /// Whether the pieces differ from what is in place in something that is `counted`.
    pub(super) fn differs(&mut self, pieces: &[Piece], counted: impl Fn(&Piece) -> bool) -> io::Result<bool> {
        for piece in pieces.iter().filter(|piece| counted(piece)) {
            let at = self.area(piece)?;
            if !self.areas[at].holds(piece) {
                return Ok(true);
            }
        }
        Ok(self.live().iter().any(|piece| counted(piece) && !pieces.iter().any(|wanted| wanted.id == piece.id)))
    }

    /// Puts the pieces in place that are unpacked, and removes those that are there, are `ours` to say and not among them.
    /// Where one fails, all is as before.
    pub(super) fn apply(
        &mut self,
        pieces: &[Piece],
        live: bool,
        ours: impl Fn(&Piece, bool) -> bool,
    ) -> io::Result<Undo> {
        let mut undo = Undo::new();
        match self.try_apply(pieces, live, ours, &mut undo) {
            Ok(()) => Ok(undo),
            Err(error) => {
                self.undo(undo)?;
                Err(error)
            }
        }
    }

    fn try_apply(
        &mut self,
        pieces: &[Piece],
        live: bool,
        ours: impl Fn(&Piece, bool) -> bool,
        undo: &mut Undo,
    ) -> io::Result<()> {
        for at in 0..self.areas.len() {
            for id in self.areas[at].leaving(|piece, live| match pieces.iter().find(|wanted| wanted.id == piece.id) {
                Some(wanted) => wanted.target != piece.target,
                None => ours(piece, live),
            }) {
                undo.push((at, self.areas[at].take(&id).map_err(|error| of_piece(&id, &error))?));
            }
        }
        for piece in pieces {
            let at = self.area(piece)?;
            let area = &mut self.areas[at];
            let done = match area.staged(piece) {
                _ if area.holds(piece) => area.rename(piece, live),
                Some(staged) => area.put(&staged, piece, live).map(Some),
                None => Err(io::Error::new(io::ErrorKind::NotFound, "it is not fetched yet")),
            };
            undo.extend(done.map_err(|error| of_piece(&piece.id, &error))?.map(|done| (at, done)));
        }
        Ok(())
    }

    /// Takes back what was done.
    pub(super) fn undo(&mut self, undo: Undo) -> io::Result<()> {
        undo.into_iter().rev().try_for_each(|(at, done)| self.areas[at].undo(done))
    }

    /// What is in place and is exchanged in the running pod, sorted by id.
    pub(super) fn live(&self) -> Vec<Piece> {
        let pieces = self.areas.iter().flat_map(Area::pieces).filter(|(_, live)| *live);
        let mut pieces: Vec<Piece> = pieces.map(|(piece, _)| piece.clone()).collect();
        pieces.sort_by(|a, b| a.id.cmp(&b.id));
        pieces
    }

    /// All that is in place.
    pub(super) fn placed(&self) -> Vec<Placed> {
        let mut placed: Vec<Placed> = self.areas.iter().flat_map(Area::placed).collect();
        placed.sort_by(|a, b| a.id.cmp(&b.id));
        placed
    }

    /// The skills that a server has to list, sorted. `None` where there is no source of skills.
    pub(super) fn skills(&self) -> io::Result<Option<Vec<Skill>>> {
        let (mut any, mut found) = (false, vec![]);
        for area in &self.areas {
            for (piece, _) in area.pieces().filter(|(piece, _)| piece.is_cached_by_server()) {
                any = true;
                skills::find(&area.target(piece)?, &piece.target, &mut found)?;
            }
        }
        found.sort();
        Ok(any.then_some(found))
    }

    /// Whether this pod placed something before this process began.
    pub(super) fn is_of_this_pod(&self) -> bool {
        self.areas.iter().any(|area| area.same_pod)
    }

    /// Hash of the manifest that was in place last.
    pub(super) fn loaded(&self) -> String {
        self.areas.first().map(|area| area.state.loaded.clone()).unwrap_or_default()
    }

    /// Remembers it.
    pub(super) fn set_loaded(&mut self, hash: &str) -> io::Result<()> {
        self.areas.first_mut().map_or(Ok(()), |area| area.set_loaded(hash))
    }

    /// A manifest that the server refused in this pod, and why.
    pub(super) fn refused(&self) -> Option<(String, String)> {
        self.areas.iter().find_map(|area| area.state.refused.clone())
    }

    /// Remembers that.
    pub(super) fn refuse(&mut self, hash: &str, why: &str) -> io::Result<()> {
        self.areas.iter_mut().rev().take(1).try_for_each(|area| area.refuse(hash, why))
    }

    /// Volumes with something that is not surely on disk: their number, where they are, and what it is.
    pub(super) fn unsynced(&self) -> Vec<(usize, PathBuf, Vec<Unsynced>)> {
        let areas = self.areas.iter().enumerate().map(|(at, area)| (at, area.root.clone(), area.unsynced()));
        areas.filter(|(_, _, what)| !what.is_empty()).collect()
    }

    /// These are on disk now.
    pub(super) fn synced(&mut self, at: usize, these: &[Unsynced]) -> io::Result<()> {
        self.areas[at].synced(these)
    }

    /// Removes what was kept long enough, and looks for edits; when to come back, in seconds since 1970.
    pub(super) fn tidy(&mut self) -> Option<u64> {
        let mut next = None::<u64>;
        for area in &mut self.areas {
            let due = area.look().and_then(|_| area.expire());
            match due {
                Ok(due) => next = next.into_iter().chain(due).min(),
                Err(error) => tracing::warn!(volume = %area.root.display(), %error, "cannot tidy up"),
            }
        }
        next
    }
}

fn of_piece(id: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{id}: {error}"))
}

/// Whether pieces can be put in place at all.
///
/// # Errors
/// What is wrong with them.
pub(super) fn check(fixed: &[Piece], live: &[Piece]) -> Result<(), String> {
    let all: Vec<&Piece> = fixed.iter().chain(live).collect();
    if all.len() > MAX_PIECES {
        return Err(format!("{} pieces of content; at most {MAX_PIECES} are possible", all.len()));
    }
    let mut ids = BTreeSet::new();
    for piece in &all {
        let id = &piece.id;
        if !(id.starts_with(CONTEXTS) || id.starts_with(SKILLS)) || !ids.insert(id) {
            return Err(format!("{id:?} is no name of a piece of content, or there twice"));
        }
        if Digest::parse(&piece.digest).is_none() {
            return Err(format!("{id}: {:?} is no digest", piece.digest));
        }
        let path = Path::new(&piece.target);
        let plain =
            path.components().all(|c| matches!(c, std::path::Component::Normal(_) | std::path::Component::RootDir));
        if !path.is_absolute() || !plain {
            return Err(format!("{id}: {:?} is no absolute path", piece.target));
        }
        // Where the agent works others may lie; what is there is left alone.
        let is_whole = |other: &Piece| other.form.is_brought_forward() && other.target != piece.target;
        let around = all.iter().find(|other| other.id != *id && path.starts_with(&other.target) && !is_whole(other));
        if let Some(other) = around {
            return Err(format!("{id}: {} is in the place of {}: choose another path", piece.target, other.id));
        }
    }
    Ok(())
}
