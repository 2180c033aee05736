//! One reconcile of one Sync.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::Value;
use tokio::time::Instant;

use super::{
    SyncReconciler, gone, key_of,
    report::{self, Facts, notes, of_health},
    state::{Input, State, jittered, share},
};
use crate::{
    api::{
        Artifact, InventoryEntry, Repository, Sync as SyncObject, SyncStatus,
        names::{annotation, condition, reasons},
        not_yet,
    },
    apply::{self, Account, Changes, Job, Observed, Owner, Problem, Pruned, Report},
    artifact::Digest,
    controller::report::Presence,
    object::{Object, ObjectId},
    plan::{self, Action, Health, Once, Origin, Plan, Refusal, Wanted, digest},
    render,
    status::{Class, Failure, Next, condition::is_true},
    tree::{FileTree, RepoPath},
};

/// How soon a pass comes again that waits for a Task to end; its event mostly comes first.
const UNFINISHED: Duration = Duration::from_secs(10);

/// An interval below this one is taken as this one: each look costs a request for every object.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(10);

/// One reconcile.
pub(super) struct Pass<'a> {
    pub(super) all: &'a SyncReconciler,
    pub(super) sync: &'a SyncObject,
    pub(super) state: &'a State,
    pub(super) key: String,
    now: Instant,
}

/// What is to be applied.
struct Desired {
    input: Input,
    wanted: Vec<Wanted>,
    digest: String,
}

/// What an apply came to.
struct Applied {
    report: Report,
    pruned: Pruned,
    inventory: Vec<InventoryEntry>,
    /// Something is to be done later: a Task that runs is in the way.
    unfinished: bool,
}

impl<'a> Pass<'a> {
    pub(super) fn new(all: &'a SyncReconciler, sync: &'a SyncObject, state: &'a State) -> Self {
        Self { all, sync, state, key: key_of(sync), now: Instant::now() }
    }

    /// Brings the cluster to what the Repository's artifact says.
    pub(super) async fn run(&self) -> Result<Next, Failure> {
        if self.sync.spec.suspend == Some(true) {
            self.publish(&report::State::Suspended, self.facts()).await?;
            return Ok(Next::OnEvent);
        }
        self.keep_finalizer().await.map(drop)?;
        match self.desired_input() {
            Err(failure) => self.fail(failure, self.facts()).await,
            Ok((_, artifact)) => {
                let input = self.input(&artifact);
                let asked = self.is_asked();
                let (known, look, dirty) = {
                    let progress = self.state.progress.lock();
                    let look = progress.look_at.is_some_and(|at| at <= self.now);
                    (progress.input.as_ref() == Some(&input), look, !progress.dirty.is_empty())
                };
                if known && !asked && !look && !dirty {
                    self.check_health().await
                } else {
                    self.bring_about(asked).await
                }
            }
        }
    }

    /// The Repository and its artifact, or why there is nothing to apply.
    fn desired_input(&self) -> Result<(Arc<Repository>, Artifact), Failure> {
        let gaps = not_yet::unsupported(&self.sync.spec);
        if !gaps.is_empty() {
            return Err(Failure::stalled(reasons::NOT_YET_SUPPORTED, not_yet::message(&gaps)));
        }
        let name = &self.sync.spec.repository_ref.name;
        let repository = self.all.context.caches.repositories.get(&self.namespace(), name).ok_or_else(|| {
            let message = format!("there is no Repository {name} in namespace {}", self.namespace());
            Failure::waiting(reasons::REPOSITORY_NOT_FOUND, message)
        })?;
        let artifact = repository.status.as_ref().and_then(|s| s.artifact.clone()).ok_or_else(|| {
            let message = format!("Repository {name} has no artifact yet; see its conditions");
            Failure::waiting(reasons::REPOSITORY_NOT_READY, message)
        })?;
        Ok((repository, artifact))
    }

    fn input(&self, artifact: &Artifact) -> Input {
        Input {
            revision: artifact.revision.clone(),
            digest: artifact.digest.clone(),
            generation: self.sync.metadata.generation,
        }
    }

