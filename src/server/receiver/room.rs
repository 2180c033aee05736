//! Places for connections and for bodies that are read: no peer has all of them.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{limit::network, peer::Range};
use crate::net::lobby::{Guest, Lobby};

/// Connections at once, of proxies and of all others each.
const CONNECTIONS: usize = 1024;
/// Bodies that are read at a time; what is kept of them is 32 MiB together.
const READERS: usize = 128;
/// Bodies of one peer at a time; an IPv6 network of 64 bits is one.
const READERS_OF_PEER: usize = 32;

/// Connections. A new one always finds a place: the address with most of them loses its oldest. A proxy has many for
/// others, so those are never cut; where proxies have too many, the new one is refused.
pub(super) struct Connections {
    strangers: Lobby,
    proxies: Arc<Semaphore>,
}

/// A place for a connection; given back when dropped.
pub(super) enum Place {
    Stranger(Guest),
    Proxy { _permit: OwnedSemaphorePermit },
}

impl Default for Connections {
    fn default() -> Self {
        Self { strangers: Lobby::new(CONNECTIONS), proxies: Arc::new(Semaphore::new(CONNECTIONS)) }
    }
}

impl Connections {
    /// `None` where proxies have all that there are for them.
    pub(super) fn enter(&self, from: IpAddr, trusted: &[Range]) -> Option<Place> {
        if trusted.iter().any(|range| range.contains(from)) {
            let permit = self.proxies.clone().try_acquire_owned().ok()?;
            return Some(Place::Proxy { _permit: permit });
        }
        Some(Place::Stranger(self.strangers.enter(from)))
    }
}

impl Place {
    /// Resolves when the place is needed for somebody else.
    pub(super) async fn shown_out(&self) {
        match self {
            Self::Stranger(guest) => guest.shown_out().await,
            Self::Proxy { .. } => std::future::pending().await,
        }
    }
}

/// Bodies that are read.
pub(super) struct Readers {
    all: Arc<Semaphore>,
    peers: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

/// A body that is read; dropping it lets the next one in.
pub(super) struct Reading {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Default for Readers {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(READERS)), peers: Mutex::default() }
    }
}

impl Readers {
    /// Waits for a place: first among those of the peer, so that a slow one keeps nobody else waiting. `None` never comes
    /// in practice: the semaphores are not closed.
    pub(super) async fn begin(&self, peer: IpAddr) -> Option<Reading> {
        let own = self.of(peer).acquire_owned().await.ok()?;
        let all = self.all.clone().acquire_owned().await.ok()?;
        Some(Reading { _own: own, _all: all })
    }

    fn of(&self, peer: IpAddr) -> Arc<Semaphore> {
        let mut peers = self.peers.lock();
        if peers.len() > 1000 {
            peers.retain(|_, places| Arc::strong_count(places) > 1);
        }
        let new = || Arc::new(Semaphore::new(READERS_OF_PEER));
        peers.entry(network(peer)).or_insert_with(new).clone()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_new_connection_finds_a_place_and_a_proxy_s_are_not_cut() {
        let (connections, trusted) = (Connections::default(), ["10.0.0.0/8".parse().unwrap()]);
        let enter = |from: &str| connections.enter(ip(from), &trusted);
        let proxied: Vec<Place> = (0..CONNECTIONS).filter_map(|_| enter("10.0.0.1")).collect();
        let greedy: Vec<Place> = (0..CONNECTIONS).filter_map(|_| enter("203.0.113.1")).collect();
        assert_eq!((proxied.len(), greedy.len()), (CONNECTIONS, CONNECTIONS));
        let modest = enter("203.0.113.2").unwrap();
        assert!(greedy[0].shown_out().now_or_never().is_some() && greedy[1].shown_out().now_or_never().is_none());
        assert!(modest.shown_out().now_or_never().is_none());
        assert!(enter("10.0.0.2").is_none() && proxied[0].shown_out().now_or_never().is_none());
        drop(proxied);
        assert!(enter("10.0.0.2").is_some());
    }

    #[test]
    fn a_peer_reads_a_quarter_of_all_bodies_at_most() {
        let readers = Readers::default();
        let begin = |from: &str| readers.begin(ip(from)).now_or_never().flatten();
        let of_one: Vec<Reading> = (0..READERS).map_while(|_| begin("203.0.113.1")).collect();
        assert_eq!(of_one.len(), READERS / 4);
        assert!(begin("::ffff:203.0.113.1").is_none(), "the same address in another coat");
        let of_network: Vec<Reading> = (0..READERS).map_while(|n| begin(&format!("2001:db8::{n:x}"))).collect();
        assert_eq!(of_network.len(), READERS / 4);
        assert!(begin("2001:db8:0:1::1").is_some());
        drop(of_one);
        assert!(begin("203.0.113.1").is_some());
    }
}
