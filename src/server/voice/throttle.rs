//! How much of the door one address may have: handshakes at once, and failing reviews of tokens (no I/O; times are given).

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Connections at once that have not said hello, from all addresses.
pub(super) const HANDSHAKES: usize = 256;
/// The same from one address. Behind it may be a node with all its pods, each of which needs some milliseconds.
pub(super) const HANDSHAKES_OF_ONE: usize = 16;

/// Reviews of tokens that an address may have failed, or have under way, at once, ...
const FAILURES: usize = 16;
/// ... and how long until one of them is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(5);
/// What all addresses of an IPv6 network have together, in budgets of one.
const WIDER: usize = 8;
/// Addresses that are remembered; all beyond share one budget.
const ADDRESSES: usize = 4096;

/// Whom something is counted for: an address, or the 64 bits of a network.
type Whom = (IpAddr, u8);

/// An address counts for itself. A host may have a whole IPv6 network of 64 bits, but so may a node with all its pods
/// (the default of Kubernetes), so the network has a budget of its own, [`WIDER`] times as large.
fn whoms(from: IpAddr) -> impl Iterator<Item = (Whom, usize)> {
    let host = from.to_canonical();
    let network = match host {
        IpAddr::V6(v6) => Some(((IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)), 64), WIDER)),
        IpAddr::V4(_) => None,
    };
    std::iter::once(((host, 128), 1)).chain(network)
}

/// Connections that have not said hello. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Handshakes(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    all: usize,
    of: HashMap<Whom, usize>,
}

/// One of them; dropping it ends it.
#[derive(Debug)]
pub(super) struct Handshake {
    all: Handshakes,
    from: IpAddr,
}

impl Handshakes {
    /// Begins one, unless there are too many.
    pub(super) fn begin(&self, from: IpAddr) -> Option<Handshake> {
        let mut open = self.0.lock();
        let full = |(whom, times)| open.of.get(&whom).is_some_and(|n| *n >= HANDSHAKES_OF_ONE * times);
        if open.all >= HANDSHAKES || whoms(from).any(full) {
            return None;
        }
        open.all += 1;
        for (whom, _) in whoms(from) {
            *open.of.entry(whom).or_default() += 1;
        }
        Some(Handshake { all: self.clone(), from })
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut open = self.all.0.lock();
        open.all -= 1;
        for (whom, _) in whoms(self.from) {
            if let Some(n) = open.of.get_mut(&whom) {
                *n -= 1;
                if *n == 0 {
                    open.of.remove(&whom);
                }
            }
        }
    }
}

/// Failed reviews by address: a bucket each, which runs empty again.
#[derive(Debug, Default)]
pub(super) struct Failures(HashMap<Whom, (u32, Instant)>);

impl Failures {
    /// Counts a review as failed before it is known, unless there were too many.
    pub(super) fn suppose(&mut self, from: IpAddr, now: Instant) -> bool {
        let whoms: Vec<_> = whoms(from).map(|(whom, times)| (self.known(whom, now), times)).collect();
        let mut may = true;
        for (whom, times) in &whoms {
            let (count, since) = self.0.entry(*whom).or_insert((0, now));
            leak(count, since, now, *times);
            may &= (*count as usize) < FAILURES * times;
        }
        for (whom, _) in &whoms {
            if let Some((count, _)) = self.0.get_mut(whom) {
                *count += u32::from(may);
            }
        }
        may
    }

    /// It did not fail after all.
    pub(super) fn forgive(&mut self, from: IpAddr, now: Instant) {
        for (whom, _) in whoms(from) {
            let whom = self.known(whom, now);
            if let Some((count, _)) = self.0.get_mut(&whom) {
                *count = count.saturating_sub(1);
            }
        }
    }

    /// The key under which an address is remembered.
    fn known(&mut self, whom: Whom, now: Instant) -> Whom {
        if self.0.len() >= ADDRESSES && !self.0.contains_key(&whom) {
            self.0.retain(|(_, bits), (count, since)| {
                leak(count, since, now, if *bits == 64 { WIDER } else { 1 });
                *count > 0
            });
        }
        let room = self.0.len() < ADDRESSES || self.0.contains_key(&whom);
        if room { whom } else { (IpAddr::V6(Ipv6Addr::UNSPECIFIED), whom.1) }
    }
}

