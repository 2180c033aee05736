//! A folder: its kustomization, or every manifest below it.

use std::collections::BTreeSet;

use super::{error::Result, files::Files, kustomize, manifest::Resource, template};
use crate::tree::RepoPath;

/// Everything that a folder renders to. A folder below it that has a kustomization is built by that.
pub(super) fn folder(files: &Files<'_>, dir: &RepoPath) -> Result<Vec<Resource>> {
    if files.kustomization(dir)?.is_some() {
        return kustomize::build(files, dir);
    }
    let mut built: BTreeSet<RepoPath> = BTreeSet::new();
    let (mut found, mut any) = (vec![], false);
    for path in files.below(dir) {
        if is_hidden(dir, path) {
            continue;
        }
        match owner(files, dir, path)? {
            Some(owner) if built.insert(owner.clone()) => found.extend(kustomize::build(files, &owner)?),
            None if is_manifest(path) => {
                any = true;
                found.extend(files.resources(path)?);
            }
            Some(_) | None => {}
        }
    }
    if !any && built.is_empty() {
        files.warn_of_folder(dir, "no file below it is a manifest (*.yaml, *.yml, *.json, *.j2)");
    }
    Ok(found)
}

/// Whether a file of a plain folder is a manifest: by its name.
fn is_manifest(path: &RepoPath) -> bool {
    let name = path.file_name().unwrap_or_default();
    let partial = name.starts_with('_');
    [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end)) || template::is_template(path) && !partial
}

/// Names that begin with a dot are tools' files.
fn is_hidden(dir: &RepoPath, path: &RepoPath) -> bool {
    path.relative_to(dir).is_some_and(|path| path.as_str().split('/').any(|part| part.starts_with('.')))
}

/// The outermost folder between `dir` and `path` that has a kustomization.
fn owner(files: &Files<'_>, dir: &RepoPath, path: &RepoPath) -> Result<Option<RepoPath>> {
    let mut parent = path.parent();
    let mut owner = None;
    while &parent != dir && parent.is_within(dir) {
        if files.kustomization(&parent)?.is_some() {
            owner = Some(parent.clone());
        }
        parent = parent.parent();
    }
    Ok(owner)
}