    /// Renders, and applies what is not there already.
    async fn bring_about(&self, asked: bool) -> Result<Next, Failure> {
        let (repository, artifact) = match self.desired_input() {
            Ok(found) => found,
            Err(failure) => return self.fail(failure, self.facts()).await,
        };
        let facts = Facts { attempted: Some(artifact.revision.clone()), ..self.facts() };
        let desired = match self.desired(&repository, &artifact).await {
            Ok(desired) => desired,
            Err(failure) => return self.fail(failure, facts).await,
        };
        if !asked && self.is_applied(&desired) {
            return self.moved_on(desired, facts).await;
        }
        self.apply(desired, facts).await
    }

    async fn desired(&self, repository: &Repository, artifact: &Artifact) -> Result<Desired, Failure> {
        let tree = self.tree(artifact).await?;
        let rendered = self.render(tree, repository, artifact).await?;
        let owner = Owner { namespace: self.namespace(), name: self.sync.name_any() };
        let wanted = apply::prepare(&self.all.kinds, rendered, &self.target(), Some(&owner))
            .await
            .map_err(|problems| failure(&problems))?;
        Ok(Desired { input: self.input(artifact), digest: digest::of_all(&wanted), wanted })
    }

    async fn tree(&self, artifact: &Artifact) -> Result<Arc<FileTree>, Failure> {
        let digest = Digest::parse(&artifact.digest).ok_or_else(|| {
            Failure::waiting(reasons::ARTIFACT_INVALID, "the Repository's artifact has no digest of ours")
        })?;
        if let Some(tree) = self.all.context.artifacts.recent(&digest) {
            return Ok(tree);
        }
        let store = self.all.context.artifacts.clone();
        let opened = tokio::task::spawn_blocking(move || store.open(&digest)).await;
        match opened {
            Ok(Ok(tree)) => Ok(tree),
            // The Repository's reconciler makes it again from Git, and no event tells when: ask again.
            Ok(Err(error)) => Err(Failure { class: Class::Transient, ..error.to_failure() }),
            Err(_) => Err(Failure::transient(reasons::INTERNAL_ERROR, "reading the artifact panicked")),
        }
    }

    async fn render(
        &self,
        tree: Arc<FileTree>,
        repository: &Repository,
        artifact: &Artifact,
    ) -> Result<Vec<(Object, Origin)>, Failure> {
        let path = RepoPath::parse(&self.sync.spec.path)
            .map_err(|e| Failure::stalled(reasons::INVALID_SPEC, format!("spec.path: {e}")))?;
        if tree.get(&path).is_none() && !tree.is_dir(&path) {
            let message = format!("spec.path: the repository has no folder {path} at {}", short(&artifact.revision));
            return Err(Failure::stalled(reasons::PATH_NOT_FOUND, message));
        }
        let context = self.render_context(repository, artifact);
        let rendered = self
            .all
            .sandbox
            .render(tree, path, context)
            .await?
            .map_err(|e| Failure::stalled(reasons::RENDER_FAILED, e.to_string()))?;
        let origin = |item: &render::Item| Origin { file: item.file.to_string(), line: item.line };
        Ok(rendered.objects.into_iter().map(|item| (item.object.clone(), origin(&item))).collect())
    }

    fn render_context(&self, repository: &Repository, artifact: &Artifact) -> render::Context {
        let reference = repository.spec.reference.as_ref();
        let follows_branch = reference.is_none_or(|r| r.branch.is_some());
        render::Context {
            values: self.sync.spec.values.clone().map_or_else(|| serde_json::json!({}), Value::Object),
            sync: render::SyncFacts { name: self.sync.name_any(), namespace: self.namespace() },
            repository: render::RepositoryFacts::of(
                &repository.name_any(),
                &self.namespace(),
                &repository.spec.url,
                &artifact.revision,
                follows_branch,
            ),
            namespace: self.target(),
        }
    }

    /// Whether what is rendered is what was applied completely last, so that nothing but the revision moves.
    fn is_applied(&self, desired: &Desired) -> bool {
        let progress = self.state.progress.lock();
        if !progress.dirty.is_empty() || progress.look_at.is_some_and(|at| at <= self.now) {
            return false;
        }
        if let (Some(digest), Some(input)) = (&progress.digest, &progress.input) {
            return *digest == desired.digest && input.generation == desired.input.generation;
        }
        // After a restart the status tells: of a Sync that was fine nothing is asked before its next look.
        let Some(status) = &progress.status else { return false };
        let last = status.history.first();
        is_true(&status.conditions, condition::READY)
            && status.observed_generation == desired.input.generation
            && last.is_some_and(|h| h.result == reasons::APPLIED && h.digest.as_ref() == Some(&desired.digest))
    }

