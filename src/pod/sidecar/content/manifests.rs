//! The manifests as they are mounted.

use std::{io, path::Path};

use super::named;
use crate::api::content::{MAX_PIECES, Manifest, Piece};

const FILE: &str = "content.json";
/// Longest file: as many pieces as there may be, with long names.
const MAX: u64 = (MAX_PIECES as u64) * 8192;

/// What belongs into the pod when it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Manifests {
    /// What changes with the pod alone, and which of the others the pod has.
    pub(super) fixed: Manifest,
    /// What is exchanged in running pods: of this one, and maybe of pods of another template.
    pub(super) live: Manifest,
    /// What this pod has and the file does not: it may be older than the pod, or that of another template.
    pub(super) missing: Vec<String>,
}

impl Manifests {
    /// Takes what the controller ordered in the place of the file, which a kubelet may show long after it was replaced: what it
    /// names may not be there any more.
    pub(super) fn order(&mut self, live: Manifest) {
        self.missing.retain(|id| live.piece(id).is_none());
        self.live = live;
    }

    /// The pieces of `live` that this pod has.
    pub(super) fn own(&self, live: &Manifest) -> Vec<Piece> {
        live.pieces.iter().filter(|piece| self.fixed.live.contains(&piece.id)).cloned().collect()
    }
}

/// Reads both; a file that is not there is an empty one.
///
/// # Errors
/// A file cannot be read.
pub(super) fn read(fixed: Option<&Path>, live: Option<&Path>) -> io::Result<Manifests> {
    let (fixed, live): (Manifest, Manifest) = (read_one(fixed)?, read_one(live)?);
    let missing = fixed.live.iter().filter(|id| live.piece(id).is_none()).cloned().collect();
    Ok(Manifests { fixed, live, missing })
}

fn read_one(folder: Option<&Path>) -> io::Result<Manifest> {
    let Some(file) = folder.map(|folder| folder.join(FILE)) else { return Ok(Manifest::default()) };
    let text = match std::fs::metadata(&file) {
        Ok(meta) if meta.len() <= MAX => std::fs::read(&file),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "is too long")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Manifest::default()),
        Err(error) => Err(error),
    };
    let text = text.map_err(|error| named(&file, &error))?;
    serde_json::from_slice(&text).map_err(|error| named(&file, &error.into()))
}
