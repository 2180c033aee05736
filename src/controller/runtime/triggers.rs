//! Requests to reconcile one object.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::stream::{self, BoxStream, StreamExt};
use kube::runtime::{
    controller::{ReconcileReason, ReconcileRequest},
    reflector::ObjectRef,
};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{Kind, Scope};

type Sender<K> = mpsc::UnboundedSender<ObjectRef<K>>;
type Receiver<K> = mpsc::UnboundedReceiver<ObjectRef<K>>;

/// Asks for a reconcile of one object of kind `K`, from anywhere. Requests for an object that waits already are
/// merged by the scheduler behind this, and requests for an object that does not exist are dropped there.
///
/// Before `open` requests are dropped too: a replica that does not lead would only pile them up, and
/// every object is reconciled once when it begins to lead.
pub struct Triggers<K: Kind> {
    senders: Arc<HashMap<Scope, Sender<K>>>,
    receivers: Arc<Mutex<HashMap<Scope, Receiver<K>>>>,
    open: Arc<AtomicBool>,
}

impl<K: Kind> Clone for Triggers<K> {
    fn clone(&self) -> Self {
        Self { senders: self.senders.clone(), receivers: self.receivers.clone(), open: self.open.clone() }
    }
}

impl<K: Kind> Triggers<K> {
    /// One queue for each of `scopes`.
    pub fn new(scopes: &[Scope]) -> Self {
        let (senders, receivers) = scopes
            .iter()
            .map(|scope| {
                let (sender, receiver) = mpsc::unbounded_channel();
                ((scope.clone(), sender), (scope.clone(), receiver))
            })
            .unzip();
        Self { senders: Arc::new(senders), receivers: Arc::new(Mutex::new(receivers)), open: Arc::default() }
    }

    /// Reconciles `namespace/name` as soon as a worker is free.
    pub fn now(&self, namespace: &str, name: &str) {
        if !self.open.load(Ordering::Acquire) {
            return;
        }
        let sender = self.senders.get(&Scope::Namespace(namespace.into())).or_else(|| self.senders.get(&Scope::All));
        let mut object = ObjectRef::new(name);
        object.namespace = (!namespace.is_empty()).then(|| namespace.into());
        if let Some(sender) = sender {
            // Closed only while the process stops.
            let _ = sender.send(object);
        }
    }

    /// Requests count from now on.
    pub(super) fn open(&self) {
        self.open.store(true, Ordering::Release);
    }

    /// The queue of one scope; empty when it was taken before.
    pub(super) fn take(&self, scope: &Scope) -> BoxStream<'static, ReconcileRequest<K>> {
        let Some(receiver) = self.receivers.lock().remove(scope) else {
            return stream::empty().boxed();
        };
        stream::unfold(receiver, |mut receiver| async {
            let object = receiver.recv().await?;
            Some((ReconcileRequest { obj_ref: object, reason: ReconcileReason::Unknown }, receiver))
        })
        .boxed()
    }
}
