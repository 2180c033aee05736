//! Five cron fields: minute, hour, day of the month, month, day of the week.
//!
//! Times are those of a wall clock in some zone. One that does not exist on a day (clocks were set forward) is taken as
//! much later as the clock jumped; one that exists twice counts the first time alone.

use jiff::{Timestamp, ToSpan as _, civil::Date, tz::TimeZone};

/// Days that a search looks at: a leap day on a certain day of the week comes once in 28 years, and 40 where a century
/// has none.
const HORIZON: u32 = 41 * 366;

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// When something happens again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both kinds of day are limited: then either suffices, as everywhere in cron.
    either: bool,
}

impl Schedule {
    /// Reads five fields of numbers, ranges, lists, steps and English names.
    ///
    /// # Errors
    /// What is wrong with which field.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let fields: Vec<_> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(format!("{text:?} has {} fields; cron has five: minute hour day month weekday", fields.len()));
        };
        let weekdays = field("weekday", weekday, 0, 7, &DAYS)?;
        let schedule = Self {
            minutes: field("minute", minute, 0, 59, &[])?,
            hours: field("hour", hour, 0, 23, &[])?,
            days: field("day", day, 1, 31, &[])?,
            months: field("month", month, 1, 12, &MONTHS)?,
            // Sunday has two numbers.
            weekdays: (weekdays | weekdays >> 7) & 0x7f,
            either: !day.starts_with('*') && !weekday.starts_with('*'),
        };
        // The day of the week comes round by itself.
        let days = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let exists =
            (1..=12u32).zip(days).any(|(m, last)| has(schedule.months, m) && schedule.days.trailing_zeros() <= last);
        if exists || schedule.either { Ok(schedule) } else { Err(format!("{text:?} names a day that no month has")) }
    }

    /// The first time after `now`.
    pub(super) fn next(&self, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut day = now.to_zoned(zone.clone()).date().yesterday().ok()?;
        for _ in 0..HORIZON {
            let times = self.times(day, zone);
            if let Some(found) = times.into_iter().filter(|at| *at > now).min() {
                return Some(found);
            }
            day = day.tomorrow().ok()?;
        }
        None
    }

    /// The last time not after `now` and not before `since`.
    pub(super) fn last(&self, now: Timestamp, since: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut day = now.to_zoned(zone.clone()).date().tomorrow().ok()?;
        let first = since.to_zoned(zone.clone()).date().checked_sub(1.day()).ok()?;
        while day >= first {
            let times = self.times(day, zone);
            if let Some(found) = times.into_iter().filter(|at| *at <= now && *at >= since).max() {
                return Some(found);
            }
            day = day.yesterday().ok()?;
        }
        None
    }

    fn is_on(&self, day: Date) -> bool {
        let (number, month) = (day.day().unsigned_abs(), day.month().unsigned_abs());
        let weekday = day.weekday().to_sunday_zero_offset().unsigned_abs();
        let (by_day, by_weekday) = (has(self.days, number.into()), has(self.weekdays, weekday.into()));
        has(self.months, month.into()) && if self.either { by_day || by_weekday } else { by_day && by_weekday }
    }

    fn times(&self, day: Date, zone: &TimeZone) -> Vec<Timestamp> {
        if !self.is_on(day) {
            return vec![];
        }
        let hours = (0..24i8).filter(|h| has(self.hours, h.unsigned_abs().into()));
        let times = hours.flat_map(|h| {
            (0..60i8).filter(|m| has(self.minutes, m.unsigned_abs().into())).map(move |m| day.at(h, m, 0, 0))
        });
        times.filter_map(|time| Some(time.to_zoned(zone.clone()).ok()?.timestamp())).collect()
    }
}

fn has(bits: u64, n: u32) -> bool {
    bits & (1 << n) != 0
}

/// The numbers of one field, as bits.
fn field(name: &str, text: &str, low: u32, high: u32, names: &[&str]) -> Result<u64, String> {
    let mut bits = 0;
    for item in text.split(',') {
        let bad =
            || format!("{item:?} is no {name}: write {low} to {high}, *, ranges (1-5), lists (1,3) or steps (*/2)");
        let (range, step) = item.split_once('/').map_or((item, None), |(range, step)| (range, Some(step)));
        let number = |text: &str| value(text, low, names).filter(|n| (low..=high).contains(n)).ok_or_else(bad);
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (low, high),
            Some((from, to)) => (number(from)?, number(to)?),
            None if step.is_some() => (number(range)?, high),
            None => (number(range)?, number(range)?),
        };
        let step = step.map_or(Some(1), |s| s.parse().ok().filter(|s| *s > 0)).ok_or_else(bad)?;
        if from > to {
            return Err(bad());
        }
        bits = (from..=to).step_by(step).fold(bits, |bits, n| bits | 1 << n);
    }
    Ok(bits)
}

