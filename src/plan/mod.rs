//! Order, diff, inventory and prune decisions (pure).
//!
//! [`plan`] turns what is rendered and what the inventory says into a [`Plan`]: stages of steps, the inventory to be
//! written before them, and what is pruned after them. [`Plan::settle`] gives the inventory for after. The rules that
//! keep objects safe, whenever the process ends:
//!
//! * An object is in the inventory before it is created (`superset`), and leaves it only after it is gone, or after the
//!   API server has refused it: nothing leaks, and nothing is listed that was never applied.
//! * Only what the inventory lists is pruned, and only if its live object was applied by this Sync: nothing foreign is
//!   deleted ([`prune`]).
//! * An object that another Sync has is refused by name ([`claims`]).
//! * An inventory that could not be written is refused before anything is applied ([`budget`]).

pub mod budget;
pub mod claims;
pub mod compare;
pub mod digest;
pub mod health;
pub mod mask;
pub mod once;
pub mod order;
pub mod prune;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

pub use claims::{Claims, Holder};
pub use compare::{Effort, Remembered, effort};
pub use health::{Health, health};
pub use once::{LiveTask, Once};
pub use order::Stage;

use crate::{
    api::{self, InventoryEntry},
    object::{Object, ObjectId},
};

/// Where in the repository an object comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// File.
    pub file: String,
    /// Line on which the object begins, from 1.
    pub line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// An object that should be there.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The object, its namespace settled.
    pub object: Object,
    /// Where it comes from.
    pub origin: Origin,
}

/// What [`plan`] decides from.
pub struct Input<'a> {
    /// Everything rendered.
    pub wanted: Vec<Wanted>,
    /// What the Sync's status lists.
    pub inventory: &'a [InventoryEntry],
    /// The live Tasks among the wanted ones.
    pub tasks: &'a BTreeMap<ObjectId, LiveTask>,
    /// Entries of former owners, of objects that they handed over.
    pub legacies: &'a [InventoryEntry],
    /// Wanted objects that are known beforehand not to be applied.
    pub refused: &'a BTreeMap<ObjectId, Refused>,
    /// Whether what is gone from the render is deleted.
    pub prune: bool,
}

/// Why one object is not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Another Sync has it.
    Taken,
    /// A dry run of its apply failed: later stages, which may need it, wait.
    Failing,
}

/// Why nothing is applied at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing is rendered, but the inventory lists objects.
    #[error(
        "nothing is rendered, and pruning all {0} objects of the inventory is refused; to remove them delete the Sync, \
         to keep them without it set prune: false"
    )]
    Empty(usize),
    /// Two manifests of one object.
    #[error("{id} is defined twice: {first} and {second}; remove one")]
    Duplicate {
        /// The object.
        id: String,
        /// One place.
        first: Origin,
        /// The other place.
        second: Origin,
    },
    /// The list of all objects does not fit into the Sync's status.
    #[error(
        "the list of {objects} objects would take {kib} KiB of the Sync's status, which has {} KiB for it; {advice}",
        budget::MAX_INVENTORY >> 10
    )]
    TooLarge {
        /// Those in the files, and those that are to be deleted.
        objects: usize,
        /// What their list takes.
        kib: usize,
        /// What to do.
        advice: String,
    },
}

/// What is done about one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is made equal to the manifest.
    Apply,
    /// A Task, created or left alone.
    Once(Once),
    /// Nothing: it is refused.
    Refuse,
    /// Nothing yet: an object of an earlier stage is refused.
    Hold,
}

/// One object of a stage.
#[derive(Clone, Debug)]
pub struct Step {
    /// The object.
    pub wanted: Wanted,
    /// Its identity.
    pub id: ObjectId,
    /// Digest of the rendered object; for a Task of its content as work.
    pub digest: String,
    /// What is done.
    pub action: Action,
    /// Whether the inventory listed it before.
    pub owned: bool,
    /// Whether the inventory has its uid: this Sync has made it (known of Tasks only).
    pub made: bool,
    /// Whether its rendered bytes are those of the last apply (known of Agents only).
    pub same_bytes: bool,
}

