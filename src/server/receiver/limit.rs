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
/// Bytes of a body that count like one more request.
const BYTES: f64 = 256.0 * 1024.0;

/// A bucket for each peer.
pub struct Limits {
    rate: f64,
    peers: HashMap<IpAddr, Bucket>,
}

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
        let bucket = self.bucket(peer, now);
        let allowed = bucket.left >= 1.0;
        if allowed {
            bucket.left -= 1.0;
        }
        allowed
    }

    /// Charges a body that was read; large ones cost like several requests.
    pub fn charge(&mut self, peer: IpAddr, bytes: usize, now: Instant) {
        let bytes = f64::from(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.bucket(peer, now).left -= bytes / BYTES;
    }

    fn bucket(&mut self, peer: IpAddr, now: Instant) -> &mut Bucket {
        let (rate, most) = (self.rate, self.rate * BURST_SECONDS);
        let bucket = self.peers.entry(network(peer)).or_insert(Bucket { left: most, at: now });
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
        let (rate, most) = (self.rate, self.rate * BURST_SECONDS);
        let full = |b: &Bucket| b.left + now.saturating_duration_since(b.at).as_secs_f64() * rate >= most;
        self.peers.retain(|_, bucket| !full(bucket));
        if self.peers.len() >= PEERS {
            self.peers.clear();
        }
    }
}

/// An IPv6 peer has a whole /64 to choose from.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
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
    fn a_network_is_one_peer_and_memory_is_bounded() {
        let (mut limits, now) = (Limits::new(1), Instant::now());
        for n in 0..20u16 {
            limits.take(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, n, 0, 0, 1)), now);
        }
        assert_eq!(limits.peers.len(), 1);
        assert!(!limits.take(ip("2001:db8:0:1::5"), now) && limits.take(ip("2001:db8:0:2::5"), now));
        for n in 0..40_000u32 {
            limits.take(IpAddr::V4(n.into()), now);
        }
        assert!(limits.peers.len() <= PEERS);
    }
}
