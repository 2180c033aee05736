//! When the pace would let changes go that are applied together, for who sees them before they are (pure).
//!
//! What the other agents of the cluster do, and how long pods take to get ready, nobody can know: so this says what is
//! waited for, and not before when.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{Labels, Pace, Steps, book::SETTLE};

/// The change of one agent.
#[derive(Clone, Copy, Debug)]
pub struct Planned<'a> {
    /// The agent's labels.
    pub labels: &'a Labels,
    /// What it consists of.
    pub steps: &'a Steps,
    /// Whether a person keeps it back.
    pub kept: bool,
}

/// What the pace means for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outlook {
    /// Its wave, from 1; absent where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wave: Option<usize>,
    /// How many there are, the agents that no wave selects included as the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waves: Option<usize>,
    /// What it waits for, in words; absent where it may go as soon as it has its turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// Not before this; absent where that cannot be told, as in a freeze.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub earliest: Option<Timestamp>,
    /// How many agents change at a time: a number, or a share such as `10%`.
    pub at_a_time: String,
}

impl fmt::Display for Outlook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(wave), Some(waves)) = (self.wave, self.waves) {
            write!(f, "wave {wave} of {waves}, ")?;
        }
        write!(f, "{} of the agents at a time", self.at_a_time)?;
        let Some(why) = &self.waits_for else { return Ok(()) };
        write!(f, "; waits: {why}")?;
        match self.earliest {
            Some(time) => write!(f, "; not before {time}"),
            None => f.write_str("; nobody knows until when"),
        }
    }
}

