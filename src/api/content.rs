//! What the sidecar puts into the pod from Git: the wire form of the file `content.json`, and of what the sidecar says
//! about it.
//!
//! A pod reads two such files. The one in the immutable `ConfigMap` of files has what changes by a rollout alone. The
//! one in `{agent}-server-content` has what is exchanged in the running pod. Both say digests of artifacts, never "what
//! the branch says now": a pod that starts again gets what was decided.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// What stands in [`Report::why`] where the agent's own work keeps a whole repository from going forward.
pub const DIRTY: &str = "WorkspaceDirty";
/// Most pieces that an agent may have.
pub const MAX_PIECES: usize = 100;

/// All pieces of one file, sorted by id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// What is to be in the pod.
    #[serde(default)]
    pub pieces: Vec<Piece>,
    /// In the immutable file: ids of the pieces that the other file has for this pod, sorted. The server starts when they
    /// are in place too; a kubelet may show an older version of that file for a moment. After a minute it starts without
    /// those that the file does not have: it may be that of another pod template. Pieces of it that are not named here
    /// are meant for pods of another template too, and left alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub live: Vec<String>,
    /// Beside [`live`](Self::live): hash of these pieces with their places, so that another place is another pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub shape: String,
}

/// One context or source of skills, at one commit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Piece {
    /// `contexts/NAME` or `skills/NAME`.
    pub id: String,
    /// Absolute path in the pod, without a slash at its end.
    pub target: String,
    /// What is put there.
    #[serde(default)]
    pub form: Form,
    /// Permissions of a [`Form::File`], as a number; 0644 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Where it is from, for people: `main@sha1:` and 40 digits.
    pub revision: String,
    /// The artifact: `sha256:` and 64 digits.
    pub digest: String,
    /// Bytes of the artifact.
    pub size: u64,
}

/// What an artifact becomes in the pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Form {
    /// A directory of the artifact's files.
    #[default]
    Tree,
    /// A file: the only one of the artifact.
    File,
    /// A work tree with `.git`, at the commit.
    Checkout,
    /// The artifact's files in a folder that is the agent's own, among its files: the workspace itself.
    Overlay,
}

impl Form {
    /// Whether it is brought forward file by file, because it lies where the agent works.
    pub fn is_brought_forward(self) -> bool {
        matches!(self, Self::Checkout | Self::Overlay)
    }
}

impl Piece {
    /// Whether the server reads it once and keeps it, so that an exchange takes effect only after its instance was
    /// disposed: skills.
    pub fn is_cached_by_server(&self) -> bool {
        self.id.starts_with(SKILLS)
    }

    /// Whether an exchange waits until nothing is at work, whatever `rollout.live` says: skills, and what
    /// is not exchanged in one step.
    pub fn waits_for_idleness(&self) -> bool {
        self.is_cached_by_server() || self.form.is_brought_forward()
    }
}

/// How an artifact of [`Form::Checkout`] is laid out: an archive of plain files, so that nothing that reads archives has
/// to know of links and `.git`.
pub mod checkout {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize};

    /// What the paths of the work tree's files begin with.
    pub const TREE: &str = "tree/";
    /// What the paths of the files of `.git` begin with.
    pub const GIT: &str = "git/";
    /// The file with the [`Rest`].
    pub const REST: &str = "checkout.json";
    /// What may be in `.git`: first components of paths. No hooks, above all.
    pub const ALLOWED: [&str; 7] = ["HEAD", "config", "index", "objects", "packed-refs", "refs", "shallow"];

    /// What of a work tree is no file.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct Rest {
        /// Links: path and target, as in Git.
        pub links: BTreeMap<String, String>,
        /// Empty folders: where submodules would be.
        pub folders: Vec<String>,
    }
}

/// What the ids of skills begin with.
pub const SKILLS: &str = "skills/";
/// What the ids of contexts begin with.
pub const CONTEXTS: &str = "contexts/";

impl Manifest {
    /// SHA-256 of the wire form, 64 hexadecimal digits. An empty manifest has one too.
    pub fn hash(&self) -> String {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        Sha256::digest(&bytes).iter().fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }

    /// The piece of that id.
    pub fn piece(&self, id: &str) -> Option<&Piece> {
        self.pieces.iter().find(|piece| piece.id == id)
    }
}

/// What the controller wants in the running pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Load {
    /// The pieces that are exchanged in the running pod; all of them.
    pub manifest: Manifest,
    /// Exchange what the server reads by itself although work goes on (`rollout.live: Immediately`). What it caches
    /// waits for idleness nevertheless.
    #[serde(default)]
    pub immediately: bool,
    /// Wait for nothing any more: the time that work was protected for is over.
    #[serde(default)]
    pub force: bool,
    /// What was ordered before is not to come any more, until another order says so; the manifest is what that was. (A
    /// sidecar that does not know this goes on with what it was told.)
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,
}

/// What a sidecar says of its pod's content, whenever it changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// [`Manifest::hash`] of the exchangeable pieces that are in place and, where there are skills, known to the server.
    /// Empty where nothing was ever in place.
    pub loaded: String,
    /// [`Manifest::hash`] of what was ordered last and is not in place; empty where nothing waits.
    pub wanted: String,
    /// Why what is wanted is not in place: it waits for work, or something failed. Empty where nothing waits.
    pub why: String,
    /// Whether the server refused what was wanted, so that the content of before is back. The same manifest is not tried
    /// again in this pod.
    pub failed: bool,
    /// Each piece that is in place, of both files.
    pub pieces: Vec<Placed>,
    /// Names of the skills that the running server lists, sorted; `None` while it was not asked.
    pub skills: Option<Vec<String>>,
}

/// One piece in the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Placed {
    /// [`Piece::id`].
    pub id: String,
    /// [`Piece::revision`].
    pub revision: String,
    /// [`Piece::digest`].
    pub digest: String,
    /// Something to tell about it: local edits that keep it from being replaced, or a link instead of a directory.
    /// Usually empty.
    pub note: String,
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;

    fn manifest() -> Manifest {
        let piece = Piece {
            id: "skills/team".into(),
            target: "/skills/team".into(),
            form: Form::Tree,
            mode: None,
            revision: "main@sha1:0123".into(),
            digest: "sha256:ab".into(),
            size: 7,
        };
        Manifest { pieces: vec![piece], ..Manifest::default() }
    }

    #[test]
    fn the_wire_form_is_stable() {
        let expected = json!({"pieces": [{"id": "skills/team", "target": "/skills/team", "form": "tree",
            "revision": "main@sha1:0123", "digest": "sha256:ab", "size": 7}]});
        assert_eq!(to_value(manifest()).unwrap(), expected);
        assert_eq!(from_value::<Manifest>(expected).unwrap(), manifest());
        assert_eq!(from_value::<Manifest>(json!({"new": 1})).unwrap(), Manifest::default());
    }

    #[test]
    fn the_hash_follows_the_content() {
        let (one, mut two) = (manifest(), manifest());
        assert_eq!(one.hash(), two.hash());
        two.pieces[0].digest.push('c');
        assert_ne!(one.hash(), two.hash());
        assert_eq!(Manifest::default().hash().len(), 64);
        assert!(one.piece("skills/team").unwrap().is_cached_by_server() && one.piece("x").is_none());
    }
}
