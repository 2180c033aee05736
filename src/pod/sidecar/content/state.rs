//! What is remembered beside the staging area, so that a restart fetches nothing twice.
//!
//! In the workspace the agent can write this too. It gains nothing by that: what it says decides what is fetched, kept and
//! told, never where anything is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use serde::{Deserialize, Serialize};

use super::folder::Folder;
use crate::api::content::Piece;

const FILE: &str = "state.json";
/// Longest file that is read: more than a hundred pieces make.
const MAX: u64 = 4 << 20;

/// The pieces of one area.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct State {
    /// Uid of the pod that wrote this.
    pub(super) pod: String,
    /// The start of the machine in which it did.
    pub(super) boot: String,
    /// Hash of the manifest of all areas that was in place last.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) loaded: String,
    /// By id.
    pub(super) pieces: BTreeMap<String, Entry>,
    /// What was replaced or removed, oldest first.
    pub(super) kept: Vec<Kept>,
    /// Number of the next slot.
    pub(super) next: u64,
    /// A manifest that the server refused in this pod, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refused: Option<(String, String)>,
}

/// One target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Entry {
    /// What is in place, if anything.
    pub(super) now: Option<Placing>,
    /// What is about to be: with a crash between, this tells which of the two it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<Placing>,
    /// Whether it is exchanged in the running pod.
    pub(super) live: bool,
    /// Whether it was on disk once: if not, a machine that stopped may have lost a part of it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) synced: bool,
    /// Folders above the target that were made for it.
    pub(super) made: usize,
    /// What there is to tell.
    pub(super) note: String,
}

/// A piece and where it was unpacked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Placing {
    pub(super) piece: Piece,
    /// Name under `trees` at that time, and of its index.
    pub(super) slot: String,
    /// Whether the target is a link to the slot.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) linked: bool,
}

/// Something that was in place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Kept {
    /// Name under `trees`.
    pub(super) slot: String,
    /// Of which piece.
    pub(super) id: String,
    /// When it may go, in seconds since 1970; never where it was not ours.
    pub(super) until: Option<u64>,
    /// Somebody edited it.
    pub(super) edited: bool,
}

impl Entry {
    /// Whether it lies where the agent works.
    pub(super) fn is_brought_forward(&self) -> bool {
        self.now.as_ref().is_some_and(|now| now.piece.form.is_brought_forward())
    }
}

impl State {
    /// What is remembered; `None` where nothing can be read.
    pub(super) fn read(control: &Folder) -> Option<Self> {
        let bytes = control.read(FILE, MAX).ok().flatten()?;
        // A list would do for serde, and say nothing.
        serde_json::from_slice(&bytes).ok().filter(|_| bytes.first() == Some(&b'{'))
    }

    /// Remembers it.
    pub(super) fn write(&self, control: &Folder) -> io::Result<()> {
        control.replace(FILE, &serde_json::to_vec(self)?)
    }

    /// A name under `trees` that nobody has.
    pub(super) fn slot(&mut self, id: &str) -> String {
        self.next += 1;
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
        format!("{}-{}", id.chars().map(plain).take(60).collect::<String>(), self.next)
    }

    /// Slots that are in use as trees, and as names of indexes.
    pub(super) fn slots(&self) -> (BTreeSet<&str>, BTreeSet<&str>) {
        let placings = || self.pieces.values().flat_map(|entry| entry.now.iter().chain(&entry.next));
        let linked = placings().filter(|p| p.linked).map(|p| p.slot.as_str());
        let trees = self.kept.iter().map(|kept| kept.slot.as_str()).chain(linked).collect();
        (trees, placings().map(|p| p.slot.as_str()).collect())
    }
}
