//! What a scalar means: YAML 1.1 as the Go library behind `kubectl` resolves it.

use std::fmt::Write as _;

use serde_json::{Number, Value};

/// A resolved scalar. Integers and floats stay apart because they differ as mapping keys.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    /// Above `i64::MAX`.
    Big(u64),
    Float(f64),
    Text(String),
}

const CORE: &str = "tag:yaml.org,2002:";

/// Resolves a scalar. `plain` is whether it was written without quotes; `tag` is the full tag, if any.
///
/// The error says what is wrong, without a place.
pub(super) fn scalar(text: &str, plain: bool, tag: Option<&str>) -> Result<Scalar, String> {
    match tag {
        None if plain => Ok(untagged(text)),
        None => Ok(Scalar::Text(text.into())),
        Some(tag) => tagged(text, tag),
    }
}

fn tagged(text: &str, tag: &str) -> Result<Scalar, String> {
    let Some(kind) = tag.strip_prefix(CORE) else { return Ok(Scalar::Text(text.into())) };
    let value = match kind {
        "bool" | "int" | "float" | "null" => untagged(text),
        "binary" => return binary(text),
        "timestamp" => return Err("the tag !!timestamp is not supported; leave it off, dates stay texts".into()),
        _ => return Ok(Scalar::Text(text.into())),
    };
    match (kind, value) {
        ("bool", v @ Scalar::Bool(_))
        | ("int", v @ (Scalar::Int(_) | Scalar::Big(_)))
        | ("float", v @ Scalar::Float(_))
        | ("null", v @ Scalar::Null) => Ok(v),
        #[allow(clippy::cast_precision_loss)] // as the Go library converts
        ("float", Scalar::Int(i)) => Ok(Scalar::Float(i as f64)),
        _ => Err(format!("`{}` cannot be read as !!{kind}", excerpt(text))),
    }
}

fn binary(text: &str) -> Result<Scalar, String> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let packed: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    let bytes = STANDARD.decode(packed).map_err(|_| "!!binary holds invalid base64".to_owned())?;
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    Ok(Scalar::Text(out))
}

/// A short, printable piece of `text` for messages.
fn excerpt(text: &str) -> String {
    let mut out: String = text.chars().take(20).collect();
    if out.len() < text.len() {
        out.push('…');
    }
    out
}

/// Resolves a plain scalar without a tag.
pub(super) fn untagged(text: &str) -> Scalar {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Scalar::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Scalar::Bool(false);
        }
        ".nan" | ".NaN" | ".NAN" => return Scalar::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Scalar::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Scalar::Float(f64::NEG_INFINITY),
        _ => {}
    }
    let number = match text.as_bytes()[0] {
        b'.' => float(text),
        b'0'..=b'9' | b'+' | b'-' => number(&text.replace('_', "")),
        _ => None,
    };
    number.unwrap_or_else(|| Scalar::Text(text.into()))
}

fn number(plain: &str) -> Option<Scalar> {
    integer(plain).or_else(|| float(plain)).or_else(|| odd_binary(plain))
}

