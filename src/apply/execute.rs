//! Takes the steps of a plan.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use futures::{FutureExt, StreamExt, stream};
use parking_lot::Mutex;
use serde_json::Value;

use super::{
    account::{Account, Mode},
    contest::may_apply,
    error::{ApiError, Problem, Tried, explain},
    kinds::{Kinds, Resource},
};
use crate::{
    api::names::{annotation, reasons},
    object::{Gvk, Object, ObjectId},
    plan::{
        Action, Effort, Health, LiveTask, Once, Outcome, Plan, Remembered, Stage, Step, Wanted, compare, effort,
        health, health::has_health, is_agent, is_task,
    },
};

/// Objects of one stage that are applied at a time.
pub(super) const SIDE_BY_SIDE: usize = 8;
/// How long new definitions may take to be served.
const ESTABLISH: Duration = Duration::from_secs(10);

/// What is remembered of each object between reconciles.
pub type Memory = Mutex<HashMap<ObjectId, Remembered>>;

/// Everything that [`execute`] needs.
pub struct Job<'a> {
    /// What to do.
    pub plan: &'a Plan,
    /// Whose rights.
    pub account: &'a Account,
    /// Discovery.
    pub kinds: &'a Kinds,
    /// What was true of each object.
    pub memory: &'a Memory,
    /// Revision to stamp on Agents that changed.
    pub revision: &'a str,
    /// Whether changes made by others are looked for.
    pub look: bool,
}

/// Names of objects that were written, for events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Created.
    pub created: Vec<ObjectId>,
    /// Changed.
    pub changed: Vec<ObjectId>,
    /// Deleted.
    pub deleted: Vec<ObjectId>,
}

impl Changes {
    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.created.is_empty() && self.changed.is_empty() && self.deleted.is_empty()
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// For the inventory.
    pub outcomes: BTreeMap<ObjectId, Outcome>,
    /// For events.
    pub changes: Changes,
    /// What failed. After a stage with failures no later one is begun.
    pub problems: Vec<Problem>,
    /// Health of the objects that were looked at.
    pub health: BTreeMap<ObjectId, Health>,
    /// What the problems are about.
    pub failed: BTreeSet<ObjectId>,
    /// Of these nobody knows whether the API server has them: it did not answer.
    pub unsure: BTreeSet<ObjectId>,
    /// Of these the account has lost its rights, or never had them.
    pub forbidden: BTreeSet<ObjectId>,
}

/// What came of one step.
struct Done {
    outcome: Outcome,
    change: Option<Change>,
    health: Option<Health>,
}

#[derive(Clone, Copy)]
enum Change {
    Created,
    Changed,
}

/// Takes all steps, stage by stage.
pub async fn execute(job: &Job<'_>) -> Report {
    let mut report = Report::default();
    for (stage, steps) in &job.plan.stages {
        let open = steps.iter().filter(|step| !matches!(step.action, Action::Refuse | Action::Hold));
        let taken: Vec<_> = open.map(|step| job.step_of(step).boxed()).collect();
        let results: Vec<_> = stream::iter(taken).buffer_unordered(SIDE_BY_SIDE).collect().await;
        for (step, result) in results {
            report.add(step, result);
        }
        if *stage == Stage::Definitions && report.problems.is_empty() {
            job.establish(steps, &mut report).await;
        }
        if !report.problems.is_empty() {
            break;
        }
    }
    report.changes.created.sort();
    report.changes.changed.sort();
    report
}

impl Report {
    fn add(&mut self, step: &Step, result: Result<Done, Problem>) {
        match result {
            Ok(done) => {
                self.outcomes.insert(step.id.clone(), done.outcome);
                if let Some(health) = done.health {
                    self.health.insert(step.id.clone(), health);
                }
                match done.change {
                    Some(Change::Created) => self.changes.created.push(step.id.clone()),
                    Some(Change::Changed) => self.changes.changed.push(step.id.clone()),
                    None => {}
                }
            }
            Err(problem) => {
                self.failed.insert(step.id.clone());
                match problem.reason {
                    reasons::CLUSTER_UNAVAILABLE => drop(self.unsure.insert(step.id.clone())),
                    reasons::FORBIDDEN => drop(self.forbidden.insert(step.id.clone())),
                    _ => {}
                }
                self.problems.push(problem);
            }
        }
    }
}

