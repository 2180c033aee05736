//! What the pace of the fleet costs.

use std::{collections::BTreeMap, time::Instant};

use jiff::{SignedDuration, Timestamp};
use pilothouse::agent::fleet::{Book, Key, Member, Now, Of, Pace, Steps, Waiting};
use serde_json::json;

use crate::table::Number;

const AGENTS: usize = 1000;
const PASSES: usize = 100;

fn key(n: usize) -> Key {
    (format!("team-{}", n / 10), format!("agent-{n}"))
}

fn member(n: usize) -> Member {
    let ring = [0, 1, 1, 2, 2, 2, 2, 2, 2, 2][n % 10].to_string();
    let labels = [("ring".to_string(), ring), ("team".to_string(), (n / 10).to_string())].into();
    let settled: BTreeMap<String, Timestamp> =
        (0..8).map(|part| (format!("part-{part}=1"), Timestamp::UNIX_EPOCH)).collect();
    Member { labels, settled, healthy: Some(Timestamp::UNIX_EPOCH), ..Member::default() }
}

/// A thousand agents of three waves, of which all want the same change: one decision about all of them, after one of them has
/// changed.
pub(crate) fn measure(_: &tokio::runtime::Runtime) -> Vec<Number> {
    let wave = |ring: &str| json!({"selector": {"matchLabels": {"ring": ring}}, "soak": "1m"});
    let fleet = json!({"maxConcurrent": "10%", "waves": [wave("0"), wave("1"), wave("2")]});
    let pace = Pace::parse(&serde_json::from_value(fleet).unwrap()).unwrap();
    let now = |second: i64| {
        let time = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1) + SignedDuration::from_secs(second);
        Now { steady: time, wall: time }
    };
    let mut book = Book::default();
    let steps: Steps = ["image=2".to_string(), "env=2".to_string()].into();
    for n in 0..AGENTS {
        book.note(&key(n), member(n), now(0));
        let waiting = Waiting { steps: steps.clone(), knocks: true, since: now(0).wall };
        book.wait(&key(n), Of::Server, waiting, now(0));
    }
    book.plan(&pace, now(0));
    let samples = (0..PASSES).map(|n| {
        let flying = Member { flying: steps.clone(), ..member(n * 10) };
        book.done(&key(n * 10), Of::Server);
        book.note(&key(n * 10), flying, now(20));
        let begin = Instant::now();
        let plan = book.plan(&pace, now(20));
        assert!(plan.wake.len() <= AGENTS);
        begin.elapsed().as_secs_f64() * 1000.0
    });
    vec![Number::new("fleet_pass_1000_ms", "ms", 10.0, samples.collect())]
}
