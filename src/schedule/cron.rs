//! Five cron fields: minute, hour, day of the month, month, day of the week.
//!
//! The grammar is that of the Kubernetes `CronJob` without what is sloppy there (see `docs/crontasks.md`): numbers, `*`, `?`,
//! ranges, lists, steps, English names. 7 is Sunday too. A day is on where both day fields agree, or, if both are limited,
//! where one does.
//!
//! Times are those of a wall clock. Where clocks jump, a schedule for certain hours runs once for each time that it names:
//! skipped ones run at the first moment after the jump (once, however many), repeated ones run the first time. A schedule for
//! every hour just follows the clock: nothing runs in an hour that does not exist, and a repeated hour is run twice.

mod field;
mod zone;

use std::fmt;

use jiff::{
    Timestamp,
    civil::{Date, DateTime},
    tz::{TimeZone, TimeZoneDatabase},
};

/// Longest text that is read, in bytes.
pub const MAX_LENGTH: usize = 256;

/// Steps that a search for a day takes, a day or a month each: 29 February comes after eight years at the latest.
const HORIZON: usize = 9 * 366;

/// Every hour of the day.
const ALL_HOURS: u64 = (1 << 24) - 1;

/// When something happens again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both kinds of day are limited: then either suffices.
    either: bool,
}

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Where in the text, in characters from 1.
    pub position: usize,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "position {}: {}", self.position, self.message)
    }
}

impl std::error::Error for Invalid {}

/// The time zone of that name, from the database that the program was built with: the same on every replica and node.
///
/// # Errors
/// There is no zone of that name.
pub fn zone(name: &str) -> Result<TimeZone, String> {
    let found = TimeZoneDatabase::bundled().get(name).ok().filter(|_| !name.eq_ignore_ascii_case("local"));
    found.ok_or_else(|| format!("{name:?} is no name of the time zone database, such as UTC or Europe/Berlin"))
}

impl Schedule {
    /// Reads five fields.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if text.len() > MAX_LENGTH {
            return Err(Invalid { position: 1, message: format!("longer than {MAX_LENGTH} bytes") });
        }
        let words = words(text);
        let [minute, hour, day, month, weekday] = words[..] else { return Err(wrong_number(text, &words)) };
        let (minute, hour) = (field::MINUTE.read(minute)?, field::HOUR.read(hour)?);
        let (days, months, weekdays) =
            (field::DAY.read(day)?, field::MONTH.read(month)?, field::WEEKDAY.read(weekday)?);
        let schedule = Self {
            minutes: minute.bits,
            hours: hour.bits,
            days: days.bits,
            months: months.bits,
            // Sunday has two numbers.
            weekdays: (weekdays.bits | weekdays.bits >> 7) & 0x7f,
            either: !days.any && !weekdays.any,
        };
        if schedule.never_comes() {
            let message = format!("no month of {:?} has a day of {:?}, so this never runs", month.text, day.text);
            return Err(Invalid { position: day.position, message });
        }
        Ok(schedule)
    }

    /// The day of the week comes round by itself; a day of the month may not be there.
    fn never_comes(&self) -> bool {
        let lengths = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let first = self.days.trailing_zeros();
        !self.either && !(1..=12).zip(lengths).any(|(month, length)| has(self.months, month) && first <= length)
    }

    /// Whether it names certain hours, and does not run in every one.
    fn names_hours(&self) -> bool {
        self.hours & ALL_HOURS != ALL_HOURS
    }

    /// The first time after `after`; none within nine years is none at all.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        zone::next(self, after, zone)
    }

    /// The last time not after `until` and not before `since`.
    pub fn last(&self, until: Timestamp, since: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        zone::last(self, until, since, zone)
    }

    /// The times after `after`, each once, in order.
    pub fn after<'a>(&'a self, after: Timestamp, zone: &'a TimeZone) -> impl Iterator<Item = Timestamp> + 'a {
        std::iter::successors(self.next(after, zone), move |last| self.next(*last, zone))
    }

    /// The first match not before `from` on a clock that never jumps.
    fn next_on_clock(&self, from: DateTime) -> Option<DateTime> {
        let (mut day, mut minute) = (from.date(), minute_of_day(from));
        if from.second() > 0 || from.subsec_nanosecond() > 0 {
            minute += 1;
        }
        for _ in 0..HORIZON {
            if !has(self.months, day.month().unsigned_abs().into()) {
                day = day.last_of_month();
            } else if self.is_on(day)
                && let Some(found) = (minute..24 * 60).find(|m| self.is_at(*m))
            {
                return at_minute(day, found);
            }
            (day, minute) = (day.tomorrow().ok()?, 0);
        }
        None
    }

    /// The last match not after `to` on a clock that never jumps.
    fn last_on_clock(&self, to: DateTime) -> Option<DateTime> {
        let (mut day, mut minute) = (to.date(), minute_of_day(to));
        for _ in 0..HORIZON {
            if !has(self.months, day.month().unsigned_abs().into()) {
                day = day.first_of_month();
            } else if self.is_on(day)
                && let Some(found) = (0..=minute).rev().find(|m| self.is_at(*m))
            {
                return at_minute(day, found);
            }
            (day, minute) = (day.yesterday().ok()?, 24 * 60 - 1);
        }
        None
    }

    fn is_on(&self, day: Date) -> bool {
        let (number, month) = (day.day().unsigned_abs(), day.month().unsigned_abs());
        let weekday = day.weekday().to_sunday_zero_offset().unsigned_abs();
        let (by_day, by_weekday) = (has(self.days, number.into()), has(self.weekdays, weekday.into()));
        has(self.months, month.into()) && if self.either { by_day || by_weekday } else { by_day && by_weekday }
    }

    fn is_at(&self, minute: u32) -> bool {
        has(self.hours, minute / 60) && has(self.minutes, minute % 60)
    }
}

