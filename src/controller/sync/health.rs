//! Waiting until what was applied is healthy, without holding a worker.
//!
//! Objects that are watched wake their Sync when they change. Others are looked at again and again, ever more rarely,
//! until `spec.timeout` is over; after that they are looked at with everything else, once an interval.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    pass::Pass,
    report::{self, Facts, of_health},
};
use crate::{
    api::{self, InventoryEntry},
    apply,
    object::ObjectId,
    plan::{Health, Plan},
    status::{Failure, Next},
};

impl Pass<'_> {
    /// A round of looking at what is not healthy yet.
    pub(super) async fn check_health(&self) -> Result<Next, Failure> {
        self.look_at_due().await?;
        let state = self.health_state();
        // Not in the condition: the lock would be held while it is taken again.
        let said = self.state.progress.lock().said_lately(&state, Instant::now());
        if let Some(wait) = said {
            return Ok(self.next().or_earlier(Next::After(wait)));
        }
        let applied = {
            let progress = self.state.progress.lock();
            progress.input.as_ref().zip(progress.digest.as_ref()).map(|(i, d)| (i.revision.clone(), d.clone()))
        };
        let attempted = applied.as_ref().map(|(revision, _)| revision.clone());
        self.publish(&state, Facts { attempted, applied, ..self.facts() }).await?;
        Ok(self.next())
    }

    /// Looks at what is due.
    pub(super) async fn look_at_due(&self) -> Result<(), Failure> {
        let due = self.due();
        if due.is_empty() {
            return Ok(());
        }
        let account = self.account()?;
        let of = |e: &InventoryEntry| Some((ObjectId::parse(&e.id)?, e.v.clone()));
        let objects = self.inventory().iter().filter_map(of).filter(|(id, _)| due.contains(id)).collect();
        let mut seen = apply::look_at(&account, &self.all.kinds, &objects).await;
        seen.retain(|_, health| *health != Health::Current);
        let mut progress = self.state.progress.lock();
        // What is not in the inventory any more is nobody's concern.
        progress.unhealthy.retain(|id, _| !due.contains(id));
        progress.unhealthy.extend(seen);
        progress.settle_wait(self.now, false);
        Ok(())
    }

    /// The objects to look at now: those of which an event told, those whose round it is, and all a last time when the
    /// wait is over.
    fn due(&self) -> BTreeSet<ObjectId> {
        let timeout = self.timeout();
        let mut progress = self.state.progress.lock();
        let touched = std::mem::take(&mut progress.touched);
        let late = progress.is_late(timeout, self.now);
        let last = late && !std::mem::replace(&mut progress.gave_up, late);
        let round = !late && progress.round_at.is_some_and(|at| at <= self.now);
        if round {
            progress.plan_round(self.now, rand::random());
        }
        let is_due = |id: &&ObjectId| last || touched.contains(*id) || (round && !self.is_watched(id));
        progress.unhealthy.keys().filter(is_due).cloned().collect()
    }

    /// Whether changes of the object are told by a watch.
    pub(super) fn is_watched(&self, id: &ObjectId) -> bool {
        let ours =
            id.group == api::GROUP && matches!(id.kind.as_str(), "Agent" | "CronTask" | "Repository" | "Sync" | "Task");
        let namespaces = &self.all.context.settings.watch_namespaces;
        ours && (namespaces.is_empty() || namespaces.contains(&id.namespace))
    }

    pub(super) fn health_state(&self) -> report::State {
        let timeout = self.timeout();
        let progress = self.state.progress.lock();
        let late = progress.is_late(timeout, Instant::now());
        of_health(&progress.unhealthy, late.then_some(self.sync.spec.timeout.0.as_str()))
    }

    /// The next look, also for a write that got no answer, the next round of health checks, or the end of the wait.
    pub(super) fn next(&self) -> Next {
        let (timeout, now) = (self.timeout(), Instant::now());
        let mut progress = self.state.progress.lock();
        let look = progress.look_at.map_or(self.interval(), |at| at.duration_since(now));
        let next = Next::After(look.max(Duration::from_millis(10)));
        let late = progress.unanswered.next().map(|at| at.duration_since(now) + Duration::from_millis(1));
        let next = late.map_or(next, |late| next.or_earlier(Next::After(late)));
        if progress.unhealthy.is_empty() || progress.gave_up {
            return next;
        }
        let end = progress.waiting.map_or(timeout, |since| (since + timeout).duration_since(now));
        let next = next.or_earlier(Next::After(end + Duration::from_millis(1)));
        if progress.unhealthy.keys().all(|id| self.is_watched(id)) {
            return next;
        }
        if progress.round_at.is_none() {
            progress.plan_round(now, rand::random());
        }
        let round = progress.round_at.map_or(Duration::ZERO, |at| at.duration_since(now));
        next.or_earlier(Next::After(round))
    }

    fn timeout(&self) -> Duration {
        self.sync.spec.timeout.or(Duration::from_mins(5))
    }
}

/// What was looked at replaces what was known; what left the plan is forgotten.
pub(super) fn merge(
    unhealthy: &mut BTreeMap<ObjectId, Health>,
    seen: BTreeMap<ObjectId, Health>,
    plan: &Plan,
    wait: bool,
) {
    if !wait {
        unhealthy.clear();
        return;
    }
    let planned: BTreeSet<&ObjectId> = plan.steps().map(|s| &s.id).collect();
    unhealthy.retain(|id, _| planned.contains(id) && !seen.contains_key(id));
    unhealthy.extend(seen.into_iter().filter(|(id, health)| *health != Health::Current && planned.contains(id)));
}
