//! The loop that every kind shares: caches, triggers, backoff, isolation.
//!
//! * [`watch`]: one watch a kind and namespace, its cache, and listeners that turn changes into triggers.
//! * [`triggers`]: asks for a reconcile of one object, from anywhere.
//! * [`supervise`]: loops beside the reconciles, and what becomes of a panic in them.
//! * [`Packed`]: what a cache holds of objects that are large.
//! * `queue`: who is next, fair between namespaces and between objects.
//! * [`run`]: calls a [`Reconcile`] for what was triggered; never two at once for one object.

mod listeners;
mod packed;
mod queue;
pub mod supervise;
pub mod triggers;
pub mod watch;

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info_span, warn};

pub use packed::Packed;
use queue::Key;
pub use supervise::Crew;
pub use triggers::Triggers;
pub use watch::{Cache, Change, Scope, Watches};

use super::report::Reports;
use crate::{
    api::names::reasons,
    server::metrics::Metrics,
    status::{Backoff, Class, Failure, Next, panic},
};

/// No reconcile may take longer: effects have their own, shorter, limits, this one saves the worker.
const RECONCILE_TIMEOUT: Duration = Duration::from_mins(3);

/// A custom resource that can be cached and reconciled.
pub trait Kind:
    Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + Sync + 'static
{
}
impl<K> Kind for K where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + Sync + 'static
{
}

/// What one kind does: observe, decide, act, report.
pub trait Reconcile: Send + Sync + 'static {
    /// The kind.
    type Object: Kind;

    /// Brings the world closer to `object` and reports it in the object's status.
    ///
    /// An invalid spec is a decision and so `Ok`. A failure has been reported in the status already; its class says
    /// when this is called again.
    fn reconcile(&self, object: Arc<Self::Object>) -> impl Future<Output = Result<Next, Failure>> + Send;

    /// The object is gone: forget what memory holds about it.
    fn forget(&self, namespace: &str, name: &str) {
        let _ = (namespace, name);
    }
}

/// Settings that [`run`] needs for every kind.
#[derive(Clone)]
pub struct Runtime {
    /// Reconciles of one kind at a time.
    pub concurrency: u16,
    /// Delays after transient failures.
    pub backoff: Backoff,
    /// Cancelled: no new reconcile starts, running ones end.
    pub stop: CancellationToken,
    /// Counters and durations.
    pub metrics: Arc<Metrics>,
    /// What was written; an object that is gone is forgotten there.
    pub reports: Reports,
}

struct Worker<R: Reconcile> {
    reconciler: Arc<R>,
    cache: Cache<R::Object>,
    triggers: Triggers<R::Object>,
    runtime: Runtime,
    failures: Mutex<HashMap<Key, Failing>>,
}

/// Transient failures in a row of one object.
struct Failing {
    count: u32,
    /// When it is tried again.
    due: Instant,
}

/// Reconciles every object of `cache` once, and then whatever `triggers` asks for, until the runtime stops.
pub async fn run<R: Reconcile>(
    reconciler: Arc<R>,
    cache: Cache<R::Object>,
    triggers: Triggers<R::Object>,
    runtime: Runtime,
) {
    let places = runtime.concurrency.max(1);
    let worker = Arc::new(Worker { reconciler, cache, triggers, runtime, failures: Mutex::default() });
    worker.triggers.open(places.into());
    listen(&worker);
    let mut workers: FuturesUnordered<_> = (0..places).map(|_| worker.work()).collect();
    while workers.next().await.is_some() {}
}

/// Changes of the objects themselves trigger them; deletions forget them.
fn listen<R: Reconcile>(worker: &Arc<Worker<R>>) {
    let weak = Arc::downgrade(worker);
    worker.cache.on_change(move |change| {
        let Some(worker) = weak.upgrade() else { return };
        let (namespace, name) = (change.object.namespace().unwrap_or_default(), change.object.name_any());
        if change.deleted {
            worker.runtime.reports.forget(&change.object.uid().unwrap_or_default());
            worker.failures.lock().remove(&(namespace.clone(), name.clone()));
            worker.reconciler.forget(&namespace, &name);
        } else {
            worker.triggers.now(&namespace, &name);
        }
    });
    for object in worker.cache.all() {
        worker.triggers.now(&object.namespace().unwrap_or_default(), &object.name_any());
    }
}

impl<R: Reconcile> Worker<R> {
    async fn work(&self) {
        while let Some(key) = self.triggers.next(&self.runtime.stop).await {
            let next = match self.cache.get(&key.0, &key.1) {
                Some(object) => Box::pin(self.reconcile(&key, object)).await,
                None => Next::OnEvent,
            };
            let at = match next {
                Next::OnEvent => None,
                // Beyond what a clock can hold is never.
                Next::After(delay) => Instant::now().checked_add(delay),
            };
            self.triggers.done(key, at);
        }
    }

    async fn reconcile(&self, key: &Key, object: Arc<R::Object>) -> Next {
        let kind = R::Object::kind(&()).into_owned();
        let span = info_span!("reconcile", kind, namespace = object.namespace(), name = object.name_any());
        let started = Instant::now();
        let work = AssertUnwindSafe(self.reconciler.reconcile(object)).catch_unwind();
        let outcome = match tokio::time::timeout(RECONCILE_TIMEOUT, work).instrument(span.clone()).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => {
                self.runtime.metrics.panicked("reconcile");
                Err(Failure::transient(reasons::INTERNAL_ERROR, panic_text(&*panic)))
            }
            Err(_) => {
                Err(Failure::transient(reasons::TIMEOUT, "the reconcile took longer than 3 minutes and was cancelled"))
            }
        };
        self.runtime.metrics.reconciled(&kind, outcome.as_ref().err(), started.elapsed());
        let _in_span = span.enter();
        match outcome {
            Ok(next) => {
                self.failures.lock().remove(key);
                next
            }
            Err(failure) => {
                log(&failure);
                self.after_failure(key, &failure)
            }
        }
    }

    fn after_failure(&self, key: &Key, failure: &Failure) -> Next {
        if failure.class != Class::Transient {
            return Next::OnEvent;
        }
        let (mut failures, now) = (self.failures.lock(), Instant::now());
        let failing = failures.entry(key.clone()).or_insert(Failing { count: 0, due: now });
        // An event may try it earlier, as often as it likes: that makes the pause no longer.
        if failing.due <= now {
            failing.count = failing.count.saturating_add(1);
            let delay = self.runtime.backoff.delay(failing.count, rand::random());
            failing.due = now.checked_add(delay).unwrap_or(now);
        }
        Next::After(failing.due.saturating_duration_since(now))
    }
}

fn log(failure: &Failure) {
    match failure.class {
        Class::Transient if failure.reason == reasons::INTERNAL_ERROR => error!(reason = failure.reason, "{failure}"),
        Class::Transient | Class::Stalled => warn!(reason = failure.reason, "{failure}"),
        Class::Waiting => debug!(reason = failure.reason, "{failure}"),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    format!("a bug in Pilothouse: the reconcile of this object panicked ({})", panic::text(panic))
}

#[cfg(test)]
pub(super) mod tests;
