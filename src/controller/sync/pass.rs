//! One reconcile of one Sync.

use std::{sync::OnceLock, time::Duration};

use jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::Instant;

use super::{
    SyncReconciler, key_of,
    report::{self, Facts},
    state::{Input, State},
};
use crate::{
    api::{
        InventoryEntry, Sync as SyncObject, SyncStatus,
        names::{annotation, condition, reasons},
    },
    apply::{Account, Owner},
    controller::report::Presence,
    status::{Class, Failure, Next, Note},
};

/// An interval below this one is taken as this one: each look costs a request for every object.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(10);

/// One reconcile.
pub(super) struct Pass<'a> {
    pub(super) all: &'a SyncReconciler,
    pub(super) sync: &'a SyncObject,
    pub(super) state: &'a State,
    pub(super) key: String,
    pub(super) now: Instant,
    /// Set when this pass has told what the Sync wants: of which input.
    pub(super) looked: OnceLock<Input>,
}

impl<'a> Pass<'a> {
    pub(super) fn new(all: &'a SyncReconciler, sync: &'a SyncObject, state: &'a State) -> Self {
        Self { all, sync, state, key: key_of(sync), now: Instant::now(), looked: OnceLock::new() }
    }

    /// Brings the cluster to what the Repository's artifact says.
    pub(super) async fn run(&self) -> Result<Next, Failure> {
        if self.sync.spec.suspend == Some(true) {
            self.publish(&report::State::Suspended, self.facts()).await?;
            return Ok(Next::OnEvent);
        }
        self.keep_finalizer().await.map(drop)?;
        match self.desired_input() {
            // It is fetched for the first time, and its verdict wakes this Sync: nothing is to be told until then.
            Err(failure) if failure.reason == reasons::REPOSITORY_NOT_READY && self.is_first_fetch() => {
                Ok(Next::OnEvent)
            }
            Err(failure) => self.fail(failure, self.facts()).await,
            Ok((_, artifact)) => {
                let input = self.input(&artifact);
                let asked = self.is_asked();
                let (known, look, dirty) = {
                    let mut progress = self.state.progress.lock();
                    let due = progress.unanswered.take_due(self.now);
                    progress.dirty.extend(due);
                    let look = progress.look_at.is_some_and(|at| at <= self.now);
                    (progress.input.as_ref() == Some(&input), look, !progress.dirty.is_empty())
                };
                if known && !asked && !look && !dirty {
                    self.has_looked_at(&input);
                    self.check_health().await
                } else {
                    self.bring_about(asked).await
                }
            }
        }
    }

    /// Others may know now what this Sync wants of `input`.
    pub(super) fn has_looked_at(&self, input: &Input) {
        // Twice in a pass it is the same.
        let _ = self.looked.set(input.clone());
    }

    /// Reports a failure, and when the Sync comes again.
    pub(super) async fn fail(&self, failure: Failure, facts: Facts) -> Result<Next, Failure> {
        self.publish(&report::State::Failed(failure.clone()), facts).await?;
        match failure.class {
            Class::Transient => Err(failure),
            Class::Stalled => Ok(Next::OnEvent),
            // The Repository's events tell when it is there.
            Class::Waiting
                if matches!(failure.reason, reasons::REPOSITORY_NOT_FOUND | reasons::REPOSITORY_NOT_READY) =>
            {
                Ok(Next::OnEvent)
            }
            Class::Waiting => {
                let mut progress = self.state.progress.lock();
                Ok(Next::After(progress.next_retry(&self.sync.spec.retry_interval, rand::random())))
            }
        }
    }

    /// Writes the status if it is another one.
    pub(super) async fn publish(&self, state: &report::State, facts: Facts) -> Result<(), Failure> {
        let before = self.status();
        let warnings = self.state.progress.lock().warnings.clone();
        let warned = report::warned(&warnings).filter(|_| matches!(state, report::State::Ready));
        let after = report::status(&before, state, Facts { warnings, ..facts }, self.all.context.now());
        if self.all.context.reports.status(self.sync, &before, &after).await? == Presence::Gone {
            return Err(self.all.gone_or_in_use(self.sync).await);
        }
        if matches!(state, report::State::Ready | report::State::Checking(_)) {
            self.state.progress.lock().failures = 0;
        }
        let ready = before.conditions.iter().find(|c| c.type_ == condition::READY);
        let mut notes = vec![];
        if let report::State::Failed(failure) = state
            && ready.is_none_or(|c| c.reason != failure.reason || c.message != failure.message)
        {
            notes.push(Note::warning(failure.reason, "Apply", failure.message.clone()));
        }
        if let Some(warned) = warned.filter(|warned| ready.is_none_or(|c| !c.message.contains(warned))) {
            notes.push(Note::warning(reasons::RENDER_WARNING, "Render", warned));
        }
        self.all.context.reports.events(self.sync, notes);
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

    pub(super) fn is_asked_of(&self, status: Option<&SyncStatus>) -> bool {
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

    pub(super) fn owner(&self) -> Owner {
        Owner { namespace: self.namespace(), name: self.sync.name_any() }
    }

    pub(super) fn target(&self) -> String {
        self.sync.spec.target_namespace.clone().unwrap_or_else(|| self.namespace())
    }

    pub(super) fn interval(&self) -> Duration {
        self.sync.spec.interval.or(Duration::from_mins(10)).max(SHORTEST_INTERVAL)
    }

    pub(super) fn wall_clock(&self) -> Timestamp {
        self.all.context.now()
    }
}
