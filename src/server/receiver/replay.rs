//! Deliveries that were seen (pure).

use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};

/// How long a delivery is remembered: longer than a signed time is good for, both ways together.
pub const WINDOW: Duration = Duration::from_mins(11);
/// How many are remembered, of all webhooks together: about 2 MiB.
pub const MOST: usize = 16 * 1024;

type Key = [u8; 32];

/// What was seen, the oldest first.
#[derive(Default)]
pub struct Replays {
    seen: HashSet<Key>,
    order: VecDeque<(Instant, Key)>,
}

impl Replays {
    /// Whether this delivery of this object was seen within the window.
    pub fn contains(&mut self, uid: &str, seal: &[u8; 32], now: Instant) -> bool {
        self.expire(now);
        self.seen.contains(&key(uid, seal))
    }

    /// Remembers a delivery that was acted on; the oldest one makes room.
    pub fn remember(&mut self, uid: &str, seal: &[u8; 32], now: Instant) {
        self.expire(now);
        let key = key(uid, seal);
        if !self.seen.insert(key) {
            return;
        }
        self.order.push_back((now, key));
        if self.order.len() > MOST
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((at, key)) = self.order.front()
            && now.saturating_duration_since(*at) > WINDOW
        {
            self.seen.remove(key);
            self.order.pop_front();
        }
    }
}

fn key(uid: &str, seal: &[u8; 32]) -> Key {
    Sha256::new().chain_update(uid.as_bytes()).chain_update(seal).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_known_for_the_window_and_for_its_object() {
        let (mut replays, start) = (Replays::default(), Instant::now());
        assert!(!replays.contains("a", &[1; 32], start));
        replays.remember("a", &[1; 32], start);
        replays.remember("a", &[1; 32], start + WINDOW / 2);
        assert!(replays.contains("a", &[1; 32], start + WINDOW));
        assert!(!replays.contains("b", &[1; 32], start) && !replays.contains("a", &[2; 32], start));
        assert!(!replays.contains("a", &[1; 32], start + WINDOW + Duration::from_secs(1)));
        assert!(replays.seen.is_empty() && replays.order.is_empty());
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let (mut replays, now) = (Replays::default(), Instant::now());
        let seal = |n: usize| -> [u8; 32] { Sha256::digest(n.to_le_bytes()).into() };
        for n in 0..=MOST {
            replays.remember("a", &seal(n), now);
        }
        assert_eq!((replays.seen.len(), replays.order.len()), (MOST, MOST));
        assert!(!replays.contains("a", &seal(0), now) && replays.contains("a", &seal(1), now));
    }
}
