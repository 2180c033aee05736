//! Finalizer and deletion of a Sync.

use std::time::Duration;

use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tracing::warn;

use super::{
    pass::Pass,
    peers::Hold,
    report::{self, Facts},
};
use crate::{
    api::{
        DeletionPolicy, InventoryEntry, Sync as SyncObject, SyncSpec,
        names::{SYNC_FINALIZER, manager, reasons},
    },
    apply::{self, Account, Pruned},
    controller::request::limited,
    object::ObjectId,
    plan::order,
    status::{Failure, Next, Note, condition::truncate},
};

/// How soon, about, a deletion that is held up is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Whether deleting the Sync deletes what it applied.
fn deletes(spec: &SyncSpec) -> bool {
    match spec.deletion_policy {
        DeletionPolicy::Delete => true,
        DeletionPolicy::MirrorPrune => spec.prune,
        DeletionPolicy::Orphan => false,
    }
}

impl Pass<'_> {
    /// Deletes what the Sync applied, and lets it go. Bounded by `spec.timeout`: what cannot be deleted by then (the
    /// account has lost its rights, the namespace is going) stays, and an event names it.
    pub(super) async fn cleanup(&self) -> Result<Next, Failure> {
        if !self.has_finalizer() {
            return Ok(Next::OnEvent);
        }
        if deletes(&self.sync.spec) {
            let hold = self.hold();
            if let Hold::All(peers) = &hold
                && !self.is_overdue()
            {
                if !self.is_quiet() {
                    self.publish(&report::State::Waiting(peers.clone()), self.facts()).await?;
                }
                return Ok(self.end_of_wait().or_earlier(Next::After(self.time_left())));
            }
            let left = self.delete_all(&hold.in_the_end()).await?;
            if !left.is_empty() {
                let message = truncate(&format!("not deleted yet: {}", left.join("; ")), 900);
                if !self.is_overdue() {
                    let failure = Failure::waiting(reasons::PRUNE_FAILED, message);
                    self.publish(&report::State::Failed(failure), self.facts()).await?;
                    return Ok(Next::After(AGAIN.mul_f64(0.5 + rand::random::<f64>())));
                }
                warn!("the Sync is let go although something stays: {message}");
                let note = Note::warning(reasons::PRUNE_FAILED, "Delete", message);
                self.all.context.reports.events(self.sync, vec![note]);
            }
        }
        self.set_finalizer(false).await.map(drop)?;
        let heirs = self.all.with_claims(|claims| {
            claims.bequeath(&self.key, self.inventory().into_iter());
            claims.forget(&self.key)
        });
        self.all.trigger_all(heirs);
        Ok(Next::OnEvent)
    }

    /// Deletes everything in the inventory that is not held, in reverse order of stages. Returned is what is left,
    /// sorted.
    async fn delete_all(&self, hold: &Hold) -> Result<Vec<String>, Failure> {
        let inventory = self.inventory();
        if inventory.is_empty() {
            return Ok(vec![]);
        }
        // An account that may not be used is one that cannot delete: the Sync is let go when its time is over.
        let account = match self.account() {
            Ok(account) => account,
            Err(failure) => return Ok(vec![failure.message]),
        };
        let mut ids: Vec<ObjectId> = inventory.iter().filter_map(|e| ObjectId::parse(&e.id)).collect();
        ids.sort_by_key(|id| std::cmp::Reverse(order::stage_of(id)));
        let passed_on = |id: &ObjectId| self.is_passed_on(id);
        // What another Sync takes over is given up in any case.
        let (given, left): (Vec<_>, Vec<_>) = ids.into_iter().partition(passed_on);
        let (waiting, left) = hold.split(left);
        let ids = [given, left].concat();
        let Pruned { gone, later, mut problems, deleted, .. } =
            apply::prune(&account, &self.all.kinds, &ids, &inventory, &self.owner(), passed_on).await;
        problems.extend(hold.problems(&waiting));
        if !gone.is_empty() && (!later.is_empty() || !problems.is_empty()) {
            let rest = inventory.into_iter().filter(|e| ObjectId::parse(&e.id).is_none_or(|id| !gone.contains(&id)));
            let facts = Facts { inventory: Some(rest.collect()), ..self.facts() };
            self.publish(&report::State::Applying, facts).await?;
        }
        tracing::debug!(deleted = deleted.len(), "deleted what the Sync applied");
        let mut left: Vec<String> = problems.iter().map(ToString::to_string).collect();
        left.extend(later.iter().map(|(id, why)| format!("{}: {}", id.short(), why.text())));
        left.sort();
        Ok(left)
    }

    /// The Sync is gone although it had its finalizer: the API server looks at finalizers before it deletes, and does
    /// not see one that is written in between. Nobody else will delete what this pass has created.
    pub(super) async fn undo(&self, account: &Account, created: &[InventoryEntry]) {
        if deletes(&self.sync.spec) && !created.is_empty() {
            let mut ids: Vec<ObjectId> = created.iter().filter_map(|e| ObjectId::parse(&e.id)).collect();
            ids.sort_by_key(|id| std::cmp::Reverse(order::stage_of(id)));
            let passed_on = |id: &ObjectId| self.is_passed_on(id);
            let pruned = apply::prune(account, &self.all.kinds, &ids, created, &self.owner(), passed_on).await;
            for problem in pruned.problems {
                warn!("the Sync is gone, and an object that it has just created stays: {problem}");
            }
            for (id, why) in pruned.later {
                warn!(
                    "the Sync is gone, and {} that it has just created stays, delete it by hand: {}",
                    id.short(),
                    why.text()
                );
            }
        }
        let heirs = self.all.with_claims(|claims| claims.forget(&self.key));
        self.all.trigger_all(heirs);
    }

    fn is_overdue(&self) -> bool {
        self.time_left().is_zero()
    }

    /// Until the Sync is let go in any case; it is deleted at whole seconds.
    fn time_left(&self) -> Duration {
        let timeout = self.sync.spec.timeout.or(Duration::from_mins(5)) + Duration::from_secs(1);
        let since = self.sync.metadata.deletion_timestamp.as_ref().map(|t| self.wall_clock().duration_since(t.0));
        timeout.saturating_sub(since.and_then(|age| Duration::try_from(age).ok()).unwrap_or_default())
    }

    fn has_finalizer(&self) -> bool {
        self.sync.finalizers().iter().any(|f| f == SYNC_FINALIZER)
    }

    /// The finalizer is there where, and only where, a deletion has something to do. Returned is the Sync as a write of
    /// it answered, if there was one. The cache may be behind, so a write is not done twice for one state of the Sync.
    pub(super) async fn keep_finalizer(&self) -> Result<Option<SyncObject>, Failure> {
        let wanted = deletes(&self.sync.spec);
        let seen = self.sync.resource_version();
        if wanted == self.has_finalizer() || self.state.progress.lock().finalizer_written_at == seen {
            return Ok(None);
        }
        let live = self.set_finalizer(wanted).await?;
        self.state.progress.lock().finalizer_written_at = seen;
        Ok(live)
    }

    /// By server-side apply under a manager of its own, so that other finalizers stay.
    async fn set_finalizer(&self, on: bool) -> Result<Option<SyncObject>, Failure> {
        let name = self.sync.name_any();
        let api = Api::<SyncObject>::namespaced(self.all.context.client.clone(), &self.namespace());
        let mut metadata = json!({ "name": name, "uid": self.sync.uid() });
        if on {
            metadata["finalizers"] = json!([SYNC_FINALIZER]);
        }
        let body = json!({ "apiVersion": crate::api::API_VERSION, "kind": "Sync", "metadata": metadata });
        let params = PatchParams::apply(manager::FINALIZER).force();
        match limited("writing the finalizer", api.patch(&name, &params, &Patch::Apply(body))).await? {
            Ok(live) => Ok(Some(live)),
            // Another object of the same name, or none: not the one that this was about.
            Err(kube::Error::Api(s)) if s.is_not_found() || s.is_conflict() => {
                match self.all.gone_or_in_use(self.sync).await {
                    failure if failure.reason == reasons::GONE && !on => Ok(None),
                    failure => Err(failure),
                }
            }
            Err(error) => {
                Err(Failure::transient(reasons::CLUSTER_UNAVAILABLE, format!("cannot write the finalizer: {error}")))
            }
        }
    }
}
