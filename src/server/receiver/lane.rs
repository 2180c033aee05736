//! Many deliveries, few writes (pure): one write in flight and one more, with a pause between.

use std::time::{Duration, Instant};

/// Time between two writes of one object.
pub const PAUSE: Duration = Duration::from_secs(1);

/// The writes of one object.
#[derive(Debug, Default)]
pub struct Lane {
    asked: u64,
    running: bool,
    last: Option<Instant>,
}

impl Lane {
    /// A delivery asks for a write: its number, and whether somebody must begin to write.
    pub fn ask(&mut self) -> (u64, bool) {
        self.asked += 1;
        (self.asked, !std::mem::replace(&mut self.running, true))
    }

    /// How long the next write must wait.
    pub fn wait(&self, now: Instant) -> Duration {
        let next = self.last.map_or(now, |last| last + PAUSE);
        next.saturating_duration_since(now)
    }

    /// A write begins: it is the answer to all numbers up to the returned one.
    pub fn begin(&mut self, now: Instant) -> u64 {
        self.last = Some(now);
        self.asked
    }

    /// It ended; whether there must be one more.
    pub fn end(&mut self, covered: u64) -> bool {
        self.running = self.asked > covered;
        self.running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_deliveries_are_two_writes() {
        let (mut lane, start) = (Lane::default(), Instant::now());
        assert_eq!(lane.ask(), (1, true));
        assert_eq!(lane.wait(start), Duration::ZERO, "the first goes at once");
        let first = lane.begin(start);
        for number in 2..=100 {
            assert_eq!(lane.ask(), (number, false), "somebody writes already");
        }
        assert_eq!(first, 1);
        assert!(lane.end(first), "one more");
        let soon = start + Duration::from_millis(300);
        assert_eq!(lane.wait(soon), Duration::from_millis(700));
        let second = lane.begin(start + PAUSE);
        assert_eq!(second, 100);
        assert!(!lane.end(second), "and that was all");
        assert_eq!(lane.ask(), (101, true));
        assert_eq!(lane.wait(start + PAUSE), PAUSE, "the pause holds for a later one too");
        assert_eq!(lane.wait(start + PAUSE * 3), Duration::ZERO);
    }
}
