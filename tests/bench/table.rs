//! Numbers, as a table and as JSON.

use serde_json::{Value, json};

/// One measured number; lower is better.
pub(crate) struct Number {
    /// Its name, with the unit as its suffix.
    pub(crate) name: &'static str,
    /// The unit.
    pub(crate) unit: &'static str,
    /// What to reach.
    pub(crate) goal: f64,
    /// Every measurement.
    pub(crate) samples: Vec<f64>,
}

impl Number {
    /// A number from its measurements.
    pub(crate) fn new(name: &'static str, unit: &'static str, goal: f64, mut samples: Vec<f64>) -> Self {
        assert!(!samples.is_empty(), "{name} was not measured");
        samples.sort_by(f64::total_cmp);
        Self { name, unit, goal, samples }
    }

    fn median(&self) -> f64 {
        let (low, high) = ((self.samples.len() - 1) / 2, self.samples.len() / 2);
        f64::midpoint(self.samples[low], self.samples[high])
    }

    /// Where there are enough for it to say something.
    fn p99(&self) -> Option<f64> {
        (self.samples.len() >= 100).then(|| self.samples[self.samples.len() * 99 / 100])
    }
}

/// The table: a line of names, and one for each number.
pub(crate) fn shown(numbers: &[Number]) -> String {
    let mut table = format!(
        "{:<36} {:>6} {:>4} {:>10} {:>10} {:>10} {:>10} {:>10}\n",
        "number", "unit", "n", "min", "median", "p99", "max", "goal"
    );
    for n in numbers {
        let (name, unit, count) = (n.name, n.unit, n.samples.len());
        let (min, median, max, goal) = (n.samples[0], n.median(), n.samples[count - 1], n.goal);
        let missed = if median > goal { "  missed" } else { "" };
        let p99 = n.p99().map(|p99| format!("{p99:.2}")).unwrap_or_default();
        let row = format!(
            "{name:<36} {unit:>6} {count:>4} {min:>10.2} {median:>10.2} {p99:>10} {max:>10.2} {goal:>10.2}{missed}\n"
        );
        table.push_str(&row);
    }
    table
}

/// Prints the table.
pub(crate) fn print(numbers: &[Number]) {
    print!("\n{}", shown(numbers));
}

/// What is written of the numbers. Of those that were not measured again `before` is kept.
pub(crate) fn list(numbers: &[Number], before: Vec<Value>) -> Vec<Value> {
    let mut list: Vec<Value> = numbers
        .iter()
        .map(|n| {
            let mut number = json!({
                "name": n.name, "unit": n.unit, "n": n.samples.len(), "goal": n.goal,
                "min": n.samples[0], "median": n.median(), "max": n.samples[n.samples.len() - 1],
            });
            if let Some(p99) = n.p99() {
                number["p99"] = json!(p99);
            }
            number
        })
        .collect();
    list.splice(0..0, before.into_iter().filter(|old| numbers.iter().all(|n| old["name"] != n.name)));
    list
}

/// Writes `target/bench.json`; when `partial`, what it has of other numbers stays.
pub(crate) fn write(numbers: &[Number], partial: bool) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench.json");
    std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/target")).unwrap();
    let before = std::fs::read(path).ok().filter(|_| partial).and_then(|text| serde_json::from_slice(&text).ok());
    let list = list(numbers, before.unwrap_or_default());
    std::fs::write(path, serde_json::to_string_pretty(&list).unwrap()).unwrap();
    println!("\nwritten to target/bench.json");
}
