//! Files of a context in a folder that is the agent's own: the workspace itself. Nothing of the agent's is overwritten, as in a
//! whole repository, and nobody's Git is asked.

use std::io;

use super::{
    folder::Folder,
    index::{Edits, Index},
    whole::{self, Outcome},
};
use crate::api::content::DIRTY;

/// Puts the files of `slot` into `target`: for the first time, or forward from `old`.
///
/// It may begin again where it was interrupted: what is as it will be counts as done.
pub(super) fn put(target: &Folder, slot: &Folder, new: &Index, old: Option<&Index>) -> io::Result<Outcome> {
    let Some(old) = old else { return whole::fill_files(target, slot, new).map(|()| Outcome::Done) };
    let mut in_the_way = Edits::default();
    let changed = whole::changed(target, new, old, &mut in_the_way)?;
    if in_the_way.any() {
        return Ok(Outcome::Held(format!(
            "{DIRTY}: {in_the_way} was changed in the pod and by the new commit; move it elsewhere or undo it (nothing was \
             touched)"
        )));
    }
    whole::replace(target, slot, new, &changed)?;
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests;
