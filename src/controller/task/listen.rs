//! What wakes a Task: its agent, its pod, a place that gets free, a setting. Nothing is polled.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::{Tasks, contexts::On, keep::Maker, view};
use crate::{
    api::{Agent, Task, TaskPhase, names},
    controller::runtime::Change,
    task,
};

/// Adds the listeners, and takes in what the caches hold already.
pub(super) fn attach(tasks: &Arc<Tasks>) {
    let caches = tasks.context.caches.clone();
    let this = tasks.clone();
    caches.tasks.on_change(move |change| this.task_changed(change.object, change.deleted));
    let this = tasks.clone();
    caches.agents.on_change(move |change| this.agent_changed(&change.object.namespace().unwrap_or_default(), change));
    let this = tasks.clone();
    caches.templates.on_change(move |change| {
        let (namespace, name) = (change.object.namespace(), change.object.name_any());
        let uses = |agent: &Agent| {
            agent.namespace() == namespace && agent.spec.template_ref.as_ref().is_some_and(|r| r.name == name)
        };
        for agent in this.context.caches.agents.filter(uses) {
            this.look_at_agent(&agent.namespace().unwrap_or_default(), &agent.name_any());
        }
        this.changed(On::Template, &namespace.unwrap_or_default(), &name);
    });
    let this = tasks.clone();
    caches.task_pods.on_change(move |change| this.pod_changed(change));
    let this = tasks.clone();
    caches.config_maps.on_change(move |change| {
        this.changed(On::ConfigMap, &change.object.namespace().unwrap_or_default(), &change.object.name_any());
    });
    let this = tasks.clone();
    caches.secrets.on_change(move |change| {
        this.changed(On::Secret, &change.object.namespace().unwrap_or_default(), &change.object.name_any());
    });
    let this = tasks.clone();
    caches.crontasks.on_change(move |change| {
        let (namespace, name) = (change.object.namespace().unwrap_or_default(), change.object.name_any());
        this.written_down(&Maker::Cron(namespace, name));
    });
    let this = tasks.clone();
    caches.syncs.on_change(move |change| {
        let (namespace, name) = (change.object.namespace().unwrap_or_default(), change.object.name_any());
        this.written_down(&Maker::Sync(namespace, name));
    });
    let this = tasks.clone();
    caches.configs.on_spec_change(move |_| {
        for task in this.context.caches.tasks.all() {
            this.triggers.now(&task.namespace().unwrap_or_default(), &task.name_any());
        }
    });
    for task in caches.tasks.all() {
        tasks.task_changed(&task, false);
    }
    for agent in caches.agents.all() {
        tasks.look_at_agent(&agent.namespace().unwrap_or_default(), &agent.name_any());
    }
}

impl Tasks {
    fn task_changed(&self, task: &Task, deleted: bool) {
        let uid = task.uid().unwrap_or_default();
        if deleted || task::is_finished(task) {
            let pod = (task.namespace().unwrap_or_default(), names::task::pod(&task.name_any()));
            self.farewells.lock().remove(&pod);
        }
        if deleted || !super::waits(task) || task::template_of(task).is_none() {
            // What it has been given is named by what was made for it.
            self.git.forget(&task.namespace().unwrap_or_default(), &task.name_any());
        }
        if deleted && task::retry::is_begun(task) {
            self.abort(task);
        }
        if deleted {
            self.await_nothing(task);
            self.written.lock().remove(&uid);
            self.labelled.lock().remove(&uid);
        }
        if deleted || task::is_finished(task) {
            self.left.forget(&uid);
        }
        self.file(task, deleted);
    }

    /// Takes in where a Task is now, and wakes whom that lets go on.
    pub(super) fn file(&self, task: &Task, deleted: bool) {
        let namespace = task.namespace().unwrap_or_default();
        let (changed, moved) = self.index.update(task, deleted);
        let finished = task::is_finished(task);
        if deleted || finished || task::phase(task) == Some(TaskPhase::Running) {
            self.ledger.lock().settle(&task.uid().unwrap_or_default());
            self.context.task_starts.settle(&task.uid().unwrap_or_default());
        }
        for agent in &changed {
            self.wake(&namespace, agent);
        }
        if finished && !deleted && moved {
            self.wake_surplus(&namespace);
        }
    }

    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let (namespace, name) = (change.object.namespace().unwrap_or_default(), change.object.name_any());
        // The name of a pod may be a short form of the Task's.
        let owners = change.object.owner_references();
        let owner = owners.iter().find(|owner| owner.kind == "Task" && owner.controller == Some(true));
        let Some(task) = owner.map(|owner| owner.name.as_str()).or_else(|| name.strip_suffix("-pod")) else {
            return;
        };
        let unfinished = self.context.caches.tasks.get(&namespace, task).is_some_and(|t| !task::is_finished(&t));
        if change.deleted && unfinished {
            self.farewells.lock().insert((namespace.clone(), name.clone()), change.object.clone());
        }
        self.triggers.now(&namespace, task);
    }

    fn wake_surplus(&self, namespace: &str) {
        let cleanup = view::config(&self.context.caches).and_then(|c| c.spec.cleanup.clone());
        let max = cleanup.and_then(|c| c.max_retained_tasks).and_then(|n| usize::try_from(n).ok());
        for name in max.into_iter().flat_map(|max| self.index.surplus(namespace, max)) {
            self.triggers.now(namespace, &name);
        }
    }

    fn agent_changed(&self, namespace: &str, change: &Change<'_, Agent>) {
        self.look_at_agent(namespace, &change.object.name_any());
    }

    /// Wakes the Tasks of an agent if something changed that matters to them.
    fn look_at_agent(&self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        let view = view::agent(&self.context.caches, namespace, name);
        let mut agents = self.agents.lock();
        if agents.get(&key) == view.as_ref() {
            return;
        }
        match view {
            Some(view) => agents.insert(key, view),
            None => agents.remove(&key),
        };
        drop(agents);
        for task in self.index.unfinished(namespace, name) {
            self.triggers.now(namespace, &task);
        }
    }
}
