//! A subset of kustomize, object for object the same as the real one.
//!
//! What differs on purpose: a key that is not here is an error with the list of what is; paths may lead anywhere inside
//! the repository; nothing is fetched; manifests may be templates; `images` and references know the fields of our kinds
//! too.

mod fields;
mod file;
mod generate;
mod hash;
mod image;
mod patch;
mod references;
mod selector;

mod transform;

use std::collections::BTreeMap;

use super::{
    MAX_KUSTOMIZATIONS,
    error::{Reason, RenderError, Result},
    files::Files,
    manifest::{Former, Origin, Resource},
    namespace::{Scope, builtin_scope},
};
use crate::tree::RepoPath;
use file::Kustomization;

/// Builds the kustomization of a folder.
pub(super) fn build(files: &Files<'_>, dir: &RepoPath) -> Result<Vec<Resource>> {
    let mut resources = accumulate(files, dir, &mut vec![])?;
    hash::add_suffixes(&mut resources);
    references::fix(files, &mut resources)?;
    hash::unwrap_base64(&mut resources);
    Ok(resources)
}

/// Everything but what is done once, at the outermost kustomization.
fn accumulate(files: &Files<'_>, dir: &RepoPath, stack: &mut Vec<RepoPath>) -> Result<Vec<Resource>> {
    let Some(path) = files.kustomization(dir)? else {
        let message = "the folder has no kustomization.yaml; name its files, or write one";
        return Err(RenderError::new(dir, 0, Reason::FileMissing, message));
    };
    check_stack(&path, dir, stack)?;
    files.count_build(&path)?;
    stack.push(dir.clone());
    let kustomization = Kustomization::read(files, &path)?;
    let (mut resources, mut seen) = (vec![], BTreeMap::new());
    for (index, entry) in kustomization.resources.iter().enumerate() {
        let found = resource_entry(files, &kustomization, dir, (index, entry), stack)?;
        check_new(&kustomization, index, &mut seen, &found)?;
        resources.extend(found);
    }
    generate::absorb(files, &kustomization, dir, &mut resources)?;
    patch::apply_all(files, &kustomization, dir, &mut resources)?;
    transform::apply_all(files, &kustomization, &mut resources)?;
    stack.pop();
    Ok(resources)
}

fn check_stack(path: &RepoPath, dir: &RepoPath, stack: &[RepoPath]) -> Result<()> {
    if let Some(at) = stack.iter().position(|d| d == dir) {
        let way: Vec<String> = stack[at..].iter().chain([dir]).map(ToString::to_string).collect();
        let message = format!("kustomizations refer to each other in a circle: {}", way.join(" → "));
        return Err(RenderError::new(path, 0, Reason::InvalidKustomization, message));
    }
    if stack.len() >= MAX_KUSTOMIZATIONS {
        let message = format!("kustomizations are nested deeper than {MAX_KUSTOMIZATIONS} levels");
        return Err(RenderError::new(path, 0, Reason::TooLarge, message));
    }
    Ok(())
}

/// What one entry of `resources` adds.
fn resource_entry(
    files: &Files<'_>,
    kustomization: &Kustomization,
    dir: &RepoPath,
    (index, entry): (usize, &str),
    stack: &mut Vec<RepoPath>,
) -> Result<Vec<Resource>> {
    let pointer = format!("/resources/{index}");
    if is_remote(entry) {
        let message = format!(
            "resources[{index}] {entry:?} is a remote address; nothing is fetched, copy it into the repository"
        );
        return Err(kustomization.error(&pointer, Reason::NotSupported, message));
    }
    let path = kustomization.path(dir, &pointer, entry)?;
    if files.is_file(&path) {
        if kustomization_name(&path) {
            let message = format!("resources[{index}] names a kustomization; name its folder, {}", path.parent());
            return Err(kustomization.error(&pointer, Reason::InvalidKustomization, message));
        }
        return files.resources(&path);
    }
    if files.is_dir(&path) {
        return accumulate(files, &path, stack);
    }
    let message = format!("resources[{index}] {entry:?}: there is no file or folder {path}");
    Err(kustomization.error(&pointer, Reason::FileMissing, message))
}

fn kustomization_name(path: &RepoPath) -> bool {
    matches!(path.file_name(), Some("kustomization.yaml" | "kustomization.yml" | "Kustomization"))
}

/// Whether kustomize would fetch this entry: a URL, an scp-like address, or a path with a `ref`.
fn is_remote(entry: &str) -> bool {
    let host = entry.split('/').next().unwrap_or_default();
    entry.contains("://")
        || entry.starts_with("git@")
        || entry.contains("?ref=")
        || entry.contains("?version=")
        || matches!(host, "github.com" | "gitlab.com" | "bitbucket.org")
}

/// What kustomize tells objects by.
type Id = (String, String, String, String);

fn id(resource: &Resource) -> Id {
    let texts = [resource.api_version(), resource.kind(), effective_namespace(resource), resource.name()];
    texts.map(ToOwned::to_owned).into()
}

fn check_new(
    kustomization: &Kustomization,
    index: usize,
    seen: &mut BTreeMap<Id, Origin>,
    found: &[Resource],
) -> Result<()> {
    for resource in found {
        if let Some(first) = seen.insert(id(resource), resource.origin.clone()) {
            let message = format!(
                "resources[{index}] brings {} from {} line {} once more; it is in {} line {} already",
                resource.describe(),
                resource.origin.file,
                resource.origin.line,
                first.file,
                first.line
            );
            return Err(kustomization.error(&format!("/resources/{index}"), Reason::DuplicateObject, message));
        }
    }
    Ok(())
}

/// Where an object lives as kustomize counts: `default` where a namespaced one says nothing.
fn effective_namespace(resource: &Resource) -> &str {
    match (builtin_scope(resource.group(), resource.kind()), resource.namespace()) {
        (Some(Scope::Cluster), _) => "_cluster_",
        (_, "") => "default",
        (_, namespace) => namespace,
    }
}

fn is_cluster_scoped(resource: &Resource) -> bool {
    builtin_scope(resource.group(), resource.kind()) == Some(Scope::Cluster)
}

/// Remembers the identity of a resource before a change, for references.
fn remember(resource: &mut Resource) {
    let former = Former {
        kind: resource.kind().to_owned(),
        name: resource.name().to_owned(),
        namespace: effective_namespace(resource).to_owned(),
    };
    if resource.former.last() != Some(&former) {
        resource.former.push(former);
    }
}
