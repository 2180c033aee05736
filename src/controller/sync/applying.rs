//! Brings the cluster to what is rendered.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::{
    desired::{Desired, failure, short},
    health,
    pass::Pass,
    peers::Hold,
    report::{self, Facts, notes},
    state::{Input, jittered, share},
};
use crate::{
    api::{
        self, Artifact, InventoryEntry, SyncStatus,
        names::{condition, reasons},
    },
    apply::{self, Account, Changes, Job, Observed, Problem, Pruned, Question, Report},
    object::ObjectId,
    plan::{self, Action, Holder, Once, Plan, Refusal, Refused, Wanted},
    status::{Failure, Next, condition::is_true},
};

/// How soon a pass comes again that waits for a Task to end whose events nobody tells.
const UNFINISHED: std::time::Duration = std::time::Duration::from_secs(10);

/// What is known beforehand of objects that stand in a Sync's way.
#[derive(Default)]
struct Contest {
    /// What is not applied, and why.
    refused: BTreeMap<ObjectId, Problem>,
    /// The Syncs that have what is refused for that.
    rivals: BTreeSet<String>,
    /// What former owners knew about objects that they handed over.
    legacies: Vec<InventoryEntry>,
}

impl Contest {
    fn kinds(&self) -> BTreeMap<ObjectId, Refused> {
        let kind = |p: &Problem| if is_taken(p) { Refused::Taken } else { Refused::Failing };
        self.refused.iter().map(|(id, problem)| (id.clone(), kind(problem))).collect()
    }
}

/// What is tried.
struct Attempt {
    input: Input,
    digest: String,
    plan: Plan,
    contest: Contest,
}

/// What an apply came to.
struct Applied {
    report: Report,
    pruned: Pruned,
    inventory: Vec<InventoryEntry>,
    /// Tasks that are in the way of something: they run, or are on their way out.
    awaited: BTreeSet<ObjectId>,
    /// What of the prune waits for other Syncs.
    hold: Hold,
    /// Whether this is other content than was tried before.
    anew: bool,
}

