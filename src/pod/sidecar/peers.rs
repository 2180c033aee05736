//! The other pods of the agent, while there are several. A session lives in one pod, and the Service leads anywhere: who
//! comes to the wrong door for it is led to the right one.
//!
//! The controller says which pods there are. Who has what is asked when it is needed, and remembered until there are
//! other pods.

mod thing;

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::Incoming;
use parking_lot::Mutex;

pub use thing::Thing;

use super::auth::Lock;
use crate::{
    api::voice::Peer,
    pod::opencode::{Client, Door, Error, POD_HEADER},
};

/// Whose things are remembered; beyond, all is forgotten and asked for again.
const MOST_KNOWN: usize = 4096;
/// More pods than this an agent never has.
const MOST_PEERS: usize = 8;

/// The other pods. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Uid of this pod.
    own: Arc<str>,
    server: Client,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    list: Vec<Arc<Other>>,
    /// Who has what; `None` is this pod.
    known: HashMap<Thing, Option<Arc<Other>>>,
}

/// Another pod.
#[derive(Debug, PartialEq, Eq)]
pub struct Other {
    door: SocketAddr,
    pod: HeaderValue,
}

impl Peers {
    /// Nobody yet. `own` is the uid of this pod, `server` what is behind its door.
    pub fn new(own: &str, server: Client) -> Self {
        Self { own: own.into(), server, state: Arc::default() }
    }

    /// These are the agent's pods now, this one perhaps among them.
    pub fn set(&self, peers: &[Peer]) {
        let others = peers.iter().filter(|peer| *peer.pod != *self.own && !peer.pod.is_empty());
        let others =
            others.filter_map(|p| Some(Other { door: p.door.parse().ok()?, pod: HeaderValue::from_str(&p.pod).ok()? }));
        let list: Vec<_> = others.take(MOST_PEERS).map(Arc::new).collect();
        let mut state = self.state.lock();
        if state.list != list {
            *state = State { list, known: HashMap::new() };
        }
    }

    /// Which other pod a request is for; `None` where it is this one, or nobody knows. The lock says with what the request
    /// has shown that it may pass, so that it does so there.
    pub async fn has<B>(&self, request: &Request<B>, lock: &Lock) -> Option<Arc<Other>> {
        // Who names a pod means it, and a door that sends a request on does.
        if self.state.lock().list.is_empty() || request.headers().contains_key(POD_HEADER) {
            return None;
        }
        let thing = Thing::of(request.uri().path())?;
        if let Some(known) = self.state.lock().known.get(&thing) {
            return known.clone();
        }
        let directory = request.headers().get("x-opencode-directory").and_then(|d| d.to_str().ok());
        let at = |client: Client| directory.map_or(client.clone(), |directory| client.in_directory(directory));
        if thing.is_at(&at(self.server.clone())).await? {
            self.remember(thing, None);
            return None;
        }
        let (list, pass) = (self.state.lock().list.clone(), lock.pass(request.headers()));
        for other in list {
            let client = Client::of_door(&other.door(lock), pass.clone());
            if thing.is_at(&at(client)).await == Some(true) {
                self.remember(thing, Some(other.clone()));
                return Some(other);
            }
        }
        None
    }

    fn remember(&self, thing: Thing, other: Option<Arc<Other>>) {
        let mut state = self.state.lock();
        // Meanwhile that pod may be gone.
        if other.as_ref().is_some_and(|other| !state.list.contains(other)) {
            return;
        }
        if state.known.len() >= MOST_KNOWN {
            state.known.clear();
        }
        state.known.insert(thing, other);
    }
}

impl Other {
    fn door(&self, lock: &Lock) -> Door {
        Door { address: self.door, pod: self.pod.clone(), key: lock.key() }
    }

    /// Takes a request there as it is.
    ///
    /// # Errors
    /// It is not reached, or another one has its address.
    pub async fn take(&self, request: Request<Incoming>, lock: &Lock) -> Result<Response<Incoming>, Error> {
        self.door(lock).take(request).await
    }

    /// Whether an answer comes from there.
    pub fn has_signed(&self, headers: &HeaderMap) -> bool {
        headers.get(POD_HEADER) == Some(&self.pod)
    }
}