fn value(text: &str, low: u32, known: &[&str]) -> Option<u32> {
    let named = known.iter().position(|name| name.eq_ignore_ascii_case(text));
    let digits = text.len() <= 2 && text.bytes().all(|b| b.is_ascii_digit());
    named.and_then(|n| Some(u32::try_from(n).ok()? + low)).or_else(|| digits.then(|| text.parse().ok())?)
}

#[cfg(test)]
mod tests {
    use jiff::tz;

    use super::*;

    fn zone(name: &str) -> TimeZone {
        tz::TimeZoneDatabase::bundled().get(name).unwrap()
    }

    fn next(schedule: &str, zone_name: &str, now: &str) -> String {
        let schedule = Schedule::parse(schedule).unwrap();
        schedule.next(now.parse().unwrap(), &zone(zone_name)).map(|t| t.to_string()).unwrap_or_default()
    }

    #[test]
    fn the_next_time_is_that_of_the_wall_clock() {
        let table = [
            ("0 2 * * *", "UTC", "2026-11-21T01:59:59Z", "2026-11-21T02:00:00Z"),
            ("0 2 * * *", "UTC", "2026-11-21T02:00:00Z", "2026-11-22T02:00:00Z"),
            ("*/15 9-17 * * MON-FRI", "UTC", "2026-11-20T17:50:00Z", "2026-11-23T09:00:00Z"),
            ("30 22 * * 7", "UTC", "2026-11-21T00:00:00Z", "2026-11-22T22:30:00Z"),
            ("0 0 1 * 1", "UTC", "2026-11-24T00:00:00Z", "2026-11-30T00:00:00Z"),
            ("0 0 1 * 1", "UTC", "2026-11-30T00:00:00Z", "2026-12-01T00:00:00Z"),
            ("0 0 29 feb *", "UTC", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 8 * * *", "Europe/Berlin", "2026-03-28T08:00:00Z", "2026-03-29T06:00:00Z"),
            // 02:30 does not exist on that day, and exists twice on the other.
            ("30 2 * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", "2026-03-29T01:30:00Z"),
            ("30 2 * * *", "Europe/Berlin", "2026-10-24T20:00:00Z", "2026-10-25T00:30:00Z"),
            ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"),
        ];
        for (schedule, zone, now, expected) in table {
            assert_eq!(next(schedule, zone, now), expected, "{schedule} in {zone} at {now}");
        }
    }

    #[test]
    fn the_last_time_is_found_from_both_sides_of_an_hour_that_comes_twice() {
        let (schedule, berlin) = (Schedule::parse("50 2 * * *").unwrap(), zone("Europe/Berlin"));
        let since = "2026-10-24T12:00:00Z".parse().unwrap();
        let last = |now: &str| schedule.last(now.parse().unwrap(), since, &berlin).map(|t| t.to_string());
        assert_eq!(last("2026-10-25T00:49:00Z"), None);
        assert_eq!(last("2026-10-25T00:50:00Z").as_deref(), Some("2026-10-25T00:50:00Z"));
        assert_eq!(
            last("2026-10-25T01:10:00Z").as_deref(),
            Some("2026-10-25T00:50:00Z"),
            "the clock shows 02:10 again"
        );
    }

    #[test]
    fn what_is_no_schedule_is_said() {
        let table = [
            ("0 2 * *", "4 fields"),
            ("60 2 * * *", "minute"),
            ("0 24 * * *", "hour"),
            ("0 0 0 * *", "day"),
            ("0 0 * 13 *", "month"),
            ("0 0 * * 8", "weekday"),
            ("0 0 * * FRI-MON", "weekday"),
            ("*/0 0 * * *", "minute"),
            ("1,,2 0 * * *", "minute"),
            ("+1 0 * * *", "minute"),
            ("0 0 30 2 *", "no month has"),
        ];
        for (text, expected) in table {
            let error = Schedule::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
