//! One field of a schedule.

use super::{Invalid, Word};

/// What a field may hold.
pub(super) struct Kind {
    name: &'static str,
    low: u32,
    high: u32,
    /// Names of the values from `low` on.
    names: &'static [&'static str],
}

/// What a field holds.
pub(super) struct Field {
    /// The values, as bits.
    pub(super) bits: u64,
    /// Whether `*` or `?` is in it, so that it limits nothing.
    pub(super) any: bool,
}

pub(super) const MINUTE: Kind = Kind { name: "minute", low: 0, high: 59, names: &[] };
pub(super) const HOUR: Kind = Kind { name: "hour", low: 0, high: 23, names: &[] };
pub(super) const DAY: Kind = Kind { name: "day of the month", low: 1, high: 31, names: &[] };
pub(super) const MONTH: Kind = Kind {
    name: "month",
    low: 1,
    high: 12,
    names: &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
};
pub(super) const WEEKDAY: Kind =
    Kind { name: "day of the week", low: 0, high: 7, names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"] };

impl Kind {
    /// Reads a list of values, ranges and steps.
    pub(super) fn read(&self, word: Word<'_>) -> Result<Field, Invalid> {
        let mut field = Field { bits: 0, any: false };
        let mut position = word.position;
        for item in word.text.split(',') {
            let (bits, any) = self.item(Word { text: item, position })?;
            field.bits |= bits;
            field.any |= any;
            position += item.chars().count() + 1;
        }
        Ok(field)
    }

    fn item(&self, item: Word<'_>) -> Result<(u64, bool), Invalid> {
        let (range, step) = item.text.split_once('/').map_or((item.text, None), |(r, s)| (r, Some(s)));
        let star = range == "*" || range == "?";
        let (from, to) = match range.split_once('-') {
            _ if star => (self.low, self.all()),
            Some((from, to)) => (self.value(item, from)?, self.value(item, to)?),
            None if step.is_some() => (self.value(item, range)?, self.all()),
            None => (self.value(item, range)?, self.value(item, range)?),
        };
        if from > to {
            return Err(self.wrong(item, &format!("{range:?} ends before it begins")));
        }
        let step = match step {
            None => 1,
            Some(text) => number(text)
                .filter(|n| *n > 0)
                .ok_or_else(|| self.wrong(item, &format!("{text:?} is no step: write 1 to 99")))?,
        };
        let bits = (from..=to).step_by(step as usize).fold(0, |bits, n| bits | 1 << n);
        // As in Kubernetes: a star with a step limits the field.
        Ok((bits, star && step == 1))
    }

    /// The highest value of an open range: Sunday is 0 there, not 7 once more.
    fn all(&self) -> u32 {
        if self.high == 7 { 6 } else { self.high }
    }

    fn value(&self, item: Word<'_>, text: &str) -> Result<u32, Invalid> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let named = named.and_then(|n| Some(u32::try_from(n).ok()? + self.low));
        let found = named.or_else(|| number(text)).filter(|n| (self.low..=self.high).contains(n));
        found.ok_or_else(|| self.wrong(item, &format!("{text:?} is none")))
    }

    fn wrong(&self, item: Word<'_>, what: &str) -> Invalid {
        let names = match self.names {
            [first, .., last] => format!(" or {first} to {last}"),
            _ => String::new(),
        };
        let message = format!(
            "{:?} in the field {} is wrong, {what}: values are {} to {}{names}; write *, values, ranges (1-5), lists (1,3) \
             and steps (*/2)",
            item.text, self.name, self.low, self.high
        );
        Invalid { position: item.position, message }
    }
}

/// One or two digits and nothing else.
fn number(text: &str) -> Option<u32> {
    let digits = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}
