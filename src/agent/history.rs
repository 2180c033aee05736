//! Revisions of an agent that were in use, and one of them in the place of what is wanted (pure).
//!
//! A revision is what a pod gets together: the pod template, the gathered text and the content from Git. What is kept lies
//! in one `ConfigMap` of the agent: a list of [`Entry`] in an annotation, under the controller's seal, and each [`Record`]
//! under the id that its entry has. The pod template is kept as the API server shows it: the same bytes are the same
//! `ReplicaSet`, so to pin what runs replaces no pod.

mod frame;

use std::collections::BTreeSet;

pub use frame::frame;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    Desired, Pieces,
    build::{Exchange, digests, layout},
    effect::{Parts, SUSPEND},
    hash,
    state::Annotations,
};
use crate::{
    api::{
        content::Manifest,
        names::{self, annotation},
    },
    object::Object,
};

/// `ConfigMap` of the history: the entries, newest first, as JSON.
pub const ENTRIES: &str = "pilothouse.dev/revisions";
/// Beside [`ENTRIES`]: that the controller wrote it, for this Agent.
pub const ENTRIES_SEAL: &str = "pilothouse.dev/revisions-seal";

/// Revisions that are kept.
const MOST: usize = 5;
/// Bytes of all records together; an object has a MiB. The oldest go first, and a larger one is not kept.
const LARGEST: usize = 700 << 10;
/// Digits of an id.
const ID: usize = 10;
/// Digits of an id or a commit that suffice to mean it.
const SHORTEST: usize = 4;

/// What is said of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Names it: made of all that it consists of.
    pub id: String,
    /// Hash of its pod template.
    pub template: String,
    /// Commit that the definition was applied from: `main@sha1:` and 40 digits. Absent where no Sync applied it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Image of the container that the agent works in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Since when it was in use; whole seconds.
    pub since: Timestamp,
    /// `ConfigMap` that its pods mount.
    pub files: String,
    /// Digests of its artifacts, sorted, with commas between.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub artifacts: String,
    /// Bytes of its record.
    pub size: usize,
    /// SHA-256 of its record.
    pub hash: String,
}

/// All that a revision consists of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    hash: String,
    parts: Parts,
    template: Value,
    text: String,
    text_hash: String,
    texts: Parts,
    pieces: Pieces,
    files: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    files_artifacts: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exchange: Option<Hot>,
}

/// [`Exchange`] without its object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Hot {
    manifest: Manifest,
    shape: String,
    parts: Parts,
    pieces: Pieces,
}

/// The id of what `desired` is.
pub fn id(desired: &Desired) -> String {
    let content = desired.exchange.as_ref().map(|exchange| &exchange.hash);
    hash::short(&json!([desired.hash, desired.text_hash, content])).chars().take(ID).collect()
}

impl Record {
    /// What `desired` is, with the pod template as the API server has it.
    pub fn of(desired: &Desired, template: &Value) -> Self {
        let hot = |exchange: &Exchange| Hot {
            manifest: exchange.manifest.clone(),
            shape: exchange.shape.clone(),
            parts: exchange.parts.clone(),
            pieces: exchange.pieces.clone(),
        };
        let text = desired.context.value().pointer("/data").and_then(|data| data.get(layout::CONTEXT_KEY)?.as_str());
        Self {
            hash: desired.hash.clone(),
            parts: desired.parts.clone(),
            template: template.clone(),
            text: text.unwrap_or_default().into(),
            text_hash: desired.text_hash.clone(),
            texts: desired.texts.clone(),
            pieces: desired.pieces.clone(),
            files: desired.files.name().into(),
            files_artifacts: desired.files.annotation(annotation::ARTIFACTS).unwrap_or_default().into(),
            exchange: desired.exchange.as_ref().map(hot),
        }
    }

    /// As it is kept.
    pub fn to_json(&self) -> String {
        hash::canonical(&json!(self))
    }

    /// Reads what [`to_json`](Self::to_json) wrote, if it is what the entry says.
    pub fn read(text: &str, entry: &Entry) -> Option<Self> {
        if hash::text(text) == entry.hash { serde_json::from_str(text).ok() } else { None }
    }

