//! Content from Git: which piece goes where, what changes by a rollout alone, and what is exchanged in the running pod.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, SecretVolumeSource, Volume, VolumeMount};
use serde_json::json;

use super::{containers, layout};
use crate::{
    agent::{
        Inputs, Invalid, Pieces, Resolved, Wanted,
        content::{
            self,
            paths::{self, Place, within},
        },
        effect::Parts,
        hash, pieces,
    },
    api::{
        AgentSpec, ContextItem, ContextType,
        content::{Form, Manifest, Piece},
        names::reasons,
    },
};

/// Permissions of a file whose context names none: 0644.
const DEFAULT_MODE: i32 = 0o644;
/// Volume of all sources of skills.
const SKILLS: &str = "skills";
/// Volume of single files outside the workspace.
const SINGLE: &str = "content-files";
/// An object has 256 KiB for annotations; the rest is for parts and pending causes.
const MAX_REMEMBERED: usize = 128 * 1024;

/// Where every piece goes. Empty for an agent without Git inputs.
#[derive(Default)]
pub(super) struct Git {
    /// What changes with the pod template, and which of the others the pod needs.
    pub fixed: Manifest,
    /// What is exchanged in the running pod.
    pub hot: Manifest,
    /// What was decided for the pieces of [`fixed`](Self::fixed), to be remembered.
    pub fixed_pieces: Pieces,
    /// The same for [`hot`](Self::hot).
    pub hot_pieces: Pieces,
    /// Of the pod template, by id: what a piece is there; of a hot one only its place.
    pub parts: Parts,
    /// By id: what a hot piece is in the running pod.
    pub hot_parts: Parts,
    /// What the server's `skills.paths` needs.
    pub skill_paths: Vec<String>,
    volumes: Vec<String>,
    /// Volumes of credentials for pushes: name and Secret.
    secrets: Vec<(String, String)>,
    server: Vec<VolumeMount>,
    sidecar: Vec<VolumeMount>,
    places: Vec<Place>,
}

/// Places what `inputs` have. A piece without a commit is waited for.
pub(super) fn git(inputs: &Inputs<'_>, workspace: &str) -> Result<Git, Invalid> {
    let wanted = pieces::wanted(inputs.spec)?;
    refuse_unresolved(&wanted, inputs.pieces)?;
    let mut git = Git::default();
    let mut roots = vec![];
    for piece in &wanted {
        let Some(resolved) = inputs.pieces.get(&piece.id) else { continue };
        let placed = if piece.is_skills() {
            git.skills(piece)
        } else {
            let item = item(inputs.spec, piece);
            let target = target(item, piece, workspace)?;
            if target == workspace {
                roots.push((piece, resolved));
            }
            git.context(piece, item, &target, resolved, workspace)
        };
        git.add(piece, placed, resolved);
    }
    check_roots(&roots)?;
    check_skills(&git, workspace)?;
    if !git.hot.pieces.is_empty() {
        git.fixed.live = git.hot.pieces.iter().map(|p| p.id.clone()).collect();
        git.fixed.shape = shape(&git.hot);
    }
    git.mount_shared();
    git.check_size()?;
    Ok(git)
}

fn refuse_unresolved(wanted: &[Wanted], pieces: &Pieces) -> Result<(), Invalid> {
    let missing: Vec<_> = wanted.iter().map(|w| w.id.as_str()).filter(|id| !pieces.contains_key(*id)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!("waiting for the first commit of {}", missing.join(", "));
    Err(Invalid::waiting(reasons::CONTENT_NOT_READY, message))
}

fn item<'a>(spec: &'a AgentSpec, piece: &Wanted) -> Option<&'a ContextItem> {
    let mut items = spec.contexts.iter().flatten().filter(|item| item.kind == ContextType::Git);
    items.find(|item| content::name_of(item) == piece.name())
}

fn target(item: Option<&ContextItem>, piece: &Wanted, workspace: &str) -> Result<String, Invalid> {
    let path = item.and_then(|item| item.mount_path.as_deref()).unwrap_or_default();
    let target = paths::resolve(workspace, path, piece.name())?;
    if within(workspace, &target) && target != workspace {
        let message = format!(
            "mountPath {path:?} of {:?} holds the workspace {workspace:?}; take a path in the workspace or beside it",
            piece.name()
        );
        return Err(Invalid::stalled(reasons::INVALID_SPEC, message));
    }
    Ok(target)
}