    /// The revision moved, the objects did not: at most one status write.
    async fn moved_on(&self, desired: Desired, facts: Facts) -> Result<Next, Failure> {
        let facts = Facts { applied: Some((desired.input.revision.clone(), desired.digest.clone())), ..facts };
        {
            let mut progress = self.state.progress.lock();
            progress.digest = Some(desired.digest);
            progress.input = Some(desired.input);
            if progress.look_at.is_none() {
                progress.look_at = Some(self.now + self.interval().mul_f64(share(&self.key)));
            }
        }
        let state = self.health_state();
        self.publish(&state, facts).await?;
        Ok(self.next())
    }

    async fn apply(&self, desired: Desired, facts: Facts) -> Result<Next, Failure> {
        let account = self.account()?;
        let observed = match apply::observe_tasks(&account, &self.all.kinds, &desired.wanted).await {
            Ok(observed) => observed,
            Err(problem) => return self.fail(failure(&[problem]), facts).await,
        };
        let Desired { input, wanted, digest } = desired;
        let plan = match self.plan(wanted, &observed) {
            Ok(plan) => plan,
            Err(failure) => return self.fail(failure, facts).await,
        };
        if plan.grows {
            let facts = Facts { inventory: Some(plan.superset.clone()), handled: None, ..facts.clone() };
            self.publish(&report::State::Applying, facts).await?;
        }
        let applied = self.take_steps(&plan, &account, &input).await;
        self.after(input, digest, observed, &plan, applied, facts).await
    }

    fn plan(&self, wanted: Vec<Wanted>, observed: &Observed) -> Result<Plan, Failure> {
        let ids: Vec<ObjectId> = wanted.iter().map(|w| w.object.id()).collect();
        let taken = self.all.with_claims(|claims| claims.claim(&self.key, ids.iter()));
        let inventory = self.inventory();
        let (tasks, prune) = (&observed.tasks, self.sync.spec.prune);
        plan::plan(plan::Input { wanted, inventory: &inventory, tasks, taken: &taken, prune }).map_err(|refusal| {
            let reason = match refusal {
                Refusal::Empty(_) => reasons::EMPTY_RENDER,
                Refusal::Duplicate { .. } => reasons::RENDER_FAILED,
            };
            Failure::stalled(reason, refusal.to_string())
        })
    }

    /// Applies, and prunes when everything was applied.
    async fn take_steps(&self, plan: &Plan, account: &Account, input: &Input) -> Applied {
        let look = {
            let mut progress = self.state.progress.lock();
            let mut objects = self.state.objects.lock();
            for id in std::mem::take(&mut progress.dirty) {
                objects.remove(&id);
            }
            progress.look_at.is_none_or(|at| at <= self.now) || self.is_asked_of(progress.status.as_ref())
        };
        let (kinds, memory) = (&self.all.kinds, &self.state.objects);
        let job = Job { plan, account, kinds, memory, revision: &input.revision, look };
        let report = apply::execute(&job).await;
        let pruned = if report.problems.is_empty() {
            let heir = |id: &ObjectId| self.all.with_claims(|claims| claims.heir(id).is_some());
            apply::prune(account, kinds, &plan.prune, &plan.superset, heir).await
        } else {
            Pruned::default()
        };
        let inventory = plan.settle(&report.outcomes, &pruned.gone);
        let waits = |action: &Action| matches!(action, Action::Once(Once::Wait));
        let unfinished = !pruned.later.is_empty() || plan.steps().any(|s| waits(&s.action));
        Applied { report, pruned, inventory, unfinished }
    }

