//! Takes pieces out, and takes back what was done.

use std::io;

use rustix::fs::FileType;

use super::{Area, Done, Kind, Step, TREES, kept};
use crate::{
    api::content::Piece,
    pod::sidecar::content::{
        folder::Folder,
        mount,
        state::{Entry, Placing},
    },
};

impl Area {
    /// Takes a piece out that is wanted no more.
    pub(in super::super) fn take(&mut self, id: &str) -> io::Result<Done> {
        let before = self.state.pieces.get(id).cloned();
        let Some(now) = before.as_ref().and_then(|entry| entry.now.clone()) else {
            self.state.pieces.remove(id);
            return Ok(Done { id: id.into(), before, step: Step::Nothing, kept: None, held: None });
        };
        if now.piece.form.is_brought_forward() {
            // Somebody works in it.
            self.state.pieces.remove(id);
            self.save()?;
            return Ok(Done { id: id.into(), before, step: Step::Nothing, kept: None, held: None });
        }
        let step = self.take_out(&now)?;
        let (note, kept) = self.put_aside(id, Some(&now), &step)?;
        if !note.is_empty() {
            tracing::info!(piece = id, note, "a piece that is wanted no more was removed");
        }
        self.state.pieces.remove(id);
        self.save()?;
        self.remove_folders_above(&now.piece.target, before.as_ref().map_or(0, |entry| entry.made));
        Ok(Done { id: id.into(), before, step, kept, held: None })
    }

    pub(super) fn take_out(&mut self, now: &Placing) -> io::Result<Step> {
        let (target, root) = (now.piece.target.clone(), Folder::open(&self.root)?);
        if self.kind == Kind::Mount {
            mount::clear(&root)?;
            return Ok(Step::Taken { target, slot: now.slot.clone(), linked: true });
        }
        let (parent, name) = match self.parent(&target, None) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Step::Nothing),
            Err(error) => return Err(error),
        };
        match parent.kind(&name)? {
            None => Ok(Step::Nothing),
            Some(FileType::Symlink) if now.linked => {
                parent.remove(&name)?;
                Ok(Step::Taken { target, slot: now.slot.clone(), linked: true })
            }
            Some(_) => {
                let slot = self.state.slot(&now.piece.id);
                let (_, trees, _) = self.folders()?;
                if parent.rename(&name, &trees, &slot).is_err() {
                    parent.set_mode(&name, 0o755)?;
                    parent.rename(&name, &trees, &slot)?;
                }
                Ok(Step::Taken { target, slot, linked: false })
            }
        }
    }

    pub(super) fn remove_folders_above(&self, target: &str, made: usize) {
        let (Ok(mut path), Ok(root)) = (self.relative(target), Folder::open(&self.root)) else { return };
        for _ in 0..made {
            path = path.parent();
            let above = root.descend(path.parent().as_str(), None);
            if path.is_root() || !above.is_ok_and(|above| above.remove_empty(path.file_name().unwrap_or_default())) {
                return;
            }
        }
    }

    /// Changes what is remembered of a piece that is in place already: its revision, and which manifest names it.
    pub(in super::super) fn rename(&mut self, piece: &Piece, live: bool) -> io::Result<Option<Done>> {
        let before = self.state.pieces.get(&piece.id).cloned();
        let Some(entry) = self.state.pieces.get_mut(&piece.id) else { return Ok(None) };
        let Some(now) = entry.now.as_mut().filter(|now| now.piece != *piece || entry.live != live) else {
            return Ok(None);
        };
        now.piece = piece.clone();
        entry.live = live;
        self.save()?;
        Ok(Some(Done { id: piece.id.clone(), before, step: Step::Nothing, kept: None, held: None }))
    }

    /// Takes back what was done; the newest first.
    pub(in super::super) fn undo(&mut self, done: Done) -> io::Result<()> {
        let (_, trees, _) = self.folders()?;
        match &done.step {
            // A work tree that went forward stays: somebody may have begun to use it.
            Step::Nothing => {}
            Step::Put { linked: true, .. } => mount::clear(&Folder::open(&self.root)?)?,
            Step::Put { target, slot, .. } => {
                let (parent, name) = self.parent(target, None)?;
                parent.rename(&name, &trees, slot)?;
            }
            Step::Exchanged { target, slot } => {
                let (parent, name) = self.parent(target, None)?;
                trees.exchange(slot, &parent, &name)?;
            }
            Step::Relinked { old, .. } if self.kind == Kind::Mount => {
                mount::switch(&Folder::open(&self.root)?, old)?;
            }
            Step::Relinked { target, old } | Step::Taken { target, slot: old, linked: true } => {
                self.link_back(target, old)?;
            }
            Step::Displaced { target, old } => {
                let (parent, name) = self.parent(target, None)?;
                parent.remove(&name)?;
                trees.rename(old, &parent, &name)?;
            }
            Step::Taken { target, slot, .. } => {
                let (parent, name) = self.parent(target, Some(&mut 0))?;
                trees.rename(slot, &parent, &name)?;
            }
        }
        if self.state.pieces.get(&done.id).is_some_and(Entry::is_brought_forward) {
            return Ok(());
        }
        // What was put and is taken back was nobody's but ours.
        let returned = self.state.pieces.get(&done.id).and_then(|entry| Some(entry.now.as_ref()?.slot.clone()));
        self.state.kept.retain(|kept| Some(&kept.slot) != done.kept.as_ref());
        let was = done.before.as_ref().and_then(|entry| Some(entry.now.as_ref()?.slot.clone()));
        if let Some(slot) = returned.filter(|slot| Some(slot) != was.as_ref()) {
            self.state.kept.push(kept(slot, done.id.clone(), false));
        }
        self.set_entry(&done.id, done.before);
        self.save()
    }

    pub(super) fn link_back(&self, target: &str, slot: &str) -> io::Result<()> {
        if self.kind == Kind::Mount {
            return mount::switch(&Folder::open(&self.root)?, slot);
        }
        let (parent, name) = self.parent(target, Some(&mut 0))?;
        let up = "../".repeat(self.relative(target)?.as_str().matches('/').count());
        parent.link(&name, &format!("{up}{}/{TREES}/{slot}", self.control_name()))
    }
}