impl Job<'_> {
    async fn step_of<'s>(&self, step: &'s Step) -> (&'s Step, Result<Done, Problem>) {
        (step, self.step(step).await)
    }

    async fn step(&self, step: &Step) -> Result<Done, Problem> {
        match &step.action {
            Action::Refuse | Action::Hold => Ok(Done { outcome: Outcome::Unchanged, change: None, health: None }),
            Action::Apply => self.apply_step(step).await,
            Action::Once(once) => self.once_step(step, once).await,
        }
    }

    async fn apply_step(&self, step: &Step) -> Result<Done, Problem> {
        let remembered = self.memory.lock().get(&step.id).cloned();
        let effort = effort(&step.digest, remembered.as_ref(), step.owned, self.look);
        if effort == Effort::None {
            return Ok(Done { outcome: Outcome::Applied, change: None, health: None });
        }
        let resource = self.resource(step).await?;
        self.apply(step, &resource, effort, remembered).await.map_err(|e| self.problem(step, &resource, "patch", &e))
    }

    async fn apply(
        &self,
        step: &Step,
        resource: &Resource,
        effort: Effort,
        remembered: Option<Remembered>,
    ) -> Result<Done, ApiError> {
        let mut object = step.wanted.object.clone();
        if is_agent(&step.id) {
            object.set_annotation(annotation::REVISION, self.revision);
        }
        let judged = has_health(&step.id.group, &step.id.kind);
        let live = match effort {
            Effort::None | Effort::Apply => None,
            Effort::Version if !judged => self.account.get_metadata(resource, &step.id).await?,
            Effort::Version | Effort::Compare => self.account.get(resource, &step.id).await?,
        };
        if let Some(live) = &live {
            keep_revision(&mut object, step, live);
            let version = resource_version(live);
            let same = effort == Effort::Version && remembered.is_some_and(|r| r.resource_version == version);
            if same || !self.would_change(step, resource, &object, live, judged || effort == Effort::Compare).await? {
                self.remember(step, version);
                let health = judged.then(|| health(live));
                return Ok(Done { outcome: Outcome::Applied, change: None, health });
            }
        }
        let (created, after) = self.account.apply(resource, &step.id, object.value(), Mode::Write).await?;
        let version = resource_version(&after);
        let unchanged = live.as_ref().is_some_and(|live| resource_version(live) == version);
        self.remember(step, version);
        let change = match (created, unchanged) {
            (true, _) => Some(Change::Created),
            (false, false) => Some(Change::Changed),
            (false, true) => None,
        };
        Ok(Done { outcome: Outcome::Applied, change, health: judged.then(|| health(&after)) })
    }

    /// Asks the server what the apply would give. `live` may be metadata only.
    async fn would_change(
        &self,
        step: &Step,
        resource: &Resource,
        object: &Object,
        live: &Value,
        whole: bool,
    ) -> Result<bool, ApiError> {
        let fetched = if whole { None } else { self.account.get(resource, &step.id).await? };
        let live = if whole { Some(live) } else { fetched.as_ref() };
        let Some(live) = live else { return Ok(true) };
        let (_, dry) = self.account.apply(resource, &step.id, object.value(), Mode::DryRun).await?;
        Ok(compare::differs(live, &dry))
    }

    async fn once_step(&self, step: &Step, once: &Once) -> Result<Done, Problem> {
        let there = |uid: &str, finished, change, health| {
            Ok(Done { outcome: Outcome::Task { uid: uid.into(), finished }, change, health })
        };
        // What is there already, or has been, is listed only where the account could have made it.
        if !step.made && matches!(once, Once::Keep { .. } | Once::Done | Once::Wait) {
            let resource = self.resource(step).await?;
            let may = may_apply(self.account, &resource, &step.id, step.wanted.object.value()).await;
            may.map_err(|e| self.problem(step, &resource, "create", &e))?;
        }
        match once {
            Once::Keep { uid, finished } => there(uid, *finished, None, None),
            Once::Done => Ok(Done { outcome: Outcome::TaskDone, change: None, health: Some(Health::Current) }),
            Once::Wait => Ok(Done {
                outcome: Outcome::Unchanged,
                change: None,
                health: Some(Health::InProgress("the run before it has not ended; this content runs after it".into())),
            }),
            Once::Foreign => {
                let message = "a Task of this name exists that no Sync made; delete one of the two, or rename it";
                Err(problem(step, reasons::NAME_CONFLICT, message.into(), false))
            }
            Once::Create => self.create(step, None).await,
            Once::Replace { uid } => self.create(step, Some(uid)).await,
        }
    }

    /// A Task is created, never merged into one that appeared meanwhile.
    async fn create(&self, step: &Step, replaced: Option<&str>) -> Result<Done, Problem> {
        let resource = self.resource(step).await?;
        if let Some(uid) = replaced {
            let deleted = self.account.delete(&resource, &step.id, uid).await;
            deleted.map_err(|e| self.problem(step, &resource, "delete", &e))?;
        }
        let mut object = step.wanted.object.clone();
        object.set_annotation(annotation::SPEC_HASH, &step.digest);
        let created = self.account.create(&resource, &step.id, object.value(), Mode::Write).await;
        let live = created.map_err(|e| self.problem(step, &resource, "create", &e))?;
        let outcome = Outcome::Task { uid: LiveTask::read(&live).uid, finished: false };
        Ok(Done { outcome, change: Some(Change::Created), health: Some(health(&live)) })
    }

    async fn resource(&self, step: &Step) -> Result<Resource, Problem> {
        let gvk = step.wanted.object.gvk();
        match self.kinds.resolve(&gvk).await {
            Ok(Some(resource)) => Ok(resource),
            Ok(None) => {
                let message = format!("the cluster does not serve {} in {} yet", gvk.kind, gvk.api_version());
                Err(problem(step, reasons::KIND_NOT_FOUND, message, true))
            }
            Err(error) => Err(problem(step, reasons::CLUSTER_UNAVAILABLE, error.to_string(), true)),
        }
    }

    fn remember(&self, step: &Step, resource_version: String) {
        let remembered = Remembered { digest: step.digest.clone(), resource_version };
        self.memory.lock().insert(step.id.clone(), remembered);
    }

    fn problem(&self, step: &Step, resource: &Resource, verb: &'static str, error: &ApiError) -> Problem {
        // A kind whose definition went away answers "not found": ask again next time.
        if matches!(error, ApiError::NotFound(_)) {
            self.kinds.forget_group(&step.id.group);
        }
        let tried = Tried { verb, plural: &resource.plural, namespace: &step.id.namespace };
        let (reason, message) = explain(self.account, tried, error);
        problem(step, reason, message, error.is_transient())
    }

    /// Waits until the definitions of a stage are served: the next stages may be of their kinds. Bounded, short: the
    /// API server needs some ten milliseconds.
    async fn establish(&self, steps: &[Step], report: &mut Report) {
        let pending: Vec<&Step> =
            steps.iter().filter(|s| !matches!(report.health.get(&s.id), None | Some(Health::Current))).collect();
        for step in &pending {
            if let Some(group) = step.wanted.object.value().pointer("/spec/group").and_then(Value::as_str) {
                self.kinds.forget_group(group);
            }
        }
        let deadline = tokio::time::Instant::now() + ESTABLISH;
        for step in pending {
            let mut delay = Duration::from_millis(20);
            while let Ok(Some(resource)) = self.kinds.resolve(&step.wanted.object.gvk()).await {
                if let Ok(Some(live)) = self.account.get(&resource, &step.id).await {
                    report.health.insert(step.id.clone(), health(&live));
                }
                if report.health.get(&step.id) == Some(&Health::Current) || tokio::time::Instant::now() > deadline {
                    break;
                }
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(Duration::from_millis(500));
            }
        }
    }
}

