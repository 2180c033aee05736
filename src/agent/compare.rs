//! Whether a live object has what is wanted, although the API server fills in defaults and writes some values its way.

use serde_json::Value;

/// Whether every field of `wanted` is in `live`. Further fields of `live` (defaults, other writers) do not matter; lists
/// must have the same length.
pub fn covers(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| live.get(key).map_or_else(|| is_zero(value), |l| covers(l, value)))
        }
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len() && live.iter().zip(wanted).all(|(l, w)| covers(l, w))
        }
        (Value::Null, wanted) => is_zero(wanted),
        (live, wanted) => live == wanted || same_quantity(live, wanted),
    }
}

/// The API server leaves such values out.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_zero),
    }
}

fn same_quantity(live: &Value, wanted: &Value) -> bool {
    let read = |v: &Value| v.as_str().map(String::from).or_else(|| v.as_number().map(ToString::to_string));
    match (read(live).as_deref().and_then(quantity), read(wanted).as_deref().and_then(quantity)) {
        (Some(live), Some(wanted)) => (live - wanted).abs() <= live.abs() * 1e-12,
        _ => false,
    }
}

/// The value of a quantity such as `500m`, `4Gi` or `1e3`.
pub fn quantity(text: &str) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 15] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
    ];
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return None;
    }
    let scaled =
        SUFFIXES.iter().find_map(|(suffix, scale)| Some(text.strip_suffix(suffix)?.parse::<f64>().ok()? * scale));
    scaled.or_else(|| text.parse().ok()).filter(|n: &f64| n.is_finite())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_and_spelling_do_not_matter_but_values_do() {
        let table = [
            (json!({"a": 1, "b": 2}), json!({"a": 1}), true),
            (json!({"a": 1}), json!({"a": 2}), false),
            (json!({}), json!({"a": 1}), false),
            (json!({}), json!({"a": "", "b": [], "c": {"d": null}, "e": false, "f": 0}), true),
            (json!([{"a": 1, "b": 1}]), json!([{"a": 1}]), true),
            (json!([1, 2]), json!([1]), false),
            (json!([1]), json!([2]), false),
            (json!("4Gi"), json!("4096Mi"), true),
            (json!("1"), json!("1000m"), true),
            (json!("1k"), json!("1e3"), true),
            (json!("4Gi"), json!("4G"), false),
            (json!("nginx:1"), json!("nginx:2"), false),
            (json!("inf"), json!("infinity"), false),
            (json!(true), json!(false), false),
        ];
        for (live, wanted, expected) in table {
            assert_eq!(covers(&live, &wanted), expected, "{live} {wanted}");
        }
    }
}
