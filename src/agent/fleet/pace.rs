//! `spec.fleet` of the cluster's settings, read once: how many agents change at a time, in which order, and when.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use k8s_openapi::apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString};

use crate::{
    api::config::{self, Fleet},
    schedule::{self, Schedule},
    status::condition::truncate,
};

/// Share of the agents that change at a time unless it is given.
const DEFAULT: &str = "10%";
/// Most waves, and most windows.
const MOST: usize = 32;
/// Longest window: a week.
const LONGEST: Duration = Duration::from_hours(7 * 24);
/// Longest reason of a person that is repeated, in bytes.
const WHY: usize = 200;

/// The labels of an agent.
pub type Labels = BTreeMap<String, String>;

/// At which pace changes go out.
#[derive(Clone, Debug, PartialEq)]
pub struct Pace {
    most: Most,
    waves: Vec<Wave>,
    windows: Vec<Window>,
    /// Why nothing goes out at all, for people.
    closed: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Most {
    Count(usize),
    Percent(usize),
}

#[derive(Clone, Debug, PartialEq)]
struct Wave {
    name: Option<String>,
    selector: LabelSelector,
    soak: Duration,
}

#[derive(Clone, Debug, PartialEq)]
struct Window {
    schedule: Schedule,
    length: SignedDuration,
    zone: TimeZone,
}

/// Whether changes may go out now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// Why not, for people; `None` where they may.
    pub closed: Option<String>,
    /// When that changes at the earliest; `None`: never by itself.
    pub until: Option<Timestamp>,
}

impl Pace {
    /// What the settings say; `None` where they set no pace. Settings that cannot be understood let nothing out.
    pub fn of(fleet: Option<&Fleet>) -> Option<Self> {
        let fleet = fleet?;
        Some(Self::parse(fleet).unwrap_or_else(|error| Self {
            most: Most::Count(1),
            waves: vec![],
            windows: vec![],
            closed: Some(format!("PilothouseConfig cluster is not valid: {error}")),
        }))
    }

    /// Reads the settings.
    ///
    /// # Errors
    /// The field and what is wrong with it.
    pub fn parse(fleet: &Fleet) -> Result<Self, String> {
        let (waves, windows) =
            (fleet.waves.as_deref().unwrap_or_default(), fleet.windows.as_deref().unwrap_or_default());
        for (field, count) in [("waves", waves.len()), ("windows", windows.len())] {
            if count > MOST {
                return Err(format!("spec.fleet.{field} has {count} entries; {MOST} at most"));
            }
        }
        let waves = waves.iter().enumerate().map(|(n, w)| wave(w).map_err(|e| format!("spec.fleet.waves[{n}].{e}")));
        let windows =
            windows.iter().enumerate().map(|(n, w)| window(w).map_err(|e| format!("spec.fleet.windows[{n}].{e}")));
        Ok(Self {
            most: most(fleet.max_concurrent.as_ref())?,
            waves: waves.collect::<Result<_, _>>()?,
            windows: windows.collect::<Result<_, _>>()?,
            closed: fleet.freeze.unwrap_or_default().then(|| frozen(fleet.freeze_reason.as_deref())),
        })
    }

    /// How many of `agents` may be in the middle of a change.
    pub fn most(&self, agents: usize) -> usize {
        match self.most {
            Most::Count(count) => count,
            Most::Percent(percent) => agents.saturating_mul(percent) / 100,
        }
        .max(1)
    }

    /// How many waves there are; what no wave selects comes after them.
    pub fn waves(&self) -> usize {
        self.waves.len()
    }

    /// The wave of an agent with these labels, from 0.
    pub fn wave(&self, labels: &Labels) -> usize {
        self.waves.iter().position(|w| selects(&w.selector, labels)).unwrap_or(self.waves.len())
    }

