//! How often the pods of an agent are touched: soon and often at first, and hardly ever where that does not help.

use std::time::{Duration, Instant};

use crate::status::Backoff;

/// After the first attempts, which the kubelet may see before it sees the text.
const AT_ONCE: (u32, Duration) = (3, Duration::from_millis(300));
/// Waits between the attempts after these.
const SOON: Backoff = Backoff { base: Duration::from_millis(700), cap: Duration::from_secs(30) };
/// How many attempts come soon: a minute and a half passes meanwhile on average, in which a kubelet looks by itself.
const ATTEMPTS: u32 = 12;
/// The wait after that, at least; up to a tenth more.
const LATER: Duration = Duration::from_mins(10);

/// Gathered text on its way into the pods.
#[derive(Debug)]
pub(in super::super) struct Touch {
    /// Of the text.
    pub hash: String,
    attempt: u32,
    again: Instant,
}

impl Touch {
    /// Nothing was touched yet; the first attempt comes at `again`.
    pub(in super::super) fn new(hash: &str, again: Instant) -> Self {
        Self { hash: hash.into(), attempt: 0, again }
    }

    /// The same for a text that was found missing: it may be on its way.
    pub(in super::super) fn missing(hash: &str, now: Instant) -> Self {
        Self::new(hash, now + SOON.base)
    }

    /// The attempt that is due, with how long to wait after it; or how long to wait before. `share` of `0.0..1.0` is
    /// drawn by the caller.
    pub(in super::super) fn due(&mut self, now: Instant, share: f64) -> (Option<u32>, Duration) {
        if self.again > now {
            return (None, self.again - now);
        }
        let attempt = self.attempt;
        self.attempt = attempt.saturating_add(1);
        let wait = match self.attempt {
            _ if self.is_in_vain() => LATER.mul_f64(1.0 + share / 10.0),
            early if early <= AT_ONCE.0 => AT_ONCE.1,
            later => SOON.delay(later - AT_ONCE.0, share),
        };
        self.again = now + wait;
        (Some(attempt), wait)
    }

    /// Whether all attempts that come soon are over.
    pub(in super::super) fn is_in_vain(&self) -> bool {
        self.attempt >= ATTEMPTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many attempts are made in `span`, if somebody looks whenever it is time.
    fn attempts(touch: &mut Touch, from: Instant, span: Duration, share: f64) -> u32 {
        let (mut now, mut made) = (from, 0);
        while now < from + span {
            let (attempt, wait) = touch.due(now, share);
            made += u32::from(attempt.is_some());
            assert!(wait >= SOON.base / 10, "{wait:?}");
            now += wait;
        }
        made
    }

    #[test]
    fn a_text_that_never_arrives_is_hardly_ever_asked_for() {
        let start = Instant::now();
        for share in [0.0, 0.5, 0.99] {
            let mut touch = Touch::new("h", start);
            assert!((4..=ATTEMPTS).contains(&attempts(&mut touch, start, Duration::from_secs(30), share)), "{share}");
            let hour = start + Duration::from_mins(10);
            attempts(&mut touch, start + Duration::from_secs(30), Duration::from_secs(570), share);
            assert!(touch.is_in_vain());
            let later = attempts(&mut touch, hour, Duration::from_hours(1), share);
            assert!((5..=7).contains(&later), "{later} in an hour");
        }
    }

    #[test]
    fn what_is_missing_gets_a_moment_and_waits_differ_by_chance() {
        let now = Instant::now();
        let mut touch = Touch::missing("h", now);
        assert_eq!(touch.due(now, 0.5), (None, SOON.base));
        let waits = |share| {
            let (mut touch, mut now) = (Touch::missing("h", now), now + SOON.base);
            std::iter::repeat_with(move || {
                let (attempt, wait) = touch.due(now, share);
                now += wait;
                assert!(attempt.is_some() && !touch.is_in_vain());
                wait
            })
        };
        let quick = [AT_ONCE.1; 3].into_iter();
        assert!(waits(0.5).take(4).eq(quick.clone().chain([SOON.base / 2])));
        assert!(waits(0.9).take(4).eq(quick.chain([SOON.base.mul_f64(0.9)])));
    }
}
