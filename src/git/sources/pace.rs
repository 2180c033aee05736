//! When a poller lists again (pure).

use std::time::Duration;

use crate::status::Backoff;

/// How the last rounds went.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Pace {
    /// Failed rounds in a row.
    pub(super) failures: u32,
    /// A number from 0 to 1, drawn anew for each round.
    pub(super) share: f64,
}

impl Pace {
    /// The delay after the last round: the interval with 10 % jitter either way, or after failures the backoff, which
    /// never waits longer than the interval unless that is shorter than the backoff's own bound.
    pub(super) fn delay(&self, interval: Duration, backoff: &Backoff) -> Duration {
        if self.failures > 0 {
            return backoff.delay(self.failures, self.share);
        }
        // `Duration::MAX` would overflow below.
        interval.min(Duration::from_hours(24 * 365)).mul_f64(0.9 + 0.2 * self.share.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_ten_percent_either_way_and_failures_back_off() {
        let minute = Duration::from_mins(1);
        let backoff = Backoff::default();
        for (failures, share, want) in [
            (0, 0.0, Duration::from_secs(54)),
            (0, 0.5, Duration::from_mins(1)),
            (0, 1.0, Duration::from_secs(66)),
            (1, 1.0, Duration::from_secs(1)),
            (4, 0.5, Duration::from_secs(4)),
            (30, 1.0, Duration::from_mins(5)),
        ] {
            assert_eq!(Pace { failures, share }.delay(minute, &backoff), want, "{failures} {share}");
        }
        assert!(Pace::default().delay(Duration::MAX, &backoff) > Duration::from_hours(24));
    }
}
