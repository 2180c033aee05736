//! Who refers to what, and which Tasks an agent has: kept by events, so that a change costs what it touches.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use kube::ResourceExt;
use parking_lot::RwLock;

use crate::{
    agent::References,
    api::{Task, TaskPhase, names::label},
    controller::runtime::{Cache, Kind},
    task,
};

/// What an Agent refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Of {
    Template,
    ConfigMap,
    Secret,
    /// A Secret with a credential for Git.
    GitSecret,
    Repository,
    /// By the value of the label that it sets.
    Sync,
}

type Target = (Of, String, String);
type Key = (String, String);

/// Agents by what they refer to.
#[derive(Default)]
pub(super) struct Referrers {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    by_target: HashMap<Target, BTreeSet<String>>,
    by_agent: HashMap<Key, Vec<Target>>,
}

impl Referrers {
    /// Replaces what an agent refers to. Returned are the `ConfigMaps` to which nobody refers any more.
    pub(super) fn set(
        &self,
        namespace: &str,
        agent: &str,
        template: Option<&str>,
        references: &References,
    ) -> Vec<String> {
        let target = |of: Of, name: &str| (of, name.to_string());
        let mut targets: Vec<(Of, String)> = template.map(|name| target(Of::Template, name)).into_iter().collect();
        targets.extend(references.config_maps.iter().map(|name| target(Of::ConfigMap, name)));
        targets.extend(references.secrets.iter().map(|name| target(Of::Secret, name)));
        config_maps(self.replace(namespace, agent, targets))
    }

    /// The same of any targets. Returned are those to which nobody refers any more.
    pub(super) fn replace(&self, namespace: &str, agent: &str, targets: Vec<(Of, String)>) -> Vec<(Of, String)> {
        let targets: Vec<Target> = targets.into_iter().map(|(of, name)| (of, namespace.to_string(), name)).collect();
        let mut inner = self.inner.write();
        let before = inner.forget(namespace, agent);
        for target in &targets {
            inner.by_target.entry(target.clone()).or_default().insert(agent.into());
        }
        if !targets.is_empty() {
            inner.by_agent.insert((namespace.into(), agent.into()), targets);
        }
        inner.left(before)
    }

    /// The agent is gone. Returned are the `ConfigMaps` to which nobody refers any more.
    pub(super) fn forget(&self, namespace: &str, agent: &str) -> Vec<String> {
        let mut inner = self.inner.write();
        let before = inner.forget(namespace, agent);
        config_maps(inner.left(before))
    }

    /// The agents of `namespace` that refer to an object.
    pub(super) fn of(&self, of: Of, namespace: &str, name: &str) -> Vec<String> {
        let target = (of, namespace.to_string(), name.to_string());
        self.inner.read().by_target.get(&target).map(|set| set.iter().cloned().collect()).unwrap_or_default()
    }
}

impl Inner {
    /// Those among `targets` to which nobody refers.
    fn left(&self, targets: Vec<Target>) -> Vec<(Of, String)> {
        let nobodys = targets.into_iter().filter(|target| !self.by_target.contains_key(target));
        nobodys.map(|(of, _, name)| (of, name)).collect()
    }

    fn forget(&mut self, namespace: &str, agent: &str) -> Vec<Target> {
        let before = self.by_agent.remove(&(namespace.into(), agent.into())).unwrap_or_default();
        for target in &before {
            if let Some(set) = self.by_target.get_mut(target) {
                set.remove(agent);
                if set.is_empty() {
                    self.by_target.remove(target);
                }
            }
        }
        before
    }
}

fn config_maps(targets: Vec<(Of, String)>) -> Vec<String> {
    targets.into_iter().filter(|(of, _)| *of == Of::ConfigMap).map(|(_, name)| name).collect()
}

/// The cached objects that carry an agent's label, without a look at all others.
pub(super) struct ByAgent<K: Kind> {
    cache: Cache<K>,
    names: Arc<RwLock<HashMap<Key, BTreeSet<String>>>>,
}