/// Forgets what is long ago; a larger budget as many times faster.
fn leak(count: &mut u32, since: &mut Instant, now: Instant, times: usize) {
    let forgotten = now.saturating_duration_since(*since).as_secs() / FORGOTTEN.as_secs();
    let forgotten = u32::try_from(forgotten).unwrap_or(u32::MAX);
    *count = count.saturating_sub(forgotten.saturating_mul(u32::try_from(times).unwrap_or(1)));
    *since = if *count == 0 { now } else { *since + FORGOTTEN * forgotten };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::from((0x0a00_0000 + n).to_be_bytes())
    }

    #[test]
    fn one_address_leaves_room_for_others() {
        let all = Handshakes::default();
        let mut flood: Vec<_> = (0..1000).filter_map(|_| all.begin(address(1))).collect();
        assert_eq!(flood.len(), HANDSHAKES_OF_ONE);
        let mapped = IpAddr::V6("::ffff:10.0.0.1".parse().unwrap());
        assert!(all.begin(mapped).is_none(), "the same address in another coat");
        assert!(all.begin(address(2)).is_some());
        flood.pop();
        assert!(all.begin(address(1)).is_some(), "one ended");
        let many: Vec<_> = (0..1000).filter_map(|n| all.begin(address(10 + n))).collect();
        assert_eq!(flood.len() + many.len(), HANDSHAKES);
        drop((flood, many));
        let open = all.0.lock();
        assert!(open.of.is_empty() && open.all == 0);
    }

    /// The `n`th pod of a node whose pods have addresses of one network.
    fn neighbour(n: u16) -> IpAddr {
        IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 2, 3, 0, 0, 0, n))
    }

    #[test]
    fn a_neighbour_in_the_same_network_is_somebody_else() {
        let all = Handshakes::default();
        let flood: Vec<_> = (0..1000).filter_map(|_| all.begin(neighbour(1))).collect();
        assert_eq!(flood.len(), HANDSHAKES_OF_ONE);
        assert!(all.begin(neighbour(2)).is_some());
        let network: Vec<_> = (2..1000).filter_map(|n| all.begin(neighbour(n))).collect();
        assert_eq!(flood.len() + network.len(), HANDSHAKES_OF_ONE * WIDER, "who has a network has not all");
        assert!(all.begin(address(1)).is_some());

        let (mut failures, now) = (Failures::default(), Instant::now());
        let tried = (0..100).filter(|_| failures.suppose(neighbour(1), now)).count();
        assert_eq!((tried, failures.suppose(neighbour(2), now)), (16, true));
        let network = (3..1000).filter(|n| failures.suppose(neighbour(*n), now)).count();
        assert_eq!(network, 16 * WIDER - 17);
        failures.forgive(neighbour(2), now);
        assert!(failures.suppose(neighbour(2), now) && !failures.suppose(neighbour(2), now));
        let later = (0..1000).filter(|n| failures.suppose(neighbour(*n), now + FORGOTTEN)).count();
        assert_eq!(later, WIDER);
    }

    #[test]
    fn failing_reviews_are_few_and_forgotten() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        let tried = |failures: &mut Failures, now| (0..100).filter(|_| failures.suppose(address(1), now)).count();
        assert_eq!(tried(&mut failures, now), 16);
        assert!(failures.suppose(address(2), now), "others are not meant");
        assert_eq!(tried(&mut failures, now + FORGOTTEN / 2), 0);
        assert_eq!(tried(&mut failures, now + FORGOTTEN * 3), 3);
        assert_eq!(tried(&mut failures, now + FORGOTTEN * 100), 16);
        for _ in 0..100 {
            let later = now + FORGOTTEN * 200;
            assert!(failures.suppose(address(3), later), "who succeeds is never refused");
            failures.forgive(address(3), later);
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        let passed = (0..10_000).filter(|n| failures.suppose(address(*n), now)).count();
        assert_eq!((passed, failures.0.len()), (ADDRESSES + 16, ADDRESSES + 1));
        assert!(failures.suppose(address(20_000), now + FORGOTTEN * 2), "the forgotten make room");
    }
}
