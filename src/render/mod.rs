//! Renders a file tree to objects (pure).
//!
//! A folder with a kustomization is built as `kustomize` builds it; of any other folder every manifest below it is
//! taken. Files named `*.j2` are templates. Whatever is not understood is an error that names file and line: nothing is
//! ignored.

#[cfg(test)]
mod bound_tests;
mod check;
mod error;
mod files;
mod folder;
mod import;
mod kustomize;
mod manifest;
mod namespace;
mod suggest;
pub mod template;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

pub use error::{Reason, RenderError};
pub use namespace::{Scope, builtin_scope, set_namespace};
pub use template::{Engine, Templates, Written};

use crate::{
    object::{Object, yaml::Budget},
    tree::{FileTree, RepoPath},
};
use error::Result;
use files::Files;
use manifest::Resource;

/// Largest file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 4 << 20;
/// Most objects of one render.
pub const MAX_OBJECTS: usize = 10_000;
/// Most bytes that one render reads, and that its templates and patches write.
pub const MAX_BYTES: usize = 32 << 20;
/// Most memory that what one render reads and makes takes, in bytes: an estimate, see [`Budget`]. 3 renders at a time have
/// room in the controller's memory beside two processes for templates.
pub const MAX_MEMORY: usize = 64 << 20;
/// Most operations of one JSON patch.
pub const MAX_OPERATIONS: usize = 10_000;
/// Most steps of a render's patches: operations, items of lists that they move or compare.
pub const MAX_STEPS: usize = 200_000_000;
/// Most kustomizations that one render builds; one that is named twice counts twice.
pub const MAX_BUILDS: usize = 1_000;
/// Most warnings of one render; the rest is left out.
pub const MAX_WARNINGS: usize = 20;
/// How deep kustomizations may refer to kustomizations.
pub const MAX_KUSTOMIZATIONS: usize = 32;

/// What templates see, beside the tree.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Context {
    /// `values`: of the Sync, `valuesFrom` merged in.
    pub values: Value,
    /// `sync`.
    pub sync: SyncFacts,
    /// `repository`.
    pub repository: RepositoryFacts,
    /// `namespace`: where the objects go.
    pub namespace: String,
}

/// The Sync that is rendered.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct SyncFacts {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
}

/// The Repository that the tree comes from, and its revision.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct RepositoryFacts {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// URL without credentials.
    pub url: String,
    /// Full commit id.
    pub commit: String,
    /// Branch, empty where none is followed.
    pub branch: String,
    /// As in `status.artifact.revision`: `main@sha1:<40 hex>`.
    pub revision: String,
}

impl RepositoryFacts {
    /// From a Repository and the revision that is rendered, `<ref>@sha1:<commit>`.
    pub fn of(name: &str, namespace: &str, url: &str, revision: &str, follows_branch: bool) -> Self {
        let (reference, commit) = revision.split_once('@').unwrap_or(("", revision));
        Self {
            name: name.into(),
            namespace: namespace.into(),
            url: url.into(),
            commit: commit.split_once(':').map_or(commit, |(_, hex)| hex).into(),
            branch: if follows_branch { reference.into() } else { String::new() },
            revision: revision.into(),
        }
    }
}

/// One rendered object and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The object.
    pub object: Object,
    /// The file that it was written or generated in.
    pub file: RepoPath,
    /// The line there, from 1. For a template: in its output.
    pub line: usize,
}

/// What a tree renders to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rendered {
    /// In the order in which they were found.
    pub objects: Vec<Item>,
    /// Every file that was read: a tree of these alone renders to the same objects. Folders are not in it: what is new in
    /// one may be rendered as well.
    pub read: BTreeSet<RepoPath>,
    /// What is allowed and yet looks wrong, `file:line: message`, at most [`MAX_WARNINGS`].
    pub warnings: Vec<String>,
}

/// Renders the file or folder `path` of `tree`.
pub fn render(tree: &FileTree, path: &RepoPath, context: &Context) -> std::result::Result<Rendered, RenderError> {
    render_until(tree, path, context, &|| false)
}

/// As [`render`], given up with an error soon after `stopped` says so.
pub fn render_until(
    tree: &FileTree,
    path: &RepoPath,
    context: &Context,
    stopped: &dyn Fn() -> bool,
) -> std::result::Result<Rendered, RenderError> {
    render_with(tree, path, &Engine::of_tree(tree, context), stopped)
}

/// As [`render_until`], with templates rendered by somebody else.
pub fn render_with(
    tree: &FileTree,
    path: &RepoPath,
    templates: &dyn Templates,
    stopped: &dyn Fn() -> bool,
) -> std::result::Result<Rendered, RenderError> {
    render_within(tree, path, templates, stopped, &Budget::new(MAX_MEMORY))
}

/// As [`render_with`]; what is read and made is paid for with `memory`.
fn render_within(
    tree: &FileTree,
    path: &RepoPath,
    templates: &dyn Templates,
    stopped: &dyn Fn() -> bool,
    memory: &Budget,
) -> std::result::Result<Rendered, RenderError> {
    let files = Files::new(tree, templates, stopped, memory);
    let resources = if tree.get(path).is_some() {
        files.resources(path)?
    } else if files.is_dir(path) {
        folder::folder(&files, path)?
    } else {
        return Err(RenderError::new(
            path,
            0,
            Reason::FileMissing,
            "there is no such folder in the repository; check spec.path",
        ));
    };
    let resources = without_local(resources);
    check_duplicates(&resources)?;
    resources.iter().try_for_each(check::check)?;
    for doubt in resources.iter().filter_map(check::schedule) {
        files.warn(&doubt.file, doubt.line, &doubt.message);
    }
    let objects = resources.into_iter().map(Resource::into_item).collect::<Result<Vec<_>>>()?;
    let warnings = files.warnings();
    Ok(Rendered { objects, read: files.into_read(), warnings })
}

/// kustomize leaves out what is marked as an input of tools only.
fn without_local(resources: Vec<Resource>) -> Vec<Resource> {
    const LOCAL: &str = "config.kubernetes.io/local-config";
    resources.into_iter().filter(|r| r.annotation(LOCAL).is_none_or(|v| v != "true")).collect()
}

fn check_duplicates(resources: &[Resource]) -> Result<()> {
    let mut seen: BTreeMap<_, &Resource> = BTreeMap::new();
    for resource in resources {
        let id = (resource.group().to_owned(), resource.kind(), resource.namespace(), resource.name());
        if let Some(first) = seen.insert(id, resource) {
            let message = format!(
                "{} is also defined in {} line {}; remove or rename one",
                resource.describe(),
                first.origin.file,
                first.origin.line
            );
            return Err(resource.error(Reason::DuplicateObject, message));
        }
    }
    Ok(())
}
