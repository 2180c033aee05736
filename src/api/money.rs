//! Money in texts: US dollars with up to six decimals. No floating point: sums must be exact.

/// Millionths of a US dollar in a dollar.
pub const MICROS: i64 = 1_000_000;

/// Millionths of a dollar in a text like `0.012300`, six digits at most behind the point; none where it is no such text, or
/// more than fits.
pub fn micros(text: &str) -> Option<i64> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || rest.len() > 6 || !digits(whole) || !digits(rest) {
        return None;
    }
    let rest: i64 = format!("{rest:0<6}").parse().ok()?;
    whole.parse::<i64>().ok()?.checked_mul(MICROS)?.checked_add(rest)
}

/// The text of so many millionths of a dollar.
pub fn dollars(micros: i64) -> String {
    format!("{}.{:06}", micros.max(0) / MICROS, micros.max(0) % MICROS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn money_is_exact() {
        for (text, expected) in [
            ("0.000001", Some(1)),
            ("12", Some(12_000_000)),
            ("1.5", Some(1_500_000)),
            ("1.", Some(1_000_000)),
            ("0.1234567", None),
            (".5", None),
            ("", None),
            (" 1", None),
            ("-1.0", None),
            ("+1", None),
            ("1e5", None),
            ("NaN", None),
            ("9223372036854.775807", Some(i64::MAX)),
            ("9223372036854.775808", None),
            ("99999999999999999999.0", None),
        ] {
            assert_eq!(micros(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn money_is_read_as_it_is_written(micro in 0..i64::MAX) {
            prop_assert_eq!(micros(&dollars(micro)), Some(micro));
        }

        #[test]
        fn any_text_is_money_or_nothing(text in ".{0,40}") {
            prop_assert!(micros(&text).is_none_or(|micros| micros >= 0));
        }
    }
}
