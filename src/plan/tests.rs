//! Properties of plans, against a model of a cluster in which the process can end after any step.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::json;

use super::*;

pub(super) fn object(kind: &str, name: &str, content: u8) -> Object {
    let api_version = if kind == "Task" || kind == "Agent" { api::API_VERSION } else { "v1" };
    Object::new(json!({
        "apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": "n"}, "spec": {"c": content},
    }))
    .unwrap()
}

fn wanted(objects: Vec<Object>) -> Vec<Wanted> {
    let origin = |line| Origin { file: "a.yaml".into(), line };
    objects.into_iter().enumerate().map(|(n, object)| Wanted { object, origin: origin(n + 1) }).collect()
}

pub(super) fn planned(objects: Vec<Object>, inventory: &[InventoryEntry]) -> Result<Plan, Refusal> {
    planned_but(objects, inventory, &BTreeMap::new())
}

fn planned_but(
    objects: Vec<Object>,
    inventory: &[InventoryEntry],
    refused: &BTreeMap<ObjectId, Refused>,
) -> Result<Plan, Refusal> {
    let tasks = BTreeMap::new();
    plan(Input { wanted: wanted(objects), inventory, tasks: &tasks, legacies: &[], refused, prune: true })
}

#[test]
fn an_empty_render_is_refused_only_when_something_would_go() {
    let entry = InventoryEntry { id: "n_a__ConfigMap".into(), v: "v1".into(), ..InventoryEntry::default() };
    assert_eq!(planned(vec![], &[entry]).unwrap_err(), Refusal::Empty(1));
    assert!(planned(vec![], &[]).unwrap().stages.is_empty());
}

#[test]
fn two_manifests_of_one_object_are_named() {
    let error = planned(vec![object("ConfigMap", "a", 1), object("ConfigMap", "a", 2)], &[]).unwrap_err();
    assert_eq!(error.to_string(), "ConfigMap/n/a is defined twice: a.yaml:1 and a.yaml:2; remove one");
}

#[test]
fn what_is_refused_stays_out_of_the_inventory() {
    let objects = || vec![object("Namespace", "n", 1), object("ConfigMap", "a", 1), object("Agent", "b", 1)];
    let ids = |plan: &Plan| plan.superset.iter().map(|e| e.id.clone()).collect::<Vec<_>>();
    let actions = |plan: &Plan| plan.steps().map(|s| s.action.clone()).collect::<Vec<_>>();
    let refused = |why| BTreeMap::from([(object("ConfigMap", "a", 1).id(), why)]);
    let plan = planned_but(objects(), &[], &refused(Refused::Taken)).unwrap();
    assert_eq!(ids(&plan), ["n_b_pilothouse.dev_Agent", "n_n__Namespace"]);
    assert_eq!(actions(&plan), [Action::Apply, Action::Refuse, Action::Apply]);
    // Later stages may need what fails.
    let plan = planned_but(objects(), &[], &refused(Refused::Failing)).unwrap();
    assert_eq!(ids(&plan), ["n_n__Namespace"]);
    assert_eq!(actions(&plan), [Action::Apply, Action::Refuse, Action::Hold]);
    // What the inventory had stays in it, and nothing is to be written.
    let before = planned(objects(), &[]).unwrap().superset;
    let plan = planned_but(objects(), &before, &refused(Refused::Failing)).unwrap();
    assert_eq!((plan.superset.len(), plan.grows), (3, false));
    assert_eq!(plan.settle(&BTreeMap::new(), &BTreeSet::new(), &BTreeSet::new()), before);
}

#[test]
fn what_was_never_applied_leaves_the_inventory() {
    let (a, b) = (object("ConfigMap", "a", 1), object("ConfigMap", "b", 1));
    let unsure = BTreeSet::from([object("ConfigMap", "c", 1).id()]);
    let before = planned(vec![a.clone()], &[]).unwrap().superset;
    let plan = planned(vec![a, b, object("ConfigMap", "c", 1)], &before).unwrap();
    assert_eq!(plan.superset.len(), 3);
    let left = plan.settle(&BTreeMap::new(), &unsure, &BTreeSet::new());
    assert_eq!(left.iter().map(|e| e.id.as_str()).collect::<Vec<_>>(), ["n_a__ConfigMap", "n_c__ConfigMap"]);
}

