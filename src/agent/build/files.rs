//! The immutable ConfigMap: opencode.json and the files of contexts.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::KeyToPath};
use serde_json::{Value, json};

use super::{git::Git, layout};
use crate::agent::{
    config::Config,
    content::{Bytes, Content, File, paths::within},
    hash,
};

/// The ConfigMap's content, and who puts which key where.
pub(super) struct Files {
    /// Name of the ConfigMap; its end is a hash of the content.
    pub name: String,
    pub data: BTreeMap<String, String>,
    pub binary: BTreeMap<String, ByteString>,
    /// Single files outside the workspace: path and key, mounted by subPath.
    pub single: Vec<(String, String)>,
    /// Directories outside the workspace, each with a volume of its own.
    pub directories: BTreeMap<String, Vec<KeyToPath>>,
    /// Permissions of keys that are mounted.
    pub modes: BTreeMap<String, i32>,
}

/// Sorts the files: those in the workspace are put there by the sidecar (a mount would leave folders that belong to
/// root), others are mounted.
pub(super) fn files(agent: &str, workspace: &str, config: Option<&Config>, content: &Content, git: &Git) -> Files {
    let mut files = Files {
        name: String::new(),
        data: BTreeMap::new(),
        binary: BTreeMap::new(),
        single: vec![],
        directories: BTreeMap::new(),
        modes: BTreeMap::new(),
    };
    let mut placed = vec![];
    for file in &content.files {
        let key = key(&file.path);
        if within(&file.path, workspace) {
            placed.push(json!({ "key": key, "path": file.path, "mode": file.mode }));
        } else {
            files.mount(&key, file);
        }
        match &file.bytes {
            Bytes::Text(text) => _ = files.data.insert(key, text.clone()),
            Bytes::Binary(bytes) => _ = files.binary.insert(key, ByteString(bytes.clone())),
        }
    }
    files.data.insert(layout::FILES_KEY.into(), hash::canonical(&Value::Array(placed)));
    if let Some(config) = config {
        files.data.insert(layout::CONFIG_KEY.into(), config.json.clone());
    }
    if !git.is_empty() {
        files.data.insert(layout::CONTENT_KEY.into(), serde_json::to_string(&git.fixed).unwrap_or_default());
    }
    let content_hash = hash::short(&json!([files.data, files.binary]));
    files.name = crate::api::names::agent::files(agent, &content_hash);
    files
}

impl Files {
    fn mount(&mut self, key: &str, file: &File) {
        match &file.directory {
            None => {
                self.single.push((file.path.clone(), key.into()));
                self.modes.insert(key.into(), file.mode);
            }
            Some(directory) => {
                let path = file.path[directory.len() + 1..].to_string();
                let item = KeyToPath { key: key.into(), path, mode: Some(file.mode) };
                self.directories.entry(directory.clone()).or_default().push(item);
            }
        }
    }

    /// Every key as a file of its name, with its permissions.
    pub(super) fn items(&self) -> Vec<KeyToPath> {
        let keys = self.data.keys().chain(self.binary.keys());
        let mut items: Vec<_> = keys
            .map(|key| KeyToPath { key: key.clone(), path: key.clone(), mode: self.modes.get(key).copied() })
            .collect();
        items.sort_by(|a, b| a.key.cmp(&b.key));
        items
    }
}

/// A valid key for a path: its end, readable, and a hash of all of it.
pub(super) fn key(path: &str) -> String {
    let valid = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '-' };
    let name: Vec<char> = path.trim_start_matches('/').chars().map(valid).collect();
    let tail: String = name[name.len().saturating_sub(100)..].iter().collect();
    format!("f-{}-{tail}", &hash::text(path)[..8])
}
