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
const FAILURES: u32 = 16;
/// ... and how long until one of them is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(5);
/// Addresses that are remembered; all beyond share one budget.
const ADDRESSES: usize = 4096;

/// Who comes: an IPv4 address, or an IPv6 network of 64 bits, of which one host has all addresses.
fn whom(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Connections that have not said hello. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Handshakes(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of them; dropping it ends it.
#[derive(Debug)]
pub(super) struct Handshake {
    all: Handshakes,
    whom: IpAddr,
}

impl Handshakes {
    /// Begins one, unless there are too many.
    pub(super) fn begin(&self, from: IpAddr) -> Option<Handshake> {
        let (whom, mut all) = (whom(from), self.0.lock());
        if all.values().sum::<usize>() >= HANDSHAKES || all.get(&whom).is_some_and(|n| *n >= HANDSHAKES_OF_ONE) {
            return None;
        }
        *all.entry(whom).or_default() += 1;
        Some(Handshake { all: self.clone(), whom })
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut all = self.all.0.lock();
        if let Some(n) = all.get_mut(&self.whom) {
            *n -= 1;
            if *n == 0 {
                all.remove(&self.whom);
            }
        }
    }
}

/// Failed reviews by address: a bucket each, which runs empty again.
#[derive(Debug, Default)]
pub(super) struct Failures(HashMap<IpAddr, (u32, Instant)>);

impl Failures {
    /// Counts a review as failed before it is known, unless there were too many.
    pub(super) fn suppose(&mut self, from: IpAddr, now: Instant) -> bool {
        let whom = self.known(whom(from), now);
        let (count, since) = self.0.entry(whom).or_insert((0, now));
        leak(count, since, now);
        let may = *count < FAILURES;
        *count += u32::from(may);
        may
    }

    /// It did not fail after all.
    pub(super) fn forgive(&mut self, from: IpAddr, now: Instant) {
        let whom = self.known(whom(from), now);
        if let Some((count, _)) = self.0.get_mut(&whom) {
            *count = count.saturating_sub(1);
        }
    }

    /// The key under which an address is remembered.
    fn known(&mut self, whom: IpAddr, now: Instant) -> IpAddr {
        if self.0.len() >= ADDRESSES && !self.0.contains_key(&whom) {
            self.0.retain(|_, (count, since)| {
                leak(count, since, now);
                *count > 0
            });
        }
        let room = self.0.len() < ADDRESSES || self.0.contains_key(&whom);
        if room { whom } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) }
    }
}

fn leak(count: &mut u32, since: &mut Instant, now: Instant) {
    let forgotten = now.saturating_duration_since(*since).as_secs() / FORGOTTEN.as_secs();
    *count = count.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX));
    *since = if *count == 0 { now } else { *since + FORGOTTEN * u32::try_from(forgotten).unwrap_or(0) };
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
        let neighbours = ["fd00::1:1", "fd00::2:2"].map(|a| whom(a.parse().unwrap()));
        assert_eq!(neighbours[0], neighbours[1], "one network is one guest");
        flood.pop();
        assert!(all.begin(address(1)).is_some(), "one ended");
        let many: Vec<_> = (0..1000).filter_map(|n| all.begin(address(10 + n))).collect();
        assert_eq!(flood.len() + many.len(), HANDSHAKES);
        drop((flood, many));
        assert!(all.0.lock().is_empty());
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
