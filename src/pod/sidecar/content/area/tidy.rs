//! What is kept goes in time, and edits are told.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use super::{Area, CHANGED, MOST, now};
use crate::pod::sidecar::content::folder::Folder;

impl Area {
    /// Removes what was kept long enough; when to come back, in seconds since 1970.
    pub(in super::super) fn expire(&mut self) -> io::Result<Option<u64>> {
        if self.state.kept.is_empty() && self.state.pieces.is_empty() {
            return Ok(None);
        }
        let (_, trees, indexes) = self.folders()?;
        let (now, before) = (now(), self.state.kept.len());
        let mut of_piece = BTreeMap::<(String, bool), usize>::new();
        let mut stay = vec![];
        // The newest first, so that the oldest are too many.
        for kept in self.state.kept.drain(..).rev() {
            let count = of_piece.entry((kept.id.clone(), kept.edited)).or_default();
            *count += usize::from(kept.until.is_some());
            let due = kept.until.is_some_and(|until| until <= now || *count > MOST);
            if !due || trees.remove(&kept.slot).is_err() {
                stay.push(kept);
            }
        }
        stay.reverse();
        self.state.kept = stay;
        let used: BTreeSet<&str> = self.state.slots().1;
        for name in indexes.names()? {
            if !used.contains(name.as_str()) && !self.staged.iter().any(|staged| staged.slot == name) {
                indexes.remove(&name)?;
            }
        }
        if self.state.kept.len() != before {
            self.save()?;
        }
        Ok(self.state.kept.iter().filter_map(|kept| kept.until).min())
    }

    /// Looks for edits of what is in place; whether a note changed.
    pub(in super::super) fn look(&mut self) -> io::Result<bool> {
        let root = Folder::open(&self.root)?;
        let mut changed = false;
        let ids: Vec<String> = self.state.pieces.keys().cloned().collect();
        for id in ids {
            let Some(now) = self.state.pieces.get(&id).and_then(|entry| entry.now.clone()) else { continue };
            let Ok(edits) = self.edits(&root, &now) else { continue };
            if !edits.any() {
                // Edits of a work tree may be undone by whoever works there.
                if let Some(entry) = self.state.pieces.get_mut(&id).filter(|entry| entry.note.starts_with(CHANGED)) {
                    entry.note.clear();
                    changed = true;
                }
                continue;
            }
            let note = if now.piece.form.is_brought_forward() {
                format!("{CHANGED} ({edits}): a new commit that changes the same waits")
            } else {
                format!("edited in the pod ({edits}): the next commit replaces it, and the edits are kept then")
            };
            let Some(entry) = self.state.pieces.get_mut(&id) else { continue };
            changed |= std::mem::replace(&mut entry.note, note.clone()) != note;
        }
        Ok(changed)
    }
}
