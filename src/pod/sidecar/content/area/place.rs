//! Unpacks beside, and exchanges in one step what was unpacked with what is in place.

use std::{fs::File, io};

use rustix::fs::FileType;

use super::{Area, Done, Kind, MAX_INDEX, Staged, Step, TREES, kept};
use crate::{
    api::content::Piece,
    pod::sidecar::content::{
        CONTROL,
        folder::Folder,
        index::Index,
        mount,
        state::{Entry, Kept, Placing},
        unpack::{Rights, unpack},
    },
};

impl Area {
    /// Unpacks a piece beside. Nothing of it shows before [`Self::put`].
    pub(in super::super) fn stage(&mut self, piece: &Piece, archive: File) -> io::Result<()> {
        self.check(piece)?;
        let (_, trees, indexes) = self.folders()?;
        let slot = self.state.slot(&piece.id);
        let rights = match self.kind {
            Kind::Folder(rights) => rights,
            Kind::Mount => Rights::Editable,
        };
        let index = unpack(io::BufReader::with_capacity(64 << 10, archive), &trees, &slot, piece, rights);
        let index = index.map_err(|error| self.explained(&error))?;
        if let Some(path) = index.contents().find(|path| path.split('/').next() == Some(CONTROL)) {
            let message = format!("{path} would lie where content is prepared: rename {CONTROL} in the repository");
            let _ = trees.remove(&slot);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        if let Err(error) = indexes.replace(&slot, index.to_text().as_bytes()) {
            let _ = trees.remove(&slot);
            return Err(self.explained(&error));
        }
        self.staged.push(Staged { piece: piece.clone(), slot });
        Ok(())
    }

    pub(super) fn explained(&self, error: &io::Error) -> io::Error {
        let text = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                format!("the volume of {} is full: free some space or give it more", self.root.display())
            }
            _ => error.to_string(),
        };
        io::Error::new(error.kind(), text)
    }

    /// Forgets what was unpacked and is not wanted any more.
    pub(in super::super) fn forget(&mut self, wanted: impl Fn(&Piece) -> bool) {
        let (stay, go): (Vec<_>, Vec<_>) = self.staged.drain(..).partition(|staged| wanted(&staged.piece));
        self.staged = stay;
        if let (false, Ok((_, trees, indexes))) = (go.is_empty(), self.folders()) {
            for staged in go {
                let _ = trees.remove(&staged.slot).and_then(|()| indexes.remove(&staged.slot));
            }
        }
    }

    /// Puts something unpacked in place, as `piece`: its revision may be another one by now.
    pub(in super::super) fn put(&mut self, staged: &Staged, piece: &Piece, live: bool) -> io::Result<Done> {
        if piece.form.is_brought_forward() {
            return self.put_whole(staged, piece, live).map_err(|error| self.explained(&error));
        }
        let id = piece.id.clone();
        let before = self.state.pieces.get(&id).cloned();
        let linked =
            self.kind == Kind::Mount || before.as_ref().is_some_and(|e| e.now.as_ref().is_some_and(|n| n.linked));
        let mut next = Placing { piece: piece.clone(), slot: staged.slot.clone(), linked };
        let mut made = before.as_ref().map_or(0, |entry| entry.made);
        self.state.pieces.entry(id.clone()).or_default().next = Some(next.clone());
        self.save()?;
        let step = match self.switch(staged, before.as_ref(), &mut made) {
            Ok(step) => step,
            Err(error) => {
                self.set_entry(&id, before);
                self.save()?;
                return Err(self.explained(&error));
            }
        };
        self.staged.retain(|other| other.slot != staged.slot);
        self.doubtful.remove(&id);
        next.linked = matches!(step, Step::Put { linked: true, .. } | Step::Relinked { .. } | Step::Displaced { .. });
        let (mut note, old) = self.put_aside(&id, before.as_ref().and_then(|e| e.now.as_ref()), &step)?;
        if next.linked && self.kind != Kind::Mount {
            let link = "a link instead of a folder, since the file system cannot exchange folders";
            note = if note.is_empty() { link.into() } else { format!("{link}; {note}") };
        }
        self.set_entry(&id, Some(Entry { now: Some(next), next: None, live, synced: false, made, note }));
        self.save()?;
        Ok(Done { id, before, step, kept: old, held: None })
    }

    /// The one moment in which readers see the new tree.
    pub(super) fn switch(&self, staged: &Staged, before: Option<&Entry>, made: &mut usize) -> io::Result<Step> {
        let (_, trees, _) = self.folders()?;
        let slot = staged.slot.clone();
        let old = before.and_then(|entry| entry.now.as_ref());
        let target = staged.piece.target.clone();
        if self.kind == Kind::Mount {
            let root = Folder::open(&self.root)?;
            mount::switch(&root, &slot)?;
            return Ok(match old {
                Some(old) => Step::Relinked { target, old: old.slot.clone() },
                None => Step::Put { target, slot, linked: true },
            });
        }
        let (parent, name) = self.parent(&target, Some(made))?;
        if parent.kind(&name)?.is_none() {
            trees.rename(&slot, &parent, &name)?;
            return Ok(Step::Put { target, slot, linked: false });
        }
        let exchange = || if self.exchanges { trees.exchange(&slot, &parent, &name) } else { Ok(false) };
        let exchanged = match exchange() {
            // A folder can only be moved by who may write into it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                parent.set_mode(&name, 0o755).and_then(|()| exchange())
            }
            other => other,
        };
        if exchanged? {
            return Ok(Step::Exchanged { target, slot });
        }
        self.link(&parent, &name, &trees, staged, old)
    }

    /// Where the file system cannot exchange: a link is replaced in one step too.
    pub(super) fn link(
        &self,
        parent: &Folder,
        name: &str,
        trees: &Folder,
        staged: &Staged,
        old: Option<&Placing>,
    ) -> io::Result<Step> {
        let (target, slot) = (staged.piece.target.clone(), &staged.slot);
        let up = "../".repeat(self.relative(&target)?.as_str().matches('/').count());
        let to = format!("{up}{}/{TREES}/{slot}", self.control_name());
        if let Some(old) = old.filter(|old| old.linked)
            && parent.kind(name)? == Some(FileType::Symlink)
        {
            parent.link(name, &to)?;
            return Ok(Step::Relinked { target, old: old.slot.clone() });
        }
        let aside = format!("{slot}-before");
        parent.rename(name, trees, &aside)?;
        parent.link(name, &to)?;
        Ok(Step::Displaced { target, old: aside })
    }

    /// Remembers what came out of the target, and says what there is to tell of it. Gives its slot.
    pub(super) fn put_aside(
        &mut self,
        id: &str,
        old: Option<&Placing>,
        step: &Step,
    ) -> io::Result<(String, Option<String>)> {
        let slot = match step {
            Step::Nothing | Step::Put { .. } => return Ok((String::new(), None)),
            Step::Exchanged { slot, .. } | Step::Taken { slot, .. } => slot,
            Step::Relinked { old, .. } | Step::Displaced { old, .. } => old,
        };
        let (_, trees, indexes) = self.folders()?;
        let at = self.root.join(self.control_name()).join(TREES).join(slot);
        let Some(old) = old else {
            if trees.remove_empty(slot) {
                return Ok((String::new(), None));
            }
            self.state.kept.push(Kept { slot: slot.clone(), id: id.into(), until: None, edited: true });
            return Ok((format!("what was there before is in {}", at.display()), Some(slot.clone())));
        };
        let index = indexes.read(&old.slot, MAX_INDEX).ok().flatten();
        let edits = index.map(|bytes| Index::parse(&String::from_utf8_lossy(&bytes)).compare(&trees, slot));
        let (edited, what) = match edits {
            Some(Ok(edits)) => (edits.any(), edits.to_string()),
            // What cannot be compared might be somebody's work.
            _ => (true, "unknown files".into()),
        };
        self.state.kept.push(kept(slot.clone(), id.into(), edited));
        let note = if edited {
            format!("edited in the pod ({what}): the edits are in {} for a day", at.display())
        } else {
            String::new()
        };
        Ok((note, Some(slot.clone())))
    }
}
