use std::collections::BTreeSet;

use jiff::{SignedDuration, ToSpan as _, tz::Disambiguation};
use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn times(schedule: &str, zone_name: &str, after: &str, count: usize) -> Vec<String> {
    let (schedule, zone) = (Schedule::parse(schedule).unwrap(), zone(zone_name).unwrap());
    schedule.after(at(after), &zone).take(count).map(|t| t.to_string()).collect()
}

#[test]
fn the_next_time_is_that_of_the_wall_clock() {
    let table = [
        ("0 2 * * *", "UTC", "2026-11-21T01:59:59.999999999Z", "2026-11-21T02:00:00Z"),
        ("0 2 * * *", "UTC", "2026-11-21T02:00:00Z", "2026-11-22T02:00:00Z"),
        ("0 2 * * *", "UTC", "2026-11-21T02:00:00.000000001Z", "2026-11-22T02:00:00Z"),
        ("* * * * *", "UTC", "2026-12-31T23:59:00Z", "2027-01-01T00:00:00Z"),
        ("*/15 9-17 * * MON-FRI", "UTC", "2026-11-20T17:50:00Z", "2026-11-23T09:00:00Z"),
        ("5/20 * * * *", "UTC", "2026-11-20T17:45:00Z", "2026-11-20T18:05:00Z"),
        ("30 22 * * 7", "UTC", "2026-11-21T00:00:00Z", "2026-11-22T22:30:00Z"),
        ("30 22 ? * 0", "UTC", "2026-11-21T00:00:00Z", "2026-11-22T22:30:00Z"),
        // Both day fields are limited: one suffices.
        ("0 0 1 * 1", "UTC", "2026-11-24T00:00:00Z", "2026-11-30T00:00:00Z"),
        ("0 0 1 * 1", "UTC", "2026-11-30T00:00:00Z", "2026-12-01T00:00:00Z"),
        // A star with a step is a limit, as in Kubernetes.
        ("0 0 */10 * 1", "UTC", "2026-11-21T00:00:00Z", "2026-11-23T00:00:00Z"),
        ("0 0 */10 * 1", "UTC", "2026-11-30T00:00:00Z", "2026-12-01T00:00:00Z"),
        ("0 0 */1 * 1", "UTC", "2026-11-24T00:00:00Z", "2026-11-30T00:00:00Z"),
        ("0 0 29 feb *", "UTC", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
        ("0 0 29 2 *", "UTC", "2096-02-29T00:00:00Z", "2104-02-29T00:00:00Z"),
        ("0 0 31 * *", "UTC", "2026-01-31T00:00:00Z", "2026-03-31T00:00:00Z"),
        ("0 8 * * *", "Europe/Berlin", "2026-03-28T08:00:00Z", "2026-03-29T06:00:00Z"),
        ("0 8 * * *", "Asia/Kathmandu", "2026-03-28T08:00:00Z", "2026-03-29T02:15:00Z"),
    ];
    for (schedule, zone, after, expected) in table {
        assert_eq!(times(schedule, zone, after, 1), [expected], "{schedule} in {zone} after {after}");
    }
}

/// Two zones of each hemisphere, one with half an hour, one that sets its clock at midnight, one that left out a day.
#[test]
fn where_clocks_jump_each_named_time_runs_once_and_every_hour_follows_the_clock() {
    let table: [(&str, &str, &str, &[&str]); 16] = [
        // Clocks go forward: 02:30 does not exist. It runs at the first moment after, and only then.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]),
        ("30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", &["2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"]),
        (
            "15 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-03T00:00:00Z",
            &["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"],
        ),
        ("30 0 * * *", "America/Santiago", "2026-09-05T12:00:00Z", &["2026-09-06T04:00:00Z", "2026-09-07T03:30:00Z"]),
        ("0 9 30 12 *", "Pacific/Apia", "2011-12-29T00:00:00Z", &["2011-12-30T10:00:00Z", "2012-12-29T19:00:00Z"]),
        // However many were skipped: one run for them all, and none twice.
        ("*/20 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-29T01:20:00Z"]),
        // Clocks go back: 02:30 exists twice. It runs the first time.
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]),
        ("30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", &["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"]),
        (
            "45 1 * * *",
            "Australia/Lord_Howe",
            "2026-04-04T00:00:00Z",
            &["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"],
        ),
        ("30 23 * * *", "America/Santiago", "2026-04-04T12:00:00Z", &["2026-04-05T02:30:00Z", "2026-04-06T03:30:00Z"]),
        ("50 2 * * *", "Europe/Berlin", "2026-10-25T00:51:00Z", &["2026-10-26T01:50:00Z"]),
        // Every hour: none in the one that is left out, two in the one that comes twice.
        ("30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", &["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z"]),
        (
            "30 * * * *",
            "Europe/Berlin",
            "2026-10-25T00:00:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"],
        ),
        ("0 0-23 * * *", "America/New_York", "2026-11-01T04:30:00Z", &["2026-11-01T05:00:00Z", "2026-11-01T06:00:00Z"]),
        (
            "15 * * * *",
            "Australia/Lord_Howe",
            "2026-10-03T14:00:00Z",
            &["2026-10-03T14:45:00Z", "2026-10-03T16:15:00Z"],
        ),
        (
            "45 * * * *",
            "Australia/Lord_Howe",
            "2026-04-04T14:00:00Z",
            &["2026-04-04T14:45:00Z", "2026-04-04T15:15:00Z", "2026-04-04T16:15:00Z"],
        ),
    ];
    for (schedule, zone, after, expected) in table {
        assert_eq!(times(schedule, zone, after, expected.len()), expected, "{schedule} in {zone} after {after}");
    }
}

