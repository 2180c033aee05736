//! The sidecars' connection, the controller's side.
//!
//! Each sidecar keeps one WebSocket over TLS. The [`Hub`] knows what every connected pod does, carries orders to them
//! and tells controllers when something worth a reconcile changed. Who speaks is decided by a token review, never by
//! what the sidecar says of itself. A replica that does not lead sends sidecars on to the one that does, and serves
//! artifacts on the same port; so does every one the history, to people.

pub mod archive;
pub mod artifacts;
pub mod certificate;
mod connection;
mod door;
pub mod identity;
mod places;
mod table;
mod throttle;
mod token;

pub use door::Leadership;
pub use table::{AgentKey, PodSeen, Seen};

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::future::join_all;
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, broadcast, mpsc, oneshot, watch},
};
use tokio_util::sync::CancellationToken;

use crate::api::{
    content::Load,
    voice::{Ack, Activity, FromController, MAX_HOLD_MS, Peer},
};
use identity::Reviews;
use table::Table;
use throttle::Handshakes;

/// Longest wait for the answer to an order.
const ORDER_TIMEOUT: Duration = Duration::from_secs(3);
/// Changes that a controller may be behind with before it is told to look at everything.
const CHANGES: usize = 4096;
/// Orders that may wait for one connection.
const ORDERS: usize = 8;
/// Connections at once: twice the agents that one controller is made for (a rollout doubles an agent's pods).
const MAX_CONNECTIONS: usize = 20_000;

/// Why an order was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// No pod of the agent is connected: whether it works is not known.
    #[error("no sidecar of this agent is connected, so whether work goes on is not known")]
    NotConnected,
    /// A sidecar did not answer in time, or its connection ended.
    #[error("the sidecar of pod {0} did not answer")]
    NoAnswer(String),
    /// A sidecar said why not.
    #[error("the sidecar of pod {pod} refused: {why}")]
    Refused {
        /// Name of the pod.
        pod: String,
        /// Its words.
        why: String,
    },
}

/// Answer of all pods of an agent to an order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The pods' activities as one, see [`Seen::activity`].
    pub activity: Activity,
    /// Names of the pods that answered, sorted. A pod of the agent that is missing here was not asked.
    pub pods: Vec<String>,
}

impl Answer {
    /// Whether a change that cuts work may go now.
    pub fn is_quiet(&self) -> bool {
        self.activity.is_quiet()
    }
}

/// An order on its way to one connection.
#[derive(Debug)]
struct Order {
    make: fn(u64, &Wish) -> FromController,
    wish: Wish,
    answer: oneshot::Sender<Ack>,
}

#[derive(Clone, Debug, Default)]
struct Wish {
    max_ms: u64,
    context_hash: String,
    load: Option<Arc<Load>>,
    peers: Arc<Vec<Peer>>,
    title: String,
}

#[derive(Debug)]
struct Inner {
    table: Mutex<Table<mpsc::Sender<Order>>>,
    changes: broadcast::Sender<AgentKey>,
    reviews: Reviews,
    leadership: watch::Receiver<Leadership>,
    handshakes: Handshakes,
    connections: Arc<Semaphore>,
    shelf: Option<artifacts::Shelf>,
    archive: OnceLock<archive::Archive>,
}

/// All connected sidecars. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hub(Arc<Inner>);

impl Hub {
    /// A hub without connections. Until `leadership` says that this replica leads, sidecars are sent away. Artifacts are
    /// served from `shelf`, if there is one.
    pub fn new(reviews: Reviews, leadership: watch::Receiver<Leadership>, shelf: Option<artifacts::Shelf>) -> Self {
        Self(Arc::new(Inner {
            table: Mutex::default(),
            changes: broadcast::Sender::new(CHANGES),
            reviews,
            leadership,
            handshakes: Handshakes::default(),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            shelf,
            archive: OnceLock::new(),
        }))
    }

    /// Shows the history to those who may see it, from now on.
    pub fn show(&self, archive: archive::Archive) {
        let _ = self.0.archive.set(archive); // there is one
    }

    /// Accepts sidecars until `stop`. `tls` may change: a renewed certificate is used from the next connection on.
    pub async fn serve(
        &self,
        listener: TcpListener,
        tls: watch::Receiver<Arc<rustls::ServerConfig>>,
        stop: CancellationToken,
    ) {
        door::serve(self.clone(), listener, tls, stop).await;
    }

    /// What is known of an agent.
    pub fn activity(&self, namespace: &str, agent: &str) -> Seen {
        self.0.table.lock().seen(&AgentKey::new(namespace, agent))
    }

    /// Hash of the gathered text that every connected pod of the agent has; `None` if they differ or none is
    /// connected.
    pub fn context_hash(&self, namespace: &str, agent: &str) -> Option<String> {
        let seen = self.activity(namespace, agent);
        let first = seen.staying().next()?.activity.context_hash.clone();
        seen.staying().all(|pod| pod.activity.context_hash == first).then_some(first)
    }

    /// Agents of which something worth a look changed: connected, gone, idle, busy, ready, or another text. A receiver
    /// that is told `Lagged` must look at all agents.
    pub fn changes(&self) -> broadcast::Receiver<AgentKey> {
        self.0.changes.subscribe()
    }