/// The workspace itself is one context at most: two would meet in its files.
fn check_roots(roots: &[(&Wanted, &Resolved)]) -> Result<(), Invalid> {
    let roots: Vec<&Wanted> = match roots.iter().find(|(_, resolved)| resolved.is_file) {
        Some((piece, _)) => {
            let message = format!(
                "context {:?}: path {:?} is a file, and mountPath is the workspace itself; add the file's name to mountPath",
                piece.name(),
                piece.path
            );
            return Err(Invalid::stalled(reasons::INVALID_SPEC, message));
        }
        None => roots.iter().map(|(piece, _)| *piece).collect(),
    };
    if let [one, two, ..] = &*roots {
        let message =
            format!("mount path conflict: the workspace is used by both {:?} and {:?}", one.name(), two.name());
        return Err(Invalid::stalled(reasons::CONTEXT_CONFLICT, message));
    }
    Ok(())
}

fn check_skills(git: &Git, workspace: &str) -> Result<(), Invalid> {
    if git.skill_paths.is_empty() || !within(workspace, layout::SKILLS) {
        return Ok(());
    }
    let message = format!(
        "workspaceDir {workspace:?} lies in {}, where the skills are; take another workspaceDir",
        layout::SKILLS
    );
    Err(Invalid::stalled(reasons::CONTEXT_CONFLICT, message))
}

/// Where a piece is, as its sidecar and as its agent see it.
struct Placed {
    /// Path in the sidecar.
    target: String,
    /// Path in the server's container, where it is another one.
    seen_at: Option<String>,
    form: Form,
    mode: Option<u32>,
    /// Whether it can be exchanged in the running pod.
    exchangeable: bool,
}

impl Git {
    /// Whether the agent has any piece.
    pub(super) fn is_empty(&self) -> bool {
        self.fixed.pieces.is_empty() && self.hot.pieces.is_empty()
    }

    fn skills(&mut self, piece: &Wanted) -> Placed {
        let target = format!("{}/{}", layout::SKILLS, piece.name());
        match &piece.names {
            None => self.skill_paths.push(target.clone()),
            Some(names) => self.skill_paths.extend(names.iter().map(|name| format!("{target}/{name}"))),
        }
        Placed { target, seen_at: None, form: Form::Tree, mode: None, exchangeable: true }
    }

    fn context(
        &mut self,
        piece: &Wanted,
        item: Option<&ContextItem>,
        target: &str,
        resolved: &Resolved,
        workspace: &str,
    ) -> Placed {
        let owner = format!("context {:?}", piece.name());
        if let (Some(secret), Some(folder)) = (&piece.push, piece.push_folder()) {
            let volume = format!("push-{}", self.secrets.len());
            self.server.push(containers::read_only(&volume, &folder));
            self.secrets.push((volume, secret.clone()));
        }
        let form = match (piece.whole, resolved.is_file) {
            (Some(_), _) => Form::Checkout,
            (None, true) => Form::File,
            (None, false) if target == workspace => Form::Overlay,
            (None, false) => Form::Tree,
        };
        let mode = item.and_then(|item| item.file_mode).unwrap_or(DEFAULT_MODE) & 0o7777;
        let mode = resolved.is_file.then(|| u32::try_from(mode).unwrap_or_default());
        // Files of other contexts may lie beside those of one that fills the workspace itself.
        if target != workspace {
            self.places.push(Place::mount(target, owner));
        }
        let inside = within(target, workspace);
        if !inside && !resolved.is_file {
            let volume = format!("content-{}", self.volumes.len());
            let mount = if form == Form::Checkout { containers::mount } else { containers::read_only };
            self.server.push(mount(&volume, target));
            self.sidecar.push(containers::mount(&volume, target));
            self.volumes.push(volume);
        }
        if inside || !resolved.is_file {
            return Placed { target: target.into(), seen_at: None, form, mode, exchangeable: true };
        }
        // A mount of a file stays with the file that was there first.
        let key = super::files::key(target);
        let mount = VolumeMount { sub_path: Some(key.clone()), ..containers::read_only(SINGLE, target) };
        self.server.push(mount);
        let seen_at = Some(target.to_string());
        Placed { target: format!("{}/{key}", layout::SINGLE), seen_at, form, mode, exchangeable: false }
    }