/// Go's `strconv.ParseInt` and `ParseUint` with base 0.
fn integer(plain: &str) -> Option<Scalar> {
    let (negative, signed, digits) = match plain.as_bytes().first()? {
        b'-' => (true, true, &plain[1..]),
        b'+' => (false, true, &plain[1..]),
        _ => (false, false, plain),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    in_radix(digits, radix, negative, signed)
}

fn in_radix(digits: &str, radix: u32, negative: bool, signed: bool) -> Option<Scalar> {
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let value = i128::from_str_radix(digits, radix).ok()?;
    let value = if negative { -value } else { value };
    match i64::try_from(value) {
        Ok(int) => Some(Scalar::Int(int)),
        // ParseUint takes no sign, so `+` before a number this big makes it a float.
        Err(_) if !signed => u64::try_from(value).ok().map(Scalar::Big),
        Err(_) => None,
    }
}

/// After `ParseInt` failed on `0b…`, the Go library parses what follows once more, and there a sign may stand.
fn odd_binary(plain: &str) -> Option<Scalar> {
    let rest = plain.strip_prefix("0b")?;
    match rest.as_bytes().first()? {
        b'-' => in_radix(&rest[1..], 2, true, true),
        b'+' => in_radix(&rest[1..], 2, false, true),
        _ => None,
    }
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?` within the range of a double; too large stays a text.
fn float(plain: &str) -> Option<Scalar> {
    let unsigned = plain.strip_prefix(['-', '+']).unwrap_or(plain);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((m, e)) => (m, Some(e.strip_prefix(['-', '+']).unwrap_or(e))),
        None => (unsigned, None),
    };
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let mantissa_ok = match mantissa.split_once('.') {
        Some(("", fraction)) => !fraction.is_empty() && digits(fraction),
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => !mantissa.is_empty() && digits(mantissa),
    };
    if !mantissa_ok || exponent.is_some_and(|e| e.is_empty() || !digits(e)) {
        return None;
    }
    plain.parse::<f64>().ok().filter(|f| f.is_finite()).map(Scalar::Float)
}

/// The JSON value that the Go library writes for a scalar. Infinite numbers have none.
pub(super) fn to_json(scalar: Scalar) -> Result<Value, String> {
    Ok(match scalar {
        Scalar::Null => Value::Null,
        Scalar::Bool(b) => Value::Bool(b),
        Scalar::Int(i) => Value::Number(i.into()),
        Scalar::Big(u) => Value::Number(u.into()),
        Scalar::Float(f) => Value::Number(json_float(f)?),
        Scalar::Text(s) => Value::String(s),
    })
}

/// A float as a JSON number: one without a fraction is an integer there, as `1e3` is `1000`.
pub(super) fn json_float(float: f64) -> Result<Number, String> {
    if float.fract() == 0.0 && float.abs() < 1e21 {
        let text = float.to_string();
        if text == "-0" {
            return Ok(0.into());
        }
        if let Ok(int) = text.parse::<i64>() {
            return Ok(int.into());
        }
        if let Ok(int) = text.parse::<u64>() {
            return Ok(int.into());
        }
    }
    Number::from_f64(float)
        .ok_or_else(|| "infinite numbers and .nan cannot be sent to Kubernetes; quote the text".into())
}

/// The text of a scalar that is a mapping's key.
pub(super) fn key(scalar: &Scalar) -> Result<String, String> {
    Ok(match scalar {
        Scalar::Text(s) => s.clone(),
        Scalar::Bool(b) => b.to_string(),
        Scalar::Int(i) => i.to_string(),
        Scalar::Float(f) => go_float_key(*f),
        Scalar::Null => return Err("a key is empty or null; quote it if it is meant as a text".into()),
        Scalar::Big(u) => return Err(format!("the number {u} is too large for a key; quote it")),
    })
}

/// Go's `strconv.FormatFloat(f, 'g', -1, 32)`.
#[allow(clippy::cast_possible_truncation)] // 32 bits are what the Go library takes
fn go_float_key(float: f64) -> String {
    let small = float as f32;
    if small.is_nan() {
        return ".nan".into();
    }
    if small.is_infinite() {
        return if small > 0.0 { ".inf".into() } else { "-.inf".into() };
    }
    let shortest = format!("{small:e}");
    // Of several shortest forms Go takes the one nearest to the exact value, the even one where two are as near.
    let digits = shortest.bytes().take_while(|b| *b != b'e').filter(u8::is_ascii_digit).count();
    let precision = digits.saturating_sub(1);
    let nearest = format!("{small:.precision$e}");
    let scientific = if nearest.parse() == Ok(small) { nearest } else { shortest };
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..6).contains(&exponent) {
        let mut out = mantissa.to_owned();
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "e{sign}{:02}", exponent.abs());
        return out;
    }
    scientific.parse::<f64>().unwrap_or(float).to_string()
}