/// What is to be done, in order.
#[derive(Debug, Default)]
pub struct Plan {
    /// Stages in order; steps of one stage in any order.
    pub stages: Vec<(Stage, Vec<Step>)>,
    /// The inventory to be written before anything is applied.
    pub superset: Vec<InventoryEntry>,
    /// Whether `superset` must be written: it lists something new.
    pub grows: bool,
    /// What is pruned after everything was applied, in order.
    pub prune: Vec<ObjectId>,
    /// What leaves the inventory without being deleted (`prune: false`).
    pub released: Vec<ObjectId>,
}

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is as rendered.
    Applied,
    /// A Task exists.
    Task {
        /// Its uid.
        uid: String,
        /// Whether it has ended.
        finished: bool,
    },
    /// A Task ran and is gone.
    TaskDone,
    /// Nothing is known to be different from before.
    Unchanged,
}

/// Decides. The order of `wanted` does not matter.
pub fn plan(mut input: Input<'_>) -> Result<Plan, Refusal> {
    let before = by_id(input.inventory);
    if input.wanted.is_empty() && input.prune && !before.is_empty() {
        return Err(Refusal::Empty(before.len()));
    }
    let wanted = std::mem::take(&mut input.wanted);
    let steps = steps(wanted, &input, &before)?;
    let mut superset: BTreeMap<ObjectId, InventoryEntry> =
        before.iter().map(|(id, entry)| (id.clone(), (*entry).clone())).collect();
    let mut grows = false;
    let legacies = by_id(input.legacies);
    let untouched = |s: &&Step| matches!(s.action, Action::Refuse | Action::Hold | Action::Once(Once::Foreign));
    for step in steps.values().filter(|s| !untouched(s)) {
        let known = before.get(&step.id);
        let entry = entry_before(step, known.or(legacies.get(&step.id)).copied());
        if known != Some(&&entry) {
            grows |= known.is_none_or(|k| entry.uid != k.uid || entry.spec_hash != k.spec_hash);
            superset.insert(step.id.clone(), entry);
        }
    }
    let mut gone: Vec<ObjectId> = before.keys().filter(|id| !steps.contains_key(id)).cloned().collect();
    gone.sort_by_key(|id| std::cmp::Reverse(order::stage_of(id)));
    if grows {
        budget::check(&superset, &steps, &gone)?;
    }
    let (prune, released) = if input.prune { (gone, vec![]) } else { (vec![], gone) };
    Ok(Plan { stages: stages(steps), superset: superset.into_values().collect(), grows, prune, released })
}

fn by_id(entries: &[InventoryEntry]) -> BTreeMap<ObjectId, &InventoryEntry> {
    entries.iter().filter_map(|e| Some((ObjectId::parse(&e.id)?, e))).collect()
}

fn steps(
    wanted: Vec<Wanted>,
    input: &Input<'_>,
    before: &BTreeMap<ObjectId, &InventoryEntry>,
) -> Result<BTreeMap<ObjectId, Step>, Refusal> {
    let legacies = by_id(input.legacies);
    let failing = input.refused.iter().filter(|(_, why)| **why == Refused::Failing);
    let last = failing.map(|(id, _)| order::stage_of(id)).min();
    let mut steps = BTreeMap::<ObjectId, Step>::new();
    for wanted in wanted {
        let id = wanted.object.id();
        let known = before.get(&id).or(legacies.get(&id)).copied();
        let (digest, mut action) = decide(&wanted.object, &id, known, input.tasks.get(&id));
        if input.refused.contains_key(&id) {
            action = Action::Refuse;
        } else if last.is_some_and(|last| order::stage_of(&id) > last) {
            action = Action::Hold;
        }
        let same_bytes = known.is_some_and(|k| k.spec_hash.as_deref() == Some(digest.as_str()));
        let (owned, made) = (before.contains_key(&id), before.get(&id).is_some_and(|k| k.uid.is_some()));
        let step = Step { wanted, id: id.clone(), digest, action, owned, made, same_bytes };
        if let Some(other) = steps.insert(id.clone(), step) {
            let mut places = [other.wanted.origin, steps[&id].wanted.origin.clone()];
            places.sort();
            let [first, second] = places;
            return Err(Refusal::Duplicate { id: id.short(), first, second });
        }
    }
    Ok(steps)
}