fn has(bits: u64, n: u32) -> bool {
    bits & (1 << n) != 0
}

fn minute_of_day(time: DateTime) -> u32 {
    u32::from(time.hour().unsigned_abs()) * 60 + u32::from(time.minute().unsigned_abs())
}

fn at_minute(day: Date, minute: u32) -> Option<DateTime> {
    Some(day.at(i8::try_from(minute / 60).ok()?, i8::try_from(minute % 60).ok()?, 0, 0))
}

/// A word of the text.
#[derive(Clone, Copy, Debug)]
struct Word<'a> {
    text: &'a str,
    /// In characters from 1.
    position: usize,
}

fn words(text: &str) -> Vec<Word<'_>> {
    let mut position = 1;
    let mut found = vec![];
    for word in text.split(' ') {
        if !word.is_empty() {
            found.push(Word { text: word, position });
        }
        position += word.chars().count() + 1;
    }
    found
}

fn wrong_number(text: &str, words: &[Word<'_>]) -> Invalid {
    let first = words.first().map_or("", |w| w.text);
    let instead = match first.to_ascii_lowercase().as_str() {
        "@yearly" | "@annually" => Some("0 0 1 1 *"),
        "@monthly" => Some("0 0 1 * *"),
        "@weekly" => Some("0 0 * * 0"),
        "@daily" | "@midnight" => Some("0 0 * * *"),
        "@hourly" => Some("0 * * * *"),
        _ => None,
    };
    let fields = "the five fields are minute, hour, day of the month, month and day of the week, with spaces between";
    let (position, message) = if let Some(instead) = instead {
        (1, format!("{first} is not known here: write {instead:?}"))
    } else if first.starts_with('@') {
        (1, format!("{first} is not known here: {fields}"))
    } else if first.contains('=') {
        (1, format!("a time zone does not stand in the schedule, it is a setting of its own; {fields}"))
    } else {
        let end = text.chars().count() + 1;
        (words.get(5).map_or(end, |sixth| sixth.position), format!("{} fields instead of five; {fields}", words.len()))
    };
    Invalid { position, message }
}

#[cfg(test)]
mod tests;