    /// How long a wave is to be healthy before the next one begins.
    pub fn soak(&self, wave: usize) -> Duration {
        self.waves.get(wave).map(|w| w.soak).unwrap_or_default()
    }

    /// A wave, for people.
    pub fn name(&self, wave: usize) -> String {
        match self.waves.get(wave) {
            Some(Wave { name: Some(name), .. }) => format!("wave {} ({name})", wave + 1),
            Some(_) => format!("wave {}", wave + 1),
            None => "the last wave".into(),
        }
    }

    /// The limit, for people: as it is written, since a number of agents changes with each agent.
    pub fn limit(&self) -> String {
        match self.most {
            Most::Count(count) => count.to_string(),
            Most::Percent(percent) => format!("{percent}%"),
        }
    }

    /// Whether changes may go out at `now`.
    pub fn door(&self, now: Timestamp) -> Door {
        if self.closed.is_some() {
            return Door { closed: self.closed.clone(), until: None };
        }
        if self.windows.is_empty() {
            return Door { closed: None, until: None };
        }
        if let Some(until) = self.windows.iter().filter_map(|w| w.open_until(now)).max() {
            return Door { closed: None, until: Some(until) };
        }
        let until = self.windows.iter().filter_map(|w| w.schedule.next(now, &w.zone)).min();
        let next = until.map_or_else(|| "none opens any more".into(), |t| format!("the next one opens at {t}"));
        Door { closed: Some(format!("changes go out in the windows of spec.fleet.windows alone; {next}")), until }
    }
}

/// For who looks at the door often: what was seen is believed for as long as it holds, since windows take long to compute.
#[derive(Clone, Debug, Default)]
pub struct Glance {
    seen: Option<(Timestamp, Door)>,
}

impl Glance {
    /// Whether changes may go out at `now`; always asked about the same `pace`.
    pub fn is_open(&mut self, pace: &Pace, now: Timestamp) -> bool {
        let holds = |(at, door): &&(Timestamp, Door)| *at <= now && door.until.is_none_or(|until| now < until);
        if let Some((_, door)) = self.seen.as_ref().filter(holds) {
            return door.closed.is_none();
        }
        let (_, door) = self.seen.insert((now, pace.door(now)));
        door.closed.is_none()
    }
}

impl Window {
    fn open_until(&self, now: Timestamp) -> Option<Timestamp> {
        let since = now.checked_sub(self.length).ok()?;
        let end = self.schedule.last(now, since, &self.zone)?.checked_add(self.length).ok()?;
        (end > now).then_some(end)
    }
}

fn frozen(why: Option<&str>) -> String {
    let why = why.map(str::trim).filter(|why| !why.is_empty());
    let why = why.map(|why| format!(" ({})", truncate(why, WHY))).unwrap_or_default();
    format!("changes are frozen by spec.fleet.freeze of PilothouseConfig cluster{why}")
}

fn most(value: Option<&IntOrString>) -> Result<Most, String> {
    let bad =
        |given: &str| format!("spec.fleet.maxConcurrent: {given} is neither a number from 1 nor a share such as 10%");
    let default = IntOrString::String(DEFAULT.into());
    match value.unwrap_or(&default) {
        IntOrString::Int(n) => {
            usize::try_from(*n).ok().filter(|n| *n > 0).map(Most::Count).ok_or_else(|| bad(&n.to_string()))
        }
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
            let percent = percent.and_then(|p| p.parse().ok()).filter(|p| (1..=100).contains(p));
            percent.map(Most::Percent).ok_or_else(|| bad(&format!("{text:?}")))
        }
    }
}

fn wave(wave: &config::Wave) -> Result<Wave, String> {
    for expression in wave.selector.match_expressions.iter().flatten() {
        let operators = ["In", "NotIn", "Exists", "DoesNotExist"];
        if !operators.contains(&expression.operator.as_str()) {
            let (known, given) = (operators.join(", "), &expression.operator);
            return Err(format!("selector: {given:?} is no operator; there are {known}"));
        }
    }
    let soak = wave.soak.as_ref().map(config_duration).transpose().map_err(|e| format!("soak: {e}"))?;
    Ok(Wave { name: wave.name.clone(), selector: wave.selector.clone(), soak: soak.unwrap_or_default() })
}