    /// What is said of it.
    pub fn entry(&self, id: String, revision: Option<String>, now: Timestamp) -> Entry {
        let text = self.to_json();
        let hot = self.exchange.as_ref().map(|hot| digests(&hot.manifest)).unwrap_or_default();
        let image = self.template.pointer("/spec/containers/0/image").and_then(Value::as_str);
        Entry {
            id,
            template: self.hash.clone(),
            revision,
            image: image.map(String::from),
            since: Timestamp::from_second(now.as_second()).unwrap_or(now),
            files: self.files.clone(),
            artifacts: union([self.files_artifacts.as_str(), hot.as_str()]),
            size: text.len(),
            hash: hash::text(&text),
        }
    }

    /// This revision in the place of `newest`. Whether there is to be a pod at all is the Agent's present word.
    pub fn instead_of(&self, newest: &Desired) -> Option<Desired> {
        let mut deployment = newest.deployment.value().clone();
        deployment["spec"]["template"] = self.template.clone();
        let mut parts = self.parts.clone();
        parts.extend(newest.parts.get(SUSPEND).map(|part| (SUSPEND.to_string(), part.clone())));
        let hash = if newest.suspended { hash::short(&json!([self.hash, true])) } else { self.hash.clone() };
        let text = [(layout::CONTEXT_KEY, self.text.as_str())];
        let name = newest.context.name();
        Some(Desired {
            deployment: Object::new(deployment).ok()?,
            context: map(newest, name, &[(annotation::CONTEXT_HASH, &self.text_hash)], &text)?,
            files: map(newest, &self.files, &[(annotation::ARTIFACTS, &self.files_artifacts)], &[])?,
            exchange: self.exchange(newest),
            pieces: self.pieces.clone(),
            unread: BTreeSet::new(),
            text_hash: self.text_hash.clone(),
            texts: self.texts.clone(),
            hash,
            parts,
            ..newest.clone()
        })
    }

    /// Its content from Git in the place of that of `desired`, whose pod template is its own.
    pub fn with_content(&self, desired: &Desired) -> Desired {
        Desired { exchange: self.exchange(desired), pieces: self.pieces.clone(), ..desired.clone() }
    }

    /// The content from Git that its pods exchange.
    fn exchange(&self, newest: &Desired) -> Option<Exchange> {
        let hot = self.exchange.clone()?;
        let hash = hot.manifest.hash();
        let name = names::agent::content(newest.service.name());
        let marks = [(annotation::ARTIFACTS, digests(&hot.manifest)), (annotation::CONTENT_HASH, hash.clone())];
        let marks = marks.each_ref().map(|(key, value)| (*key, value.as_str()));
        let text = serde_json::to_string(&hot.manifest).ok()?;
        let object = map(newest, &name, &marks, &[(layout::CONTENT_KEY, &text)])?;
        let Hot { manifest, shape, parts, pieces } = hot;
        Some(Exchange { object, manifest, hash, shape, parts, pieces })
    }

    /// What its Git inputs are.
    pub fn all_pieces(&self) -> Pieces {
        let hot = self.exchange.iter().flat_map(|hot| &hot.pieces);
        hot.chain(&self.pieces).map(|(id, piece)| (id.clone(), piece.clone())).collect()
    }
}

/// One of the agent's `ConfigMaps`: identity, labels and owner are those of its gathered text. Empty annotations are none.
fn map(desired: &Desired, name: &str, marks: &[(&str, &str)], data: &[(&str, &str)]) -> Option<Object> {
    let text = |pairs: &[(&str, &str)]| -> Map<String, Value> {
        pairs.iter().filter(|(_, value)| !value.is_empty()).map(|(k, v)| ((*k).into(), json!(v))).collect()
    };
    let mut value = desired.context.value().clone();
    value["metadata"]["name"] = json!(name);
    value["metadata"]["annotations"] = Value::Object(text(marks));
    // Gathered text may be empty, and is there all the same.
    value["data"] = data.iter().map(|(k, v)| ((*k).to_string(), json!(v))).collect::<Map<_, _>>().into();
    Object::new(value).ok()
}

