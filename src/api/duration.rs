//! Durations as Go writes them: `1h30m`, `300ms`, `0s`.

use std::{fmt, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// What the API server accepts as a duration: an unsigned sequence of decimal numbers with units, or a bare `0`.
pub const PATTERN: &str = r"^(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$";

/// Longest text of a duration, in characters.
pub const MAX_LENGTH: u32 = 64;

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a duration: {problem}; write for example 30s, 5m or 1h30m")]
pub struct DurationError {
    /// The text as given.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// A duration of the API, kept as written so that an object that is read and written again stays the same bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GoDuration(pub String);

impl GoDuration {
    /// The duration, or why there is none.
    pub fn parse(&self) -> Result<Duration, DurationError> {
        parse(&self.0)
    }

    /// The duration, `default` where the text is none (the schema's rule keeps such texts out of the cluster).
    pub fn or(&self, default: Duration) -> Duration {
        self.parse().unwrap_or(default)
    }
}

impl From<&str> for GoDuration {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for GoDuration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": PATTERN, "maxLength": MAX_LENGTH })
    }
}

/// Parses Go's duration syntax. Negative durations are refused: nothing here has a use for one.
///
/// Fractions are exact to the nanosecond and cut below it, as Go does.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let fail = |problem| DurationError { text: text.into(), problem };
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(fail("it is empty"));
    }
    if rest.starts_with('-') {
        return Err(fail("it is negative"));
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let (part, tail) = term(rest).map_err(fail)?;
        nanos = nanos.checked_add(part).ok_or_else(|| fail("it is too long"))?;
        rest = tail;
    }
    // Go's limit, some 292 years.
    let limit = u128::from(i64::MAX.unsigned_abs());
    let nanos = u64::try_from(nanos.min(limit + 1)).map_err(|_| fail("it is too long"))?;
    if u128::from(nanos) > limit { Err(fail("it is too long")) } else { Ok(Duration::from_nanos(nanos)) }
}

/// One number with its unit, in nanoseconds, and what follows it.
fn term(text: &str) -> Result<(u128, &str), &'static str> {
    let (whole, rest) = digits(text);
    let (fraction, rest) = rest.strip_prefix('.').map_or(("", rest), digits);
    if whole.is_empty() && fraction.is_empty() {
        return Err("a number is missing");
    }
    let end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, tail) = rest.split_at(end);
    let scale = scale(unit)?;
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().map_err(|_| "it is too long")? };
    Ok((u128::from(whole) * u128::from(scale) + fraction_nanos(fraction, scale), tail))
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// Nanoseconds of `0.<fraction>` of a unit; digits beyond the 18th are below a nanosecond for every unit.
fn fraction_nanos(fraction: &str, scale: u64) -> u128 {
    let mut value: u128 = 0;
    let mut divisor: u128 = 1;
    for digit in fraction.bytes().take(18) {
        value = value * 10 + u128::from(digit - b'0');
        divisor *= 10;
    }
    value * u128::from(scale) / divisor
}

fn scale(unit: &str) -> Result<u64, &'static str> {
    Ok(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "" => return Err("a unit is missing"),
        _ => return Err("the unit is unknown"),
    })
}

/// Writes a duration as Go does: `1h30m0s`, `1.5s`, `300ms`, `0s`.
pub fn format(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    if seconds == 0 && nanos > 0 {
        return below_a_second(nanos);
    }
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let rest = decimal(seconds % 60, nanos, 9) + "s";
    match (hours, minutes) {
        (0, 0) => rest,
        (0, m) => format!("{m}m{rest}"),
        (h, m) => format!("{h}h{m}m{rest}"),
    }
}

fn below_a_second(nanos: u32) -> String {
    match nanos {
        1_000_000.. => decimal(u64::from(nanos / 1_000_000), nanos % 1_000_000, 6) + "ms",
        1_000.. => decimal(u64::from(nanos / 1_000), nanos % 1_000, 3) + "µs",
        _ => format!("{nanos}ns"),
    }
}

/// `whole.fraction` with `width` digits of fraction, without trailing zeros.
fn decimal(whole: u64, fraction: u32, width: usize) -> String {
    if fraction == 0 {
        return whole.to_string();
    }
    format!("{whole}.{fraction:0width$}").trim_end_matches('0').into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_go_reads() {
        let table: &[(&str, u128)] = &[
            ("0", 0),
            ("0s", 0),
            ("5s", 5_000_000_000),
            ("30m", 1_800_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1h15m30.918s", 4_530_918_000_000),
            ("300ms", 300_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("5m0.000000001s", 300_000_000_001),
            ("12µs", 12_000),
            ("12μs", 12_000),
            ("12us", 12_000),
            ("7ns", 7),
            ("0.3333333333333333333h", 1_200_000_000_000 - 1),
            ("9223372036854775807ns", 9_223_372_036_854_775_807),
        ];
        for (text, nanos) in table {
            assert_eq!(parse(text).map(|d| d.as_nanos()), Ok(*nanos), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_none() {
        let table = [
            ("", "it is empty"),
            ("3", "a unit is missing"),
            ("1h3", "a unit is missing"),
            ("s", "a number is missing"),
            (".s", "a number is missing"),
            ("1h s", "the unit is unknown"),
            ("3d", "the unit is unknown"),
            ("-5m", "it is negative"),
            ("9223372036854775808ns", "it is too long"),
            ("99999999999999999999h", "it is too long"),
        ];
        for (text, problem) in table {
            assert_eq!(parse(text).map_err(|e| e.problem), Err(problem), "{text}");
        }
        assert_eq!(
            parse("3d").unwrap_err().to_string(),
            "\"3d\" is not a duration: the unit is unknown; write for example 30s, 5m or 1h30m"
        );
    }

    #[test]
    fn writes_what_go_writes() {
        let table = [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (245_000_000_000, "4m5s"),
            (3_600_000_000_000, "1h0m0s"),
            (18_367_001_000_000, "5h6m7.001s"),
        ];
        for (nanos, text) in table {
            assert_eq!(format(Duration::from_nanos(nanos)), text);
        }
    }

    proptest! {
        #[test]
        fn every_written_duration_is_read_back(nanos in 0..=i64::MAX.unsigned_abs()) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in "[0-9.a-zµ+-]{0,40}") {
            let _ = parse(&text);
        }
    }
}