    fn add(&mut self, wanted: &Wanted, placed: Placed, resolved: &Resolved) {
        let piece = Piece {
            id: wanted.id.clone(),
            target: placed.target,
            form: placed.form,
            mode: placed.mode,
            revision: resolved.revision.clone(),
            digest: resolved.digest.clone(),
            size: resolved.size,
        };
        let place = json!([piece.target, placed.seen_at, wanted.names]);
        let whole = hash::short(&json!([place, piece.form, piece.mode, piece.digest]));
        if wanted.is_hot() && placed.exchangeable {
            self.parts.insert(wanted.id.clone(), hash::short(&json!([place])));
            self.hot_parts.insert(wanted.id.clone(), whole);
            self.hot_pieces.insert(wanted.id.clone(), resolved.clone());
            self.hot.pieces.push(piece);
        } else {
            self.parts.insert(wanted.id.clone(), whole);
            self.fixed_pieces.insert(wanted.id.clone(), resolved.clone());
            self.fixed.pieces.push(piece);
        }
    }

    /// Volumes that several pieces share.
    fn mount_shared(&mut self) {
        if !self.skill_paths.is_empty() {
            self.volumes.push(SKILLS.into());
            self.server.push(containers::read_only(SKILLS, layout::SKILLS));
            self.sidecar.push(containers::mount(SKILLS, layout::SKILLS));
            self.places.push(Place::mount(layout::SKILLS, "the agent's skills".into()));
        }
        if self.server.iter().any(|mount| mount.name == SINGLE) {
            self.volumes.push(SINGLE.into());
            self.sidecar.push(containers::mount(SINGLE, layout::SINGLE));
        }
        if !self.is_empty() {
            self.sidecar.push(containers::read_only(super::pod::CONTENT, layout::CONTENT));
        }
    }

    /// What is remembered of pieces fits into annotations.
    fn check_size(&self) -> Result<(), Invalid> {
        for pieces in [&self.fixed_pieces, &self.hot_pieces] {
            let size = pieces::to_json(pieces).len();
            if size > MAX_REMEMBERED {
                let ids: Vec<_> = pieces.keys().map(String::as_str).collect();
                let message = format!(
                    "{} have so many skills that {size} bytes would have to be remembered, more than {MAX_REMEMBERED}: \
                     take fewer by names or path",
                    ids.join(", ")
                );
                return Err(Invalid::stalled(reasons::CONTEXT_TOO_LARGE, message));
            }
        }
        Ok(())
    }

    /// Where whole repositories are.
    pub(super) fn checkouts(&self) -> impl Iterator<Item = &str> {
        let pieces = self.fixed.pieces.iter().chain(&self.hot.pieces);
        pieces.filter(|piece| piece.form == Form::Checkout).map(|piece| piece.target.as_str())
    }

    /// Mounts of the server's container.
    pub(super) fn server_mounts(&self) -> impl Iterator<Item = VolumeMount> {
        self.server.iter().cloned()
    }

    /// Mounts of the sidecar.
    pub(super) fn sidecar_mounts(&self) -> impl Iterator<Item = VolumeMount> {
        self.sidecar.iter().cloned()
    }

    /// Volumes that the sidecar fills.
    pub(super) fn volumes(&self) -> impl Iterator<Item = Volume> {
        let empty = |name: &String| Volume {
            name: name.clone(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        };
        self.volumes.iter().map(empty).chain(self.secrets.iter().map(secret))
    }

    /// Places that nothing else may have.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        self.places.iter().cloned()
    }
}

/// Mode 0400: `ssh` takes no key that others may read. With an fsGroup the kubelet adds the group's read.
fn secret((name, secret): &(String, String)) -> Volume {
    let source =
        SecretVolumeSource { secret_name: Some(secret.clone()), default_mode: Some(0o400), ..Default::default() };
    Volume { name: name.clone(), secret: Some(source), ..Volume::default() }
}

/// Digests that a manifest names, sorted, with commas between.
pub fn digests(manifest: &Manifest) -> String {
    let digests: BTreeSet<_> = manifest.pieces.iter().map(|p| p.digest.as_str()).collect();
    digests.into_iter().collect::<Vec<_>>().join(",")
}

/// Ids and places: a manifest of another shape is for another pod template.
fn shape(manifest: &Manifest) -> String {
    let places: BTreeMap<_, _> = manifest.pieces.iter().map(|p| (&p.id, &p.target)).collect();
    hash::short(&json!(places))
}
