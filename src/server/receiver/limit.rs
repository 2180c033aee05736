//! How much one peer may ask for (pure).

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::Instant,
};

/// Peers that are told apart; beyond it all begin anew.
const PEERS: usize = 10_000;
/// A burst is the rate of this many seconds.
const BURST_SECONDS: f64 = 10.0;
/// What all addresses of an IPv6 network have together, in budgets of one.
const WIDER: f64 = 8.0;
/// Bytes of a body that count like one more request.
const BYTES: f64 = 256.0 * 1024.0;

/// A bucket for each peer.
pub struct Limits {
    rate: f64,
    peers: HashMap<Whom, Bucket>,
}

/// An address, or the 64 bits of a network.
type Whom = (IpAddr, u8);

struct Bucket {
    left: f64,
    at: Instant,
}

impl Limits {
    /// `rate` requests a second and peer, ten times as many at once.
    pub fn new(rate: u32) -> Self {
        Self { rate: f64::from(rate), peers: HashMap::new() }
    }

    /// Takes one request; false where the peer has none left.
    pub fn take(&mut self, peer: IpAddr, now: Instant) -> bool {
        self.make_room(now);
        let allowed = whoms(peer).all(|whom| self.bucket(whom, now).left >= 1.0);
        if allowed {
            whoms(peer).for_each(|whom| self.bucket(whom, now).left -= 1.0);
        }
        allowed
    }

    /// Charges a body that was read; large ones cost like several requests.
    pub fn charge(&mut self, peer: IpAddr, bytes: usize, now: Instant) {
        let bytes = f64::from(u32::try_from(bytes).unwrap_or(u32::MAX));
        whoms(peer).for_each(|whom| self.bucket(whom, now).left -= bytes / BYTES);
    }

    fn bucket(&mut self, whom: Whom, now: Instant) -> &mut Bucket {
        let rate = self.rate * times(whom);
        let most = rate * BURST_SECONDS;
        let bucket = self.peers.entry(whom).or_insert(Bucket { left: most, at: now });
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.left = (bucket.left + passed * rate).min(most);
        bucket.at = now;
        bucket
    }

    /// Peers whose bucket is full again need not be remembered.
    fn make_room(&mut self, now: Instant) {
        if self.peers.len() < PEERS {
            return;
        }
        let rate = self.rate;
        self.peers.retain(|whom, bucket| {
            let rate = rate * times(*whom);
            let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
            bucket.left + passed * rate < rate * BURST_SECONDS
        });
        if self.peers.len() >= PEERS {
            self.peers.clear();
        }
    }
}

/// A peer counts for itself, and an IPv6 one for its network too: one host may have all of it, or a node with all its
/// pods.
fn whoms(peer: IpAddr) -> impl Iterator<Item = Whom> {
    let (host, around) = (peer.to_canonical(), network(peer));
    std::iter::once((host, 128)).chain(around.is_ipv6().then_some((around, 64)))
}

/// The IPv6 network of 64 bits around an address; an IPv4 address itself.
pub(super) fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

fn times((_, bits): Whom) -> f64 {
    if bits == 64 { WIDER } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_burst_then_the_rate_each_peer_for_itself() {
        let (mut limits, start) = (Limits::new(2), Instant::now());
        let taken = (0..100).filter(|_| limits.take(ip("10.0.0.1"), start)).count();
        assert_eq!(taken, 20);
        assert!(limits.take(ip("10.0.0.2"), start));
        let later = start + Duration::from_secs(3);
        assert_eq!((0..100).filter(|_| limits.take(ip("10.0.0.1"), later)).count(), 6);
        let full = start + Duration::from_hours(1);
        assert_eq!((0..100).filter(|_| limits.take(ip("::ffff:10.0.0.1"), full)).count(), 20);
    }

    #[test]
    fn large_bodies_cost_more() {
        let (mut limits, now) = (Limits::new(1), Instant::now());
        assert!(limits.take(ip("10.0.0.1"), now));
        limits.charge(ip("10.0.0.1"), 25 << 20, now);
        assert!(!limits.take(ip("10.0.0.1"), now + Duration::from_secs(91)));
        assert!(limits.take(ip("10.0.0.1"), now + Duration::from_secs(92)));
    }

    #[test]
    fn a_network_has_more_than_a_peer_and_memory_is_bounded() {
        let (mut limits, now) = (Limits::new(1), Instant::now());
        let neighbour = |n: u16| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, n, 0, 0, 1));
        assert_eq!((0..100).filter(|_| limits.take(neighbour(0), now)).count(), 10);
        assert!(limits.take(neighbour(1), now), "a pod of the same node is somebody else");
        assert_eq!((2..1000).filter(|n| limits.take(neighbour(*n), now)).count(), 69);
        assert!(!limits.take(ip("2001:db8:0:1::5"), now) && limits.take(ip("2001:db8:0:2::5"), now));
        limits.charge(neighbour(3), 25 << 20, now);
        let later = now + Duration::from_secs(2);
        assert!(!limits.take(neighbour(4), later) && limits.take(ip("2001:db8:0:2::5"), later));
        for n in 0..40_000u32 {
            limits.take(IpAddr::V4(n.into()), now);
        }
        assert!(limits.peers.len() <= PEERS);
    }
}