impl<K: Kind> ByAgent<K> {
    pub(super) fn new(cache: Cache<K>) -> Self {
        let names: Arc<RwLock<HashMap<Key, BTreeSet<String>>>> = Arc::default();
        let mine = names.clone();
        cache.on_change(move |change| file(&mine, change.object, change.deleted));
        for object in cache.all() {
            file(&names, &*object, false);
        }
        Self { cache, names }
    }

    /// The objects of an agent, sorted by name.
    pub(super) fn objects(&self, namespace: &str, agent: &str) -> Vec<Arc<K>> {
        let names = self.names.read();
        let names = names.get(&(namespace.into(), agent.into())).into_iter().flatten();
        let objects = names.filter_map(|name| self.cache.get(namespace, name));
        // A label may have changed since.
        objects.filter(|o| o.labels().get(label::AGENT).map(String::as_str) == Some(agent)).collect()
    }
}

fn file<K: Kind>(names: &RwLock<HashMap<Key, BTreeSet<String>>>, object: &K, deleted: bool) {
    let Some(agent) = object.labels().get(label::AGENT) else { return };
    let key = (object.namespace().unwrap_or_default(), agent.clone());
    let mut names = names.write();
    let of_agent = names.entry(key.clone()).or_default();
    if deleted {
        of_agent.remove(&object.name_any());
    } else {
        of_agent.insert(object.name_any());
    }
    if of_agent.is_empty() {
        names.remove(&key);
    }
}

#[derive(Clone, PartialEq)]
struct Open {
    uid: String,
    running: bool,
}

/// Tasks that are not over, by agent.
#[derive(Default)]
pub(super) struct OpenTasks(RwLock<ByAgents>);

#[derive(Default)]
struct ByAgents {
    open: HashMap<Key, BTreeMap<String, Open>>,
    /// The agent of each of them, by namespace and name.
    agents: HashMap<Key, String>,
}

impl ByAgents {
    /// Takes a Task out; returns its agent and how it was there.
    fn remove(&mut self, key: &Key) -> Option<(String, Open)> {
        let agent = self.agents.remove(key)?;
        let place = (key.0.clone(), agent);
        let tasks = self.open.get_mut(&place)?;
        let open = tasks.remove(&key.1)?;
        if tasks.is_empty() {
            self.open.remove(&place);
        }
        Some((place.1, open))
    }
}

impl OpenTasks {
    /// Takes a change of a Task in; returns the agents whose numbers changed: two where it moved. A Task that has started
    /// is work of the agent that it started on, whatever its spec says since.
    pub(super) fn note(&self, task: &Task, deleted: bool) -> Vec<String> {
        let key = (task.namespace().unwrap_or_default(), task.name_any());
        let phase = task::phase(task).unwrap_or(TaskPhase::Pending);
        let open = Open { uid: task.uid().unwrap_or_default(), running: phase == TaskPhase::Running };
        let agent = task::agent_of(task).filter(|_| !deleted && !phase.is_terminal());
        let after = agent.map(|agent| (agent.to_owned(), open));
        let mut all = self.0.write();
        let before = all.remove(&key);
        if let Some((agent, open)) = &after {
            all.agents.insert(key.clone(), agent.clone());
            all.open.entry((key.0, agent.clone())).or_default().insert(key.1, open.clone());
        }
        if before == after {
            return vec![];
        }
        let mut agents: Vec<_> = before.into_iter().chain(after).map(|(agent, _)| agent).collect();
        agents.dedup();
        agents
    }

    /// Running and waiting Tasks of an agent. `has_pod` is asked, by name and uid, of each that is not known to run.
    pub(super) fn count(&self, namespace: &str, agent: &str, has_pod: impl Fn(&str, &str) -> bool) -> (usize, usize) {
        let all = self.0.read();
        let Some(tasks) = all.open.get(&(namespace.into(), agent.into())) else { return (0, 0) };
        let running = tasks.iter().filter(|(name, open)| open.running || has_pod(name, &open.uid)).count();
        (running, tasks.len() - running)
    }

