//! Requests to reconcile one object.

use std::{
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Kind,
    queue::{Key, Queue},
};

/// Asks for a reconcile of one object of kind `K`, from anywhere. Requests for an object that waits already are
/// merged, and requests for an object that does not exist come to nothing.
///
/// Before `open` requests are dropped: a replica that does not lead would only pile them up, and
/// every object is reconciled once when it begins to lead.
pub struct Triggers<K: Kind> {
    shared: Arc<Shared>,
    kind: PhantomData<fn() -> K>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Notify,
    open: AtomicBool,
}

impl<K: Kind> Clone for Triggers<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), kind: PhantomData }
    }
}

impl<K: Kind> Default for Triggers<K> {
    fn default() -> Self {
        Self { shared: Arc::default(), kind: PhantomData }
    }
}

impl<K: Kind> Triggers<K> {
    /// Reconciles `namespace/name` as soon as a worker is free.
    pub fn now(&self, namespace: &str, name: &str) {
        if self.shared.open.load(Ordering::Acquire) {
            self.shared.queue.lock().push((namespace.into(), name.into()));
            self.shared.changed.notify_one();
        }
    }

    /// Requests count from now on; `places` are worked on at a time.
    pub(super) fn open(&self, places: usize) {
        self.shared.queue.lock().limit(places);
        self.shared.open.store(true, Ordering::Release);
    }

    /// Waits for the next object; none after `stop`. It is nobody else's until [`done`](Self::done).
    pub(super) async fn next(&self, stop: &CancellationToken) -> Option<Key> {
        while !stop.is_cancelled() {
            let timer = {
                let mut queue = self.shared.queue.lock();
                let next = queue.pop(Instant::now());
                if next.is_some() {
                    if queue.has_more() {
                        // Another worker takes over what this one waited for.
                        self.shared.changed.notify_one();
                    }
                    return next;
                }
                queue.next_timer()
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.shared.changed.notified() => {}
                () = ring(timer) => {}
            }
        }
        None
    }

    /// The object that [`next`](Self::next) gave was reconciled; without a request it comes again at `next`.
    pub(super) fn done(&self, key: Key, next: Option<Instant>) {
        self.shared.queue.lock().done(key, next);
        self.shared.changed.notify_one();
    }
}

/// Resolves at a time, or never.
pub(super) async fn ring(timer: Option<Instant>) {
    match timer {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
