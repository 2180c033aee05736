//! A volume with pieces in it: what is unpacked beside is exchanged with what is in place, in one step, and what was there
//! stays for a while.
//!
//! A reader that opened the folder before the exchange reads the old tree to its end: it is the same folder under
//! another name. What is at the target and is not what we put there is somebody's work: it is kept longer, and a note
//! says where.

mod forward;
mod place;
mod take;
mod targets;
mod tidy;

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::FileType;

use super::{
    folder::Folder,
    index::Index,
    state::{Entry, Kept, Placing, State},
    unpack::Rights,
};
use crate::api::content::{Piece, Placed};

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

    /// The pieces in place, and whether they are exchanged in the running pod.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (&Piece, bool)> {
        self.state.pieces.values().filter_map(|entry| Some((&entry.now.as_ref()?.piece, entry.live)))
    }

    /// Ids of pieces in place that `go`.
    pub(super) fn leaving(&self, go: impl Fn(&Piece, bool) -> bool) -> Vec<String> {
        self.pieces().filter(|(piece, live)| go(piece, *live)).map(|(piece, _)| piece.id.clone()).collect()
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
