//! Where a schedule meets a time zone: stretches of time in which its clock does not jump.

use jiff::{
    SignedDuration, Timestamp,
    civil::DateTime,
    tz::{Offset, TimeZone},
};

use super::Schedule;

/// Stretches that a search looks at. No zone changes its clock more than four times a year for long.
const STRETCHES: usize = 64;

/// The smallest difference of two times.
const TICK: SignedDuration = SignedDuration::from_nanos(1);

/// The time between two jumps of a clock.
struct Stretch {
    /// When it begins, and what the offset was until then; none: it has always been so.
    start: Option<(Timestamp, Offset)>,
    /// When the next one begins.
    end: Option<Timestamp>,
    offset: Offset,
}

impl Stretch {
    /// The one that `time` is in.
    fn at(time: Timestamp, zone: &TimeZone) -> Self {
        let just_after = time.checked_add(TICK).unwrap_or(time);
        let start = zone.preceding(just_after).next().map(|transition| transition.timestamp());
        let start = start.and_then(|at| Some((at, zone.to_offset(at.checked_sub(TICK).ok()?))));
        Self { start, end: zone.following(time).next().map(|t| t.timestamp()), offset: zone.to_offset(time) }
    }

    fn contains(&self, time: Timestamp) -> bool {
        self.start.is_none_or(|(start, _)| start <= time) && self.end.is_none_or(|end| time < end)
    }

    /// What the clock showed, and what it shows, when this begins.
    fn jump(&self) -> Option<(DateTime, DateTime)> {
        self.start.map(|(start, before)| (before.to_datetime(start), self.offset.to_datetime(start)))
    }

    /// The wall clock's time before which everything was run already, before the clock was set back.
    fn repeated_until(&self, schedule: &Schedule) -> Option<DateTime> {
        let (showed, shows) = self.jump()?;
        (schedule.names_hours() && showed > shows).then_some(showed)
    }

    /// The moment at which skipped times are made up for: the first one of this stretch, if any was skipped.
    fn made_up(&self, schedule: &Schedule) -> Option<Timestamp> {
        let (showed, shows) = self.jump()?;
        let skipped = schedule.names_hours() && schedule.next_on_clock(showed).is_some_and(|time| time < shows);
        if skipped { self.start.map(|(start, _)| start) } else { None }
    }

    /// The first time in it that is not before `from`.
    fn first(&self, schedule: &Schedule, from: Timestamp) -> Option<Timestamp> {
        if let Some(made_up) = self.made_up(schedule).filter(|at| *at >= from) {
            return Some(made_up);
        }
        let clock = self.offset.to_datetime(from);
        let clock = self.repeated_until(schedule).map_or(clock, |until| clock.max(until));
        let found = self.offset.to_timestamp(schedule.next_on_clock(clock)?).ok()?;
        self.contains(found).then_some(found)
    }

    /// The last time in it that is not after `until`.
    fn last(&self, schedule: &Schedule, until: Timestamp) -> Option<Timestamp> {
        let found = schedule
            .last_on_clock(self.offset.to_datetime(until))
            .filter(|clock| self.repeated_until(schedule).is_none_or(|repeated| *clock >= repeated));
        let found = found.and_then(|clock| self.offset.to_timestamp(clock).ok()).filter(|time| self.contains(*time));
        found.or_else(|| self.made_up(schedule))
    }
}

pub(super) fn next(schedule: &Schedule, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let mut from = after.checked_add(TICK).ok()?;
    for _ in 0..STRETCHES {
        let stretch = Stretch::at(from, zone);
        if let Some(found) = stretch.first(schedule, from) {
            return Some(found);
        }
        from = stretch.end?;
    }
    None
}

pub(super) fn last(schedule: &Schedule, until: Timestamp, since: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let mut to = until;
    for _ in 0..STRETCHES {
        let stretch = Stretch::at(to, zone);
        if let Some(found) = stretch.last(schedule, to) {
            return (found >= since).then_some(found);
        }
        let (start, _) = stretch.start.filter(|(start, _)| *start > since)?;
        to = start.checked_sub(TICK).ok()?;
    }
    None
}