/// What the pace means for each of these, if they are applied at `now`; in their order.
pub fn outlook(pace: &Pace, changes: &[Planned<'_>], now: Timestamp) -> Vec<Outlook> {
    let wave_of: Vec<usize> = changes.iter().map(|change| pace.wave(change.labels)).collect();
    let mut order: Vec<usize> = (0..changes.len()).collect();
    order.sort_by_key(|n| wave_of[*n]);
    let mut outlooks: BTreeMap<usize, Outlook> = BTreeMap::new();
    // By step: the waves that have it, and when each is through at the earliest; `None`: nobody knows.
    let mut through: HashMap<&str, BTreeMap<usize, Option<Timestamp>>> = HashMap::new();
    for n in order {
        let (change, own) = (&changes[n], wave_of[n]);
        let waves = change.steps.iter().filter_map(|step| through.get(step.as_str())).flatten();
        let earlier: Vec<_> = waves.filter(|(wave, _)| **wave < own).collect();
        let first = earlier.iter().map(|(wave, _)| **wave).max();
        let after = earlier.iter().map(|(_, end)| **end).chain([Some(begins(own, now))]);
        let earliest = latest(after).and_then(|time| opens(pace, time));
        let end = earliest.filter(|_| !change.kept).map(|time| later(time, pace.soak(own)));
        for step in change.steps {
            let known = through.entry(step).or_default().entry(own).or_insert(end);
            *known = known.zip(end).map(|(a, b)| a.max(b));
        }
        outlooks.insert(n, say(pace, own, first, earliest, now));
    }
    outlooks.into_values().collect()
}

fn say(pace: &Pace, own: usize, after: Option<usize>, earliest: Option<Timestamp>, now: Timestamp) -> Outlook {
    let is_paced = pace.waves() > 0;
    let after = after.map(|wave| {
        let soak = pace.soak(wave);
        let healthy = if soak.is_zero() { String::new() } else { format!(" and is healthy for {}s", soak.as_secs()) };
        format!("until {} has the same change{healthy}", pace.name(wave))
    });
    let waits: Vec<String> = pace.door(now).closed.into_iter().chain(after).collect();
    Outlook {
        wave: is_paced.then_some(own + 1),
        waves: is_paced.then_some(pace.waves() + 1),
        waits_for: (!waits.is_empty()).then(|| waits.join("; ")),
        earliest,
        at_a_time: pace.limit(),
    }
}

/// A later wave waits a little, so that all have seen the push.
fn begins(own: usize, now: Timestamp) -> Timestamp {
    if own == 0 { now } else { now.checked_add(SETTLE).unwrap_or(Timestamp::MAX) }
}

/// The latest of them; `None` where one is not known.
fn latest(times: impl Iterator<Item = Option<Timestamp>>) -> Option<Timestamp> {
    times.collect::<Option<Vec<_>>>()?.into_iter().max()
}

/// From when on the door is open, from `time` on; `None`: nobody knows.
fn opens(pace: &Pace, time: Timestamp) -> Option<Timestamp> {
    let door = pace.door(time);
    if door.closed.is_none() { Some(time) } else { door.until }
}

fn later(time: Timestamp, length: std::time::Duration) -> Timestamp {
    let length = SignedDuration::try_from(length).unwrap_or(SignedDuration::MAX);
    time.checked_add(length).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-11-20T12:00:00Z"; // a Friday

    /// Rings and steps of agents; wave, earliest time and what is waited for of each.
    fn told(spec: Value, agents: &[(&str, &[&str], bool)]) -> Vec<(Option<usize>, Option<String>, String)> {
        let pace = Pace::parse(&serde_json::from_value(spec).unwrap()).unwrap();
        let all: Vec<(Labels, Steps, bool)> = agents
            .iter()
            .map(|(ring, steps, kept)| {
                let labels = Labels::from([("ring".to_string(), (*ring).to_string())]);
                (labels, steps.iter().map(ToString::to_string).collect(), *kept)
            })
            .collect();
        let changes: Vec<_> = all.iter().map(|(labels, steps, kept)| Planned { labels, steps, kept: *kept }).collect();
        let outlooks = outlook(&pace, &changes, NOW.parse().unwrap());
        let one = |o: Outlook| (o.wave, o.earliest.map(|t| t.to_string()), o.waits_for.unwrap_or_default());
        outlooks.into_iter().map(one).collect()
    }

    fn waves() -> Value {
        json!([{"name": "canary", "selector": {"matchLabels": {"ring": "0"}}, "soak": "30m"},
            {"selector": {"matchLabels": {"ring": "1"}}, "soak": "1h"}])
    }

    #[test]
    fn waves_come_one_after_the_other_where_the_change_is_the_same() {
        let agents: [(&str, &[&str], bool); 5] = [
            ("9", &["image=1"], false),
            ("0", &["image=1"], false),
            ("1", &["env=2", "image=1"], false),
            ("1", &["image=7"], false),
            ("0", &["env=3"], false),
        ];
        let found = told(json!({ "waves": waves() }), &agents);
        let at = |time: &str| Some(format!("2026-11-20T{time}Z"));
        assert_eq!(found[0].0, Some(3));
        assert_eq!(
            (&found[0].1, found[0].2.as_str()),
            (&at("13:30:00"), "until wave 2 has the same change and is healthy for 3600s")
        );
        assert_eq!(found[1], (Some(1), at("12:00:00"), String::new()));
        assert_eq!(found[2].1, at("12:30:00"));
        assert!(
            found[2].2.starts_with("until wave 1 (canary) has the same change and is healthy for 1800s"),
            "{found:?}"
        );
        assert_eq!(found[3], (Some(2), at("12:00:10"), String::new()), "another change waits for nobody's wave");
        assert_eq!(found[4], (Some(1), at("12:00:00"), String::new()));
    }

    #[test]
    fn it_is_said_in_one_line() {
        let outlook = |waits_for: Option<&str>, earliest: Option<&str>| Outlook {
            wave: Some(2),
            waves: Some(3),
            waits_for: waits_for.map(String::from),
            earliest: earliest.map(|time| time.parse().unwrap()),
            at_a_time: "10%".into(),
        };
        let table = [
            (outlook(None, Some(NOW)), "wave 2 of 3, 10% of the agents at a time"),
            (
                outlook(Some("until noon"), Some(NOW)),
                "wave 2 of 3, 10% of the agents at a time; waits: until noon; not before 2026-11-20T12:00:00Z",
            ),
            (
                outlook(Some("frozen"), None),
                "wave 2 of 3, 10% of the agents at a time; waits: frozen; nobody knows until when",
            ),
        ];
        for (outlook, expected) in table {
            assert_eq!(outlook.to_string(), expected);
        }
    }

    #[test]
    fn windows_and_freezes_are_waited_for_and_what_nobody_knows_is_not_said() {
        let windows = json!([{"schedule": "0 22 * * MON-FRI", "duration": "20m"}]);
        let agents: [(&str, &[&str], bool); 2] = [("0", &["image=1"], false), ("1", &["image=1"], false)];
        let found = told(json!({"waves": waves(), "windows": windows}), &agents);
        assert_eq!(found[0].1.as_deref(), Some("2026-11-20T22:00:00Z"));
        assert!(found[0].2.contains("windows"), "{found:?}");
        assert_eq!(found[1].1.as_deref(), Some("2026-11-23T22:00:00Z"), "the soak ends after the window");
        let frozen = told(json!({"waves": waves(), "freeze": true}), &agents);
        assert!(frozen.iter().all(|(_, at, why)| at.is_none() && why.contains("frozen")), "{frozen:?}");
        let held = told(json!({ "waves": waves() }), &[("0", &["image=1"], true), ("1", &["image=1"], false)]);
        assert_eq!(held[1].1, None, "{held:?}");
        let plain = told(json!({}), &agents);
        assert_eq!(plain[1], (None, Some("2026-11-20T12:00:00Z".into()), String::new()));
    }
}