fn decide(object: &Object, id: &ObjectId, known: Option<&InventoryEntry>, live: Option<&LiveTask>) -> (String, Action) {
    if is_task(id) {
        let digest = digest::of_work(object);
        let once = once::decide(&digest, known, live);
        (digest, Action::Once(once))
    } else {
        (digest::of_object(object), Action::Apply)
    }
}

/// The entry of a step before it is taken. A Task that will be created is written down with its content and without a
/// uid, so that a process that ends in between knows what it was about to do.
fn entry_before(step: &Step, known: Option<&InventoryEntry>) -> InventoryEntry {
    let fresh = InventoryEntry { id: step.id.to_string(), v: version(step), ..InventoryEntry::default() };
    match (&step.action, known) {
        (Action::Once(Once::Create | Once::Replace { .. }), _) => {
            InventoryEntry { spec_hash: Some(step.digest.clone()), ..fresh }
        }
        (_, Some(known)) => InventoryEntry { v: version(step), ..known.clone() },
        (_, None) => fresh,
    }
}

fn version(step: &Step) -> String {
    step.wanted.object.gvk().version.to_string()
}

fn stages(steps: BTreeMap<ObjectId, Step>) -> Vec<(Stage, Vec<Step>)> {
    let mut stages = BTreeMap::<Stage, Vec<Step>>::new();
    for step in steps.into_values() {
        stages.entry(order::stage_of(&step.id)).or_default().push(step);
    }
    stages.into_iter().collect()
}

impl Plan {
    /// All steps.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.stages.iter().flat_map(|(_, steps)| steps)
    }

    /// The inventory after the steps in `outcomes` were taken and the objects in `gone` left the cluster. Sorted. What
    /// is new and was not applied is not in it, unless it is among `unsure`: nobody knows whether the API server has it.
    pub fn settle(
        &self,
        outcomes: &BTreeMap<ObjectId, Outcome>,
        unsure: &BTreeSet<ObjectId>,
        gone: &BTreeSet<ObjectId>,
    ) -> Vec<InventoryEntry> {
        let steps: BTreeMap<&ObjectId, &Step> = self.steps().map(|s| (&s.id, s)).collect();
        let mut entries: Vec<InventoryEntry> = self
            .superset
            .iter()
            .filter_map(|entry| Some((ObjectId::parse(&entry.id)?, entry)))
            .filter(|(id, _)| !gone.contains(id) && !self.released.contains(id))
            .filter_map(|(id, entry)| match (steps.get(&id), outcomes.get(&id)) {
                (Some(step), Some(outcome)) => Some(entry_after(entry, step, outcome)),
                (Some(step), None) if !step.owned && !unsure.contains(&id) => None,
                _ => Some(entry.clone()),
            })
            .collect();
        entries.sort_by(|a, b| a.id.cmp(&b.id));
        entries
    }
}

fn entry_after(entry: &InventoryEntry, step: &Step, outcome: &Outcome) -> InventoryEntry {
    let mut entry = entry.clone();
    match outcome {
        Outcome::Applied if is_agent(&step.id) => entry.spec_hash = Some(step.digest.clone()),
        Outcome::Applied | Outcome::Unchanged => {}
        Outcome::Task { uid, finished } => {
            entry.spec_hash = Some(step.digest.clone());
            entry.uid = Some(uid.clone());
            entry.finished = (*finished || entry.finished == Some(true)).then_some(true);
        }
        Outcome::TaskDone => entry.finished = Some(true),
    }
    entry
}

/// Whether this is one of our Tasks, which run once per content.
pub fn is_task(id: &ObjectId) -> bool {
    id.group == api::GROUP && id.kind == "Task"
}

/// Whether this is one of our Agents, which carry the revision that they come from.
pub fn is_agent(id: &ObjectId) -> bool {
    id.group == api::GROUP && id.kind == "Agent"
}