impl Pass<'_> {
    /// Renders, and applies what is not there already.
    pub(super) async fn bring_about(&self, asked: bool) -> Result<Next, Failure> {
        let (repository, artifact) = match self.desired_input() {
            Ok(found) => found,
            Err(failure) => return self.fail(failure, self.facts()).await,
        };
        let facts = Facts { attempted: Some(artifact.revision.clone()), ..self.facts() };
        let desired = match self.desired(&repository, &artifact).await {
            Ok(desired) => desired,
            Err(failure) => {
                if failure.reason == reasons::PATH_NOT_FOUND {
                    self.wants_nothing(&artifact);
                }
                return self.fail(failure, facts).await;
            }
        };
        if !asked && self.is_applied(&desired) {
            return self.moved_on(desired, facts).await;
        }
        self.apply(desired, facts).await
    }

    /// Nothing can have moved to a folder that is not there.
    fn wants_nothing(&self, artifact: &Artifact) {
        self.all.with_claims(|claims| claims.inherit(&self.key, &BTreeSet::new(), &BTreeSet::new()));
        self.has_looked_at(&self.input(artifact));
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
        // After a restart the status tells: of a Sync that was fine nothing is asked before its next look. What this
        // process has tried since may have changed objects without being told there.
        let Some(status) = progress.status.as_ref().filter(|_| progress.tried.is_none()) else { return false };
        let last = status.history.first();
        !lists_others(status, &desired.wanted)
            && !is_true(&status.conditions, condition::RECONCILING)
            && is_true(&status.conditions, condition::READY)
            && status.observed_generation == desired.input.generation
            && last.is_some_and(|h| h.result == reasons::APPLIED && h.digest.as_ref() == Some(&desired.digest))
    }

    /// The revision moved, the objects did not: at most one status write.
    async fn moved_on(&self, desired: Desired, facts: Facts) -> Result<Next, Failure> {
        self.has_looked_at(&desired.input);
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
        let account = match self.account() {
            Ok(account) => account,
            Err(failure) => return self.fail(failure, facts).await,
        };
        let observed = match apply::observe_tasks(&account, &self.all.kinds, &desired.wanted).await {
            Ok(observed) => observed,
            Err(problem) => return self.fail(failure(&[problem]), facts).await,
        };
        let Desired { input, wanted, digest, _room } = desired;
        let contest = self.contest(&account, &wanted, &digest, &input).await;
        let plan = match self.plan(wanted, &observed, &contest) {
            Ok(plan) => plan,
            Err(failure) => return self.fail(failure, facts).await,
        };
        if plan.grows {
            let facts = Facts { inventory: Some(plan.superset.clone()), handled: None, ..facts.clone() };
            self.publish(&report::State::Applying, facts).await?;
        }
        let attempt = Attempt { input, digest, plan, contest };
        let applied = self.take_steps(&attempt, &account).await;
        let is_new = |e: &&InventoryEntry| {
            ObjectId::parse(&e.id).is_some_and(|id| applied.report.changes.created.binary_search(&id).is_ok())
        };
        let created: Vec<InventoryEntry> = attempt.plan.superset.iter().filter(is_new).cloned().collect();
        let next = self.after(attempt, observed, applied, facts).await;
        if matches!(&next, Err(failure) if failure.reason == reasons::GONE) {
            self.undo(&account, &created).await;
        }
        next
    }

    /// Claims what is wanted. What another Sync has, and what failed the last time, is tried by a dry run first: who may
    /// not apply an object is not its heir, and an apply that fails again and again writes nothing.
    async fn contest(&self, account: &Account, wanted: &[Wanted], digest: &str, input: &Input) -> Contest {
        let ids: Vec<ObjectId> = wanted.iter().map(|w| w.object.id()).collect();
        let holders = self.all.with_claims(|claims| claims.claim(&self.key, ids.iter()));
        let doubtful = self.state.progress.lock().doubtful_of(digest);
        let asked = wanted.iter().zip(&ids).filter(|(_, id)| holders.contains_key(id) || doubtful.contains(id));
        let of = |id| holders.get(id).filter(|h: &&Holder| !h.proven).map(|h| h.sync.as_str());
        let questions: Vec<Question<'_>> = asked.map(|(wanted, id)| Question { wanted, of: of(id) }).collect();
        let answers = apply::contest(account, &self.all.kinds, &questions).await;

        let (mut contest, mut heir, mut unsure) = (Contest::default(), BTreeSet::new(), BTreeSet::new());
        for question in &questions {
            let id = question.wanted.object.id();
            match (answers.get(&id), holders.get(&id)) {
                (Some(Err(problem)), _) => {
                    if problem.transient {
                        unsure.insert(id.clone());
                    }
                    contest.refused.insert(id, problem.clone());
                }
                (Some(Ok(of_holder)), Some(holder)) if holder.proven || *of_holder => {
                    self.all.with_claims(|claims| claims.confirm(&holder.sync, &id));
                    contest.rivals.insert(holder.sync.clone());
                    contest.refused.insert(id.clone(), apply::taken(question.wanted, &holder.sync));
                    heir.insert(id);
                }
                (_, Some(holder)) => self.all.with_claims(|claims| claims.take_over(&self.key, &id, &holder.sync)),
                (_, None) => {}
            }
        }
        let free = ids.iter().filter(|id| !contest.refused.contains_key(id));
        contest.legacies = self.all.with_claims(|claims| {
            let legacies = claims.legacies(free);
            claims.inherit(&self.key, &heir, &unsure);
            legacies
        });
        if unsure.is_empty() {
            self.has_looked_at(input);
        }
        contest
    }

    fn plan(&self, wanted: Vec<Wanted>, observed: &Observed, contest: &Contest) -> Result<Plan, Failure> {
        let (inventory, refused) = (self.inventory(), contest.kinds());
        let input = plan::Input {
            wanted,
            inventory: &inventory,
            tasks: &observed.tasks,
            legacies: &contest.legacies,
            refused: &refused,
            prune: self.sync.spec.prune,
        };
        plan::plan(input).map_err(|refusal| {
            let reason = match refusal {
                Refusal::Empty(_) => reasons::EMPTY_RENDER,
                Refusal::Duplicate { .. } => reasons::RENDER_FAILED,
                Refusal::TooLarge { .. } => reasons::INVENTORY_TOO_LARGE,
            };
            Failure::stalled(reason, refusal.to_string())
        })
    }

    /// Applies, and prunes when everything was applied.
    async fn take_steps(&self, attempt: &Attempt, account: &Account) -> Applied {
        let Attempt { input, plan, contest, digest } = attempt;
        let (look, anew) = {
            let mut progress = self.state.progress.lock();
            let anew = progress.begin(digest);
            let mut objects = self.state.objects.lock();
            for id in std::mem::take(&mut progress.dirty) {
                objects.remove(&id);
            }
            let due = progress.look_at.is_none_or(|at| at <= self.now);
            (due || self.is_asked_of(progress.status.as_ref()), anew)
        };
        let (kinds, memory) = (&self.all.kinds, &self.state.objects);
        let job = Job { plan, account, kinds, memory, revision: &input.revision, look };
        let mut report = apply::execute(&job).await;
        let lost = self.prove(plan, &mut report);
        self.expect_syncs(plan, &report.changes);
        let fine = report.problems.is_empty() && contest.refused.is_empty();
        self.state.progress.lock().unanswered.add(report.unsure.iter().cloned(), Instant::now());
        let (pruned, hold) = self.prune(plan, account, fine).await;
        let mut inventory = plan.settle(&report.outcomes, &report.unsure, &pruned.gone);
        let taken = |id: &ObjectId| lost.contains(id) || contest.refused.get(id).is_some_and(is_taken);
        inventory.retain(|e| ObjectId::parse(&e.id).is_none_or(|id| !taken(&id)));
        let waits = plan.steps().filter(|s| matches!(s.action, Action::Once(Once::Wait))).map(|s| &s.id);
        let awaited = waits.chain(pruned.later.iter().map(|(id, _)| id)).cloned().collect();
        Applied { report, pruned, inventory, awaited, hold, anew }
    }

    /// Deletes what left the files, where everything else went well and no other Sync may want it. What another Sync has,
    /// or may have, is only given up, however everything else went: two Syncs may each have what the other one wants.
    /// Returned is also what waits.
    async fn prune(&self, plan: &Plan, account: &Account, fine: bool) -> (Pruned, Hold) {
        let (passed_on, left): (Vec<_>, Vec<_>) = plan.prune.iter().cloned().partition(|id| self.is_passed_on(id));
        let hold = if fine && !left.is_empty() { self.hold() } else { Hold::Nothing };
        let mut pruned = Pruned::default();
        if fine && !matches!(hold, Hold::All(_)) {
            let (waiting, left) = hold.split(left);
            let passed_on = |id: &ObjectId| self.is_passed_on(id);
            pruned = apply::prune(account, &self.all.kinds, &left, &plan.superset, &self.owner(), passed_on).await;
            pruned.problems.extend(hold.problems(&waiting));
        }
        // A write that got no answer may bring it back, and one that deletes it may come late.
        let mut progress = self.state.progress.lock();
        progress.unanswered.add(std::mem::take(&mut pruned.unsure), Instant::now());
        pruned.gone.retain(|id| !progress.unanswered.contains(id));
        pruned.gone.extend(passed_on);
        (pruned, hold)
    }

    /// What was applied belongs to this Sync, but for what another one has proven in the same moment: that is lost, and
    /// the other one is told that it was changed.
    fn prove(&self, plan: &Plan, report: &mut Report) -> BTreeSet<ObjectId> {
        let done = report.outcomes.iter().filter(|(_, outcome)| **outcome != plan::Outcome::Unchanged);
        let done: Vec<&ObjectId> = done.map(|(id, _)| id).collect();
        let (lost, received) = self.all.with_claims(|claims| {
            let lost = claims.prove(&self.key, done.iter().copied());
            let received = claims.receive(&self.key, done.iter().copied().filter(|id| !lost.contains_key(id)));
            (lost, received)
        });
        self.tell_owners(&received);
        for (id, owner) in &lost {
            report.outcomes.remove(id);
            report.problems.extend(plan.steps().filter(|s| s.id == *id).map(|s| apply::taken(&s.wanted, owner)));
        }
        self.tell_owners(&lost);
        lost.into_keys().collect()
    }

    /// Objects that other Syncs list have just been changed: they look at them.
    fn tell_owners(&self, objects: &BTreeMap<ObjectId, String>) {
        for (id, owner) in objects {
            if let Some(state) = self.all.states.get(owner) {
                state.progress.lock().dirty.insert(id.clone());
            }
        }
        self.all.trigger_all(objects.values().cloned().collect::<BTreeSet<_>>());
    }

    /// A Sync that was just created may want what others are about to delete.
    fn expect_syncs(&self, plan: &Plan, changes: &Changes) {
        let created = |id: &ObjectId| id.group == api::GROUP && id.kind == "Sync" && changes.created.contains(id);
        for step in plan.steps().filter(|s| created(&s.id)) {
            let repository = step.wanted.object.value().pointer("/spec/repositoryRef/name").and_then(|n| n.as_str());
            if let Some(repository) = repository {
                let key = format!("{}/{}", step.id.namespace, step.id.name);
                self.all.peers.expect(key, format!("{}/{repository}", step.id.namespace), self.now);
            }
        }
    }

    pub(super) fn is_passed_on(&self, id: &ObjectId) -> bool {
        self.all.with_claims(|claims| claims.is_passed_on(id, &self.key))
    }

    /// Gives up what is not in the inventory any more, and wakes the heirs. What they have yet to apply is listed until
    /// then: this process may end in between. Whether there is such.
    fn hand_over(&self, plan: &Plan, applied: &mut Applied) -> bool {
        let kept: BTreeSet<ObjectId> = applied.inventory.iter().filter_map(|e| ObjectId::parse(&e.id)).collect();
        // Who has lost its rights on an object keeps nobody from it.
        let claimed = kept.difference(&applied.report.forbidden).cloned().collect();
        let gone = &applied.pruned.gone;
        let given = |e: &&InventoryEntry| ObjectId::parse(&e.id).is_some_and(|id| gone.contains(&id));
        let (open, heirs) = self.all.with_claims(|claims| {
            let open = claims.bequeath(&self.key, plan.superset.iter().filter(given).cloned());
            (open, claims.keep(&self.key, &claimed))
        });
        self.all.trigger_all(heirs);
        self.state.objects.lock().retain(|id, _| kept.contains(id));
        let waits = !open.is_empty();
        applied.inventory.extend(open);
        applied.inventory.sort_by(|a, b| a.id.cmp(&b.id));
        waits
    }

    /// Remembers and reports what an apply came to.
    async fn after(
        &self,
        attempt: Attempt,
        observed: Observed,
        mut applied: Applied,
        facts: Facts,
    ) -> Result<Next, Failure> {
        let hands_over = self.hand_over(&attempt.plan, &mut applied);
        let mut problems: Vec<Problem> = attempt.contest.refused.values().cloned().collect();
        problems.append(&mut applied.report.problems);
        problems.append(&mut applied.pruned.problems);
        self.remember(&attempt, observed, &mut applied, problems.is_empty(), !hands_over);
        let Attempt { input: Input { revision, .. }, digest, contest, .. } = attempt;
        self.tell(&revision, &applied.report.changes, &applied.pruned);
        let facts = Facts { inventory: Some(applied.inventory), ..facts };
        if !problems.is_empty() {
            // A manifest that moves here: the other Sync is about to see that it has left.
            if problems.iter().all(is_taken) && self.waits_for_rivals(&contest.rivals) {
                return Ok(self.end_of_wait());
            }
            return self.fail(failure(&problems), facts).await;
        }
        if let Hold::All(peers) = applied.hold {
            if !self.is_quiet() {
                self.publish(&report::State::Waiting(peers), Facts { handled: None, ..facts }).await?;
            }
            return Ok(self.end_of_wait());
        }
        // The heirs are about to have it, and then one write says it all.
        if let Some(next) = self.until_taken_over(hands_over) {
            return Ok(next);
        }
        if !applied.awaited.is_empty() {
            self.look_at_due().await?;
        }
        let facts = Facts { applied: Some((revision, digest)), ..facts };
        self.publish(&self.health_state(), facts).await?;
        let next = self.next();
        let untold = applied.awaited.iter().any(|id| !self.is_watched(id));
        Ok(if untold { next.or_earlier(Next::After(UNFINISHED)) } else { next })
    }

    fn remember(&self, attempt: &Attempt, observed: Observed, applied: &mut Applied, fine: bool, alone: bool) {
        let Attempt { input, digest, plan, contest } = attempt;
        let report = &mut applied.report;
        let mut seen = observed.health;
        seen.append(&mut report.health);
        let failing = contest.refused.iter().filter(|(_, p)| !is_taken(p)).map(|(id, _)| id);
        let new = |id: &&ObjectId| plan.steps().any(|s| s.id == **id && !s.owned);
        let doubtful = failing.chain(&report.failed).filter(new).cloned().collect();

        let mut progress = self.state.progress.lock();
        health::merge(&mut progress.unhealthy, seen, plan, self.sync.spec.wait);
        progress.settle_wait(self.now, applied.anew || !report.changes.is_empty());
        progress.doubtful = doubtful;
        progress.awaited.clone_from(&applied.awaited);
        let complete = fine && alone && applied.awaited.is_empty() && applied.hold == Hold::Nothing;
        progress.input = complete.then(|| input.clone());
        progress.digest = complete.then(|| digest.clone());
        if fine {
            progress.look_at = Some(self.now + jittered(self.interval(), &self.key));
        }
    }

    fn tell(&self, revision: &str, changes: &Changes, pruned: &Pruned) {
        self.all.context.reports.events(self.sync, notes(&short(revision), changes, pruned));
    }
}

/// Whether the inventory has objects that are not wanted: they were not deleted yet, or not taken over.
fn lists_others(status: &SyncStatus, wanted: &[Wanted]) -> bool {
    let wanted: BTreeSet<String> = wanted.iter().map(|w| w.object.id().to_string()).collect();
    status.inventory.iter().flat_map(|i| &i.entries).any(|entry| !wanted.contains(&entry.id))
}

fn is_taken(problem: &Problem) -> bool {
    problem.reason == reasons::OWNED_BY_ANOTHER_SYNC
}