    /// Remembers and reports what an apply came to.
    async fn after(
        &self,
        input: Input,
        digest: String,
        observed: Observed,
        plan: &Plan,
        applied: Applied,
        facts: Facts,
    ) -> Result<Next, Failure> {
        let Applied { report, mut pruned, inventory, unfinished } = applied;
        let kept: BTreeSet<ObjectId> = inventory.iter().filter_map(|e| ObjectId::parse(&e.id)).collect();
        let heirs = self.all.with_claims(|claims| claims.keep(&self.key, &kept));
        self.all.trigger_all(heirs);
        self.state.objects.lock().retain(|id, _| kept.contains(id));

        let mut problems = report.problems;
        problems.append(&mut pruned.problems);
        let revision = input.revision.clone();
        let changed = !report.changes.is_empty();
        {
            let mut progress = self.state.progress.lock();
            let mut health = observed.health;
            health.extend(report.health);
            merge_health(&mut progress.unhealthy, health, plan, self.sync.spec.wait);
            if changed || progress.digest.as_ref() != Some(&digest) {
                progress.restart_wait(self.now);
            }
            let complete = problems.is_empty() && !unfinished;
            progress.input = complete.then_some(input);
            progress.digest = complete.then(|| digest.clone());
            if problems.is_empty() {
                progress.look_at = Some(self.now + jittered(self.interval(), &self.key));
            }
        }
        self.tell(&revision, &report.changes, &pruned);
        let facts = Facts { inventory: Some(inventory), ..facts };
        if !problems.is_empty() {
            return self.fail(failure(&problems), facts).await;
        }
        let facts = Facts { applied: Some((revision, digest)), ..facts };
        self.publish(&self.health_state(), facts).await?;
        let next = self.next();
        Ok(if unfinished { next.or_earlier(Next::After(UNFINISHED)) } else { next })
    }

    fn tell(&self, revision: &str, changes: &Changes, pruned: &Pruned) {
        self.all.context.reports.events(self.sync, notes(&short(revision), changes, pruned));
    }

    /// A round of looking at what is not healthy yet.
    async fn check_health(&self) -> Result<Next, Failure> {
        let pending = {
            let mut progress = self.state.progress.lock();
            if let Some((_, rounds)) = &mut progress.waiting {
                *rounds = rounds.saturating_add(1);
            }
            progress.unhealthy.keys().cloned().collect::<BTreeSet<_>>()
        };
        if !pending.is_empty() {
            let account = self.account()?;
            let of = |e: &InventoryEntry| Some((ObjectId::parse(&e.id)?, e.v.clone()));
            let objects = self.inventory().iter().filter_map(of).filter(|(id, _)| pending.contains(id)).collect();
            let health = apply::look_at(&account, &self.all.kinds, &objects).await;
            let mut progress = self.state.progress.lock();
            progress.unhealthy = health.into_iter().filter(|(_, h)| *h != Health::Current).collect();
            if progress.unhealthy.is_empty() {
                progress.waiting = None;
            }
        }
        let applied = {
            let progress = self.state.progress.lock();
            progress.input.as_ref().zip(progress.digest.as_ref()).map(|(i, d)| (i.revision.clone(), d.clone()))
        };
        let attempted = applied.as_ref().map(|(revision, _)| revision.clone());
        self.publish(&self.health_state(), Facts { attempted, applied, ..self.facts() }).await?;
        Ok(self.next())
    }

    fn health_state(&self) -> report::State {
        let timeout = &self.sync.spec.timeout;
        let progress = self.state.progress.lock();
        let late = progress.is_late(timeout.or(Duration::from_mins(5)), Instant::now());
        of_health(&progress.unhealthy, late.then_some(timeout.0.as_str()))
    }

    /// The next look, or the next round of health checks.
    fn next(&self) -> Next {
        let progress = self.state.progress.lock();
        let look = progress.look_at.map_or(self.interval(), |at| at.duration_since(Instant::now()));
        let next = Next::After(look.max(Duration::from_millis(10)));
        if progress.unhealthy.is_empty() { next } else { next.or_earlier(Next::After(progress.next_round())) }
    }

    /// Reports a failure, and when the Sync comes again.
    pub(super) async fn fail(&self, failure: Failure, facts: Facts) -> Result<Next, Failure> {
        self.publish(&report::State::Failed(failure.clone()), facts).await?;
        match failure.class {
            Class::Transient => Err(failure),
            Class::Stalled => Ok(Next::OnEvent),
            Class::Waiting => Ok(Next::After(self.state.progress.lock().next_retry(&self.sync.spec.retry_interval))),
        }
    }

