//! Where files of contexts and credentials may lie, and that no two want the same place.

use super::{Invalid, Source};
use crate::api::names::reasons;

/// Paths that belong to the pod itself.
const RESERVED: [&str; 7] =
    ["/tools", "/pilothouse", "/proc", "/sys", "/dev", "/var/run/secrets/kubernetes.io", "/run/secrets/kubernetes.io"];

/// A place that something wants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::agent) struct Place {
    path: String,
    /// A directory that only its owner fills.
    whole: bool,
    owner: String,
}

impl Place {
    /// Files of a directory are places of their own: two contexts may fill the same directory of the workspace.
    pub(super) fn of_context(path: &str, name: &str, source: &Source<'_>) -> Vec<Self> {
        let owner = format!("context {name:?}");
        let place = |path: String| Self { path, whole: false, owner: owner.clone() };
        match source {
            Source::One(_) => vec![place(path.into())],
            Source::Keys(keys) => keys.keys().map(|key| place(format!("{path}/{key}"))).collect(),
            Source::Nothing => vec![],
        }
    }

    /// A mount: nothing else may lie at it or below it.
    pub(in crate::agent) fn mount(path: &str, owner: String) -> Self {
        Self { path: path.into(), whole: true, owner }
    }
}

/// The absolute path of `path`, which is relative to `workspace` unless it begins with a slash.
pub(in crate::agent) fn resolve(workspace: &str, path: &str, owner: &str) -> Result<String, Invalid> {
    let joined = if path.starts_with('/') { path.to_string() } else { format!("{workspace}/{path}") };
    let bad =
        |problem: &str| Invalid::stalled(reasons::INVALID_SPEC, format!("mountPath {path:?} of {owner:?} {problem}"));
    let parts: Vec<&str> = joined.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    if parts.contains(&"..") {
        return Err(bad("must not contain .."));
    }
    // A colon ends the path in a volume mount.
    if joined.contains(':') || joined.contains('\0') {
        return Err(bad("must not contain a colon"));
    }
    if parts.is_empty() {
        return Err(bad("must not be the root directory"));
    }
    let clean = format!("/{}", parts.join("/"));
    match RESERVED.iter().find(|r| within(&clean, r)) {
        Some(reserved) => Err(bad(&format!("lies in {reserved}, which belongs to the pod itself"))),
        None => Ok(clean),
    }
}

/// Whether `path` is `folder` or lies below it.
pub(in crate::agent) fn within(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Names the first two that want the same place, or one of which lies below the file of another.
pub(in crate::agent) fn check(places: &[Vec<Place>]) -> Result<(), Invalid> {
    let mut sorted: Vec<&Place> = places.iter().flatten().collect();
    sorted.sort();
    for (index, upper) in sorted.iter().enumerate() {
        let below = sorted[index + 1..].iter().take_while(|lower| lower.path.starts_with(&upper.path));
        if let Some(lower) = below.into_iter().find(|lower| within(&lower.path, &upper.path)) {
            return Err(conflict(upper, lower));
        }
    }
    Ok(())
}

fn conflict(upper: &Place, lower: &Place) -> Invalid {
    let mut owners = [upper.owner.as_str(), lower.owner.as_str()];
    owners.sort_unstable();
    let message = format!("mount path conflict: {:?} is used by both {} and {}", upper.path, owners[0], owners[1]);
    Invalid::stalled(reasons::CONTEXT_CONFLICT, message)
}
