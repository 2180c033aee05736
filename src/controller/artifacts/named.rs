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
        API_VERSION, Repository, Task,
        content::MAX_PIECES,
        names::{self, annotation, label},
    },
    artifact::Digest,
    controller::runtime::Cache,
    task,
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
    tasks: Cache<Task>,
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
    /// `ConfigMaps` by the uid of the Task that owns them.
    by_task: HashMap<String, BTreeSet<Name>>,
}

/// A ConfigMap that names artifacts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    agent: Option<String>,
    /// Uids of the Agent that owns it and whose seal it carries; none or one.
    owners: Vec<String>,
    /// The Task that owns it and whose seal it carries.
    task: Option<Whose>,
    digests: BTreeSet<Digest>,
}

/// Who owns a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Whose {
    name: String,
    uid: String,
}

impl Named {
    /// Follows the caches from now on.
    pub fn new(
        maps: &Cache<PartialObjectMeta<ConfigMap>>,
        repositories: &Cache<Repository>,
        tasks: &Cache<Task>,
        seal: Seal,
    ) -> Self {
        let (known, until, changed) = Default::default();
        let (maps, repositories, tasks) = (maps.clone(), repositories.clone(), tasks.clone());
        let inner =
            Inner { maps: maps.clone(), repositories: repositories.clone(), tasks, seal, known, until, changed };
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

    /// The same of the Task with this uid, which has a pod of its own.
    pub fn by_task(&self, namespace: &str, task: &str, uid: &str, digest: &Digest) -> bool {
        let (known, prefix) = (self.0.known.read(), names::task::files_prefix(task));
        let maps = known.by_task.get(uid).into_iter().flatten();
        maps.filter(|(of, map)| of == namespace && map.starts_with(&prefix))
            .filter_map(|map| known.maps.get(map))
            .any(|map| map.task.as_ref().is_some_and(|task| task.uid == uid) && map.digests.contains(digest))
    }

    /// All that somebody may need: what statuses name, and what ConfigMaps of agents and Tasks with a seal do.
    pub fn needed(&self) -> BTreeSet<Digest> {
        let mut needed = self.0.in_statuses();
        needed.extend(self.0.in_maps(|map| !map.owners.is_empty() || map.task.is_some()));
        needed
    }

    /// The namespaces in which something names it, sealed or not, by artifact.
    pub fn owners(&self) -> HashMap<Digest, BTreeSet<String>> {
        let mut owners: HashMap<Digest, BTreeSet<String>> = HashMap::new();
        let mut add = |digest: Digest, namespace: &str| {
            let of = owners.entry(digest).or_default();
            if !of.contains(namespace) {
                of.insert(namespace.to_owned());
            }
        };
        for repository in self.0.repositories.all() {
            let namespace = repository.namespace().unwrap_or_default();
            if let Some(digest) = published(&repository) {
                add(digest, &namespace);
            }
        }
        let known = self.0.known.read();
        for ((namespace, _), map) in known.maps.iter().filter(|(key, map)| !self.0.is_over(&key.0, map)) {
            map.digests.iter().for_each(|digest| add(*digest, namespace));
        }
        owners
    }

    /// All that anything names, sealed or not, and what was named a moment ago; and what was named before that. Only calls count: what
    /// was named between two of them is not known.
    pub fn lately(&self, now: Instant) -> (BTreeSet<Digest>, BTreeSet<Digest>) {
        let mut until = self.0.until.lock();
        let statuses = self.0.in_statuses().into_iter().map(|digest| (digest, AFTER_STATUS));
        for (digest, after) in self.0.in_maps(|_| true).into_iter().map(|digest| (digest, AFTER_MAP)).chain(statuses) {
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
    /// What `ConfigMaps` name. A Task that has ended may stay for years, and fetches nothing any more.
    fn in_maps(&self, counts: impl Fn(&Entry) -> bool) -> BTreeSet<Digest> {
        let known = self.known.read();
        let maps = known.maps.iter().filter(|(key, map)| counts(map) && !self.is_over(&key.0, map));
        maps.flat_map(|(_, map)| &map.digests).copied().collect()
    }

    fn is_over(&self, namespace: &str, map: &Entry) -> bool {
        let Some(whose) = &map.task else { return false };
        let task = self.tasks.get(namespace, &whose.name).filter(|task| task.uid().as_ref() == Some(&whose.uid));
        task.is_some_and(|task| task::is_finished(&task))
    }

    fn in_statuses(&self) -> BTreeSet<Digest> {
        self.repositories.all().iter().filter_map(|repository| published(repository)).collect()
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
        let before = self.maps.remove(&key);
        if let Some(task) = before.as_ref().and_then(|before| before.task.clone())
            && let Some(maps) = self.by_task.get_mut(&task.uid)
        {
            maps.remove(&key);
            if maps.is_empty() {
                self.by_task.remove(&task.uid);
            }
        }
        if let Some(agent) = before.and_then(|before| before.agent) {
            let of_agent = (key.0.clone(), agent);
            if let Some(maps) = self.by_agent.get_mut(&of_agent) {
                maps.remove(&key.1);
                if maps.is_empty() {
                    self.by_agent.remove(&of_agent);
                }
            }
        }
        if let Some(entry) = entry {
            if let Some(task) = &entry.task {
                self.by_task.entry(task.uid.clone()).or_default().insert(key.clone());
            }
            if let Some(agent) = &entry.agent {
                self.by_agent.entry((key.0.clone(), agent.clone())).or_default().insert(key.1.clone());
            }
            self.maps.insert(key, entry);
        }
        true
    }
}

fn published(repository: &Repository) -> Option<Digest> {
    Digest::parse(&repository.status.as_ref()?.artifact.as_ref()?.digest)
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
    let sealed = |kind: &str| {
        let owners = map.owner_references().iter().filter(|owner| is_a(kind, owner) && fits(&owner.uid));
        owners.map(|owner| Whose { name: owner.name.clone(), uid: owner.uid.clone() }).collect::<Vec<_>>()
    };
    let owners = sealed("Agent").into_iter().map(|agent| agent.uid).collect();
    let task = sealed("Task").pop();
    Some(Entry { agent: map.labels().get(label::AGENT).cloned(), owners, task, digests })
}

/// Whether an owner is of this kind of ours, and the only one in control.
fn is_a(kind: &str, owner: &OwnerReference) -> bool {
    owner.kind == kind && owner.api_version == API_VERSION && owner.controller == Some(true)
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
    use crate::controller::runtime::Scope;

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
        with_tasks(vec![])
    }

    fn with_tasks(tasks: Vec<Task>) -> Named {
        let (maps, repositories) = (Cache::of(vec![]), Cache::of(vec![]));
        let (store, mut writer) = kube::runtime::reflector::store();
        for task in tasks {
            writer.apply_watcher_event(&kube::runtime::watcher::Event::Apply(task));
        }
        let tasks = Cache::of(vec![(Scope::All, store)]);
        let (known, until, changed) = Default::default();
        Named(Arc::new(Inner { maps, repositories, tasks, seal: SEAL.clone(), known, until, changed }))
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
    fn a_tasks_own_map_counts_for_its_own_pod() {
        let named = named();
        let set = |name: &str, entry: Option<Entry>| {
            named.0.known.write().set(("ns".to_owned(), name.to_owned()), entry);
        };
        let task =
            |uid: &str| json!({"apiVersion": API_VERSION, "kind": "Task", "name": "t", "uid": uid, "controller": true});
        let files = names::task::files("t", "0123456789abcdef");
        set(&files, map(&files, "", &task("u"), &[digest(1)]));
        set("t-task-files-forged", sealed("t-task-files-forged", "", &task("u"), &[digest(2)], |_| "0".repeat(64)));
        set("else", map("else", "", &task("u"), &[digest(3)]));
        set("t-task-files-other", map("t-task-files-other", "", &owner("u"), &[digest(4)]));
        let may = |uid: &str, n: u8| named.by_task("ns", "t", uid, &digest(n));
        assert_eq!([1, 2, 3, 4].map(|n| may("u", n)), [true, false, false, false]);
        assert!(!may("another", 1) && !named.by_task("elsewhere", "t", "u", &digest(1)));
        assert!(!named.by_task("ns", "other", "u", &digest(1)) && !named.by_agent("ns", "t", "u", &digest(1)));
        assert!(named.needed().contains(&digest(1)) && !named.needed().contains(&digest(2)));
        set(&files, None);
        assert!(!may("u", 1));
    }

    #[test]
    fn a_task_that_has_ended_keeps_no_artifacts() {
        let object = |name: &str, phase: &str| -> Task {
            let object = json!({"apiVersion": API_VERSION, "kind": "Task",
                "metadata": {"name": name, "namespace": "ns", "uid": name}, "spec": {}, "status": {"phase": phase}});
            serde_json::from_value(object).unwrap()
        };
        let of = [("runs", "Running"), ("waits", "Queued"), ("done", "Completed"), ("failed", "Failed")];
        let named = with_tasks(of.map(|(name, phase)| object(name, phase)).into());
        // Of the last one nothing is known; and the one that has ended was another one.
        for (n, (name, uid)) in (1..)
            .zip(of.map(|(name, _)| (name, name)).into_iter().chain([("unknown", "unknown"), ("done", "of-that-name")]))
        {
            let owner =
                json!({"apiVersion": API_VERSION, "kind": "Task", "name": name, "uid": uid, "controller": true});
            let key = ("ns".to_owned(), format!("{uid}-task-files-0"));
            named.0.known.write().set(key.clone(), map(&key.1, "", &owner, &[digest(n)]));
        }
        let kept = BTreeSet::from([1, 2, 5, 6].map(digest));
        assert_eq!((named.needed(), named.lately(Instant::now()).0), (kept.clone(), kept));
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
