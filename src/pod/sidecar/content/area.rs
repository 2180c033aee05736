//! A volume with pieces in it: what is unpacked beside is exchanged with what is in place, in one step, and what was there
//! stays for a while.
//!
//! A reader that opened the folder before the exchange reads the old tree to its end: it is the same folder under
//! another name. What is at the target and is not what we put there is somebody's work: it is kept longer, and a note
//! says where.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::FileType;

use super::{
    folder::Folder,
    index::{Edits, Index},
    state::{Entry, Kept, Placing, State},
    unpack::{Rights, unpack},
    whole::{self, Outcome},
};
use crate::{
    api::content::{Form, Piece, Placed},
    tree::RepoPath,
};

/// What was replaced stays this long, ...
pub(super) const STAYS: Duration = Duration::from_mins(10);
/// ... and where somebody edited it, this long, ...
pub(super) const EDITS_STAY: Duration = Duration::from_hours(24);
/// ... but no more trees of one piece than this: of more, the oldest go first.
pub(super) const MOST: usize = 16;
/// Longest note, in characters.
const MAX_NOTE: usize = 300;
/// What the note of a work tree with edits begins with.
const CHANGED: &str = "changed in the pod";
const TREES: &str = "trees";
const INDEXES: &str = "indexes";
/// Longest index that is read.
const MAX_INDEX: u64 = 64 << 20;

/// How pieces are put into the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Targets are below its root, and are exchanged.
    Folder(Rights),
    /// Its root is the only target: a mount, which nobody can exchange. Its content is links, as the kubelet does it.
    Mount,
}

/// A volume, and what is in it.
#[derive(Debug)]
pub(super) struct Area {
    pub(super) root: PathBuf,
    pub(super) kind: Kind,
    pub(super) state: State,
    /// Whether this pod wrote the state: its server may have cached what is in place.
    pub(super) same_pod: bool,
    pod: String,
    /// Whether to try to exchange folders at all; tests of the other way do not.
    pub(super) exchanges: bool,
    /// What is unpacked and not in place yet.
    staged: Vec<Staged>,
    /// Ids of what a machine that stopped may have lost a part of.
    doubtful: BTreeSet<String>,
}

/// Something unpacked that waits to be put in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Staged {
    piece: Piece,
    slot: String,
}

/// Id and slot of something that is not surely on disk.
pub(super) type Unsynced = (String, String);

/// How to take back what was done.
#[derive(Debug)]
pub(super) struct Done {
    id: String,
    before: Option<Entry>,
    step: Step,
    kept: Option<String>,
    /// It was not put in place, and why.
    held: Option<String>,
}

impl Done {
    /// The piece that was not put in place, and why.
    pub(super) fn held(&self) -> Option<String> {
        self.held.as_ref().map(|why| format!("{}: {why}", self.id))
    }
}

#[derive(Debug)]
enum Step {
    /// The record alone changed.
    Nothing,
    /// Put where nothing was, from that slot.
    Put { target: String, slot: String, linked: bool },
    /// Exchanged with that slot.
    Exchanged { target: String, slot: String },
    /// The link led to that slot.
    Relinked { target: String, old: String },
    /// A link took the place of what is in that slot now.
    Displaced { target: String, old: String },
    /// Taken out into that slot, or a link removed that led to it.
    Taken { target: String, slot: String, linked: bool },
}

impl Area {
    /// The area at `root`, as an earlier process left it.
    pub(super) fn open(root: &Path, kind: Kind, pod: &str) -> io::Result<Self> {
        let mut area = Self {
            root: root.to_owned(),
            kind,
            state: State::default(),
            same_pod: false,
            pod: pod.to_owned(),
            exchanges: true,
            staged: vec![],
            doubtful: BTreeSet::new(),
        };
        let root = Folder::open(&area.root)?;
        if root.kind(area.control_name())?.is_none() {
            return Ok(area); // Nothing of ours is here, and nothing is made before it is needed.
        }
        let (control, trees, _) = area.folders()?;
        let (state, found) = (State::read(&control), trees.names()?);
        if let Some(state) = state {
            area.same_pod = !pod.is_empty() && state.pod == pod;
            area.state = state;
            area.settle(&root, &found);
            let used = area.state.slots().0;
            let unused: Vec<_> = found.iter().filter(|slot| !used.contains(slot.as_str())).collect();
            unused.into_iter().try_for_each(|slot| trees.remove(slot))?;
        } else {
            // Whose they are is forgotten: they might be somebody's work.
            area.state.kept = found.into_iter().map(|slot| kept(slot, String::new(), true)).collect();
            area.state.next = now();
        }
        if !area.same_pod {
            area.state.refused = None;
        }
        if area.state.boot != boot() {
            area.doubtful = area.unsynced().into_iter().map(|(id, _)| id).collect();
        }
        area.save()?;
        Ok(area)
    }

