//! Which artifacts of statuses are the controller's word.
//!
//! Whoever may write the status of a Repository could name an artifact there that he has no right to: a Sync would apply
//! it, and a pod get it. So the controller seals what it publishes, and what has no seal is never seen: it does not come
//! into the cache.

use kube::ResourceExt;

use crate::{
    api::{Artifact, Repository},
    controller::artifacts::{Purpose, Seal},
};

/// Seals an artifact that is to be written.
pub(in crate::controller) fn seal(seal: &Seal, repository: &Repository, artifact: Option<&mut Artifact>) {
    if let Some(artifact) = artifact {
        artifact.seal = Some(of(seal, repository, artifact));
    }
}

/// Takes an artifact away that this controller, or another replica, did not publish for this Repository.
pub(in crate::controller) fn trim(seal: &Seal, repository: &mut Repository) {
    let Some(artifact) = repository.status.as_ref().and_then(|status| status.artifact.as_ref()) else { return };
    let (namespace, uid) = identity(repository);
    let sealed = artifact.seal.as_deref().unwrap_or_default();
    if seal.fits(Purpose::Published, &namespace, &uid, &text(artifact), sealed) {
        return;
    }
    if let Some(status) = &mut repository.status {
        status.artifact = None;
    }
}

fn of(seal: &Seal, repository: &Repository, artifact: &Artifact) -> String {
    let (namespace, uid) = identity(repository);
    seal.of(Purpose::Published, &namespace, &uid, &text(artifact))
}

fn identity(repository: &Repository) -> (String, String) {
    (repository.namespace().unwrap_or_default(), repository.uid().unwrap_or_default())
}

/// No revision and no digest holds a line's end.
fn text(artifact: &Artifact) -> String {
    format!("{}\n{}", artifact.revision, artifact.digest)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_somebody_else_wrote_is_not_there() {
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let (ours, other) =
            (Seal::new(&key).unwrap(), Seal::new(&rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap());
        let repository = |uid: &str, digest: &str, seal: Option<&str>| -> Repository {
            serde_json::from_value(json!({
                "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Repository",
                "metadata": {"name": "r", "namespace": "ns", "uid": uid}, "spec": {"url": "https://git.example.com/r"},
                "status": {"artifact": {"revision": "main@sha1:1", "digest": digest, "seal": seal,
                    "lastUpdateTime": "2026-01-01T00:00:00Z"}},
            }))
            .unwrap()
        };
        let mut published = repository("u", "sha256:1", None);
        let mut artifact = published.status.clone().unwrap().artifact.unwrap();
        seal(&ours, &published, Some(&mut artifact));
        let good = artifact.seal.unwrap();
        trim(&ours, &mut published);
        let table = [
            (repository("u", "sha256:1", Some(&good)), &ours, true),
            (published, &ours, false),
            (repository("u", "sha256:1", None), &ours, false),
            (repository("u", "sha256:2", Some(&good)), &ours, false),
            (repository("v", "sha256:1", Some(&good)), &ours, false),
            (repository("u", "sha256:1", Some(&good)), &other, false),
        ];
        for (n, (mut repository, seal, stays)) in table.into_iter().enumerate() {
            trim(seal, &mut repository);
            assert_eq!(repository.status.unwrap().artifact.is_some(), stays, "{n}");
        }
    }
}
