//! Which artifacts are named, and by whom: kept by events, so that a question costs what it asks for.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{ResourceExt, core::PartialObjectMeta};
use parking_lot::{Mutex, RwLock};
use tokio::{sync::Notify, time::Instant};

use super::{Purpose, Seal};
use crate::{
    api::{
        API_VERSION, Repository,
        content::MAX_PIECES,
        names::{self, annotation, label},
    },
    artifact::Digest,
    controller::runtime::Cache,
};

/// Digests that are read from one annotation. An agent's ConfigMap names one for each of its pieces, that of its history one
/// for each of each revision.
const MOST: usize = 6 * MAX_PIECES;

/// A pod whose ConfigMap is gone may still begin to read.
const AFTER_MAP: Duration = Duration::from_mins(10);
/// Whoever had the digest from a status may still begin to read.
const AFTER_STATUS: Duration = Duration::from_mins(2);

type Name = (String, String);

/// What the annotations of `ConfigMaps` and the statuses of Repositories name. Cheap to clone.
#[derive(Clone)]
pub struct Named(Arc<Inner>);

struct Inner {
    maps: Cache<PartialObjectMeta<ConfigMap>>,
    repositories: Cache<Repository>,
    seal: Seal,
    known: RwLock<Known>,
    /// Until when to keep what was named.
    until: Mutex<HashMap<Digest, Instant>>,
    changed: Notify,
}

#[derive(Default)]
struct Known {
    maps: HashMap<Name, Entry>,
    /// Names of `ConfigMaps` by namespace and agent.
    by_agent: HashMap<Name, BTreeSet<String>>,
}

/// A ConfigMap that names artifacts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    agent: Option<String>,
    /// Uids of the Agent that owns it and whose seal it carries; none or one.
    owners: Vec<String>,
    digests: BTreeSet<Digest>,
}

impl Named {
    /// Follows the caches from now on.
    pub fn new(maps: &Cache<PartialObjectMeta<ConfigMap>>, repositories: &Cache<Repository>, seal: Seal) -> Self {
        let (known, until, changed) = Default::default();
        let inner = Inner { maps: maps.clone(), repositories: repositories.clone(), seal, known, until, changed };
        let named = Self(Arc::new(inner));
        let weak = Arc::downgrade(&named.0);
        maps.on_change(move |change| {
            if let Some(inner) = weak.upgrade() {
                inner.look(&change.object.namespace().unwrap_or_default(), &change.object.name_any());
            }
        });
        let weak = Arc::downgrade(&named.0);
        repositories.on_change(move |_| {
            if let Some(inner) = weak.upgrade() {
                inner.changed.notify_one();
            }
        });
        for map in maps.all() {
            named.0.look(&map.namespace().unwrap_or_default(), &map.name_any());
        }
        named
    }

    /// Whether a ConfigMap that the agent with this uid owns names the artifact. Owner, label, name and seal must all say
    /// so.
    pub fn by_agent(&self, namespace: &str, agent: &str, uid: &str, digest: &Digest) -> bool {
        let known = self.0.known.read();
        let maps = known.by_agent.get(&(namespace.to_owned(), agent.to_owned())).into_iter().flatten();
        maps.filter(|map| is_of(map, agent))
            .filter_map(|map| known.maps.get(&(namespace.to_owned(), map.clone())))
            .any(|map| map.owners.iter().any(|owner| owner == uid) && map.digests.contains(digest))
    }

    /// All that somebody may need: what statuses name, and what agents' ConfigMaps with a seal do.
    pub fn needed(&self) -> BTreeSet<Digest> {
        let mut needed = self.0.in_statuses();
        let known = self.0.known.read();
        needed.extend(known.maps.values().filter(|map| !map.owners.is_empty()).flat_map(|map| &map.digests));
        needed
    }

    /// All that anything names, sealed or not, and what was named a moment ago; and what was named before that. Only calls count: what
    /// was named between two of them is not known.
    pub fn lately(&self, now: Instant) -> (BTreeSet<Digest>, BTreeSet<Digest>) {
        let mut until = self.0.until.lock();
        let statuses = self.0.in_statuses().into_iter().map(|digest| (digest, AFTER_STATUS));
        for (digest, after) in self.0.in_maps().into_iter().map(|digest| (digest, AFTER_MAP)).chain(statuses) {
            let end = until.entry(digest).or_insert(now);
            *end = (*end).max(now + after);
        }
        let (keep, past): (Vec<_>, Vec<_>) = until.iter().partition(|(_, end)| **end > now);
        let digests = |list: Vec<(&Digest, &Instant)>| list.into_iter().map(|(digest, _)| *digest).collect();
        (digests(keep), digests(past))
    }

