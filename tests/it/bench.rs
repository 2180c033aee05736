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

/// What was promised of the first numbers; lower is better.
const PROMISED: [(&str, f64); 10] = [
    ("push_to_applied_ms", 200.0),
    ("cold_100_syncs_s", 3.0),
    ("create_100_agents_s", 1.5),
    ("steady_api_writes", 0.0),
    // An interval is up to a tenth shorter or longer, so that remotes are not all asked at once.
    ("steady_ref_listings_per_interval", 1.1),
    ("controller_rss_mib", 64.0),
    ("door_added_latency_ms", 1.0),
    ("text_change_to_visible_ms", 1000.0),
    ("startup_ready_s", 2.0),
    ("binary_mib", 40.0),
];

/// The goal that the code of a number gives it.
fn goal(name: &str) -> f64 {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench");
    let code: String = std::fs::read_dir(folder)
        .unwrap()
        .filter_map(|entry| std::fs::read_to_string(entry.unwrap().path()).ok())
        .collect();
    let made =
        code.split(&format!("Number::new(\"{name}\", ")).nth(1).unwrap_or_else(|| panic!("nothing makes {name}"));
    made.split(", ").nth(1).unwrap().parse().unwrap_or_else(|_| panic!("{name}: a goal is a number"))
}

#[test]
fn goals_are_those_that_were_promised_and_those_of_the_page() {
    let page = include_str!("../../docs/BENCHMARKS.md");
    for (name, promised) in PROMISED {
        assert_eq!(goal(name).to_bits(), promised.to_bits(), "{name}");
        let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` |"))).unwrap();
        let told = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap().split_whitespace().next().unwrap();
        assert_eq!(told.parse::<f64>().unwrap().to_bits(), promised.to_bits(), "{row}");
    }
}

/// The table says which goal is missed, and whole numbers look like the others.
#[test]
fn the_table_shows_each_number_and_what_is_missed() {
    let shown = table::shown(&[
        Number::new("good_ms", "ms", 5.0, vec![4.0, 6.0, 5.0]),
        Number::new("late_ms", "ms", 5.0, vec![5.1]),
        Number::new("many_ms", "ms", 500.0, (1..=200).map(f64::from).collect()),
    ]);
    let rows: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["number", "unit", "n", "min", "median", "p99", "max", "goal"]);
    assert_eq!(rows[1], ["good_ms", "ms", "3", "4.00", "5.00", "6.00", "5.00"]);
    assert_eq!(rows[2], ["late_ms", "ms", "1", "5.10", "5.10", "5.10", "5.00", "missed"]);
    assert_eq!(rows[3], ["many_ms", "ms", "200", "1.00", "100.50", "199.00", "200.00", "500.00"]);
}

#[test]
fn the_first_numbers_are_still_measured_and_each_is_explained() {
    let names = names();
    for (name, _) in PROMISED {
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
