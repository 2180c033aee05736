//! Which Tasks belong to which `CronTask`: what the cache shows, and what was made and is not there yet.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use kube::ResourceExt;
use parking_lot::Mutex;

use crate::{
    api::{CronTask, Task},
    schedule::{Child, child},
};

/// How long the cache may take to show a Task that was made.
const LATE: Duration = Duration::from_mins(1);

/// Namespace and uid of a `CronTask`: in another namespace anybody may write its uid down.
pub(super) type Owner = (String, String);

/// The Tasks of all `CronTasks`.
#[derive(Default)]
pub(super) struct Children(Mutex<HashMap<Owner, Family>>);

/// The owner that a `CronTask` is.
pub(super) fn owner_of(cron: &CronTask) -> Owner {
    (cron.namespace().unwrap_or_default(), cron.uid().unwrap_or_default())
}

#[derive(Default)]
struct Family {
    /// By uid.
    cached: HashMap<String, Child>,
    made: Vec<Made>,
}

/// A Task that this process made. It is known until the cache has shown it and the status counts it, whichever is later: it
/// may be gone again by then.
struct Made {
    child: Child,
    since: Instant,
    seen: bool,
    counted: bool,
}

impl Children {
    /// Takes in a Task as the cache has it. Namespace and name of its `CronTask`, if that has to look at it.
    pub(super) fn update(&self, task: &Task, deleted: bool) -> Option<(String, String)> {
        let (uid, name) = child::owner(task)?;
        let owner = (task.namespace().unwrap_or_default(), uid.to_owned());
        let child = Child::of(task);
        let mut families = self.0.lock();
        let family = families.entry(owner.clone()).or_default();
        for made in family.made.iter_mut().filter(|made| made.child.uid == child.uid) {
            made.seen = true;
        }
        family.tidy();
        let before = if deleted {
            family.cached.remove(&child.uid)
        } else {
            family.cached.insert(child.uid.clone(), child.clone())
        };
        if family.cached.is_empty() && family.made.is_empty() {
            families.remove(&owner);
        }
        let changed = deleted || before != Some(child);
        changed.then(|| (owner.0, name.to_owned()))
    }

    /// The Tasks of one `CronTask`.
    pub(super) fn of(&self, owner: &Owner) -> Vec<Child> {
        let mut families = self.0.lock();
        let Some(family) = families.get_mut(owner) else { return vec![] };
        family.tidy();
        let fresh = family.made.iter().map(|made| &made.child).filter(|child| !family.cached.contains_key(&child.uid));
        let mut all: Vec<_> = family.cached.values().chain(fresh).cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// A Task was made.
    pub(super) fn made(&self, owner: &Owner, child: Child) {
        let mut families = self.0.lock();
        let family = families.entry(owner.clone()).or_default();
        let seen = family.cached.contains_key(&child.uid);
        family.made.push(Made { child, since: Instant::now(), seen, counted: false });
    }

    /// A Task was asked to stop.
    pub(super) fn stopping(&self, owner: &Owner, uid: &str) {
        let mut families = self.0.lock();
        let Some(family) = families.get_mut(owner) else { return };
        // The cache may not show it yet.
        let made = family.made.iter_mut().map(|made| &mut made.child).filter(|child| child.uid == uid);
        for child in made.chain(family.cached.get_mut(uid)) {
            child.stopping = true;
        }
    }

    /// A status was written that counts every Task that was made.
    pub(super) fn counted(&self, owner: &Owner) {
        if let Some(family) = self.0.lock().get_mut(owner) {
            for made in &mut family.made {
                made.counted = true;
            }
            family.tidy();
        }
    }
}

impl Family {
    fn tidy(&mut self) {
        self.made.retain(|made| !(made.counted && made.seen) && made.since.elapsed() < LATE);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[allow(clippy::needless_pass_by_value, reason = "written where it is called")]
    fn task(uid: &str, phase: &str, owner: Value) -> Task {
        serde_json::from_value(json!({
            "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Task",
            "metadata": {"name": format!("c-{uid}"), "namespace": "ns", "uid": uid, "ownerReferences": [owner]},
            "spec": {"agentRef": {"name": "a"}}, "status": {"phase": phase},
        }))
        .unwrap()
    }

    fn owner() -> Value {
        json!({"apiVersion": "pilothouse.dev/v1alpha1", "kind": "CronTask", "name": "c", "uid": "cron", "controller": true})
    }

    fn own() -> Owner {
        ("ns".into(), "cron".into())
    }

    /// Otherwise a Task of somebody else would count for `Forbid`, or be told to stop.
    #[test]
    fn a_task_of_another_namespace_is_nobody_s_child() {
        let children = Children::default();
        let mut foreign = task("9", "Running", owner());
        foreign.metadata.namespace = Some("others".into());
        assert_eq!(
            children.update(&foreign, false),
            Some(("others".into(), "c".into())),
            "if there is one of that name"
        );
        assert_eq!(children.of(&own()), []);
        children.update(&task("1", "Running", owner()), false);
        children.update(&foreign, true);
        assert_eq!(children.of(&own()).len(), 1);
    }

    #[test]
    fn only_what_matters_wakes_the_owner() {
        let children = Children::default();
        let woken = Some(("ns".to_string(), "c".to_string()));
        assert_eq!(children.update(&task("1", "Queued", owner()), false), woken);
        assert_eq!(children.update(&task("1", "Running", owner()), false), None, "still not finished");
        assert_eq!(children.update(&task("1", "Completed", owner()), false), woken);
        assert_eq!(children.update(&task("1", "Completed", owner()), true), woken);
        assert_eq!(children.of(&own()), []);
        let other =
            json!({"apiVersion": "batch/v1", "kind": "CronTask", "name": "c", "uid": "cron", "controller": true});
        assert_eq!(children.update(&task("2", "Queued", other), false), None);
        let no_controller =
            json!({"apiVersion": "pilothouse.dev/v1alpha1", "kind": "CronTask", "name": "c", "uid": "cron"});
        assert_eq!(children.update(&task("3", "Queued", no_controller), false), None);
    }

    #[test]
    fn what_was_made_counts_before_the_cache_shows_it_and_until_the_status_counts_it() {
        let names = |children: &Children| children.of(&own()).into_iter().map(|c| c.name).collect::<Vec<_>>();
        let children = Children::default();
        children.made(&own(), Child::of(&task("1", "Pending", owner())));
        assert_eq!(names(&children), ["c-1"]);
        children.stopping(&own(), "1");
        assert!(children.of(&own())[0].stopping, "it is not asked to stop again and again");
        children.update(&task("1", "Pending", owner()), false);
        assert_eq!(names(&children), ["c-1"], "it is there once");
        children.update(&task("1", "Completed", owner()), true);
        assert_eq!(names(&children), ["c-1"], "gone before its time was written down");
        children.counted(&own());
        assert_eq!(names(&children), [""; 0]);
        // The event came before the answer.
        children.update(&task("2", "Pending", owner()), false);
        children.made(&own(), Child::of(&task("2", "Pending", owner())));
        children.counted(&own());
        children.update(&task("2", "Pending", owner()), true);
        assert_eq!(names(&children), [""; 0]);
    }
}
