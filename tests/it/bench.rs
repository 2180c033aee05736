//! What `make bench` makes of its measurements, and that it measures what was promised.

#![allow(dead_code, reason = "the table is printed and written by `make bench`")]

#[path = "../bench/table.rs"]
mod table;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use table::Number;

/// The names that `make bench BENCH=name` knows.
fn names() -> BTreeSet<&'static str> {
    let source = include_str!("../bench/main.rs");
    let list = source.split_once("const ALL: ").and_then(|(_, rest)| rest.split_once("];\n")).expect("the list").0;
    list.split('"').skip(1).step_by(2).collect()
}

#[test]
fn the_first_numbers_are_still_measured_and_each_is_explained() {
    let names = names();
    for name in [
        "push_to_applied_ms",
        "cold_100_syncs_s",
        "create_100_agents_s",
        "steady_api_writes",
        "steady_ref_listings_per_interval",
        "controller_rss_mib",
        "door_added_latency_ms",
        "text_change_to_visible_ms",
        "startup_ready_s",
        "binary_mib",
    ] {
        assert!(names.contains(name), "{name} is not measured any more");
    }
    let page = include_str!("../../docs/BENCHMARKS.md");
    for name in names {
        assert!(page.contains(&format!("| `{name}` |")), "docs/BENCHMARKS.md does not say what {name} is");
    }
}

#[test]
fn a_number_is_its_median() {
    for (samples, min, median, max) in [
        (vec![3.0], 3.0, 3.0, 3.0),
        (vec![4.0, 1.0], 1.0, 2.5, 4.0),
        (vec![9.0, 1.0, 2.0], 1.0, 2.0, 9.0),
        (vec![9.0, 3.0, 1.0, 2.0], 1.0, 2.5, 9.0),
    ] {
        let shown = table::list(&[Number::new("a_ms", "ms", 5.0, samples.clone())], vec![]);
        let keys: BTreeSet<&str> = shown[0].as_object().unwrap().keys().map(String::as_str).collect();
        for key in ["name", "unit", "n", "min", "median", "max", "goal"] {
            assert!(keys.contains(key), "{key} is not in {keys:?}");
        }
        let want = json!(["a_ms", "ms", samples.len(), min, median, max, 5.0]);
        let found: Vec<&Value> = ["name", "unit", "n", "min", "median", "max", "goal"].map(|key| &shown[0][key]).into();
        assert_eq!(json!(found), want);
    }
}

/// `BENCH=name` is about that number; the others stay as they were measured.
#[test]
fn one_number_takes_the_place_of_one_number() {
    let number = |name, value| Number::new(name, "s", 1.0, vec![value]);
    let whole = table::list(&[number("a", 1.0), number("b", 1.0)], vec![]);
    let after = table::list(&[number("b", 2.0)], whole);
    let shown: Vec<_> = after.iter().map(|n| (n["name"].as_str().unwrap(), n["median"].as_f64().unwrap())).collect();
    assert_eq!(shown, [("a", 1.0), ("b", 2.0)]);
}
