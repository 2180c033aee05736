//! One sidecar's connection, from its first word to its last.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use futures::{SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as WsError, Message,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};
use tokio_util::sync::CancellationToken;

use super::{AgentKey, Hub, ORDERS, Order, identity, throttle::Handshake};
use crate::api::voice::{Ack, FromController, FromSidecar, Hello, PROTOCOL};

/// A sidecar speaks every 10 s at least; one that is silent for longer than this is gone.
const SILENCE: Duration = Duration::from_secs(30);
const HELLO: Duration = Duration::from_secs(5);
/// Orders without an answer; the oldest is given up beyond.
const UNANSWERED: usize = 32;
const WRITE: Duration = Duration::from_secs(5);
/// Longest message of a sidecar.
const MAX_MESSAGE: usize = crate::api::voice::MAX_REPORT;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Small buffers: ten thousand of these must fit into a controller's memory.
fn buffers() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(1 << 10)
        .write_buffer_size(0)
        .max_write_buffer_size(64 << 10)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

/// Listens until the connection ends or `stop`.
pub(super) async fn talk(
    hub: Hub,
    stream: Upgraded,
    who: identity::Identity,
    handshake: Handshake,
    stop: CancellationToken,
) {
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Server, Some(buffers())).await;
    let Ok(Some(hello)) = tokio::time::timeout(HELLO, hello(&mut socket)).await else {
        return goodbye(&mut socket, CloseCode::Policy, "say hello first").await;
    };
    if let Err(error) = identity::check_hello(&who, &hello) {
        tracing::warn!(pod = who.pod, namespace = who.namespace, %error, "a sidecar was refused");
        return goodbye(&mut socket, CloseCode::Policy, "the token says otherwise").await;
    }
    let key = AgentKey::new(&who.namespace, &hello.agent);
    drop((hello, handshake));
    let (orders, inbox) = mpsc::channel(ORDERS);
    let connection = hub.0.table.lock().connect(&key, &who.pod, &who.pod_uid, orders, Instant::now());
    let mut talk = Talk { hub, key, uid: who.pod_uid.clone(), connection, next: 0, unanswered: VecDeque::new() };
    let leadership = talk.hub.0.leadership.clone();
    let why = tokio::select! {
        why = talk.run(&mut socket, inbox) => why,
        () = stop.cancelled() => "this replica stops",
        () = lost(leadership) => "this replica leads no more",
    };
    tracing::debug!(pod = who.pod, namespace = who.namespace, why, "a sidecar's connection ends");
    drop(talk);
    goodbye(&mut socket, CloseCode::Away, "try again").await;
}

/// Resolves when this replica leads no more.
async fn lost(mut leadership: tokio::sync::watch::Receiver<super::Leadership>) {
    if leadership.wait_for(|now| *now != super::Leadership::Leader).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn hello(socket: &mut Socket) -> Option<Hello> {
    while let Some(Ok(message)) = socket.next().await {
        match parse(&message) {
            Some(FromSidecar::Hello(hello)) => return Some(hello),
            Some(_) => return None,
            None => {}
        }
    }
    None
}

async fn goodbye(socket: &mut Socket, code: CloseCode, why: &'static str) {
    let frame = CloseFrame { code, reason: why.into() };
    let _ = tokio::time::timeout(WRITE, socket.close(Some(frame))).await;
}

/// Pings and pongs are none; what cannot be read is of a newer sidecar, and skipped.
fn parse(message: &Message) -> Option<FromSidecar> {
    let Message::Text(text) = message else { return None };
    serde_json::from_str(text).ok()
}

struct Talk {
    hub: Hub,
    key: AgentKey,
    uid: String,
    connection: u64,
    /// Id of the last order.
    next: u64,
    unanswered: VecDeque<(u64, oneshot::Sender<Ack>)>,
}

impl Drop for Talk {
    fn drop(&mut self) {
        let gone = self.hub.0.table.lock().disconnect(&self.key, &self.uid, self.connection);
        if gone {
            self.hub.tell(&self.key);
        }
    }
}

impl Talk {
    /// Returns why it ended.
    async fn run(&mut self, socket: &mut Socket, mut inbox: mpsc::Receiver<Order>) -> &'static str {
        self.hub.tell(&self.key);
        if send(socket, &FromController::Welcome { protocol: PROTOCOL }).await.is_err() {
            return "the welcome was not taken";
        }
        loop {
            tokio::select! {
                heard = tokio::time::timeout(SILENCE, socket.next()) => match heard {
                    Ok(Some(Ok(message))) => {
                        self.hear(&message);
                        // Reading a ping queues its answer; flushing sends it.
                        if tokio::time::timeout(WRITE, socket.flush()).await.is_err() {
                            return "it does not read";
                        }
                    }
                    Ok(Some(Err(error))) => {
                        tracing::debug!(%error, "a sidecar's connection broke");
                        return "it broke";
                    }
                    Ok(None) => return "it was closed",
                    Err(_) => return "it is silent",
                },
                order = inbox.recv() => {
                    // A closed inbox: a newer connection of this pod took its place.
                    let Some(order) = order else { return "a newer one took its place" };
                    let message = self.number(order);
                    if send(socket, &message).await.is_err() {
                        return "an order was not taken";
                    }
                }
            }
        }
    }

    fn number(&mut self, order: Order) -> FromController {
        self.next += 1;
        if self.unanswered.len() >= UNANSWERED {
            self.unanswered.pop_front();
        }
        let message = (order.make)(self.next, &order.wish);
        self.unanswered.push_back((self.next, order.answer));
        message
    }

    fn hear(&mut self, message: &Message) {
        match parse(message) {
            Some(FromSidecar::Activity(activity)) => self.note(activity),
            Some(FromSidecar::Ack(ack)) => {
                self.note(ack.activity.clone());
                if let Some(at) = self.unanswered.iter().position(|(id, _)| *id == ack.id)
                    && let Some((_, answer)) = self.unanswered.remove(at)
                {
                    let _ = answer.send(ack); // who asked may have given up
                }
            }
            Some(FromSidecar::Content(report)) => {
                let news = self.hub.0.table.lock().told_content(&self.key, &self.uid, self.connection, report);
                if news {
                    self.hub.tell(&self.key);
                }
            }
            Some(FromSidecar::Hello(_) | FromSidecar::Unknown) | None => {}
        }
    }

    fn note(&self, activity: crate::api::voice::Activity) {
        let heard = self.hub.0.table.lock().heard(&self.key, &self.uid, self.connection, activity, Instant::now());
        if heard {
            self.hub.tell(&self.key);
        }
    }
}

async fn send(socket: &mut Socket, message: &FromController) -> Result<(), WsError> {
    let text = serde_json::to_string(message).unwrap_or_default(); // these types always serialise
    let sent = tokio::time::timeout(WRITE, socket.send(Message::text(text))).await;
    sent.unwrap_or(Err(WsError::ConnectionClosed))
}