fn problem(step: &Step, reason: &'static str, message: String, transient: bool) -> Problem {
    Problem { object: step.id.short(), origin: Some(step.wanted.origin.clone()), reason, message, transient }
}

fn resource_version(object: &Value) -> String {
    object.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default().into()
}

/// An Agent whose rendered bytes are those of its last apply keeps the revision that it carries.
fn keep_revision(object: &mut Object, step: &Step, live: &Value) {
    let carried =
        live.pointer("/metadata/annotations").and_then(|a| a.get(annotation::REVISION)).and_then(Value::as_str);
    if let Some(carried) = carried.filter(|_| step.same_bytes && is_agent(&step.id)) {
        object.set_annotation(annotation::REVISION, carried);
    }
}

/// The Tasks that are there, and how they are.
#[derive(Debug, Default)]
pub struct Observed {
    /// For the plan.
    pub tasks: BTreeMap<ObjectId, LiveTask>,
    /// Their health.
    pub health: BTreeMap<ObjectId, Health>,
}

/// The live Tasks among `wanted`.
pub async fn observe_tasks(account: &Account, kinds: &Kinds, wanted: &[Wanted]) -> Result<Observed, Problem> {
    let mut observed = Observed::default();
    for wanted in wanted.iter().filter(|w| is_task(&w.object.id())) {
        let id = wanted.object.id();
        let failed = |reason, message, transient| Problem {
            object: id.short(),
            origin: Some(wanted.origin.clone()),
            reason,
            message,
            transient,
        };
        let Ok(Some(resource)) = kinds.resolve(&wanted.object.gvk()).await else { continue };
        match account.get(&resource, &id).await {
            Ok(Some(task)) => {
                observed.health.insert(id.clone(), health(&task));
                observed.tasks.insert(id, LiveTask::read(&task));
            }
            Ok(None) => {}
            Err(error) => {
                let tried = Tried { verb: "get", plural: &resource.plural, namespace: &id.namespace };
                let (reason, message) = explain(account, tried, &error);
                return Err(failed(reason, message, error.is_transient()));
            }
        }
    }
    Ok(observed)
}