    /// Names of those of an agent that do not run, sorted.
    pub(super) fn waiting(&self, namespace: &str, agent: &str) -> Vec<String> {
        let all = self.0.read();
        let tasks = all.open.get(&(namespace.into(), agent.into())).into_iter().flatten();
        tasks.filter(|(_, open)| !open.running).map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn task(name: &str, phase: &str) -> Task {
        serde_json::from_value(json!({
            "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Task",
            "metadata": {"name": name, "namespace": "ns", "uid": format!("u{name}")},
            "spec": {"agentRef": {"name": "a"}},
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    #[test]
    fn tasks_are_counted_until_they_are_over() {
        let open = OpenTasks::default();
        let no = |_: &str, _: &str| false;
        assert_eq!(open.note(&task("1", "Queued"), false), ["a"]);
        assert_eq!(open.note(&task("2", "Running"), false), ["a"]);
        assert_eq!(open.note(&task("2", "Running"), false), [""; 0], "nothing changed");
        assert_eq!(open.count("ns", "a", no), (1, 1));
        assert_eq!(open.count("ns", "a", |name, uid| (name, uid) == ("1", "u1")), (2, 0), "its pod is there");
        open.note(&task("1", "Running"), false);
        assert_eq!(open.count("ns", "a", no), (2, 0));
        open.note(&task("1", "Completed"), false);
        open.note(&task("2", "Running"), true);
        assert_eq!(open.count("ns", "a", no), (0, 0));
        assert_eq!(open.count("other", "a", no), (0, 0));
    }

    #[test]
    fn a_task_is_work_of_the_agent_that_it_started_on() {
        let open = OpenTasks::default();
        let counts = || ["a", "b"].map(|agent| open.count("ns", agent, |_, _| false));
        let to_b = |mut task: Task| {
            task.spec.agent_ref.as_mut().unwrap().name = "b".into();
            task
        };
        open.note(&task("1", "Queued"), false);
        assert_eq!(open.note(&to_b(task("1", "Queued")), false), ["a", "b"], "it waits for another one now");
        assert_eq!(counts(), [(0, 0), (0, 1)]);
        let mut runs = task("1", "Running");
        let status = runs.status.as_mut().unwrap();
        status.agent_ref.clone_from(&runs.spec.agent_ref);
        status.start_time = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        open.note(&runs, false);
        assert_eq!(open.note(&to_b(runs.clone()), false), [""; 0], "it goes on where it began");
        assert_eq!(counts(), [(1, 0), (0, 0)]);
        runs.spec.agent_ref = None;
        assert_eq!(open.note(&runs, true), ["a"]);
        assert_eq!(counts(), [(0, 0), (0, 0)]);
    }

    #[test]
    fn references_are_replaced_and_forgotten() {
        let index = Referrers::default();
        let references = |maps: &[&str]| References {
            config_maps: maps.iter().map(ToString::to_string).collect(),
            ..References::default()
        };
        index.set("ns", "a", Some("t"), &references(&["m", "n"]));
        index.set("ns", "b", Some("t"), &references(&["m"]));
        assert_eq!(index.of(Of::ConfigMap, "ns", "m"), ["a", "b"]);
        assert_eq!(index.of(Of::Template, "ns", "t"), ["a", "b"]);
        assert!(index.set("ns", "a", None, &references(&["n"])).is_empty(), "b still reads m");
        assert_eq!(index.of(Of::ConfigMap, "ns", "m"), ["b"]);
        assert_eq!(index.forget("ns", "b"), ["m"]);
        assert!(index.of(Of::ConfigMap, "ns", "m").is_empty() && index.of(Of::Secret, "ns", "n").is_empty());
        assert_eq!(index.of(Of::ConfigMap, "ns", "n"), ["a"]);
        assert_eq!(index.set("ns", "a", None, &references(&[])), ["n"]);
    }
}
