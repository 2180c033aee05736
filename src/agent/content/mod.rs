//! Contexts: gathered into one text, or files at paths.

pub mod gather;
pub mod paths;

use std::collections::BTreeMap;

use super::{ConfigMapData, Inputs, Invalid};
use crate::api::{ContextItem, ContextType, context::ConfigMapContext, names::reasons};
use gather::Gathered;
use paths::Place;

/// Permissions of a file whose context names none: 0644.
const DEFAULT_MODE: i32 = 0o644;

/// Content of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bytes {
    /// Text.
    Text(String),
    /// Anything else.
    Binary(Vec<u8>),
}

impl Bytes {
    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

/// A file that a context puts somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Absolute path.
    pub path: String,
    /// The directory that was asked for, where the context is one.
    pub directory: Option<String>,
    /// Permissions.
    pub mode: i32,
    /// Content.
    pub bytes: Bytes,
    /// Name of the context, for causes and messages.
    pub context: String,
}

/// What the contexts of an agent come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Contexts without a `mountPath`, as one text; empty where there are none.
    pub text: String,
    /// The same piece by piece, by name of the context.
    pub texts: BTreeMap<String, String>,
    /// Files, sorted by path.
    pub files: Vec<File>,
}

/// Reads every context but those from Git. `workspace` is the absolute path of the workspace.
pub fn content(inputs: &Inputs<'_>, workspace: &str) -> Result<Content, Invalid> {
    let namespace = inputs.agent.metadata.namespace.as_deref().unwrap_or_default();
    let (mut gathered, mut files, mut places) = (Gathered::new(namespace), vec![], vec![]);
    let own = |item: &&ContextItem| item.kind != ContextType::Git;
    for item in inputs.spec.contexts.iter().flatten().filter(own) {
        let name = name_of(item);
        let source = source(inputs.config_maps, item, &name)?;
        match item.mount_path.as_deref().filter(|p| !p.is_empty()) {
            None => gathered.add(item, &name, source)?,
            Some(path) => {
                let path = paths::resolve(workspace, path, &name)?;
                places.push(Place::of_context(&path, &name, &source));
                files.extend(mounted(item, &name, &path, source));
            }
        }
    }
    paths::check(&places)?;
    files.sort_by(|a: &File, b| a.path.cmp(&b.path));
    check_size(&files)?;
    let texts = gathered.by_name();
    Ok(Content { text: gathered.into_text()?, texts, files })
}

/// What a context holds.
pub(super) enum Source {
    /// One text or file.
    One(Bytes),
    /// Every key of a ConfigMap.
    Keys(BTreeMap<String, Bytes>),
    /// An optional reference that does not exist.
    Nothing,
}

pub(super) fn name_of(item: &ContextItem) -> String {
    let own = item.name.clone().filter(|n| !n.is_empty());
    own.or_else(|| item.config_map.as_ref().map(|c| c.name.clone())).unwrap_or_else(|| "context".into())
}

fn source(maps: &BTreeMap<String, ConfigMapData>, item: &ContextItem, name: &str) -> Result<Source, Invalid> {
    match (item.kind, &item.config_map) {
        (ContextType::Text, _) => Ok(Source::One(Bytes::Text(item.text.clone().unwrap_or_default()))),
        (ContextType::ConfigMap, Some(reference)) => from_config_map(maps, reference, name),
        (kind, _) => Err(Invalid::stalled(
            reasons::NOT_YET_SUPPORTED,
            format!("context {name:?}: type {kind:?} is not supported by this release of Pilothouse; remove it"),
        )),
    }
}

fn from_config_map(
    maps: &BTreeMap<String, ConfigMapData>,
    reference: &ConfigMapContext,
    name: &str,
) -> Result<Source, Invalid> {
    let optional = reference.optional == Some(true);
    let Some(data) = maps.get(&reference.name) else {
        return if optional { Ok(Source::Nothing) } else { Err(missing_map(reference, name)) };
    };
    let Some(key) = &reference.key else { return Ok(Source::Keys(all(data))) };
    match one(data, key) {
        Some(bytes) => Ok(Source::One(bytes)),
        None if optional => Ok(Source::Nothing),
        None => Err(Invalid::waiting(
            reasons::CONFIG_MAP_NOT_FOUND,
            format!("context {name:?} waits for key {key:?} in ConfigMap {:?}", reference.name),
        )),
    }
}

fn missing_map(reference: &ConfigMapContext, name: &str) -> Invalid {
    Invalid::waiting(
        reasons::CONFIG_MAP_NOT_FOUND,
        format!("context {name:?} waits for ConfigMap {:?}", reference.name),
    )
}

fn one(data: &ConfigMapData, key: &str) -> Option<Bytes> {
    let text = data.text.get(key).cloned().map(Bytes::Text);
    text.or_else(|| data.binary.get(key).cloned().map(Bytes::Binary))
}

fn all(data: &ConfigMapData) -> BTreeMap<String, Bytes> {
    let binary = data.binary.iter().map(|(key, bytes)| (key.clone(), Bytes::Binary(bytes.clone())));
    binary.chain(data.text.iter().map(|(key, text)| (key.clone(), Bytes::Text(text.clone())))).collect()
}

fn mounted(item: &ContextItem, name: &str, path: &str, source: Source) -> Vec<File> {
    let file = |path: String, directory: Option<String>, bytes| File {
        path,
        directory,
        mode: item.file_mode.unwrap_or(DEFAULT_MODE) & 0o7777,
        bytes,
        context: name.into(),
    };
    match source {
        Source::One(bytes) => vec![file(path.into(), None, bytes)],
        Source::Keys(keys) => {
            keys.into_iter().map(|(key, bytes)| file(format!("{path}/{key}"), Some(path.into()), bytes)).collect()
        }
        Source::Nothing => vec![],
    }
}

/// `ConfigMaps` hold 1 MiB; what stays is for names, keys and opencode.json.
const LIMIT: usize = 900 * 1024;

fn check_size(files: &[File]) -> Result<(), Invalid> {
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for file in files {
        *sizes.entry(&file.context).or_default() += file.bytes.len();
    }
    let total: usize = sizes.values().sum();
    if total <= LIMIT { Ok(()) } else { Err(too_large("files of contexts", total, &sizes)) }
}

fn too_large(what: &str, total: usize, sizes: &BTreeMap<&str, usize>) -> Invalid {
    let items: Vec<_> = sizes.iter().map(|(name, size)| format!("{name} ({size} bytes)")).collect();
    let message = format!(
        "{what} come to {total} bytes, more than {LIMIT} that fit into a ConfigMap: {}; shorten them, or move them \
         into a Git repository",
        items.join(", ")
    );
    Invalid::stalled(reasons::CONTEXT_TOO_LARGE, message)
}

#[cfg(test)]
mod tests;