/// One round of looking at objects: their health now. What is gone or cannot be read is in progress, and says so.
pub async fn look_at(
    account: &Account,
    kinds: &Kinds,
    objects: &BTreeSet<(ObjectId, String)>,
) -> BTreeMap<ObjectId, Health> {
    let looks: Vec<_> = objects.iter().map(|(id, version)| look_at_one(account, kinds, id, version).boxed()).collect();
    stream::iter(looks).buffer_unordered(SIDE_BY_SIDE).collect().await
}

async fn look_at_one(account: &Account, kinds: &Kinds, id: &ObjectId, version: &str) -> (ObjectId, Health) {
    let live = match kinds.resolve(&gvk_of(id, version)).await {
        Ok(Some(resource)) => account.get(&resource, id).await,
        Ok(None) => Ok(None),
        Err(error) => Err(error),
    };
    let health = match live {
        Ok(Some(live)) => health(&live),
        // A Task that ran and was cleaned up is as it should be.
        Ok(None) if is_task(id) => Health::Current,
        Ok(None) => Health::InProgress("does not exist".into()),
        Err(error) => Health::InProgress(error.to_string()),
    };
    (id.clone(), health)
}

/// The kind of an inventory entry.
pub(super) fn gvk_of(id: &ObjectId, version: &str) -> Gvk {
    Gvk { group: id.group.as_str().into(), version: version.into(), kind: id.kind.as_str().into() }
}
