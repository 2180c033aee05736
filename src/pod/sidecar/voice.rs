//! The connection to the controller: what goes on here, and its orders. Losing it changes nothing in the pod.

mod connect;

pub use connect::ConnectError;

use std::{sync::Arc, time::Duration};

use futures::{SinkExt as _, StreamExt as _, stream::FuturesUnordered};
use rand::Rng as _;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_tungstenite::tungstenite::{Bytes, Error as WsError, Message};

use super::{activity::QUIET, peers::Peers, watch::Server, work::Work};
use crate::{
    api::{
        content::{Load, Report},
        voice::{Ack, Activity, FromController, FromSidecar, Hello},
    },
    net::dial::Endpoint,
};
use connect::{Socket, connect};

/// Reports are at least this far apart.
const BETWEEN: Duration = Duration::from_millis(50);
/// A report comes at least this often; it also shows the controller that we live.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A controller that did not answer a ping for this long is gone.
const SILENCE: Duration = Duration::from_secs(35);
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(15);
/// A connection that lasted this long was a good one: the next retry is quick.
const GOOD: Duration = Duration::from_secs(30);
/// Redirects in a row; two replicas that point at each other must not spin.
const REDIRECTS: u32 = 3;

/// All that the voice speaks of.
#[derive(Clone, Debug)]
pub(super) struct Voice {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) hello: Hello,
    pub(super) work: Work,
    pub(super) server: Server,
    pub(super) text: watch::Receiver<String>,
    /// What is in the pod, to tell.
    pub(super) content: watch::Receiver<Report>,
    /// What is wanted in it: the newest order.
    pub(super) loads: watch::Sender<Option<Load>>,
    /// The other pods of the agent.
    pub(super) peers: Peers,
    /// Makes the follower of the text look more often.
    pub(super) hurry: Arc<Notify>,
}

impl Voice {
    /// Never returns: connects, speaks, connects again.
    pub(super) async fn speak(self) {
        let (mut failures, mut redirects, mut leader) = (0u32, 0u32, None::<String>);
        loop {
            let begun = Instant::now();
            let error = match connect(&self.endpoint, leader.take().as_deref()).await {
                Ok(socket) => self.converse(socket).await,
                Err(ConnectError::Elsewhere(address)) if redirects < REDIRECTS => {
                    redirects += 1;
                    leader = Some(address);
                    continue;
                }
                Err(error) => error,
            };
            failures = if begun.elapsed() >= GOOD { 0 } else { failures.saturating_add(1) };
            redirects = 0;
            let ceiling = LAST_RETRY.min(FIRST_RETRY * 2u32.saturating_pow(failures.min(10)));
            let pause = rand::rng().random_range(FIRST_RETRY / 2..=ceiling);
            tracing::info!(%error, retry_in = ?pause, "not connected to the controller; the agent works on");
            tokio::time::sleep(pause).await;
        }
    }

    async fn converse(&self, mut socket: Socket) -> ConnectError {
        tracing::info!("connected to the controller");
        match self.talk(&mut socket).await {
            Ok(()) => ConnectError::Closed("the controller closed the connection".into()),
            Err(error) => ConnectError::Closed(error.to_string()),
        }
    }

    async fn talk(&self, socket: &mut Socket) -> Result<(), WsError> {
        send(socket, FromSidecar::Hello(self.hello.clone())).await?;
        let (mut changes, mut text, mut content) = (self.work.changes(), self.text.clone(), self.content.clone());
        content.mark_changed();
        let mut introduced = false;
        let mut orders = FuturesUnordered::new();
        let mut heard = Instant::now();
        let mut reported = heard.checked_sub(HEARTBEAT).unwrap_or(heard);
        let mut next = heard;
        loop {
            tokio::select! {
                message = socket.next() => {
                    heard = Instant::now();
                    match message {
                        None | Some(Ok(Message::Close(_))) => return Ok(()),
                        Some(Err(error)) => return Err(error),
                        Some(Ok(message)) => orders.extend(parse(&message).map(|order| self.carry_out(order))),
                    }
                }
                Some(ack) = orders.next() => {
                    if let Some(ack) = ack {
                        send(socket, FromSidecar::Ack(ack)).await?;
                    }
                }
                Ok(()) = changes.changed() => next = next.min(reported + BETWEEN),
                Ok(()) = content.changed(), if introduced => {
                    let report = content.borrow_and_update().clone();
                    send(socket, FromSidecar::Content(report)).await?;
                }
                Ok(()) = text.changed() => next = next.min(reported + BETWEEN),
                () = tokio::time::sleep_until(next) => {
                    if heard.elapsed() > SILENCE {
                        return Err(WsError::ConnectionClosed);
                    }
                    if reported.elapsed() >= HEARTBEAT {
                        socket.feed(Message::Ping(Bytes::new())).await?;
                    }
                    let activity = self.activity();
                    // Idleness shows only after some quiet: come back to say it.
                    let soon = !activity.idle && self.work.snapshot().without_work();
                    send(socket, FromSidecar::Activity(activity)).await?;
                    introduced = true;
                    reported = Instant::now();
                    next = reported + if soon { QUIET } else { HEARTBEAT };
                }
            }
        }
    }

    /// An order carried out; `None` where there is nothing to answer.
    async fn carry_out(&self, order: FromController) -> Option<Ack> {
        let id = match order {
            FromController::Hold { id, max_ms } => {
                let (_, idle) = self.work.hold(Duration::from_millis(max_ms)).await;
                if idle {
                    self.server.confirm().await;
                }
                id
            }
            FromController::Release { id } => {
                self.work.release();
                id
            }
            FromController::Touched { id, .. } => {
                self.hurry.notify_one();
                id
            }
            FromController::Load { id, load } => {
                self.loads.send_if_modified(|last| {
                    let new = last.as_ref() != Some(&load);
                    *last = Some(load);
                    new
                });
                id
            }
            FromController::Peers { id, peers } => {
                self.peers.set(&peers);
                id
            }
            FromController::Abort { id, title } => {
                let error = self.server.abort(&title).await.err().map(|e| e.to_string()).unwrap_or_default();
                return Some(Ack { id, error, activity: self.activity() });
            }
            FromController::Welcome { .. } | FromController::Unknown => return None,
        };
        Some(Ack { id, error: String::new(), activity: self.activity() })
    }

    fn activity(&self) -> Activity {
        let (snapshot, idle, busy_sessions) = self.work.report();
        Activity {
            sequence: snapshot.sequence,
            in_flight: snapshot.in_flight,
            busy_sessions,
            retrying: snapshot.retrying,
            pending_questions: 0, // a session that waits for a person is busy
            attached: if snapshot.draining { snapshot.attached.max(self.work.attached()) } else { snapshot.attached },
            idle,
            held: snapshot.held,
            draining: snapshot.draining,
            server_ready: snapshot.known,
            server_version: self.server.version(),
            server_exposed: self.server.exposed(),
            context_hash: self.text.borrow().clone(),
        }
    }
}

fn parse(message: &Message) -> Option<FromController> {
    let Message::Text(text) = message else { return None };
    serde_json::from_str(text).ok()
}

async fn send(socket: &mut Socket, message: FromSidecar) -> Result<(), WsError> {
    let text = serde_json::to_string(&message).unwrap_or_default(); // these types always serialise
    let sent = tokio::time::timeout(HEARTBEAT, socket.send(Message::text(text))).await;
    sent.unwrap_or(Err(WsError::ConnectionClosed))
}
