//! A finished Task is the only proof that it ran, until whoever made it has written that down: a `CronTask` its time, a
//! Sync its uid. So long it is kept from cleanup, or it would be made again.
//!
//! What is written down is seen in the caches from which the makers decide, so that they see it too. A maker that is gone,
//! or is being deleted, makes nothing any more and keeps nothing.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;

use super::Tasks;
use crate::{
    api::{
        self, CronTask, Sync, Task,
        names::{self, annotation, label},
    },
    object::ObjectId,
    plan::once,
    schedule,
};

/// Who made a Task.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Maker {
    /// The `CronTask` of that namespace and name.
    Cron(String, String),
    /// The Sync.
    Sync(String, String),
}

/// Tasks, by namespace and name, that wait for their makers to write them down.
#[derive(Default)]
pub(super) struct Kept(Mutex<HashMap<Maker, BTreeSet<(String, String)>>>);

impl Kept {
    fn add(&self, maker: Maker, task: &Task) {
        let key = (task.namespace().unwrap_or_default(), task.name_any());
        self.0.lock().entry(maker).or_default().insert(key);
    }

    fn take(&self, maker: &Maker) -> BTreeSet<(String, String)> {
        self.0.lock().remove(maker).unwrap_or_default()
    }
}

impl Tasks {
    /// Whether somebody would make a finished Task again if it were gone. Its maker's next change wakes it.
    pub(super) fn is_kept(&self, task: &Task) -> bool {
        for maker in [cron(task), self.sync(task)].into_iter().flatten() {
            if self.is_owed(&maker, task) {
                self.kept.add(maker.clone(), task);
                // It may have changed before it knew whom to wake.
                return self.is_owed(&maker, task);
            }
        }
        false
    }

    /// Wakes the Tasks that waited for what this maker wrote.
    pub(super) fn written_down(&self, maker: &Maker) {
        for (namespace, name) in self.kept.take(maker) {
            self.triggers.now(&namespace, &name);
        }
    }

    fn is_owed(&self, maker: &Maker, task: &Task) -> bool {
        let caches = &self.context.caches;
        match maker {
            Maker::Cron(namespace, name) => {
                let owner = schedule::child::owner(task).map(|(uid, _)| uid);
                let cron = caches.crontasks.get(namespace, name).filter(|cron| cron.uid().as_deref() == owner);
                cron.is_some_and(|cron| is_owed_by_cron(&cron, task, self.context.now()))
            }
            Maker::Sync(namespace, name) => {
                caches.syncs.get(namespace, name).is_some_and(|sync| is_owed_by_sync(&sync, task))
            }
        }
    }

    fn sync(&self, task: &Task) -> Option<Maker> {
        let [namespace, name] = [label::SYNC_NAMESPACE, label::SYNC_NAME].map(|key| task.labels().get(key));
        let (namespace, name) = (namespace?, name?);
        if self.context.caches.syncs.get(namespace, name).is_some() {
            return Some(Maker::Sync(namespace.clone(), name.clone()));
        }
        // A long name is shortened in the label.
        let is_it = |sync: &Sync| {
            names::label_value(&sync.name_any()) == *name
                && names::label_value(&sync.namespace().unwrap_or_default()) == *namespace
        };
        let found = self.context.caches.syncs.filter(is_it);
        found.first().map(|sync| Maker::Sync(sync.namespace().unwrap_or_default(), sync.name_any()))
    }
}

fn is_owed_by_cron(cron: &CronTask, task: &Task, now: Timestamp) -> bool {
    let at = task.annotations().get(annotation::SCHEDULED_AT).and_then(|at| at.parse().ok());
    at.is_some_and(|at| schedule::is_owed(cron, at, now))
}

fn is_owed_by_sync(sync: &Sync, task: &Task) -> bool {
    let id = ObjectId {
        namespace: task.namespace().unwrap_or_default(),
        name: task.name_any(),
        group: api::GROUP.into(),
        kind: Task::kind(&()).into(),
    };
    let entries = sync.status.as_ref().and_then(|s| s.inventory.as_ref()).map(|i| i.entries.as_slice());
    let entry = entries.unwrap_or_default().iter().find(|entry| entry.id == id.to_string());
    sync.metadata.deletion_timestamp.is_none()
        && entry.is_some_and(|entry| once::is_owed(entry, task.annotations().get(annotation::SPEC_HASH)))
}

fn cron(task: &Task) -> Option<Maker> {
    let (_, name) = schedule::child::owner(task)?;
    Some(Maker::Cron(task.namespace().unwrap_or_default(), name.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sync(uid: Option<&str>, hash: &str) -> Sync {
        serde_json::from_value(json!({
            "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Sync", "metadata": {"name": "s", "namespace": "ns"},
            "spec": {"repositoryRef": {"name": "r"}},
            "status": {"inventory": {"entries": [
                {"id": "ns_other_pilothouse.dev_Task", "v": "v1alpha1", "specHash": "h"},
                {"id": "ns_t_pilothouse.dev_Task", "v": "v1alpha1", "uid": uid, "specHash": hash},
            ]}},
        }))
        .unwrap()
    }

    #[test]
    fn a_task_of_a_sync_is_kept_until_its_uid_is_in_the_inventory() {
        let task: Task = serde_json::from_value(json!({
            "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Task",
            "metadata": {"name": "t", "namespace": "ns", "uid": "u", "annotations": {"pilothouse.dev/spec-hash": "h"}},
            "spec": {"agentRef": {"name": "a"}},
        }))
        .unwrap();
        assert!(is_owed_by_sync(&sync(None, "h"), &task), "written down before it was made");
        assert!(!is_owed_by_sync(&sync(Some("u"), "h"), &task));
        assert!(!is_owed_by_sync(&sync(None, "other"), &task), "other content comes in its place");
        let mut going = sync(None, "h");
        going.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        assert!(!is_owed_by_sync(&going, &task), "it makes nothing any more");
        let unlisted = Sync { status: None, ..sync(None, "h") };
        assert!(!is_owed_by_sync(&unlisted, &task), "given up, or another one's");
    }
}
