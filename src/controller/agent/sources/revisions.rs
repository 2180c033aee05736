//! Which artifact a revision of a Repository was, as far as this process has seen it.

use std::collections::{HashMap, VecDeque};

use kube::ResourceExt;
use parking_lot::Mutex;

use crate::{api::Repository, artifact::Digest};

/// Revisions of one Repository that are remembered.
const REMEMBERED: usize = 32;

type Name = (String, String);

/// The last artifacts of all Repositories.
#[derive(Default)]
pub(super) struct Revisions {
    by_name: Mutex<HashMap<Name, VecDeque<(String, Digest)>>>,
}

impl Revisions {
    /// Takes a change of a Repository in.
    pub(super) fn note(&self, repository: &Repository, deleted: bool) {
        let name = (repository.namespace().unwrap_or_default(), repository.name_any());
        if deleted {
            self.by_name.lock().remove(&name);
            return;
        }
        let artifact = repository.status.as_ref().and_then(|status| status.artifact.as_ref());
        let Some((revision, digest)) = artifact.and_then(|a| Some((a.revision.clone(), Digest::parse(&a.digest)?)))
        else {
            return;
        };
        let mut all = self.by_name.lock();
        let known = all.entry(name).or_default();
        known.retain(|(other, _)| *other != revision);
        known.push_back((revision, digest));
        if known.len() > REMEMBERED {
            known.pop_front();
        }
    }

    /// The artifact that a revision was published as last.
    pub(super) fn artifact(&self, namespace: &str, repository: &str, revision: &str) -> Option<Digest> {
        let all = self.by_name.lock();
        let known = all.get(&(namespace.to_owned(), repository.to_owned()))?;
        known.iter().find(|(known, _)| known == revision).map(|(_, digest)| *digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(revision: &str, content: &[u8]) -> Repository {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Repository",
            "metadata": {"name": "r", "namespace": "ns"}, "spec": {"url": "https://git.example.com/r"},
            "status": {"artifact": {"revision": revision, "digest": Digest::of(content).to_string(),
                "lastUpdateTime": "2026-01-01T00:00:00Z"}},
        }))
        .unwrap()
    }

    #[test]
    fn the_newest_artifact_of_each_of_the_last_revisions() {
        let revisions = Revisions::default();
        let artifact = |revision: &str| revisions.artifact("ns", "r", revision);
        revisions.note(&repository("r0", b"0"), false);
        revisions.note(&repository("r0", b"0 with other rules"), false);
        assert_eq!(artifact("r0"), Some(Digest::of(b"0 with other rules")));
        for n in 1..=REMEMBERED {
            revisions.note(&repository(&format!("r{n}"), b"n"), false);
        }
        assert_eq!((artifact("r0"), artifact("r1")), (None, Some(Digest::of(b"n"))));
        assert_eq!(revisions.artifact("other", "r", "r1"), None);
        revisions.note(&repository("r1", b"n"), true);
        assert!(revisions.by_name.lock().is_empty());
    }
}