    /// Forgets what was named long ago and is gone.
    pub fn forget(&self, gone: impl Fn(&Digest) -> bool) {
        let now = Instant::now();
        self.0.until.lock().retain(|digest, end| *end > now || !gone(digest));
    }

    /// Resolves after something may have changed since the last time.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }
}

impl Inner {
    fn in_maps(&self) -> BTreeSet<Digest> {
        self.known.read().maps.values().flat_map(|map| &map.digests).copied().collect()
    }

    fn in_statuses(&self) -> BTreeSet<Digest> {
        let all = self.repositories.all();
        all.iter().filter_map(|r| Digest::parse(&r.status.as_ref()?.artifact.as_ref()?.digest)).collect()
    }

    /// Takes in what the cache has now: whichever of two calls comes last sees the newest.
    fn look(&self, namespace: &str, name: &str) {
        let mut known = self.known.write();
        let entry = self.maps.get(namespace, name).and_then(|map| entry(&map, &self.seal));
        if known.set((namespace.to_owned(), name.to_owned()), entry) {
            self.changed.notify_one();
        }
    }
}

impl Known {
    /// Returns whether it is news.
    fn set(&mut self, key: Name, entry: Option<Entry>) -> bool {
        if self.maps.get(&key) == entry.as_ref() {
            return false;
        }
        if let Some(agent) = self.maps.remove(&key).and_then(|before| before.agent) {
            let of_agent = (key.0.clone(), agent);
            if let Some(maps) = self.by_agent.get_mut(&of_agent) {
                maps.remove(&key.1);
                if maps.is_empty() {
                    self.by_agent.remove(&of_agent);
                }
            }
        }
        if let Some(entry) = entry {
            if let Some(agent) = &entry.agent {
                self.by_agent.entry((key.0.clone(), agent.clone())).or_default().insert(key.1.clone());
            }
            self.maps.insert(key, entry);
        }
        true
    }
}

fn entry(map: &PartialObjectMeta<ConfigMap>, seal: &Seal) -> Option<Entry> {
    let named = map.annotations().get(annotation::ARTIFACTS)?;
    let digests: BTreeSet<Digest> =
        named.split(',').take(MOST).filter_map(|digest| Digest::parse(digest.trim())).collect();
    if digests.is_empty() {
        return None;
    }
    let (namespace, sealed) = (map.namespace().unwrap_or_default(), map.annotations().get(annotation::ARTIFACTS_SEAL));
    let fits = |uid: &str| sealed.is_some_and(|sealed| seal.fits(Purpose::Artifacts, &namespace, uid, named, sealed));
    let owners = map.owner_references().iter().filter(|owner| is_agent(owner) && fits(&owner.uid));
    let owners = owners.map(|owner| owner.uid.clone()).collect();
    Some(Entry { agent: map.labels().get(label::AGENT).cloned(), owners, digests })
}

/// Whether an owner is an Agent and the only one in control.
fn is_agent(owner: &OwnerReference) -> bool {
    owner.kind == "Agent" && owner.api_version == API_VERSION && owner.controller == Some(true)
}

