//! Connections to the door: strangers, the kubelet's waiting hooks, and those who have shown the password. Each kind has
//! room of its own, so that none is in the way of another.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::net::lobby::{Guest, Lobby};

/// Connections at once that have shown the password; others are told to come again.
const MAX_CLIENTS: usize = 1024;
/// Connections at once that have not, the kubelet's probes among them; see [`Lobby`].
const MAX_STRANGERS: usize = 128;
/// Hooks at once that wait for the end of work: the kubelet's, and whoever asks the same.
const MAX_WAITING: usize = 32;
/// The same from the address that [asks the probes](Prober): the kubelet's, which needs one and perhaps a second try.
const MAX_OF_PROBER: usize = 4;
/// A connection that has not shown the password by then is closed; longer than a probe takes.
const STRANGER: Duration = Duration::from_secs(8);
/// Who asks no probe for so long is the prober no more; the kubelet asks every 10 s, and waits for 5 s.
const BREAK: Duration = Duration::from_mins(1);

/// Room for all.
#[derive(Clone, Debug)]
pub struct Hall {
    strangers: Lobby,
    waiting: Lobby,
    of_prober: Lobby,
    prober: Arc<Mutex<Prober>>,
    known: Arc<Semaphore>,
}

impl Default for Hall {
    fn default() -> Self {
        let known = Arc::new(Semaphore::new(MAX_CLIENTS));
        Self {
            strangers: Lobby::new(MAX_STRANGERS),
            waiting: Lobby::new(MAX_WAITING),
            of_prober: Lobby::new(MAX_OF_PROBER),
            prober: Arc::default(),
            known,
        }
    }
}

/// Who has asked the probes for longest without a break, from the time when only the kubelet knew of this pod. Nothing
/// else tells its address: it depends on the network plugin.
#[derive(Debug, Default)]
struct Prober(Option<(IpAddr, Instant)>);

impl Prober {
    fn asks(&mut self, from: IpAddr, now: Instant) {
        let from = from.to_canonical();
        if self.0.is_none_or(|(address, at)| address == from || now.saturating_duration_since(at) > BREAK) {
            self.0 = Some((from, now));
        }
    }

    fn is(&self, from: IpAddr, now: Instant) -> bool {
        let from = from.to_canonical();
        self.0.is_some_and(|(address, at)| address == from && now.saturating_duration_since(at) <= BREAK)
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

    /// A probe was asked.
    pub fn probes(&self) {
        self.hall.prober.lock().asks(self.from, Instant::now());
    }

    /// A hook that may wait for long: it has one of the places for those. `None` where there is none.
    pub fn wait(&self) -> Option<Guest> {
        let guest = if self.hall.prober.lock().is(self.from, Instant::now()) {
            self.hall.of_prober.enter(self.from)
        } else {
            self.hall.waiting.stay(self.from)?
        };
        let mut place = self.place.lock();
        if matches!(*place, Place::Stranger { .. }) {
            *place = Place::Waits;
        }
        self.passed.cancel();
        Some(guest)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    #[test]
    fn as_many_pods_as_there_are_places_do_not_cut_the_hook_off() {
        let hall = Hall::default();
        let kubelet = hall.enter(address(1));
        kubelet.probes();
        let others: Vec<Caller> = (2..60).map(|n| hall.enter(address(n))).collect();
        others.iter().for_each(Caller::probes);
        let early = hall.enter(address(1)).wait().unwrap();
        let waiting: Vec<Guest> = others.iter().filter_map(Caller::wait).collect();
        assert_eq!(waiting.len(), MAX_WAITING);
        let late = kubelet.wait().expect("a place of its own");
        assert!([&early, &late].iter().chain(&waiting.iter().collect::<Vec<_>>()).all(|g| !g.token().is_cancelled()));
    }

    #[test]
    fn the_first_who_asks_is_the_prober_until_it_stops() {
        let (mut prober, start) = (Prober::default(), Instant::now());
        assert!(!prober.is(address(1), start));
        prober.asks(address(1), start);
        for n in 1..=20 {
            let now = start + BREAK / 2 * n;
            prober.asks(address(2), now);
            prober.asks("::ffff:10.0.0.1".parse().unwrap(), now);
            assert!(prober.is(address(1), now) && !prober.is(address(2), now));
        }
        let gone = start + BREAK * 10 + BREAK * 2;
        assert!(!prober.is(address(1), gone));
        prober.asks(address(2), gone);
        assert!(prober.is(address(2), gone));
    }
}
