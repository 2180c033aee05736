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
    let (mut gathered, mut files, mut places) = (Gathered::new(namespace), Files::default(), vec![]);
    let own = |item: &&ContextItem| item.kind != ContextType::Git;
    for item in inputs.spec.contexts.iter().flatten().filter(own) {
        let name = name_of(item);
        let source = source(inputs.config_maps, item, &name)?;
        match item.mount_path.as_deref().filter(|p| !p.is_empty()) {
            None => gathered.add(item, &name, source)?,
            Some(path) => {
                let path = paths::resolve(workspace, path, &name)?;
                places.push(Place::of_context(&path, &name, &source));
                files.add(item, &name, &path, source);
            }
        }
    }
    paths::check(&places)?;
    let files = files.sorted()?;
    let texts = gathered.by_name();
    Ok(Content { text: gathered.into_text()?, texts, files })
}

/// Content that nobody has copied yet: many contexts may name the same ConfigMap.
#[derive(Clone, Copy)]
pub(super) enum Raw<'a> {
    /// Text.
    Text(&'a str),
    /// Anything else.
    Binary(&'a [u8]),
}

impl Raw<'_> {
    fn len(self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }

    fn copied(self) -> Bytes {
        match self {
            Self::Text(text) => Bytes::Text(text.into()),
            Self::Binary(bytes) => Bytes::Binary(bytes.into()),
        }
    }
}

/// What a context holds.
pub(super) enum Source<'a> {
    /// One text or file.
    One(Raw<'a>),
    /// Every key of a ConfigMap.
    Keys(BTreeMap<&'a str, Raw<'a>>),
    /// An optional reference that does not exist.
    Nothing,
}

/// Bytes by name of a context, and together; what is more than [`LIMIT`] together is counted and not copied.
#[derive(Default)]
struct Sizes {
    by_name: BTreeMap<String, usize>,
    total: usize,
}

impl Sizes {
    /// Whether there is room for it.
    fn add(&mut self, name: &str, size: usize) -> bool {
        *self.by_name.entry(name.into()).or_default() += size;
        self.total += size;
        self.total <= LIMIT
    }

    fn check(&self, what: &str) -> Result<(), Invalid> {
        if self.total <= LIMIT { Ok(()) } else { Err(too_large(what, self)) }
    }
}

pub(super) fn name_of(item: &ContextItem) -> String {
    let own = item.name.clone().filter(|n| !n.is_empty());
    own.or_else(|| item.config_map.as_ref().map(|c| c.name.clone())).unwrap_or_else(|| "context".into())
}

fn source<'a>(
    maps: &'a BTreeMap<String, ConfigMapData>,
    item: &'a ContextItem,
    name: &str,
) -> Result<Source<'a>, Invalid> {
    match (item.kind, &item.config_map) {
        (ContextType::Text, _) => Ok(Source::One(Raw::Text(item.text.as_deref().unwrap_or_default()))),
        (ContextType::ConfigMap, Some(reference)) => from_config_map(maps, reference, name),
        (kind, _) => Err(Invalid::stalled(
            reasons::NOT_YET_SUPPORTED,
            format!("context {name:?}: type {kind:?} is not supported by this release of Pilothouse; remove it"),
        )),
    }
}

fn from_config_map<'a>(
    maps: &'a BTreeMap<String, ConfigMapData>,
    reference: &ConfigMapContext,
    name: &str,
) -> Result<Source<'a>, Invalid> {
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

fn one<'a>(data: &'a ConfigMapData, key: &str) -> Option<Raw<'a>> {
    let text = data.text.get(key).map(|text| Raw::Text(text));
    text.or_else(|| data.binary.get(key).map(|bytes| Raw::Binary(bytes)))
}

fn all(data: &ConfigMapData) -> BTreeMap<&str, Raw<'_>> {
    let binary = data.binary.iter().map(|(key, bytes)| (key.as_str(), Raw::Binary(bytes)));
    binary.chain(data.text.iter().map(|(key, text)| (key.as_str(), Raw::Text(text)))).collect()
}

/// Files of contexts, as far as there is room for them.
#[derive(Default)]
struct Files {
    files: Vec<File>,
    sizes: Sizes,
}

impl Files {
    fn add(&mut self, item: &ContextItem, name: &str, path: &str, source: Source<'_>) {
        match source {
            Source::One(raw) => self.file(item, name, (path.into(), None), raw),
            Source::Keys(keys) => {
                for (key, raw) in keys {
                    self.file(item, name, (format!("{path}/{key}"), Some(path.into())), raw);
                }
            }
            Source::Nothing => {}
        }
    }

    fn file(&mut self, item: &ContextItem, name: &str, (path, directory): (String, Option<String>), raw: Raw<'_>) {
        if self.sizes.add(name, raw.len()) {
            let mode = item.file_mode.unwrap_or(DEFAULT_MODE) & 0o7777;
            self.files.push(File { path, directory, mode, bytes: raw.copied(), context: name.into() });
        }
    }

    fn sorted(mut self) -> Result<Vec<File>, Invalid> {
        self.sizes.check("files of contexts")?;
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(self.files)
    }
}

/// `ConfigMaps` hold 1 MiB; what stays is for names, keys and opencode.json.
const LIMIT: usize = 900 * 1024;

fn too_large(what: &str, sizes: &Sizes) -> Invalid {
    let items: Vec<_> = sizes.by_name.iter().map(|(name, size)| format!("{name} ({size} bytes)")).collect();
    let total = sizes.total;
    let message = format!(
        "{what} come to {total} bytes, more than {LIMIT} that fit into a ConfigMap: {}; shorten them, or move them \
         into a Git repository",
        items.join(", ")
    );
    Invalid::stalled(reasons::CONTEXT_TOO_LARGE, message)
}

#[cfg(test)]
mod tests;