    /// Whether this replica leads.
    pub fn leads(&self) -> bool {
        matches!(*self.0.leadership.borrow(), Leadership::Leader)
    }

    /// Number of connected sidecars.
    pub fn connected(&self) -> usize {
        self.0.table.lock().len()
    }

    /// Holds new prompts of all the agent's pods for `max` (5 s at most; ask again to hold longer) and says what goes
    /// on. [`Answer::is_quiet`] decides; the hold ends by itself.
    pub async fn hold(&self, namespace: &str, agent: &str, max: Duration) -> Result<Answer, OrderError> {
        let max_ms = u64::try_from(max.as_millis()).unwrap_or(u64::MAX).min(MAX_HOLD_MS);
        let wish = Wish { max_ms, ..Wish::default() };
        self.order(namespace, agent, |id, wish| FromController::Hold { id, max_ms: wish.max_ms }, wish).await
    }

    /// Lets prompts pass again.
    pub async fn release(&self, namespace: &str, agent: &str) -> Result<Answer, OrderError> {
        self.order(namespace, agent, |id, _| FromController::Release { id }, Wish::default()).await
    }

    /// Asks the pods to look at their gathered text at once, until it has this hash. The answer comes at once; the new
    /// hash arrives as a change.
    pub async fn touched(&self, namespace: &str, agent: &str, context_hash: &str) -> Result<Answer, OrderError> {
        let make = |id, wish: &Wish| FromController::Touched { id, context_hash: wish.context_hash.clone() };
        self.order(namespace, agent, make, Wish { context_hash: context_hash.to_owned(), ..Wish::default() }).await
    }

    /// Says which content is wanted in the running pods. They answer that they took the order, and report later what
    /// became of it ([`PodSeen::content`]).
    pub async fn load(&self, namespace: &str, agent: &str, load: Load) -> Result<Answer, OrderError> {
        let make =
            |id, wish: &Wish| FromController::Load { id, load: wish.load.as_deref().cloned().unwrap_or_default() };
        self.order(namespace, agent, make, Wish { load: Some(Arc::new(load)), ..Wish::default() }).await
    }

    /// Says to all the agent's pods, those that end included, which pods there are.
    pub async fn introduce(&self, namespace: &str, agent: &str, peers: Vec<Peer>) {
        let pods = self.0.table.lock().all_handles(&AgentKey::new(namespace, agent));
        let wish = Wish { peers: Arc::new(peers), ..Wish::default() };
        let make = |id, wish: &Wish| FromController::Peers { id, peers: wish.peers.to_vec() };
        // Who does not hear it is told when it is connected again.
        join_all(pods.into_iter().map(|(pod, orders)| ask(pod, orders, make, wish.clone()))).await;
    }

    /// Stops what the sessions of a Task do, on the agent's pods that `whom` picks, those that end included. By the name of
    /// each pod that was asked: whether it did it.
    pub async fn abort(
        &self,
        namespace: &str,
        agent: &str,
        title: &str,
        whom: impl Fn(&str, &Activity) -> bool,
    ) -> BTreeMap<String, bool> {
        let pods = self.0.table.lock().handles_of(&AgentKey::new(namespace, agent), whom);
        let wish = Wish { title: title.to_owned(), ..Wish::default() };
        let make = |id, wish: &Wish| FromController::Abort { id, title: wish.title.clone() };
        let told = pods.into_iter().map(|(pod, orders)| {
            let told = ask(pod.clone(), orders, make, wish.clone());
            async { (pod, told.await.is_ok()) }
        });
        join_all(told).await.into_iter().collect()
    }

    async fn order(
        &self,
        namespace: &str,
        agent: &str,
        make: fn(u64, &Wish) -> FromController,
        wish: Wish,
    ) -> Result<Answer, OrderError> {
        let pods = self.0.table.lock().handles(&AgentKey::new(namespace, agent));
        if pods.is_empty() {
            return Err(OrderError::NotConnected);
        }
        let asked = pods.into_iter().map(|(pod, orders)| ask(pod, orders, make, wish.clone()));
        let mut answered = join_all(asked).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        // It began to end while it was asked.
        answered.retain(|(_, activity)| !activity.draining);
        answered.sort_by(|a, b| a.0.cmp(&b.0));
        let activity = table::merge(answered.iter().map(|(_, activity)| activity)).unwrap_or_default();
        Ok(Answer { activity, pods: answered.into_iter().map(|(pod, _)| pod).collect() })
    }

    fn tell(&self, key: &AgentKey) {
        let _ = self.0.changes.send(key.clone()); // nobody listens yet: they look at all when they begin
    }
}

async fn ask(
    pod: String,
    orders: mpsc::Sender<Order>,
    make: fn(u64, &Wish) -> FromController,
    wish: Wish,
) -> Result<(String, Activity), OrderError> {
    let (answer, answered) = oneshot::channel();
    let sent = orders.try_send(Order { make, wish, answer });
    let ack = match sent {
        Ok(()) => tokio::time::timeout(ORDER_TIMEOUT, answered).await.ok().and_then(Result::ok),
        Err(_) => None,
    };
    match ack {
        Some(ack) if ack.error.is_empty() => Ok((pod, ack.activity)),
        Some(ack) => Err(OrderError::Refused { pod, why: ack.error }),
        None => Err(OrderError::NoAnswer(pod)),
    }
}