    /// A crash came between an exchange and its record: looks which of the two is in place.
    fn settle(&mut self, root: &Folder, found: &[String]) {
        let open: Vec<(String, Placing)> =
            self.state.pieces.iter().filter_map(|(id, e)| Some((id.clone(), e.next.clone()?))).collect();
        for (id, next) in open {
            let is_there = self.edits(root, &next).is_ok_and(|edits| !edits.any());
            if is_there && !next.linked && found.contains(&next.slot) {
                self.state.kept.push(kept(next.slot.clone(), id.clone(), true));
            }
            let Some(entry) = self.state.pieces.get_mut(&id) else { continue };
            entry.next = None;
            if is_there {
                entry.now = Some(next);
            } else if entry.now.is_none() {
                self.state.pieces.remove(&id);
            }
        }
    }

    fn control_name(&self) -> &'static str {
        match self.kind {
            Kind::Folder(_) => super::CONTROL,
            Kind::Mount => "..pilothouse",
        }
    }

    /// Our folder, the trees in it and their indexes. What somebody put into its place is moved out of the way.
    fn folders(&self) -> io::Result<(Folder, Folder, Folder)> {
        let root = Folder::open(&self.root)?;
        let name = self.control_name();
        let control = own(&root, name)?;
        for file in [".gitignore", ".ignore"] {
            // Old trees are nothing that a search of the agent, or its commits, should find.
            if control.kind(file)?.is_none() {
                control.replace(file, b"*\n")?;
            }
        }
        let (trees, indexes) = (own(&control, TREES)?, own(&control, INDEXES)?);
        Ok((control, trees, indexes))
    }

    fn save(&mut self) -> io::Result<()> {
        self.pod.clone_into(&mut self.state.pod);
        self.state.boot = boot();
        self.state.write(&self.folders()?.0)
    }

    /// What is not surely on disk: ids and slots.
    pub(super) fn unsynced(&self) -> Vec<Unsynced> {
        let pieces = self.state.pieces.iter().filter(|(_, entry)| !entry.synced);
        pieces.filter_map(|(id, entry)| Some((id.clone(), entry.now.as_ref()?.slot.clone()))).collect()
    }

    /// These are on disk now.
    pub(super) fn synced(&mut self, these: &[Unsynced]) -> io::Result<()> {
        for (id, slot) in these {
            if let Some(entry) = self.state.pieces.get_mut(id) {
                entry.synced |= entry.now.as_ref().is_some_and(|now| now.slot == *slot);
            }
        }
        self.save()
    }

    /// Path of the target below the root.
    ///
    /// # Errors
    /// It is no path below it that is ours to write.
    pub(super) fn relative(&self, target: &str) -> io::Result<RepoPath> {
        let bad = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{target} {why}"));
        let below = Path::new(target).strip_prefix(&self.root).map_err(|_| bad("is not in this volume"))?;
        let below = below.to_str().ok_or_else(|| bad("is no text"))?;
        let path = RepoPath::parse(below).map_err(|error| bad(&error.to_string()))?;
        if path.is_root() != (self.kind == Kind::Mount) || path.as_str() != below {
            return Err(bad("cannot be a target: name a folder or a file below the workspace"));
        }
        if path.as_str().split('/').next() == Some(super::CONTROL) {
            return Err(bad("is where content is prepared: choose another path"));
        }
        Ok(path)
    }

    /// Where below the root a piece goes: a whole repository may be the root itself.
    fn home(&self, piece: &Piece) -> io::Result<RepoPath> {
        let is_root = Path::new(&piece.target) == self.root && self.kind != Kind::Mount;
        if is_root && piece.form == Form::Checkout { Ok(RepoPath::root()) } else { self.relative(&piece.target) }
    }

    /// Whether a piece may go where it wants to.
    pub(super) fn check(&self, piece: &Piece) -> io::Result<()> {
        self.home(piece).map(drop)
    }

    /// The work tree of a whole repository; `None` where nothing is.
    fn work_tree(&self, piece: &Piece) -> io::Result<Option<Folder>> {
        match Folder::open(&self.root)?.descend(self.home(piece)?.as_str(), None) {
            Ok(folder) => Ok(Some(folder)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether exactly this is in place.
    pub(super) fn holds(&self, piece: &Piece) -> bool {
        let now = self.state.pieces.get(&piece.id).and_then(|entry| entry.now.as_ref());
        let same = now.is_some_and(|now| is_same(&now.piece, piece) && self.is_there(now).unwrap_or(false));
        same && !self.doubtful.contains(&piece.id)
    }

    /// What is unpacked of this piece.
    pub(super) fn staged(&self, piece: &Piece) -> Option<Staged> {
        self.staged.iter().find(|staged| staged.piece.id == piece.id && is_same(&staged.piece, piece)).cloned()
    }

    fn is_there(&self, now: &Placing) -> io::Result<bool> {
        if self.kind == Kind::Mount {
            let root = Folder::open(&self.root)?;
            return Ok(super::mount::slot(&root).as_deref() == Some(now.slot.as_str()));
        }
        if now.piece.form == Form::Checkout {
            return Ok(self
                .work_tree(&now.piece)?
                .is_some_and(|tree| tree.kind(".git").is_ok_and(|kind| kind.is_some())));
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
    fn parent(&self, target: &str, made: Option<&mut usize>) -> io::Result<(Folder, String)> {
        let path = self.relative(target)?;
        let name = path.file_name().unwrap_or_default().to_owned();
        Ok((Folder::open(&self.root)?.descend(path.parent().as_str(), made)?, name))
    }

    /// How what is in place differs from what was put there.
    fn edits(&self, root: &Folder, placing: &Placing) -> io::Result<Edits> {
        let (_, trees, indexes) = self.folders()?;
        let index = read_index(&indexes, &placing.slot)?;
        if placing.piece.form == Form::Checkout {
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

    /// Unpacks a piece beside. Nothing of it shows before [`Self::put`].
    pub(super) fn stage(&mut self, piece: &Piece, archive: File) -> io::Result<()> {
        self.check(piece)?;
        let (_, trees, indexes) = self.folders()?;
        let slot = self.state.slot(&piece.id);
        let rights = match self.kind {
            Kind::Folder(rights) => rights,
            Kind::Mount => Rights::Editable,
        };
        let index = unpack(io::BufReader::with_capacity(64 << 10, archive), &trees, &slot, piece, rights);
        let index = index.map_err(|error| self.explained(&error))?;
        if let Err(error) = indexes.replace(&slot, index.to_text().as_bytes()) {
            let _ = trees.remove(&slot);
            return Err(self.explained(&error));
        }
        self.staged.push(Staged { piece: piece.clone(), slot });
        Ok(())
    }

    fn explained(&self, error: &io::Error) -> io::Error {
        let text = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                format!("the volume of {} is full: free some space or give it more", self.root.display())
            }
            _ => error.to_string(),
        };
        io::Error::new(error.kind(), text)
    }

    /// Forgets what was unpacked and is not wanted any more.
    pub(super) fn forget(&mut self, wanted: impl Fn(&Piece) -> bool) {
        let (stay, go): (Vec<_>, Vec<_>) = self.staged.drain(..).partition(|staged| wanted(&staged.piece));
        self.staged = stay;
        if let (false, Ok((_, trees, indexes))) = (go.is_empty(), self.folders()) {
            for staged in go {
                let _ = trees.remove(&staged.slot).and_then(|()| indexes.remove(&staged.slot));
            }
        }
    }

    /// Puts something unpacked in place, as `piece`: its revision may be another one by now.
    pub(super) fn put(&mut self, staged: &Staged, piece: &Piece, live: bool) -> io::Result<Done> {
        if piece.form == Form::Checkout {
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

    /// Fills a work tree, or brings it forward. What cannot be is said, and changes nothing.
    fn put_whole(&mut self, staged: &Staged, piece: &Piece, live: bool) -> io::Result<Done> {
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

    fn bring(&self, staged: &Staged, old: Option<&Placing>, made: &mut usize) -> io::Result<Outcome> {
        let (_, trees, indexes) = self.folders()?;
        let target = &staged.piece.target;
        if self.home(&staged.piece)?.is_root() {
            let root = Folder::open(&self.root)?;
            let outcome = Self::forward(&root, staged, old, &trees, &indexes)?;
            super::text_link::exclude(&self.root, super::CONTROL)?;
            if root.kind(super::text_link::FOLDER)?.is_some() {
                super::text_link::exclude(&self.root, super::text_link::FOLDER)?;
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

    fn forward(
        target: &Folder,
        staged: &Staged,
        old: Option<&Placing>,
        trees: &Folder,
        indexes: &Folder,
    ) -> io::Result<Outcome> {
        let old = old.filter(|old| (old.piece.form, &old.piece.target) == (Form::Checkout, &staged.piece.target));
        let old = old.map(|old| read_index(indexes, &old.slot)).transpose()?;
        let mut new = read_index(indexes, &staged.slot)?;
        let outcome = whole::put(target, &trees.enter(&staged.slot)?, &new, old.as_ref())?;
        if let (Outcome::Done, Some(old)) = (&outcome, &old) {
            new.inherit(old);
            indexes.replace(&staged.slot, new.to_text().as_bytes())?;
        }
        Ok(outcome)
    }

    /// The one moment in which readers see the new tree.
    fn switch(&self, staged: &Staged, before: Option<&Entry>, made: &mut usize) -> io::Result<Step> {
        let (_, trees, _) = self.folders()?;
        let slot = staged.slot.clone();
        let old = before.and_then(|entry| entry.now.as_ref());
        let target = staged.piece.target.clone();
        if self.kind == Kind::Mount {
            let root = Folder::open(&self.root)?;
            super::mount::switch(&root, &slot)?;
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
    fn link(
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
    fn put_aside(&mut self, id: &str, old: Option<&Placing>, step: &Step) -> io::Result<(String, Option<String>)> {
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

    /// Takes a piece out that is wanted no more.
    pub(super) fn take(&mut self, id: &str) -> io::Result<Done> {
        let before = self.state.pieces.get(id).cloned();
        let Some(now) = before.as_ref().and_then(|entry| entry.now.clone()) else {
            self.state.pieces.remove(id);
            return Ok(Done { id: id.into(), before, step: Step::Nothing, kept: None, held: None });
        };
        if now.piece.form == Form::Checkout {
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

    fn take_out(&mut self, now: &Placing) -> io::Result<Step> {
        let (target, root) = (now.piece.target.clone(), Folder::open(&self.root)?);
        if self.kind == Kind::Mount {
            super::mount::clear(&root)?;
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

    fn remove_folders_above(&self, target: &str, made: usize) {
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
    pub(super) fn rename(&mut self, piece: &Piece, live: bool) -> io::Result<Option<Done>> {
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
    pub(super) fn undo(&mut self, done: Done) -> io::Result<()> {
        let (_, trees, _) = self.folders()?;
        match &done.step {
            // A work tree that went forward stays: somebody may have begun to use it.
            Step::Nothing => {}
            Step::Put { linked: true, .. } => super::mount::clear(&Folder::open(&self.root)?)?,
            Step::Put { target, slot, .. } => {
                let (parent, name) = self.parent(target, None)?;
                parent.rename(&name, &trees, slot)?;
            }
            Step::Exchanged { target, slot } => {
                let (parent, name) = self.parent(target, None)?;
                trees.exchange(slot, &parent, &name)?;
            }
            Step::Relinked { old, .. } if self.kind == Kind::Mount => {
                super::mount::switch(&Folder::open(&self.root)?, old)?;
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
        if self.state.pieces.get(&done.id).is_some_and(Entry::is_whole) {
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

    fn link_back(&self, target: &str, slot: &str) -> io::Result<()> {
        if self.kind == Kind::Mount {
            return super::mount::switch(&Folder::open(&self.root)?, slot);
        }
        let (parent, name) = self.parent(target, Some(&mut 0))?;
        let up = "../".repeat(self.relative(target)?.as_str().matches('/').count());
        parent.link(&name, &format!("{up}{}/{TREES}/{slot}", self.control_name()))
    }

    fn set_entry(&mut self, id: &str, entry: Option<Entry>) {
        match entry {
            Some(entry) => _ = self.state.pieces.insert(id.to_owned(), entry),
            None => _ = self.state.pieces.remove(id),
        }
    }

    /// Remembers the manifest that is in place.
    pub(super) fn set_loaded(&mut self, hash: &str) -> io::Result<()> {
        if self.state.loaded == hash {
            return Ok(());
        }
        hash.clone_into(&mut self.state.loaded);
        // Where nothing of ours is, nothing is made to remember it.
        if self.state.pieces.is_empty() && self.state.kept.is_empty() { Ok(()) } else { self.save() }
    }

    /// Remembers a manifest that the server refused.
    pub(super) fn refuse(&mut self, hash: &str, why: &str) -> io::Result<()> {
        self.state.refused = Some((hash.into(), why.into()));
        self.save()
    }

    /// Removes what was kept long enough; when to come back, in seconds since 1970.
    pub(super) fn expire(&mut self) -> io::Result<Option<u64>> {
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
    pub(super) fn look(&mut self) -> io::Result<bool> {
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
            let note = if now.piece.form == Form::Checkout {
                format!("{CHANGED} ({edits}): a new commit that changes the same waits")
            } else {
                format!("edited in the pod ({edits}): the next commit replaces it, and the edits are kept then")
            };
            let Some(entry) = self.state.pieces.get_mut(&id) else { continue };
            changed |= std::mem::replace(&mut entry.note, note.clone()) != note;
        }
        Ok(changed)
    }

    /// The pieces in place, and whether they are exchanged in the running pod.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (&Piece, bool)> {
        self.state.pieces.values().filter_map(|entry| Some((&entry.now.as_ref()?.piece, entry.live)))
    }

    /// Ids of pieces in place that `go`.
    pub(super) fn leaving(&self, go: impl Fn(&Piece, bool) -> bool) -> Vec<String> {
        self.pieces().filter(|(piece, live)| go(piece, *live)).map(|(piece, _)| piece.id.clone()).collect()
    }

    /// The folder of a piece in place.
    pub(super) fn target(&self, piece: &Piece) -> io::Result<Folder> {
        let root = Folder::open(&self.root)?;
        let now = self.state.pieces.get(&piece.id).and_then(|entry| entry.now.as_ref());
        match now.filter(|now| now.linked || self.kind == Kind::Mount) {
            Some(now) => self.folders()?.1.enter(&now.slot),
            None => root.descend(self.relative(&piece.target)?.as_str(), None),
        }
    }

    /// What is in place.
    pub(super) fn placed(&self) -> impl Iterator<Item = Placed> + '_ {
        self.state.pieces.values().filter_map(|entry| {
            let piece = &entry.now.as_ref()?.piece;
            Some(Placed {
                id: piece.id.clone(),
                revision: piece.revision.clone(),
                digest: piece.digest.clone(),
                note: crate::status::truncate(&entry.note, MAX_NOTE),
            })
        })
    }
}

/// Whether two pieces are the same bytes at the same place.
fn is_same(a: &Piece, b: &Piece) -> bool {
    (&a.target, a.form, a.mode, &a.digest) == (&b.target, b.form, b.mode, &b.digest)
}

fn read_index(indexes: &Folder, slot: &str) -> io::Result<Index> {
    let bytes = indexes.read(slot, MAX_INDEX)?.ok_or(io::ErrorKind::NotFound)?;
    Ok(Index::parse(&String::from_utf8_lossy(&bytes)))
}

fn kept(slot: String, id: String, edited: bool) -> Kept {
    let stays = if edited { EDITS_STAY } else { STAYS };
    Kept { slot, id, until: Some(now() + stays.as_secs()), edited }
}

/// Which start of the machine this is.
fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map(|id| id.trim().to_owned()).unwrap_or_default()
}

pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A folder of ours. What else has its name is moved away: it is not where we write, and somebody may miss it.
fn own(parent: &Folder, name: &str) -> io::Result<Folder> {
    if parent.kind(name)?.is_some_and(|kind| kind != FileType::Directory) {
        parent.rename(name, parent, format!("{name}.{}", now()))?;
    }
    parent.make(name)
}
