//! Requests to reconcile one object.

use std::{collections::HashMap, sync::Arc};

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
pub struct Triggers<K: Kind> {
    senders: Arc<HashMap<Scope, Sender<K>>>,
    receivers: Arc<Mutex<HashMap<Scope, Receiver<K>>>>,
}

impl<K: Kind> Clone for Triggers<K> {
    fn clone(&self) -> Self {
        Self { senders: self.senders.clone(), receivers: self.receivers.clone() }
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
        Self { senders: Arc::new(senders), receivers: Arc::new(Mutex::new(receivers)) }
    }

    /// Reconciles `namespace/name` as soon as a worker is free.
    pub fn now(&self, namespace: &str, name: &str) {
        let sender = self.senders.get(&Scope::Namespace(namespace.into())).or_else(|| self.senders.get(&Scope::All));
        let mut object = ObjectRef::new(name);
        object.namespace = (!namespace.is_empty()).then(|| namespace.into());
        if let Some(sender) = sender {
            // Closed only while the process stops.
            let _ = sender.send(object);
        }
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