#[test]
fn a_task_that_was_handed_over_is_remembered() {
    let task = object("Task", "t", 1);
    let entry = InventoryEntry {
        id: task.id().to_string(),
        v: "v1alpha1".into(),
        uid: Some("u".into()),
        spec_hash: Some(digest::of_work(&task)),
        finished: Some(true),
    };
    let plan = plan(Input {
        wanted: wanted(vec![task]),
        inventory: &[],
        tasks: &BTreeMap::new(),
        legacies: std::slice::from_ref(&entry),
        refused: &BTreeMap::new(),
        prune: true,
    })
    .unwrap();
    let step = plan.steps().next().unwrap();
    assert_eq!((&step.action, step.owned, step.made), (&Action::Once(Once::Done), false, false));
    assert!(plan.grows && plan.superset == [entry]);
}

#[test]
fn stages_are_in_order_and_prune_is_reversed() {
    let plan =
        planned(vec![object("Task", "t", 1), object("ConfigMap", "c", 1), object("Agent", "a", 1)], &[]).unwrap();
    let kinds: Vec<&str> = plan.steps().map(|s| s.id.kind.as_str()).collect();
    assert_eq!(kinds, ["ConfigMap", "Agent", "Task"]);
    let plan = planned(vec![object("Namespace", "x", 1)], &plan.superset).unwrap();
    assert_eq!(plan.prune.iter().map(|id| id.kind.as_str()).collect::<Vec<_>>(), ["Task", "Agent", "ConfigMap"]);
}

/// One object of the model cluster.
#[derive(Clone, Debug, PartialEq)]
struct Live {
    content: String,
    ours: bool,
    uid: u32,
}

/// A cluster, one Sync's status, and what has ever been started.
#[derive(Clone, Debug, Default)]
struct World {
    objects: BTreeMap<ObjectId, Live>,
    inventory: Vec<InventoryEntry>,
    next_uid: u32,
    /// Runs of each content of each Task.
    runs: BTreeMap<(ObjectId, String), u32>,
    writes: u32,
}

impl World {
    fn live_tasks(&self) -> BTreeMap<ObjectId, LiveTask> {
        let task = |live: &Live| LiveTask {
            uid: live.uid.to_string(),
            hash: live.ours.then(|| live.content.clone()),
            ..LiveTask::default()
        };
        self.objects.iter().filter(|(id, _)| is_task(id)).map(|(id, live)| (id.clone(), task(live))).collect()
    }

    fn create(&mut self, id: &ObjectId, content: &str) -> u32 {
        self.next_uid += 1;
        self.writes += 1;
        let live = Live { content: content.into(), ours: true, uid: self.next_uid };
        self.objects.insert(id.clone(), live);
        if is_task(id) {
            *self.runs.entry((id.clone(), content.into())).or_default() += 1;
        }
        self.next_uid
    }

    /// One reconcile that ends after `budget` writes, as a killed process does. Whether it came to its end.
    fn reconcile(&mut self, objects: Vec<Object>, mut budget: u32) -> bool {
        let mut spend = || {
            budget = budget.saturating_sub(1);
            budget > 0
        };
        let tasks = self.live_tasks();
        let inventory = self.inventory.clone();
        let input = Input {
            wanted: wanted(objects),
            inventory: &inventory,
            tasks: &tasks,
            legacies: &[],
            refused: &BTreeMap::new(),
            prune: true,
        };
        let Ok(plan) = plan(input) else { return true };
        if plan.grows {
            self.inventory = plan.superset.clone();
            self.writes += 1;
            if !spend() {
                return false;
            }
        }
        let mut outcomes = BTreeMap::new();
        for step in plan.steps() {
            let before = self.writes;
            if let Some(outcome) = self.step(step) {
                outcomes.insert(step.id.clone(), outcome);
            }
            if self.writes != before && !spend() {
                return false;
            }
        }
        let mut gone = BTreeSet::new();
        for id in &plan.prune {
            if self.objects.get(id).is_some_and(|live| live.ours) {
                self.objects.remove(id);
                self.writes += 1;
                if !spend() {
                    return false;
                }
            }
            gone.insert(id.clone());
        }
        let settled = plan.settle(&outcomes, &BTreeSet::new(), &gone);
        if settled != self.inventory {
            self.inventory = settled;
            self.writes += 1;
        }
        true
    }

