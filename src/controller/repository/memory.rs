//! What this process remembers about each Repository; nothing here is needed after a restart.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use kube::ResourceExt;

use crate::{
    api::{Repository, RepositoryStatus},
    artifact::Digest,
    git::{CommitId, RemoteKey},
    status::Failure,
};

/// An artifact and what it was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Built {
    pub(super) commit: CommitId,
    /// `spec.ignore` at that time.
    pub(super) ignore: Option<String>,
    pub(super) digest: Digest,
    pub(super) size: Option<u64>,
    /// `None` where an earlier process made it.
    pub(super) left_out: Option<String>,
}

/// A tree that was not kept for want of room, and what it would have been made of.
#[derive(Clone, Debug)]
pub(super) struct Unfit {
    pub(super) commit: CommitId,
    /// `spec.ignore` at that time.
    pub(super) ignore: Option<String>,
    pub(super) bytes: u64,
    pub(super) failure: Failure,
}

type Name = (String, String);

#[derive(Default)]
pub(super) struct Memories {
    by_name: HashMap<Name, Memory>,
    /// Repositories by namespace and name of the Secret that they name.
    readers: HashMap<Name, BTreeSet<String>>,
    /// Artifacts that their Repositories have replaced, until they are collected.
    replaced: BTreeSet<Digest>,
}

#[derive(Default)]
struct Memory {
    uid: String,
    secrets: BTreeSet<String>,
    built: Option<Built>,
    unfit: Option<Unfit>,
    /// Digests of the last artifacts, newest last; two at most.
    kept: Vec<Digest>,
    /// Value of the reconcile annotation, whom it was passed on to, and the ticket.
    asked: Option<(String, RemoteKey, u64)>,
    /// The last status that was written, and the `resourceVersion` that the writer had seen.
    written: Option<(String, RepositoryStatus)>,
}

fn name(object: &Repository) -> Name {
    (object.namespace().unwrap_or_default(), object.name_any())
}

impl Memories {
    /// What is known of this very object; an earlier one of the same name is forgotten.
    fn of(&mut self, object: &Repository) -> &mut Memory {
        let uid = object.uid().unwrap_or_default();
        let memory = self.by_name.entry(name(object)).or_default();
        if memory.uid != uid {
            let secrets = std::mem::take(&mut memory.secrets);
            *memory = Memory { uid, secrets, ..Memory::default() };
        }
        memory
    }

    /// The object with the status that was written last, if the cache does not show it yet.
    pub(super) fn newest(&mut self, cached: &Arc<Repository>) -> Arc<Repository> {
        match &self.of(cached).written {
            Some((seen, status)) if Some(seen) == cached.metadata.resource_version.as_ref() => {
                Arc::new(Repository { status: Some(status.clone()), ..(**cached).clone() })
            }
            _ => cached.clone(),
        }
    }

    /// Remembers a status that was written.
    pub(super) fn wrote(&mut self, object: &Repository, status: RepositoryStatus) {
        if object.status.as_ref() != Some(&status) {
            let seen = object.resource_version().unwrap_or_default();
            self.of(object).written = Some((seen, status));
        }
    }

    /// The Secrets that an object reads, as far as is remembered.
    pub(super) fn secrets_of(&self, namespace: &str, own: &str) -> BTreeSet<String> {
        let memory = self.by_name.get(&(namespace.to_owned(), own.to_owned()));
        memory.map(|memory| memory.secrets.clone()).unwrap_or_default()
    }

    /// Remembers which Secrets the object reads.
    pub(super) fn reads(&mut self, object: &Repository, secrets: BTreeSet<String>) {
        let (namespace, own) = name(object);
        let memory = self.of(object);
        if memory.secrets == secrets {
            return;
        }
        let old = std::mem::replace(&mut memory.secrets, secrets.clone());
        self.drop_reader(&namespace, &own, old);
        for secret in secrets {
            self.readers.entry((namespace.clone(), secret)).or_default().insert(own.clone());
        }
    }

    fn drop_reader(&mut self, namespace: &str, own: &str, secrets: BTreeSet<String>) {
        for secret in secrets {
            let key = (namespace.to_owned(), secret);
            if let Some(readers) = self.readers.get_mut(&key) {
                readers.remove(own);
                if readers.is_empty() {
                    self.readers.remove(&key);
                }
            }
        }
    }

    /// The Repositories that read a Secret.
    pub(super) fn readers_of(&self, namespace: &str, secret: &str) -> Vec<String> {
        let readers = self.readers.get(&(namespace.to_owned(), secret.to_owned()));
        readers.map(|names| names.iter().cloned().collect()).unwrap_or_default()
    }

    /// The artifact that this process made with the present rules.
    pub(super) fn built(&mut self, object: &Repository) -> Option<Built> {
        self.of(object).built.clone().filter(|built| built.ignore == object.spec.ignore)
    }

    /// Remembers an artifact, and keeps the one before from being collected.
    pub(super) fn keep(&mut self, object: &Repository, built: Built) {
        let memory = self.of(object);
        memory.kept.retain(|digest| *digest != built.digest);
        memory.kept.push(built.digest);
        let surplus = memory.kept.len().saturating_sub(2);
        let replaced: Vec<_> = memory.kept.drain(..surplus).collect();
        (memory.built, memory.unfit) = (Some(built), None);
        self.replaced.extend(replaced);
    }

    /// What there is no room for yet, as `has_room` says of its bytes: it is not fetched again before there is.
    pub(super) fn unfit(&mut self, object: &Repository, has_room: impl FnOnce(u64) -> bool) -> Option<Unfit> {
        let memory = self.of(object);
        memory.unfit.take_if(|unfit| unfit.ignore != object.spec.ignore || has_room(unfit.bytes));
        memory.unfit.clone()
    }

