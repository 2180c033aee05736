//! Who is at the door and has not shown the password: a few, and never the same one's too long.
//!
//! The kubelet's probes come without a password, as does whoever only wants to be in the way. So strangers have few
//! places, and a new one always gets one: when all are taken, the address that has most of them loses its oldest.

use std::{net::IpAddr, sync::Arc};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Places for a kind of guests. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lobby(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    places: usize,
    guests: Mutex<Guests>,
}

#[derive(Debug, Default)]
struct Guests {
    next: u64,
    /// Oldest first.
    list: Vec<(u64, IpAddr, CancellationToken)>,
}

/// A place that is taken; dropping it frees it.
#[derive(Debug)]
pub struct Guest {
    lobby: Lobby,
    id: u64,
    shown_out: CancellationToken,
}

impl Lobby {
    /// So many places, at least one.
    pub fn new(places: usize) -> Self {
        Self(Arc::new(Inner { places: places.max(1), guests: Mutex::default() }))
    }

    /// Takes a place for somebody from this address. Somebody else may have to go.
    pub fn enter(&self, from: IpAddr) -> Guest {
        let (from, shown_out) = (from.to_canonical(), CancellationToken::new());
        let mut guests = self.0.guests.lock();
        if guests.list.len() >= self.0.places {
            guests.show_one_out();
        }
        guests.next += 1;
        let id = guests.next;
        guests.list.push((id, from, shown_out.clone()));
        Guest { lobby: self.clone(), id, shown_out }
    }

    /// Places that are taken.
    pub fn len(&self) -> usize {
        self.0.guests.lock().list.len()
    }

    /// Whether nobody is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Guests {
    fn show_one_out(&mut self) {
        let of = |from: &IpAddr| self.list.iter().filter(|guest| guest.1 == *from).count();
        // Of several with the same number, the one that has the oldest guest.
        let oldest = (0..self.list.len()).rev().max_by_key(|at| of(&self.list[*at].1));
        if let Some(at) = oldest {
            self.list.remove(at).2.cancel();
        }
    }
}

impl Guest {
    /// Cancelled when the place is needed for somebody else.
    pub fn token(&self) -> CancellationToken {
        self.shown_out.clone()
    }

    /// Resolves when the place is needed for somebody else.
    pub async fn shown_out(&self) {
        self.shown_out.cancelled().await;
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.lobby.0.guests.lock().list.retain(|guest| guest.0 != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_most_places_loses_the_oldest() {
        let address = |n: u8| IpAddr::from([10, 0, 0, n]);
        let lobby = Lobby::new(4);
        let out = |guests: &[Guest]| guests.iter().map(|g| g.shown_out.is_cancelled()).collect::<Vec<_>>();
        let mut guests: Vec<Guest> = [1, 2, 2, 2].map(|n| lobby.enter(address(n))).into();
        guests.push(lobby.enter(address(3)));
        assert_eq!(out(&guests), [false, true, false, false, false]);
        guests.push(lobby.enter(address(2)));
        guests.push(lobby.enter(address(2)));
        assert_eq!(out(&guests), [false, true, true, true, false, false, false]);
        assert_eq!(lobby.len(), 4);
        let mapped: IpAddr = "::ffff:10.0.0.2".parse().unwrap();
        guests.push(lobby.enter(mapped));
        assert!(guests[5].shown_out.is_cancelled(), "the same address in another coat");
        drop(guests);
        assert!(lobby.is_empty());
    }

    #[test]
    fn where_all_have_one_the_oldest_goes() {
        let lobby = Lobby::new(3);
        let guests = [1, 2, 3, 4, 5].map(|n| lobby.enter(IpAddr::from([10, 0, 0, n])));
        assert_eq!(guests.map(|g| g.shown_out.is_cancelled()), [true, true, false, false, false]);
    }
}
