//! What is the agent's own folder is filled once, and then brought forward file by file.

use std::io;

use super::{Area, Done, Staged, Step, read_index};
use crate::{
    api::content::{Form, Piece},
    pod::sidecar::content::{
        CONTROL,
        folder::Folder,
        overlay,
        state::{Entry, Placing},
        text_link,
        whole::{self, Outcome},
    },
};

impl Area {
    /// Fills the agent's folder, or brings it forward. What cannot be is said, and changes nothing.
    pub(super) fn put_whole(&mut self, staged: &Staged, piece: &Piece, live: bool) -> io::Result<Done> {
        let (id, slot) = (piece.id.clone(), staged.slot.clone());
        let before = self.state.pieces.get(&id).cloned();
        let mut made = before.as_ref().map_or(0, |entry| entry.made);
        let next = Placing { piece: piece.clone(), slot: slot.clone(), linked: false };
        self.state.pieces.entry(id.clone()).or_default().next = Some(next.clone());
        self.save()?;
        let old = before.as_ref().and_then(|entry| entry.now.as_ref());
        let outcome = match self.bring(staged, old, &mut made) {
            Ok(outcome) => outcome,
            Err(error) => {
                self.set_entry(&id, before);
                self.save()?;
                return Err(error);
            }
        };
        let mut done = Done { id: id.clone(), before: before.clone(), step: Step::Nothing, kept: None, held: None };
        if let Outcome::Held(why) = outcome {
            let note = why.clone();
            self.set_entry(&id, before.map(|before| Entry { note, ..before }));
            done.held = Some(why);
        } else {
            let foreign = "a repository was there before, which is left as it is";
            let note = if outcome == Outcome::Foreign { foreign.into() } else { String::new() };
            self.set_entry(&id, Some(Entry { now: Some(next), next: None, live, synced: false, made, note }));
            self.staged.retain(|other| other.slot != slot);
            self.doubtful.remove(&id);
            self.folders()?.1.remove(&slot)?;
        }
        self.save()?;
        Ok(done)
    }

    pub(super) fn bring(&self, staged: &Staged, old: Option<&Placing>, made: &mut usize) -> io::Result<Outcome> {
        let (_, trees, indexes) = self.folders()?;
        let target = &staged.piece.target;
        if self.home(&staged.piece)?.is_root() {
            let root = Folder::open(&self.root)?;
            let outcome = Self::forward(&root, staged, old, &trees, &indexes)?;
            text_link::exclude(&self.root, CONTROL)?;
            if root.kind(text_link::FOLDER)?.is_some() {
                text_link::exclude(&self.root, text_link::FOLDER)?;
            }
            return Ok(outcome);
        }
        let (parent, name) = self.parent(target, Some(made))?;
        parent.remove_empty(&name);
        if parent.kind(&name)?.is_none() {
            trees.rename(&staged.slot, &parent, &name)?;
            return Ok(Outcome::Done);
        }
        Self::forward(&parent.enter(&name)?, staged, old, &trees, &indexes)
    }

    pub(super) fn forward(
        target: &Folder,
        staged: &Staged,
        old: Option<&Placing>,
        trees: &Folder,
        indexes: &Folder,
    ) -> io::Result<Outcome> {
        let form = staged.piece.form;
        let old = old.filter(|old| (old.piece.form, &old.piece.target) == (form, &staged.piece.target));
        let old = old.map(|old| read_index(indexes, &old.slot)).transpose()?;
        let mut new = read_index(indexes, &staged.slot)?;
        let slot = trees.enter(&staged.slot)?;
        let outcome = match form {
            Form::Overlay => overlay::put(target, &slot, &new, old.as_ref())?,
            _ => whole::put(target, &slot, &new, old.as_ref())?,
        };
        if let (Outcome::Done, Some(old)) = (&outcome, &old) {
            new.inherit(old);
            indexes.replace(&staged.slot, new.to_text().as_bytes())?;
        }
        Ok(outcome)
    }
}