    fn step(&mut self, step: &Step) -> Option<Outcome> {
        match &step.action {
            Action::Apply => {
                if self.objects.get(&step.id).is_none_or(|live| live.content != step.digest) {
                    self.create(&step.id, &step.digest);
                }
                Some(Outcome::Applied)
            }
            Action::Once(Once::Create) => {
                let uid = self.create(&step.id, &step.digest).to_string();
                Some(Outcome::Task { uid, finished: false })
            }
            Action::Once(Once::Replace { .. }) => {
                self.objects.remove(&step.id);
                let uid = self.create(&step.id, &step.digest).to_string();
                Some(Outcome::Task { uid, finished: false })
            }
            Action::Once(Once::Keep { uid, finished }) => Some(Outcome::Task { uid: uid.clone(), finished: *finished }),
            Action::Once(Once::Done) => Some(Outcome::TaskDone),
            Action::Once(Once::Wait | Once::Foreign) | Action::Refuse | Action::Hold => None,
        }
    }
}

/// A commit: for each of six objects its content, if it is there. Never empty.
fn commit() -> impl Strategy<Value = Vec<Object>> {
    proptest::collection::vec(proptest::option::of(0u8..3), 6).prop_map(|contents| {
        let names = [("ConfigMap", "a"), ("ConfigMap", "b"), ("Agent", "a"), ("Task", "a"), ("Task", "b")];
        let mut objects: Vec<Object> = names
            .iter()
            .zip(contents)
            .filter_map(|((kind, name), content)| Some(object(kind, name, content?)))
            .collect();
        objects.push(object("ConfigMap", "always", 0));
        objects
    })
}

proptest! {
    #[test]
    fn a_second_run_writes_nothing(first in commit(), second in commit()) {
        let mut world = World::default();
        world.reconcile(first, u32::MAX);
        world.reconcile(second.clone(), u32::MAX);
        let before = world.writes;
        world.reconcile(second, u32::MAX);
        prop_assert_eq!(world.writes, before);
    }

    #[test]
    fn killed_at_any_step_nothing_leaks_and_nothing_foreign_goes(
        commits in proptest::collection::vec((commit(), 1u32..12), 1..6),
    ) {
        let mut world = World::default();
        let foreign: ObjectId = object("ConfigMap", "foreign", 0).id();
        world.objects.insert(foreign.clone(), Live { content: "theirs".into(), ours: false, uid: 0 });
        for (commit, budget) in &commits {
            world.reconcile(commit.clone(), *budget);
            let listed: BTreeSet<String> = world.inventory.iter().map(|e| e.id.clone()).collect();
            for (id, live) in &world.objects {
                prop_assert!(!live.ours || listed.contains(&id.to_string()), "{id} leaked");
            }
        }
        let last = &commits[commits.len() - 1].0;
        prop_assert!(world.reconcile(last.clone(), u32::MAX));
        let ours = |task: bool| {
            let of = move |(id, live): (&ObjectId, &Live)| (live.ours && is_task(id) == task).then(|| id.clone());
            world.objects.iter().filter_map(of).collect::<BTreeSet<ObjectId>>()
        };
        let want = |task: bool| last.iter().map(Object::id).filter(|id| is_task(id) == task).collect::<BTreeSet<_>>();
        prop_assert_eq!(ours(false), want(false));
        // A Task that ran with this content and was pruned just before the process ended does not come back.
        prop_assert!(ours(true).is_subset(&want(true)));
        for task in last.iter().filter(|o| is_task(&o.id())) {
            prop_assert!(world.runs.contains_key(&(task.id(), digest::of_work(task))), "{} never ran", task.id());
        }
        prop_assert!(world.objects.contains_key(&foreign));
    }

    #[test]
    fn a_task_runs_once_however_often_it_is_looked_at(
        commit in commit(),
        passes in proptest::collection::vec((any::<bool>(), 1u32..12), 1..10),
    ) {
        let mut world = World::default();
        for (cleanup, budget) in passes {
            let finished = world.reconcile(commit.clone(), budget);
            // Cleanup deletes Tasks that ran; the controller that runs it lives in the same process.
            if cleanup && finished {
                world.objects.retain(|id, _| !is_task(id));
            }
        }
        world.reconcile(commit, u32::MAX);
        for ((id, _), runs) in &world.runs {
            prop_assert_eq!(*runs, 1, "{} ran more than once", id);
        }
    }
}