    /// Remembers what there was no room for.
    pub(super) fn refuse(&mut self, object: &Repository, unfit: Unfit) {
        self.of(object).unfit = Some(unfit);
    }

    /// Digests that must not be collected.
    pub(super) fn kept(&self) -> impl Iterator<Item = Digest> + '_ {
        self.by_name.values().flat_map(|memory| memory.kept.iter().copied())
    }

    /// Digests of what was replaced by two newer ones; some may be in use again, or elsewhere.
    pub(super) fn replaced(&self) -> BTreeSet<Digest> {
        self.replaced.clone()
    }

    /// Forgets what `gone` says was collected.
    pub(super) fn forget_replaced(&mut self, gone: impl Fn(&Digest) -> bool) {
        self.replaced.retain(|digest| !gone(digest));
    }

    /// The ticket of a reconcile annotation, drawn once for each value and remote.
    pub(super) fn ticket(
        &mut self,
        object: &Repository,
        asked: &str,
        key: &RemoteKey,
        draw: impl FnOnce() -> u64,
    ) -> u64 {
        let memory = self.of(object);
        match &memory.asked {
            Some((value, whom, ticket)) if value == asked && whom == key => *ticket,
            _ => {
                let ticket = draw();
                memory.asked = Some((asked.to_owned(), key.clone(), ticket));
                ticket
            }
        }
    }

    /// Forgets an object; its uid.
    pub(super) fn forget(&mut self, namespace: &str, own: &str) -> Option<String> {
        let memory = self.by_name.remove(&(namespace.to_owned(), own.to_owned()))?;
        self.replaced.extend(memory.kept);
        self.drop_reader(namespace, own, memory.secrets);
        Some(memory.uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(uid: &str, version: &str) -> Arc<Repository> {
        let mut object = Repository::new("r", crate::api::RepositorySpec::default());
        object.metadata.namespace = Some("ns".into());
        object.metadata.uid = Some(uid.into());
        object.metadata.resource_version = Some(version.into());
        Arc::new(object)
    }

    fn built(content: &[u8]) -> Built {
        let commit = CommitId::parse(&"1".repeat(40)).unwrap();
        Built { commit, ignore: None, digest: Digest::of(content), size: None, left_out: None }
    }

    #[test]
    fn secrets_know_their_readers() {
        let mut memories = Memories::default();
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        memories.reads(&object("1", "1"), set(&["a", "hook"]));
        assert_eq!(
            (memories.readers_of("ns", "a"), memories.readers_of("ns", "hook")),
            (vec!["r".into()], vec!["r".into()])
        );
        memories.reads(&object("2", "9"), set(&["b"]));
        let counts = ["a", "b", "hook"].map(|secret| memories.readers_of("ns", secret).len());
        assert_eq!((counts, memories.secrets_of("ns", "r")), ([0, 1, 0], set(&["b"])));
        assert_eq!(memories.forget("ns", "r").as_deref(), Some("2"));
        assert!(memories.readers.is_empty() && memories.by_name.is_empty());
    }

    #[test]
    fn the_last_two_artifacts_are_kept() {
        let mut memories = Memories::default();
        for content in [b"1", b"2", b"1", b"3"] {
            memories.keep(&object("1", "1"), built(content));
        }
        assert_eq!(memories.kept().collect::<Vec<_>>(), [Digest::of(b"1"), Digest::of(b"3")]);
        assert_eq!(memories.replaced().into_iter().collect::<Vec<_>>(), [Digest::of(b"2")]);
        memories.forget_replaced(|_| true);
        assert!(memories.replaced().is_empty());
        let other_rules = Repository {
            spec: crate::api::RepositorySpec { ignore: Some("x".into()), ..Default::default() },
            ..(*object("1", "2")).clone()
        };
        assert!(memories.built(&other_rules).is_none(), "made with other rules");
        assert!(memories.built(&object("1", "2")).is_some());
        assert!(memories.built(&object("other", "3")).is_none(), "another object of that name");
    }

    #[test]
    fn what_there_was_no_room_for_waits_for_room_or_for_other_rules() {
        let mut memories = Memories::default();
        let commit = CommitId::parse(&"2".repeat(40)).unwrap();
        let failure = Failure::transient("StorageFailed", "no room");
        let unfit = Unfit { commit, ignore: None, bytes: 7, failure };
        let other_rules = Repository {
            spec: crate::api::RepositorySpec { ignore: Some("x".into()), ..Default::default() },
            ..(*object("1", "2")).clone()
        };
        for (next, has_room, waits) in
            [(object("1", "2"), false, true), (object("1", "2"), true, false), (Arc::new(other_rules), false, false)]
        {
            memories.refuse(&object("1", "1"), unfit.clone());
            assert_eq!(memories.unfit(&next, |bytes| bytes == 7 && has_room).is_some(), waits);
            assert_eq!(memories.unfit(&next, |_| false).is_some(), waits, "once there is room it is fetched again");
        }
        memories.refuse(&object("1", "1"), unfit);
        memories.keep(&object("1", "1"), built(b"1"));
        assert!(memories.unfit(&object("1", "1"), |_| false).is_none());
    }

    #[test]
    fn a_cache_that_lags_is_corrected() {
        let mut memories = Memories::default();
        let seen = object("1", "5");
        let status = RepositoryStatus { observed_generation: Some(7), ..Default::default() };
        memories.wrote(&seen, status.clone());
        assert_eq!(memories.newest(&seen).status, Some(status));
        assert_eq!(memories.newest(&object("1", "6")).status, None);
    }
}
