//! Timers do not notice when somebody sets the clock, or when the machine slept.

use std::{
    sync::Weak,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use tracing::info;

use super::CronTasks;

/// How often the clock is compared with the time that really passed.
const LOOK: Duration = Duration::from_secs(1);
/// A smaller difference is no jump: clocks are corrected all the time.
const JUMP: SignedDuration = SignedDuration::from_millis(500);

/// Looks at all `CronTasks` whenever the clock has jumped.
pub(super) async fn watch(crontasks: Weak<CronTasks>) {
    loop {
        let (began, showed) = (Instant::now(), Timestamp::now());
        tokio::time::sleep(LOOK).await;
        let passed = began.elapsed();
        let Some(crontasks) = crontasks.upgrade() else { return };
        if jumped(showed, passed, Timestamp::now()) {
            info!("the clock was set; CronTasks are looked at");
            crontasks.look_at_all();
        }
    }
}

/// Whether a clock that showed `showed` should not show `shows` when `passed` has passed.
fn jumped(showed: Timestamp, passed: Duration, shows: Timestamp) -> bool {
    let moved = shows.duration_since(showed);
    let passed = SignedDuration::try_from(passed).unwrap_or(SignedDuration::MAX);
    moved.saturating_sub(passed).abs() > JUMP
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_jumps_in_both_directions() {
        let at = |ms: i64| Timestamp::from_millisecond(1_770_000_000_000 + ms).unwrap();
        for (shows, expected) in [(1000, false), (1400, false), (700, false), (1600, true), (400, true), (-5000, true)]
        {
            assert_eq!(jumped(at(0), Duration::from_secs(1), at(shows)), expected, "{shows}");
        }
        // The whole process slept: the time passed for the timers too, or it did not.
        assert!(!jumped(at(0), Duration::from_mins(1), at(60_000)));
        assert!(jumped(at(0), Duration::from_secs(1), at(60_000)));
    }
}
