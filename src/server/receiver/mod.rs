//! Webhooks in: a delivery of a forge becomes the reconcile annotation of a Repository, and nothing else.
//!
//! What a delivery says is never used for anything but to spare a look that would certainly find nothing. Every
//! replica serves; none knows of the others, and none needs to: a look that is asked for twice is one more listing.
//!
//! Decisions are in the pure modules: [`forge`] (what a delivery is about), [`signature`], [`replay`], [`limit`],
//! [`peer`], [`lane`] (many deliveries, few writes), [`index`].

mod count;
mod deliver;
mod door;
pub mod forge;
pub mod index;
mod keys;
pub mod lane;
pub mod limit;
pub mod peer;
mod poke;
pub mod replay;
mod room;
pub mod signature;

use std::sync::Arc;

use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::{
    count::Counts, index::Index, keys::Keys, limit::Limits, peer::Range, poke::Pokes, replay::Replays, room::Readers,
};
use super::metrics::Metrics;
use crate::api::Repository;

/// Receives deliveries. What it knows of Repositories comes by [`apply`](Self::apply) and [`forget`](Self::forget).
pub struct Receiver {
    index: Arc<Mutex<Index>>,
    keys: Keys,
    pokes: Pokes,
    limits: Mutex<Limits>,
    replays: Mutex<Replays>,
    trusted: Vec<Range>,
    readers: Readers,
    counts: Counts,
}

impl Receiver {
    /// `rate` is in requests a second and peer; `trusted` are the proxies whose `X-Forwarded-For` is believed.
    pub fn new(client: &Client, metrics: &Metrics, rate: u32, trusted: Vec<Range>) -> Self {
        let index = Arc::new(Mutex::new(Index::new(rand::random())));
        Self {
            counts: Counts::new(metrics, &index),
            index,
            keys: Keys::new(client.clone()),
            pokes: Pokes::new(client.clone()),
            limits: Limits::new(rate).into(),
            replays: Mutex::default(),
            trusted,
            readers: Readers::default(),
        }
    }

    /// Takes up a Repository as it is now.
    pub fn apply(&self, object: &Repository) {
        self.index.lock().apply(object);
    }

    /// Forgets a Repository that is gone.
    pub fn forget(&self, object: &Repository) {
        let uid = object.uid().unwrap_or_default();
        self.index.lock().remove(&uid);
        self.keys.forget(&uid);
        self.pokes.forget(&uid);
    }

    /// Serves until `stop`; deliveries under way are then answered.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        door::serve(self, listener, stop).await;
    }
}
