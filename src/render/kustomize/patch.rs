//! `patches`.
use super::file::Kustomization;
use crate::{
    render::{
        error::{Reason, Result},
        files::Files,
        manifest::Resource,
    },
    tree::RepoPath,
};

pub(super) fn apply_all(
    _files: &Files<'_>,
    kustomization: &Kustomization,
    _dir: &RepoPath,
    _resources: &mut Vec<Resource>,
) -> Result<()> {
    if kustomization.patches.is_empty() {
        return Ok(());
    }
    Err(kustomization.error("/patches", Reason::NotSupported, "patches are not supported yet"))
}