#[test]
fn the_last_time_is_found_from_both_sides_of_an_hour_that_comes_twice() {
    let (schedule, berlin) = (Schedule::parse("50 2 * * *").unwrap(), zone("Europe/Berlin").unwrap());
    let last = |now: &str| schedule.last(at(now), at("2026-10-24T12:00:00Z"), &berlin).map(|t| t.to_string());
    assert_eq!(last("2026-10-25T00:49:00Z"), None);
    assert_eq!(last("2026-10-25T00:50:00Z").as_deref(), Some("2026-10-25T00:50:00Z"));
    assert_eq!(last("2026-10-25T01:10:00Z").as_deref(), Some("2026-10-25T00:50:00Z"), "the clock shows 02:10 again");
}

#[test]
fn what_is_no_schedule_is_said_with_its_position() {
    let table = [
        ("", 1, "0 fields"),
        ("0 2 * *", 8, "4 fields"),
        ("0 0 2 * * *", 11, "6 fields"),
        ("@daily", 1, "write \"0 0 * * *\""),
        ("@every 1h", 1, "@every is not known"),
        ("TZ=UTC 0 2 * * *", 1, "setting of its own"),
        ("CRON_TZ=Europe/Berlin 0 2 * * *", 1, "setting of its own"),
        ("60 2 * * *", 1, "\"60\" in the field minute"),
        ("0 24 * * *", 3, "field hour"),
        ("0 0 0 * *", 5, "field day of the month"),
        ("0 0 * 13 *", 7, "field month"),
        ("0  0 * * 8", 10, "field day of the week"),
        ("0 0 * * FRI-MON", 9, "ends before it begins"),
        ("0 0 * * MON,WEN", 13, "\"WEN\" is none: values are 0 to 7 or SUN to SAT"),
        ("*/0 0 * * *", 1, "no step"),
        ("*/100 0 * * *", 1, "no step"),
        ("1,,2 0 * * *", 3, "\"\" is none"),
        ("+1 0 * * *", 1, "none"),
        ("1-2-3 0 * * *", 1, "none"),
        ("*-5 0 * * *", 1, "none"),
        ("1/2/3 0 * * *", 1, "no step"),
        ("0 0 L * *", 5, "none"),
        ("0 0 15W * *", 5, "none"),
        ("0 0 * * 5#2", 9, "none"),
        ("0\t0 * * *", 10, "4 fields"),
        ("59 23 31 2 *", 7, "never runs"),
        ("0 0 30,31 FEB *", 5, "never runs"),
        ("0 0 31 4,6,9,11 *", 5, "never runs"),
        ("ä 0 * * *", 1, "none"),
        ("0 ä,ö 99 * *", 3, "none"),
    ];
    for (text, position, expected) in table {
        let error = Schedule::parse(text).unwrap_err();
        assert_eq!(error.position, position, "{text}: {error}");
        assert!(error.message.contains(expected), "{text}: {error}");
    }
    assert!(Schedule::parse(&"1,".repeat(200)).unwrap_err().message.contains("longer"));
}

