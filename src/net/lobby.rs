//! Who is at the door and has not shown the password: a few, and never the same one's too long.
//!
//! The kubelet's probes come without a password, as does whoever only wants to be in the way. So strangers have few
//! places, and a new one gets one from the address that has most of them, which loses its oldest. Where each address has
//! one only, it depends on the kind of guest: who needs a moment comes in for the oldest ([`Lobby::enter`]), who came to
//! stay is not shown out for somebody new ([`Lobby::stay`]).

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

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
        let mut guests = self.0.guests.lock();
        if guests.list.len() >= self.0.places {
            guests.show_one_out();
        }
        self.seat(&mut guests, from)
    }

    /// The same for somebody who waits for long: `None` where all places are taken by addresses that have one each.
    pub fn stay(&self, from: IpAddr) -> Option<Guest> {
        let mut guests = self.0.guests.lock();
        if guests.list.len() >= self.0.places {
            if guests.each_has_one() {
                return None;
            }
            guests.show_one_out();
        }
        Some(self.seat(&mut guests, from))
    }

    fn seat(&self, guests: &mut Guests, from: IpAddr) -> Guest {
        let (from, shown_out) = (from.to_canonical(), CancellationToken::new());
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
    fn each_has_one(&self) -> bool {
        let mut addresses = HashSet::new();
        self.list.iter().all(|guest| addresses.insert(guest.1))
    }

    fn show_one_out(&mut self) {
        let mut of: HashMap<IpAddr, usize> = HashMap::new();
        self.list.iter().for_each(|guest| *of.entry(guest.1).or_default() += 1);
        // Of several with the same number, the one that has the oldest guest.
        let oldest = (0..self.list.len()).rev().max_by_key(|at| of.get(&self.list[*at].1));
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

    #[test]
    fn who_came_to_stay_is_not_shown_out_for_a_newcomer() {
        let address = |n: u8| IpAddr::from([10, 0, 0, n]);
        let lobby = Lobby::new(3);
        let mut guests: Vec<_> = [1, 2, 3].iter().filter_map(|n| lobby.stay(address(*n))).collect();
        assert!(lobby.stay(address(4)).is_none() && lobby.stay(address(1)).is_none());
        assert!(guests.iter().all(|guest| !guest.shown_out.is_cancelled()));
        guests.pop();
        let again = lobby.stay(address(2)).unwrap();
        let new = lobby.stay(address(5)).unwrap();
        let out = [&guests[0], &guests[1], &again, &new].map(|guest| guest.shown_out.is_cancelled());
        assert_eq!(out, [false, true, false, false], "who has two loses one");
    }
}