fn window(window: &config::Window) -> Result<Window, String> {
    let length = config_duration(&window.duration).map_err(|e| format!("duration: {e}"))?;
    if length.is_zero() || length > LONGEST {
        return Err(format!("duration: {} is not between 1s and 168h", window.duration));
    }
    let name = window.time_zone.as_deref().unwrap_or("UTC");
    let zone = schedule::zone(name).map_err(|e| format!("timeZone: {e}"))?;
    Ok(Window {
        schedule: Schedule::parse(&window.schedule).map_err(|e| format!("schedule: {e}"))?,
        length: SignedDuration::try_from(length).unwrap_or(SignedDuration::ZERO),
        zone,
    })
}

fn config_duration(text: &crate::api::GoDuration) -> Result<Duration, String> {
    text.parse().map_err(|error| error.to_string())
}

/// As the API server does it. A selector without anything selects everything.
fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let named = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    named
        && selector.match_expressions.iter().flatten().all(|e| {
            let (label, values) = (labels.get(&e.key), e.values.as_deref().unwrap_or_default());
            match e.operator.as_str() {
                "In" => label.is_some_and(|label| values.contains(label)),
                "NotIn" => label.is_none_or(|label| !values.contains(label)),
                "Exists" => label.is_some(),
                "DoesNotExist" => label.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pace(spec: Value) -> Result<Pace, String> {
        Pace::parse(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn what_is_wrong_is_named_and_lets_nothing_out() {
        let table = [
            (json!({"maxConcurrent": 0}), "maxConcurrent: 0"),
            (json!({"maxConcurrent": "0%"}), "maxConcurrent: \"0%\""),
            (json!({"maxConcurrent": "110%"}), "maxConcurrent"),
            (json!({"maxConcurrent": "many"}), "maxConcurrent"),
            (json!({"waves": [{"selector": {}}, {"selector": {}, "soak": "long"}]}), "waves[1].soak"),
            (
                json!({"waves": [{"selector": {"matchExpressions": [{"key": "a", "operator": "Gt"}]}}]}),
                "waves[0].selector",
            ),
            (json!({"windows": [{"schedule": "0 2 * *", "duration": "1h"}]}), "windows[0].schedule"),
            (json!({"windows": [{"schedule": "0 2 * * *", "duration": "0s"}]}), "windows[0].duration"),
            (
                json!({"windows": [{"schedule": "0 2 * * *", "duration": "1h", "timeZone": "Mars"}]}),
                "timeZone: \"Mars\"",
            ),
        ];
        for (spec, expected) in table {
            let error = pace(spec.clone()).unwrap_err();
            assert!(error.contains(expected), "{spec}: {error}");
            let fleet: Fleet = serde_json::from_value(spec).unwrap();
            let closed = Pace::of(Some(&fleet)).unwrap().door(Timestamp::UNIX_EPOCH).closed.unwrap();
            assert!(closed.contains(expected), "{closed}");
        }
        assert_eq!(Pace::of(None), None);
    }

    #[test]
    fn shares_are_rounded_down_and_let_at_least_one() {
        let table = [
            (json!({}), 1000, 100),
            (json!({}), 3, 1),
            (json!({"maxConcurrent": "33%"}), 10, 3),
            (json!({"maxConcurrent": "100%"}), 7, 7),
            (json!({"maxConcurrent": 5}), 2, 5),
        ];
        for (spec, agents, expected) in table {
            assert_eq!(pace(spec.clone()).unwrap().most(agents), expected, "{spec} of {agents}");
        }
    }

    #[test]
    fn the_first_wave_that_selects_an_agent_has_it() {
        let waves = json!({"waves": [
            {"name": "canary", "selector": {"matchLabels": {"ring": "0"}}},
            {"selector": {"matchExpressions": [{"key": "ring", "operator": "In", "values": ["0", "1"]},
                {"key": "keep", "operator": "DoesNotExist"}]}},
            {"selector": {"matchExpressions": [{"key": "ring", "operator": "NotIn", "values": ["9"]},
                {"key": "team", "operator": "Exists"}]}},
        ]});
        let pace = pace(waves).unwrap();
        let labels = |list: &[(&str, &str)]| list.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect::<Labels>();
        let table = [
            (labels(&[("ring", "0")]), 0, "wave 1 (canary)"),
            (labels(&[("ring", "1")]), 1, "wave 2"),
            (labels(&[("ring", "1"), ("keep", "")]), 3, "the last wave"),
            (labels(&[("team", "a")]), 2, "wave 3"),
            (labels(&[("team", "a"), ("ring", "9")]), 3, "the last wave"),
            (labels(&[]), 3, "the last wave"),
        ];
        for (labels, wave, name) in table {
            assert_eq!((pace.wave(&labels), pace.name(wave).as_str()), (wave, name), "{labels:?}");
        }
    }

    #[test]
    fn windows_open_and_close_by_the_wall_clock() {
        let spec = json!({"windows": [
            {"schedule": "0 22 * * MON-FRI", "duration": "4h", "timeZone": "Europe/Berlin"},
            {"schedule": "0 3 * * SAT", "duration": "1h"},
        ]});
        let pace = pace(spec).unwrap();
        // 2026-11-20 is a Friday. Berlin is an hour ahead of UTC in winter and two in summer.
        let table = [
            ("2026-11-20T20:59:59Z", false, "2026-11-20T21:00:00Z"),
            ("2026-11-20T21:00:00Z", true, "2026-11-21T01:00:00Z"),
            ("2026-11-21T00:59:59Z", true, "2026-11-21T01:00:00Z"),
            ("2026-11-21T01:00:00Z", false, "2026-11-21T03:00:00Z"),
            ("2026-11-21T03:30:00Z", true, "2026-11-21T04:00:00Z"),
            ("2026-11-21T04:00:00Z", false, "2026-11-23T21:00:00Z"),
            ("2026-07-01T19:30:00Z", false, "2026-07-01T20:00:00Z"),
        ];
        for (now, open, until) in table {
            let door = pace.door(now.parse().unwrap());
            assert_eq!((door.closed.is_none(), door.until), (open, Some(until.parse().unwrap())), "{now}: {door:?}");
        }
    }

    #[test]
    fn a_glance_sees_what_there_is_whichever_way_the_clock_goes() {
        let windows = json!([{"schedule": "0 22 * * MON-FRI", "duration": "4h"}, {"schedule": "*/20 1 * * *", "duration": "10m"}]);
        for spec in [json!({ "windows": windows }), json!({"freeze": true}), json!({})] {
            let (pace, mut glance) = (pace(spec).unwrap(), Glance::default());
            let start: Timestamp = "2026-11-19T20:00:00Z".parse().unwrap();
            // Forward by many steps, and back by a few.
            for n in 0..4000i64 {
                let now = start + SignedDuration::from_mins(n * 7 - (n % 50) * 30);
                assert_eq!(glance.is_open(&pace, now), pace.door(now).closed.is_none(), "{now}");
            }
        }
    }

    #[test]
    fn a_freeze_says_why() {
        let door =
            pace(json!({"freeze": true, "freezeReason": "the fair, ask Jo"})).unwrap().door(Timestamp::UNIX_EPOCH);
        assert!(door.closed.unwrap().ends_with("(the fair, ask Jo)"));
        assert_eq!(pace(json!({"freeze": false})).unwrap().door(Timestamp::UNIX_EPOCH).closed, None);
    }
}
