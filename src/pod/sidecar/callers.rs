//! Connections to the door: strangers, the kubelet's waiting hooks, and those who have shown the password. Each kind has
//! room of its own, so that none is in the way of another.

use std::{net::IpAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::lobby::{Guest, Lobby};

/// Connections at once that have shown the password; others are told to come again.
const MAX_CLIENTS: usize = 1024;
/// Connections at once that have not, the kubelet's probes among them; see [`Lobby`].
const MAX_STRANGERS: usize = 128;
/// Hooks at once that wait for the end of work: the kubelet's, and whoever asks the same.
const MAX_WAITING: usize = 32;
/// A connection that has not shown the password by then is closed; longer than a probe takes.
const STRANGER: Duration = Duration::from_secs(8);

/// Room for all.
#[derive(Clone, Debug)]
pub struct Hall {
    strangers: Lobby,
    waiting: Lobby,
    known: Arc<Semaphore>,
}

impl Default for Hall {
    fn default() -> Self {
        let known = Arc::new(Semaphore::new(MAX_CLIENTS));
        Self { strangers: Lobby::new(MAX_STRANGERS), waiting: Lobby::new(MAX_WAITING), known }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Caller {
    hall: Hall,
    from: IpAddr,
    shown_out: CancellationToken,
    /// It is a stranger no more.
    passed: CancellationToken,
    place: Mutex<Place>,
}

#[derive(Debug)]
enum Place {
    Stranger { _guest: Guest },
    Waits,
    Known { _permit: OwnedSemaphorePermit },
}

impl Hall {
    /// A new connection, a stranger.
    pub fn enter(&self, from: IpAddr) -> Caller {
        let guest = self.strangers.enter(from);
        let (shown_out, passed) = (guest.token(), CancellationToken::new());
        Caller { hall: self.clone(), from, shown_out, passed, place: Mutex::new(Place::Stranger { _guest: guest }) }
    }
}

impl Caller {
    /// The password was right: the connection takes one of the places for those who know it. Whether there is one.
    pub fn is_known(&self) -> bool {
        let mut place = self.place.lock();
        if matches!(*place, Place::Known { .. }) {
            return true;
        }
        let Ok(permit) = self.hall.known.clone().try_acquire_owned() else { return false };
        *place = Place::Known { _permit: permit };
        self.passed.cancel();
        true
    }

    /// A hook that may wait for long: it has one of the places for those.
    pub fn wait(&self) -> Guest {
        let guest = self.hall.waiting.enter(self.from);
        let mut place = self.place.lock();
        if matches!(*place, Place::Stranger { .. }) {
            *place = Place::Waits;
        }
        self.passed.cancel();
        guest
    }

    /// Resolves when a stranger must go: it was there for too long, or somebody else needs the place.
    pub async fn overstays(&self) {
        tokio::select! {
            () = self.passed.cancelled() => std::future::pending().await,
            () = self.shown_out.cancelled() => {}
            () = tokio::time::sleep(STRANGER) => {}
        }
    }
}