/// Whether an agent's ConfigMap of content or of files has this name.
fn is_of(map: &str, agent: &str) -> bool {
    map == names::agent::content(agent) || map.starts_with(&names::agent::files_prefix(agent))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::LazyLock;

    use serde_json::{Value, json};

    use super::*;

    fn digest(n: u8) -> Digest {
        Digest::of(&[n])
    }

    static SEAL: LazyLock<Seal> = LazyLock::new(super::super::seal::tests::seal);

    fn map(name: &str, agent: &str, owner: &Value, digests: &[Digest]) -> Option<Entry> {
        let seal = |text: &str| SEAL.of(Purpose::Artifacts, "ns", owner["uid"].as_str().unwrap(), text);
        sealed(name, agent, owner, digests, seal)
    }

    fn sealed(
        name: &str,
        agent: &str,
        owner: &Value,
        digests: &[Digest],
        seal: impl Fn(&str) -> String,
    ) -> Option<Entry> {
        let text = digests.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let map = json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": {
                "name": name, "namespace": "ns", "labels": {label::AGENT: agent},
                "annotations": {annotation::ARTIFACTS: text, annotation::ARTIFACTS_SEAL: seal(&text)},
                "ownerReferences": [owner],
            },
        });
        entry(&serde_json::from_value(map).unwrap(), &SEAL)
    }

    fn owner(uid: &str) -> Value {
        json!({"apiVersion": API_VERSION, "kind": "Agent", "name": "coder", "uid": uid, "controller": true})
    }

    impl Named {
        /// Names exactly these from now on, in one ConfigMap.
        pub(in super::super) fn name_only(&self, digests: &[Digest]) {
            let entry = map("coder-server-content", "coder", &owner("u"), digests);
            self.0.known.write().set(("ns".to_owned(), "coder-server-content".to_owned()), entry);
        }
    }

    /// With nothing in it.
    pub(in super::super) fn named() -> Named {
        let (maps, repositories) = (Cache::of(vec![]), Cache::of(vec![]));
        let (known, until, changed) = Default::default();
        Named(Arc::new(Inner { maps, repositories, seal: SEAL.clone(), known, until, changed }))
    }

    #[test]
    fn what_was_named_a_moment_ago_is_kept() {
        let (named, now, content) = (named(), Instant::now(), "coder-server-content");
        let set = |entry| _ = named.0.known.write().set(("ns".to_owned(), content.to_owned()), entry);
        set(map(content, "coder", &owner("u"), &[digest(1)]));
        let (one, none) = (BTreeSet::from([digest(1)]), BTreeSet::new());
        assert_eq!(named.lately(now), (one.clone(), none.clone()));
        set(None);
        assert_eq!(named.lately(now + AFTER_MAP / 2), (one.clone(), none.clone()));
        assert_eq!(named.lately(now + AFTER_MAP), (none.clone(), one.clone()));
        named.0.until.lock().insert(digest(1), now.checked_sub(AFTER_MAP).unwrap());
        named.forget(|_| false);
        assert_eq!(named.lately(now).1, one, "it is still on the disk");
        named.forget(|_| true);
        assert_eq!(named.lately(now), (none.clone(), none));
    }

    #[test]
    fn only_an_agents_own_maps_count() {
        let named = named();
        let set = |name: &str, entry: Option<Entry>| {
            named.0.known.write().set(("ns".to_owned(), name.to_owned()), entry);
        };
        let content = "coder-server-content";
        set(content, map(content, "coder", &owner("u"), &[digest(1)]));
        set("coder-server-files-0a", map("coder-server-files-0a", "coder", &owner("u"), &[digest(2)]));
        set("else", map("else", "coder", &owner("u"), &[digest(3)]));
        for (name, foreign) in [
            ("coder-server-files-1", owner("another")),
            (
                "coder-server-files-2",
                json!({"apiVersion": API_VERSION, "kind": "Task", "name": "coder", "uid": "u", "controller": true}),
            ),
            ("coder-server-files-3", json!({"apiVersion": API_VERSION, "kind": "Agent", "name": "coder", "uid": "u"})),
            (
                "coder-server-files-4",
                json!({"apiVersion": "v1", "kind": "Agent", "name": "coder", "uid": "u", "controller": true}),
            ),
        ] {
            set(name, map(name, "coder", &foreign, &[digest(4)]));
        }
        set("coder-server-files-5", map("coder-server-files-5", "other", &owner("u"), &[digest(5)]));
        for (name, seal) in [
            ("coder-server-files-6", String::new()),
            ("coder-server-files-7", SEAL.of(Purpose::Artifacts, "elsewhere", "u", &digest(6).to_string())),
            ("coder-server-files-8", SEAL.of(Purpose::Artifacts, "ns", "u", &digest(1).to_string())),
        ] {
            set(name, sealed(name, "coder", &owner("u"), &[digest(6)], |_| seal.clone()));
        }
        let may = |agent: &str, uid: &str, n: u8| named.by_agent("ns", agent, uid, &digest(n));
        assert_eq!([1, 2, 3, 4, 5, 6].map(|n| may("coder", "u", n)), [true, true, false, false, false, false]);
        assert!(!may("coder", "another-uid", 1) && !may("other", "u", 1) && !may("other", "u", 5));
        assert!(!named.by_agent("elsewhere", "coder", "u", &digest(1)));
        assert_eq!(named.lately(Instant::now()).0.len(), 6, "whatever is named is kept");
        assert!(!named.needed().contains(&digest(6)), "but not copied");

        set(content, map(content, "coder", &owner("u"), &[digest(9)]));
        assert!(may("coder", "u", 9) && !may("coder", "u", 1));
        set(content, None);
        assert!(!may("coder", "u", 9) && may("coder", "u", 2));
    }

    #[test]
    fn annotations_are_read_within_bounds() {
        let many: Vec<Digest> = (0..=u16::MAX).take(MOST + 1).map(|n| Digest::of(&n.to_be_bytes())).collect();
        assert_eq!(map("m", "coder", &owner("u"), &many).unwrap().digests.len(), MOST);
        let none = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "m",
            "annotations": {annotation::ARTIFACTS: "latest,sha256:12,,../../x"}}});
        assert_eq!(entry(&serde_json::from_value(none).unwrap(), &SEAL), None);
    }
}