    /// Writes the status if it is another one.
    pub(super) async fn publish(&self, state: &report::State, facts: Facts) -> Result<(), Failure> {
        let before = self.status();
        let after = report::status(&before, state, facts, self.all.context.now());
        if self.all.context.reports.status(self.sync, &before, &after).await? == Presence::Gone {
            return Err(gone());
        }
        if matches!(state, report::State::Ready | report::State::Checking(_)) {
            self.state.progress.lock().failures = 0;
        }
        if let report::State::Failed(failure) = state
            && !before.conditions.iter().any(|c| c.reason == failure.reason && c.type_ == condition::READY)
        {
            let note = crate::status::Note::warning(failure.reason, "Apply", failure.message.clone());
            self.all.context.reports.events(self.sync, vec![note]);
        }
        self.state.progress.lock().status = Some(after);
        Ok(())
    }

    pub(super) fn facts(&self) -> Facts {
        let handled = self.sync.annotations().get(annotation::RECONCILE_AT).cloned();
        Facts { generation: self.sync.metadata.generation, handled, ..Facts::default() }
    }

    /// Whether the annotation asks for a reconcile that was not done yet.
    fn is_asked(&self) -> bool {
        self.is_asked_of(self.state.progress.lock().status.as_ref())
    }

    fn is_asked_of(&self, status: Option<&SyncStatus>) -> bool {
        let asked = self.sync.annotations().get(annotation::RECONCILE_AT);
        asked.is_some() && asked != status.and_then(|s| s.last_handled_reconcile_at.as_ref())
    }

    pub(super) fn status(&self) -> SyncStatus {
        self.state.progress.lock().status.clone().unwrap_or_default()
    }

    pub(super) fn inventory(&self) -> Vec<InventoryEntry> {
        self.status().inventory.map(|i| i.entries).unwrap_or_default()
    }

    pub(super) fn account(&self) -> Result<Account, Failure> {
        let name = self.sync.spec.service_account_name.as_deref().unwrap_or("default");
        if self.all.context.settings.is_own_account(&self.namespace(), name) {
            let message = format!(
                "spec.serviceAccountName: {name:?} is the controller's own account, which no Sync may use: name another"
            );
            return Err(Failure::stalled(reasons::INVALID_SPEC, message));
        }
        Account::service_account(self.all.context.client.clone(), &self.namespace(), name)
            .map(|account| account.with_role(self.all.context.settings.sync_role()))
            .map_err(|e| Failure::stalled(reasons::INVALID_SPEC, format!("spec.serviceAccountName: {e}")))
    }

    pub(super) fn namespace(&self) -> String {
        self.sync.namespace().unwrap_or_default()
    }

    fn target(&self) -> String {
        self.sync.spec.target_namespace.clone().unwrap_or_else(|| self.namespace())
    }

    fn interval(&self) -> Duration {
        self.sync.spec.interval.or(Duration::from_mins(10)).max(SHORTEST_INTERVAL)
    }

    pub(super) fn wall_clock(&self) -> Timestamp {
        self.all.context.now()
    }
}

/// What was looked at replaces what was known; what left the plan is forgotten.
fn merge_health(unhealthy: &mut BTreeMap<ObjectId, Health>, seen: BTreeMap<ObjectId, Health>, plan: &Plan, wait: bool) {
    if !wait {
        unhealthy.clear();
        return;
    }
    let planned: BTreeSet<&ObjectId> = plan.steps().map(|s| &s.id).collect();
    unhealthy.retain(|id, _| planned.contains(id) && !seen.contains_key(id));
    unhealthy.extend(seen.into_iter().filter(|(id, health)| *health != Health::Current && planned.contains(id)));
}

fn failure(problems: &[Problem]) -> Failure {
    apply::failure(problems).unwrap_or_else(|| Failure::transient(reasons::INTERNAL_ERROR, "nothing went wrong"))
}

/// `main@1a2b3c4` of `main@sha1:1a2b3c4…`.
pub(super) fn short(revision: &str) -> String {
    match revision.split_once('@') {
        Some((name, commit)) => {
            let hex = commit.split_once(':').map_or(commit, |(_, hex)| hex);
            format!("{name}@{}", hex.chars().take(7).collect::<String>())
        }
        None => revision.into(),
    }
}