#[test]
fn zones_are_those_of_the_database() {
    for name in ["Europe/Berlin", "UTC", "Etc/UTC", "America/Argentina/Buenos_Aires"] {
        assert!(zone(name).is_ok(), "{name}");
    }
    for name in ["Mars", "Local", "local", "", "../etc/passwd", "+01:00", "CET-1CEST"] {
        assert!(zone(name).is_err(), "{name}");
    }
}

/// A field of `low` to `high`: what it means is worked out here in the plainest way.
fn field(low: u32, high: u32) -> impl Strategy<Value = String> {
    prop::collection::vec(item(low, high), 1..3).prop_map(|items| items.join(","))
}

fn item(low: u32, high: u32) -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just("*".to_string()),
        2 => (low..=high).prop_map(|n| n.to_string()),
        1 => (low..=high, low..=high).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        1 => (1u32..30).prop_map(|step| format!("*/{step}")),
        1 => (low..=high, low..=high, 1u32..10).prop_map(|(a, b, s)| format!("{}-{}/{s}", a.min(b), a.max(b))),
    ]
}

fn day_of(low: u32, high: u32) -> impl Strategy<Value = String> {
    let value = (low..=high).prop_map(|n| n.to_string());
    let range = (low..=high, low..=high).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b)));
    prop_oneof![Just("*".to_string()), value, range]
}

fn expression() -> impl Strategy<Value = String> {
    let wide = (field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6));
    let daily = (field(0, 59), prop_oneof![field(0, 3), field(22, 23), Just("*".into())]);
    prop_oneof![
        1 => wide.prop_map(|(a, b, c, d, e)| format!("{a} {b} {c} {d} {e}")),
        2 => daily.prop_map(|(a, b)| format!("{a} {b} * * *")),
    ]
}

/// All times within `[from, until]`, minute by minute of the wall clock, by the rules as they are documented.
fn by_the_rules(schedule: &Schedule, zone: &TimeZone, from: Timestamp, until: Timestamp) -> BTreeSet<Timestamp> {
    let clock = |t: Timestamp| zone.to_datetime(t);
    let (mut minute, end) =
        (clock(from).date().yesterday().unwrap().at(0, 0, 0, 0), clock(until).checked_add(2.days()).unwrap());
    let mut found = BTreeSet::new();
    while minute < end {
        if schedule.is_on(minute.date()) && schedule.is_at(minute_of_day(minute)) {
            let (one, named) = (zone.to_ambiguous_timestamp(minute), schedule.names_hours());
            let earlier = one.disambiguate(Disambiguation::Earlier).unwrap();
            match one.offset() {
                jiff::tz::AmbiguousOffset::Unambiguous { .. } => _ = found.insert(earlier),
                jiff::tz::AmbiguousOffset::Fold { .. } => {
                    found.insert(earlier);
                    if !named {
                        found.insert(one.disambiguate(Disambiguation::Later).unwrap());
                    }
                }
                jiff::tz::AmbiguousOffset::Gap { .. } if named => {
                    found.insert(zone.following(earlier).next().unwrap().timestamp());
                }
                jiff::tz::AmbiguousOffset::Gap { .. } => {}
            }
        }
        minute = minute.checked_add(1.minute()).unwrap();
    }
    found.into_iter().filter(|t| (from..=until).contains(t)).collect()
}

/// Zones, with a time at which each sets its clock.
const JUMPS: [(&str, &str); 12] = [
    ("Europe/Berlin", "2026-03-29T01:00:00Z"),
    ("Europe/Berlin", "2026-10-25T01:00:00Z"),
    ("America/New_York", "2026-03-08T07:00:00Z"),
    ("America/New_York", "2026-11-01T06:00:00Z"),
    ("Australia/Lord_Howe", "2026-10-03T15:30:00Z"),
    ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),
    ("America/Santiago", "2026-09-06T04:00:00Z"),
    ("America/Santiago", "2026-04-05T03:00:00Z"),
    ("Africa/Casablanca", "2026-02-15T02:00:00Z"),
    ("Africa/Casablanca", "2026-03-22T02:00:00Z"),
    ("Pacific/Apia", "2011-12-30T10:00:00Z"),
    ("UTC", "2026-03-29T01:00:00Z"),
];