/// The entries of a sealed annotation; what cannot be read is none.
pub fn entries(annotations: &Annotations) -> Vec<Entry> {
    annotations.get(ENTRIES).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// The entries with `new` in front. One that comes again was in use again; the oldest go when there are too many.
pub fn with(entries: &[Entry], new: &Entry) -> Vec<Entry> {
    let others = entries.iter().filter(|entry| entry.id != new.id).cloned();
    let mut size = 0;
    let all = std::iter::once(new.clone()).chain(others).take(MOST);
    let kept = all.take_while(|entry| {
        size += entry.size;
        size <= LARGEST
    });
    kept.collect()
}

/// The `ConfigMap` of the history, as `entries` say; `records` are those to write, by id.
pub fn object(desired: &Desired, entries: &[Entry], records: &[(&str, &str)]) -> Option<Object> {
    let text = hash::canonical(&json!(entries));
    let artifacts = union(entries.iter().map(|entry| entry.artifacts.as_str()));
    let name = names::agent::history(desired.service.name());
    map(desired, &name, &[(ENTRIES, &text), (annotation::ARTIFACTS, &artifacts)], records)
}

fn union<'a>(lists: impl IntoIterator<Item = &'a str>) -> String {
    let all: BTreeSet<&str> = lists.into_iter().flat_map(|list| list.split(',')).filter(|d| !d.is_empty()).collect();
    all.into_iter().collect::<Vec<_>>().join(",")
}

/// The entry that somebody means, see [`find_among`].
///
/// # Errors
/// What is known instead, in words.
pub fn find<'a>(entries: &'a [Entry], wanted: &str) -> Result<&'a Entry, String> {
    let known = entries.iter().map(|entry| (entry.id.as_str(), entry.revision.as_deref()));
    let id = find_among(known, wanted)?;
    entries.iter().find(|entry| entry.id == id).ok_or_else(String::new)
}

/// The id that somebody means, of ids and commits, newest first: by the id, or by the commit with or without its branch, as
/// the status shows it; digits may be left out at the end. Of several of one commit it is the newest.
///
/// # Errors
/// What is known instead, in words.
pub fn find_among<'a>(
    known: impl Iterator<Item = (&'a str, Option<&'a str>)> + Clone,
    wanted: &str,
) -> Result<&'a str, String> {
    let wanted = wanted.trim();
    let by_id = known.clone().find(|(id, _)| wanted.len() >= SHORTEST && id.starts_with(wanted));
    let found = by_id.or_else(|| known.clone().find(|(_, revision)| revision.is_some_and(|r| is_at(r, wanted))));
    found.map(|(id, _)| id).ok_or_else(|| {
        let known: Vec<String> = known.map(|(id, revision)| named(id, revision)).collect();
        let known = if known.is_empty() { "none yet".into() } else { known.join(", ") };
        format!("revision {wanted:?} is not known; known are, newest first: {known}")
    })
}

/// Whether `revision`, whole or short, is of the commit that `wanted` names.
fn is_at(revision: &str, wanted: &str) -> bool {
    let bare = |text: &str| text.rsplit(':').next().unwrap_or_default().to_owned();
    let (reference, commit) = revision.rsplit_once('@').unwrap_or(("", revision));
    let (wanted_reference, digits) = wanted.rsplit_once('@').unwrap_or((reference, wanted));
    let (commit, digits) = (bare(commit), bare(digits));
    reference == wanted_reference
        && digits.len() >= SHORTEST
        && (commit.starts_with(&digits) || (commit.len() >= SHORTEST && digits.starts_with(&commit)))
}

/// `ID (main@1a2b3c4)`.
pub fn named(id: &str, revision: Option<&str>) -> String {
    match revision {
        Some(revision) => format!("{id} ({})", super::report::short(revision)),
        None => id.into(),
    }
}

#[cfg(test)]
mod tests;