#[test]
fn the_table_of_jumps_is_right() {
    for (name, when) in JUMPS.iter().filter(|(name, _)| *name != "UTC") {
        let (zone, when) = (zone(name).unwrap(), at(when));
        let just_before = when.checked_sub(SignedDuration::from_secs(1)).unwrap();
        assert_ne!(zone.to_offset(when), zone.to_offset(just_before), "{name} {when}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn next_and_last_find_what_the_rules_name(text in expression(), jump in 0..JUMPS.len(), start in 0i64..2 * 1440) {
        let Ok(schedule) = Schedule::parse(&text) else { return Ok(()) };
        let (name, when) = JUMPS[jump];
        let zone = zone(name).unwrap();
        let from = at(when).checked_sub(SignedDuration::from_mins(start)).unwrap();
        let until = from.checked_add(SignedDuration::from_hours(72)).unwrap();
        let expected = by_the_rules(&schedule, &zone, from, until);
        let just_before = from.checked_sub(SignedDuration::from_nanos(1)).unwrap();
        let forward: BTreeSet<_> = schedule.after(just_before, &zone).take_while(|t| *t <= until).collect();
        prop_assert_eq!(&forward, &expected, "{} in {} from {}", text, name, from);
        let (mut backward, mut to) = (BTreeSet::new(), until);
        while let Some(found) = schedule.last(to, from, &zone) {
            backward.insert(found);
            to = found.checked_sub(SignedDuration::from_nanos(1)).unwrap();
        }
        prop_assert_eq!(&backward, &expected, "{} in {} until {}", text, name, until);
    }

    /// Another implementation of cron, where no clock jumps.
    #[test]
    fn croner_finds_the_same_times(
        (minute, hour, month) in (item(0, 59), item(0, 23), item(1, 12)),
        // A star with a step limits nothing there, and no star may stand in a list.
        (day, weekday) in (day_of(1, 31), day_of(0, 6)),
        start in 0i64..4_000_000_000,
    ) {
        let text = format!("{minute} {hour} {day} {month} {weekday}");
        let Ok(schedule) = Schedule::parse(&text) else { return Ok(()) };
        let Ok(other) = croner::parser::CronParser::new().parse(&text) else {
            prop_assert!(text.contains('/'), "{text}: only steps beyond a range are refused there");
            return Ok(());
        };
        let mut time = Timestamp::from_second(start).unwrap();
        for _ in 0..3 {
            let expected = other.find_next_occurrence(&time.to_zoned(TimeZone::UTC), false);
            let found = schedule.next(time, &TimeZone::UTC);
            prop_assert_eq!(found, expected.ok().map(|t| t.timestamp()), "{} after {}", &text, time);
            let Some(found) = found else { break };
            time = found;
        }
    }

    #[test]
    fn no_text_is_too_much(text in "[ -~äß]{0,300}", number in any::<i64>()) {
        if let Ok(schedule) = Schedule::parse(&text) {
            let time = Timestamp::from_second(number % 200_000_000_000).unwrap_or(Timestamp::MAX);
            let _ = schedule.next(time, &zone("Europe/Berlin").unwrap());
        }
    }
}

/// Where years are left to search: at the edges of time nothing overflows.
#[test]
fn the_ends_of_time_are_no_trouble() {
    let (schedule, berlin) = (Schedule::parse("0 0 29 2 *").unwrap(), zone("Europe/Berlin").unwrap());
    assert_eq!(schedule.next(Timestamp::MAX, &berlin), None);
    assert_eq!(schedule.last(Timestamp::MIN, Timestamp::MIN, &berlin), None);
    assert!(schedule.next(Timestamp::MIN, &berlin).is_some());
    assert!(schedule.last(Timestamp::MAX, Timestamp::MIN, &berlin).is_some());
}
