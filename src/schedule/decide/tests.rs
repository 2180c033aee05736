use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Noon of a day on which no clock jumps.
const NOON: &str = "2026-06-10T12:00:00Z";

fn at(text: &str) -> Timestamp {
    let text = if text.len() == 5 { format!("2026-06-10T{text}:00Z") } else { text.into() };
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// A `CronTask` `c` of 11:00, every hour unless `spec` says otherwise, that has run at 11:00 unless `status` does.
#[allow(clippy::needless_pass_by_value, reason = "written where it is called")]
fn cron(spec: Value, status: Value, annotations: Value) -> CronTask {
    let mut whole = json!({"schedule": "0 * * * *", "taskTemplate": {"spec": {"agentRef": {"name": "a"}}}});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let mut object = json!({
        "apiVersion": "pilothouse.dev/v1alpha1", "kind": "CronTask",
        "metadata": {
            "name": "c", "namespace": "ns", "uid": "u", "generation": 1, "annotations": annotations,
            "creationTimestamp": "2026-06-10T09:30:00Z",
        },
        "spec": whole,
    });
    if !status.is_null() {
        let zone = object["spec"]["timeZone"].as_str().unwrap_or("UTC");
        let mut known = json!({
            "lastScheduleTime": "2026-06-10T11:00:00Z", "scheduleSince": "2026-06-10T09:30:00Z", "totalExecutions": 2,
            "observedSchedule": format!("{} {zone}", object["spec"]["schedule"].as_str().unwrap()),
            "conditions": [ready("Scheduled")],
        });
        known.as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
        object["status"] = known;
    }
    serde_json::from_value(object).unwrap()
}

fn ready(reason: &str) -> Value {
    json!({"type": "Ready", "status": "True", "reason": reason, "message": "", "lastTransitionTime": "2026-06-10T09:30:00Z"})
}

/// Names of Tasks are times of the day; `+` is finished, `!` stops.
fn children(text: &str) -> Vec<Child> {
    let of = |word: &str| {
        let time = at(word.trim_end_matches(['+', '!']));
        let finished = word.ends_with('+');
        Child {
            name: names::crontask::task("c", time.as_second()),
            uid: word.into(),
            finished,
            succeeded: finished.then_some(time),
            stopping: word.ends_with('!'),
        }
    };
    text.split_whitespace().map(of).collect()
}

fn short(time: Timestamp) -> String {
    time.strftime("%H:%M").to_string()
}

fn slot_of(name: &str) -> String {
    let second = name.rsplit('-').next().unwrap().parse().unwrap();
    short(Timestamp::from_second(second).unwrap())
}

/// A decision in a line: act, condition, last run, last skip, what comes, wait, events.
fn line(decision: &Decision) -> String {
    let status = &decision.status;
    let act = match &decision.act {
        Act::Nothing => "-".to_owned(),
        Act::Claim { at } => format!("claim {}", short(*at)),
        Act::Stop { uid, .. } => format!("stop {uid}"),
        Act::Create(task) => format!("create {}", slot_of(task.metadata.name.as_deref().unwrap())),
        Act::Clear => "clear".to_owned(),
    };
    let mut line = act;
    if decision.act == Act::Nothing {
        let ready = status.conditions.iter().find(|c| c.type_ == "Ready");
        let _ = write!(line, " {}", ready.map(|c| format!("{}/{}", c.status, c.reason)).unwrap_or_default());
        let last = status.last_schedule_time.as_ref().map(|t| short(t.0)).unwrap_or_default();
        let _ = write!(line, " last={last}");
        if let Some(skip) = &status.last_skip {
            let _ = write!(line, " skip={}/{}", short(skip.time.0), skip.reason);
        }
        let next: Vec<_> = status.next_schedule_times.iter().map(|t| short(t.0)).collect();
        let _ = write!(line, " next={}", next.join(","));
        assert_eq!(status.next_schedule_time, status.next_schedule_times.first().cloned());
        if let Next::After(wait) = decision.next {
            let _ = write!(line, " in={}s", wait.as_secs());
        }
    }
    for note in &decision.notes {
        let _ = write!(line, " {}{}", if note.warning { "!" } else { "" }, note.reason);
    }
    line
}

struct Row {
    what: &'static str,
    spec: Value,
    status: Value,
    children: &'static str,
    now: &'static str,
    expected: &'static str,
}

#[allow(clippy::needless_pass_by_value, reason = "rows of a table")]
fn row(
    what: &'static str,
    spec: Value,
    status: Value,
    children: &'static str,
    now: &'static str,
    expected: &'static str,
) -> Row {
    Row { what, spec, status, children, now, expected }
}

fn check(rows: Vec<Row>) {
    let mut wrong = String::new();
    for row in rows {
        let cron = cron(row.spec, row.status, json!({}));
        let world = World { children: children(row.children), ..World::default() };
        let found = line(&decide(&cron, &world, at(row.now)));
        if found != row.expected {
            let _ = write!(wrong, "{}\n  expected {}\n  found    {found}\n", row.what, row.expected);
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn by_schedule() {
    let (forbid, allow, replace) =
        (json!({}), json!({"concurrencyPolicy": "Allow"}), json!({"concurrencyPolicy": "Replace"}));
    check(vec![
        row(
            "never seen, not due",
            json!({}),
            json!(null),
            "",
            "09:45",
            "- True/Scheduled last= next=10:00,11:00,12:00 in=900s",
        ),
        row("never seen, due since its creation", json!({}), json!(null), "", "10:00", "create 10:00"),
        row(
            "not due",
            json!({}),
            json!({}),
            "11:00+",
            "11:59",
            "- True/Scheduled last=11:00 next=12:00,13:00,14:00 in=60s",
        ),
        row("due", json!({}), json!({}), "11:00+", "12:00", "create 12:00"),
        row("a little late", json!({}), json!({}), "11:00+", "12:07", "create 12:00"),
        row(
            "made",
            json!({}),
            json!({}),
            "11:00+ 12:00",
            "12:00",
            "- True/Scheduled last=12:00 next=13:00,14:00,15:00 in=3600s TaskCreated",
        ),
        row(
            "made by another, finished already",
            json!({}),
            json!({}),
            "12:00+",
            "12:01",
            "- True/Scheduled last=12:00 next=13:00,14:00,15:00 in=3540s TaskCreated",
        ),
        row(
            "made, written",
            json!({}),
            json!({"lastScheduleTime": at("12:00").to_string()}),
            "12:00",
            "12:01",
            "- True/Scheduled last=12:00 next=13:00,14:00,15:00 in=3540s",
        ),
        // Concurrency.
        row(
            "forbid: active",
            forbid.clone(),
            json!({}),
            "11:00",
            "12:00",
            "- True/ActiveTaskExists last=11:00 skip=12:00/ActiveTaskExists next=13:00,14:00,15:00 in=3600s TaskStillActive",
        ),
        row(
            "forbid: the skipped one does not fire late",
            forbid.clone(),
            json!({"lastSkip": {"time": at("12:00").to_string(), "reason": "ActiveTaskExists", "message": "m"}}),
            "11:00+",
            "12:10",
            "- True/ActiveTaskExists last=11:00 skip=12:00/ActiveTaskExists next=13:00,14:00,15:00 in=3000s",
        ),
        row(
            "forbid: the next one does",
            forbid.clone(),
            json!({"lastSkip": {"time": at("12:00").to_string(), "reason": "ActiveTaskExists", "message": "m"}}),
            "11:00+",
            "13:00",
            "create 13:00",
        ),
        row(
            "forbid: one that stops is active",
            forbid,
            json!({}),
            "11:00!",
            "12:00",
            "- True/ActiveTaskExists last=11:00 skip=12:00/ActiveTaskExists next=13:00,14:00,15:00 in=3600s TaskStillActive",
        ),
        row("allow: active", allow, json!({}), "11:00", "12:00", "create 12:00"),
        row("replace: active", replace.clone(), json!({}), "11:00", "12:00", "stop 11:00 ReplacedTasks"),
        row(
            "replace: two active, one stops",
            replace.clone(),
            json!({}),
            "10:00! 11:00",
            "12:00",
            "stop 11:00 ReplacedTasks",
        ),
        row("replace: all stop", replace.clone(), json!({}), "10:00! 11:00!", "12:00", "create 12:00"),
        row(
            "replace: made, the new one stays",
            replace,
            json!({}),
            "11:00! 12:00",
            "12:00",
            "- True/Scheduled last=12:00 next=13:00,14:00,15:00 in=3600s TaskCreated",
        ),
        // Deadline.
        row("within the deadline", json!({"startingDeadlineSeconds": 600}), json!({}), "", "12:10", "create 12:00"),
        row(
            "beyond it",
            json!({"startingDeadlineSeconds": 599}),
            json!({}),
            "",
            "12:10",
            "- True/MissedDeadline last=11:00 skip=12:00/MissedDeadline next=13:00,14:00,15:00 in=3000s !MissedDeadline",
        ),
        row(
            "made before the crash, looked at beyond it",
            json!({"startingDeadlineSeconds": 599}),
            json!({}),
            "12:00",
            "12:10",
            "- True/Scheduled last=12:00 next=13:00,14:00,15:00 in=3000s TaskCreated",
        ),
        row(
            "a deadline of nothing is met by who is on time",
            json!({"startingDeadlineSeconds": 0}),
            json!({}),
            "",
            "12:00",
            "create 12:00",
        ),
        // The limit.
        row(
            "full",
            json!({"maxRetainedTasks": 2}),
            json!({}),
            "10:00+ 11:00+",
            "12:00",
            "- False/MaxRetainedTasksReached last=11:00 skip=12:00/MaxRetainedTasksReached next=13:00,14:00,15:00 in=3600s \
             !MaxRetainedTasksReached",
        ),
        row(
            "full before it is due",
            json!({"maxRetainedTasks": 2}),
            json!({}),
            "10:00+ 11:00+",
            "11:30",
            "- False/MaxRetainedTasksReached last=11:00 next=12:00,13:00,14:00 in=1800s",
        ),
        row("one less", json!({"maxRetainedTasks": 3}), json!({}), "10:00+ 11:00+", "12:00", "create 12:00"),
        row(
            "full by the one that was just made",
            json!({"maxRetainedTasks": 2}),
            json!({}),
            "11:00+ 12:00",
            "12:00",
            "- False/MaxRetainedTasksReached last=12:00 next=13:00,14:00,15:00 in=3600s TaskCreated",
        ),
        // Suspended.
        row("suspended", json!({"suspend": true}), json!({}), "11:00", "12:00", "- True/Suspended last=11:00 next="),
        row(
            "resumed: what passed is not made up for",
            json!({}),
            json!({"conditions": [ready("Suspended")]}),
            "",
            "14:30",
            "- True/Scheduled last=11:00 skip=14:00/Suspended next=15:00,16:00,17:00 in=1800s",
        ),
        row(
            "resumed before anything passed",
            json!({}),
            json!({"conditions": [ready("Suspended")]}),
            "",
            "11:30",
            "- True/Scheduled last=11:00 next=12:00,13:00,14:00 in=1800s",
        ),
        // Missed.
        row("three missed: the last one runs", json!({}), json!({}), "", "14:30", "create 14:00"),
        row(
            "three missed, made",
            json!({}),
            json!({}),
            "14:00",
            "14:30",
            "- True/Scheduled last=14:00 skip=13:00/SlotsMissed next=15:00,16:00,17:00 in=1800s !SlotsMissed TaskCreated",
        ),
        row(
            "hundreds missed: the last one runs",
            json!({"schedule": "* * * * *"}),
            json!({}),
            "",
            "18:30",
            "create 18:30",
        ),
        row(
            "hundreds missed, made: it moves on",
            json!({"schedule": "* * * * *"}),
            json!({}),
            "18:30",
            "18:30",
            "- True/Scheduled last=18:30 skip=18:29/TooManyMissed next=18:31,18:32,18:33 in=60s !TooManyMissed TaskCreated",
        ),
        row(
            "hundreds missed behind a long Task: it moves on",
            json!({"schedule": "* * * * *"}),
            json!({}),
            "11:00",
            "18:30",
            "- True/ActiveTaskExists last=11:00 skip=18:30/ActiveTaskExists next=18:31,18:32,18:33 in=60s TaskStillActive",
        ),
        row(
            "hundreds missed beyond the deadline",
            json!({"schedule": "0 0 1 1 *", "startingDeadlineSeconds": 60}),
            json!({"lastScheduleTime": "1026-01-01T00:00:00Z", "scheduleSince": "1026-01-01T00:00:00Z"}),
            "",
            "18:30",
            "- True/MissedDeadline last=00:00 skip=00:00/MissedDeadline next=00:00,00:00,00:00 in=17645400s !MissedDeadline",
        ),
        // Another schedule.
        row(
            "a new schedule makes nothing up",
            json!({"schedule": "30 * * * *"}),
            json!({"observedSchedule": "0 * * * * UTC"}),
            "",
            "11:45",
            "- True/Scheduled last=11:00 next=12:30,13:30,14:30 in=2700s",
        ),
        row(
            "another zone is another schedule",
            json!({"schedule": "0 13 * * *", "timeZone": "Europe/Berlin"}),
            json!({"observedSchedule": "0 13 * * * UTC"}),
            "",
            "11:30",
            "- True/Scheduled last=11:00 next=11:00,11:00,11:00 in=84600s",
        ),
        // Clocks.
        row(
            "the clock went back a little",
            json!({}),
            json!({"lastScheduleTime": at("12:00").to_string()}),
            "",
            "11:55",
            "- True/Scheduled last=12:00 next=13:00,14:00,15:00 in=3900s",
        ),
        row(
            "the clock was hours ahead",
            json!({}),
            json!({"lastScheduleTime": at("16:00").to_string()}),
            "16:00+",
            "11:55",
            "- True/Scheduled last= next=12:00,13:00,14:00 in=300s",
        ),
        row(
            "a skip was written hours ahead",
            json!({}),
            json!({"lastSkip": {"time": at("16:00").to_string(), "reason": "MissedDeadline", "message": "m"}}),
            "",
            "11:55",
            "- True/Scheduled last=11:00 next=12:00,13:00,14:00 in=300s",
        ),
        row(
            "the schedule is known since a time hours ahead",
            json!({}),
            json!({"scheduleSince": at("16:00").to_string()}),
            "",
            "11:55",
            "- True/Scheduled last=11:00 next=12:00,13:00,14:00 in=300s",
        ),
        // What cannot be.
        row(
            "no schedule",
            json!({"schedule": "0 25 * * *"}),
            json!({}),
            "",
            "12:00",
            "- False/InvalidSchedule last=11:00 next= !InvalidSchedule",
        ),
        row(
            "a day that never comes",
            json!({"schedule": "59 23 31 2 *"}),
            json!({}),
            "",
            "12:00",
            "- False/InvalidSchedule last=11:00 next= !InvalidSchedule",
        ),
        row(
            "no zone",
            json!({"timeZone": "Mars/Base"}),
            json!({}),
            "",
            "12:00",
            "- False/InvalidSchedule last=11:00 next= !InvalidSchedule",
        ),
        row(
            "mended: what passed is not made up for",
            json!({}),
            json!({"observedSchedule": null}),
            "",
            "14:30",
            "- True/Scheduled last=11:00 next=15:00,16:00,17:00 in=1800s",
        ),
    ]);
}

#[test]
fn conditions_name_field_and_position() {
    let said = |spec: Value| {
        let decision = decide(&cron(spec, json!({}), json!({})), &World::default(), at(NOON));
        let stalled = decision.status.conditions.into_iter().find(|c| c.type_ == "Stalled");
        stalled.map(|c| c.message).unwrap_or_default()
    };
    let message = said(json!({"schedule": "0 25 * * *"}));
    assert!(message.starts_with("spec.schedule \"0 25 * * *\", position 3: "), "{message}");
    let message = said(json!({"timeZone": "Mars"}));
    assert!(message.starts_with("spec.timeZone: \"Mars\" is no name"), "{message}");
    assert_eq!(said(json!({})), "");
}

#[test]
fn by_hand() {
    let trigger = |value: &str| json!({annotation::TRIGGER: value});
    let told = at(NOON).to_string();
    let told = told.as_str();
    let table = [
        ("true", json!({}), "", "claim 12:00"),
        ("yes, please", json!({}), "", "claim 12:00"),
        // Days ago: nobody can mean that time any more.
        ("2026-06-01T12:00:00Z", json!({}), "", "claim 12:00"),
        ("", json!({}), "", "clear"),
        ("false", json!({}), "", "clear"),
        (told, json!({}), "", "create 12:00"),
        (told, json!({}), "12:00", "clear Triggered"),
        (told, json!({"suspend": true}), "", "create 12:00"),
        (told, json!({"schedule": "nonsense at all , ,"}), "", "create 12:00"),
        // It waits for nobody, but the limit holds.
        (told, json!({}), "11:00", "create 12:00"),
        (told, json!({"concurrencyPolicy": "Replace"}), "11:00", "create 12:00"),
        (told, json!({"maxRetainedTasks": 1}), "11:00+", "clear !MaxRetainedTasksReached"),
    ];
    for (value, spec, world, expected) in table {
        let world = World { children: children(world), ..World::default() };
        let decision = decide(&cron(spec.clone(), json!({}), trigger(value)), &world, at("12:01").min(at(NOON)));
        assert_eq!(line(&decision), expected, "{value} {spec}");
        let ran = decision.status.total_executions;
        assert_eq!(ran, Some(if expected.ends_with("Triggered") { 3 } else { 2 }), "{value}");
        let last = decision.status.last_schedule_time.map(|t| short(t.0));
        assert_eq!(last.as_deref(), Some("11:00"), "a run by hand is no time of the schedule");
    }
    let taken = World { taken: [names::crontask::task("c", at(NOON).as_second())].into(), ..World::default() };
    let decision = decide(&cron(json!({}), json!({}), trigger(told)), &taken, at(NOON));
    assert_eq!(line(&decision), "clear !NameConflict");
}

#[test]
fn a_name_that_belongs_to_somebody_else_is_left_alone_and_the_time_skipped() {
    let taken = World { taken: [names::crontask::task("c", at("12:00").as_second())].into(), ..World::default() };
    let decision = decide(&cron(json!({}), json!({}), json!({})), &taken, at(NOON));
    let expected = "- True/Scheduled last=11:00 skip=12:00/NameConflict next=13:00,14:00,15:00 in=3600s !NameConflict";
    assert_eq!(line(&decision), expected);
}

#[test]
fn the_annotation_wins_over_spec_suspend() {
    let table = [
        (json!(null), None, false),
        (json!(true), None, true),
        (json!(false), Some("true"), true),
        (json!(true), Some("false"), false),
        (json!(true), Some("maybe"), true),
    ];
    for (suspend, word, expected) in table {
        let annotations = word.map_or(json!({}), |w| json!({annotation::SUSPEND_OVERRIDE: w}));
        assert_eq!(is_suspended(&cron(json!({"suspend": suspend}), json!({}), annotations)), expected, "{word:?}");
    }
}

#[test]
fn what_the_release_lacks_is_refused_by_name() {
    let gap = <crate::api::TaskSpec as not_yet::Spec>::GAPS
        .iter()
        .find(|gap| gap.values.is_empty() && !gap.path.contains('.'));
    let Some(gap) = gap else { return };
    let mut template = json!({"spec": {"agentRef": {"name": "a"}}});
    template["spec"][gap.path] = match gap.path {
        "priority" => json!(1),
        "retry" => json!({"limit": 1}),
        "contexts" => json!([{"type": "Text", "text": "t"}]),
        "budget" => json!({"maxTokens": 1}),
        _ => json!({"name": "t"}),
    };
    let decision = decide(&cron(json!({"taskTemplate": template}), json!({}), json!({})), &World::default(), at(NOON));
    assert!(line(&decision).starts_with("- False/NotYetSupported"), "{}", line(&decision));
    let message = &decision.notes[0].message;
    assert!(message.contains(&format!("spec.taskTemplate.spec.{}", gap.path)), "{message}");
}

#[test]
fn the_task_is_made_from_the_template() {
    let template = json!({
        "metadata": {"labels": {"team": "x", "pilothouse.dev/crontask": "other"}, "annotations": {"why": "y"}},
        "spec": {"agentRef": {"name": "a"}, "description": "sweep", "timeout": "1h"},
    });
    let cron = cron(json!({"taskTemplate": template}), json!({}), json!({}));
    let Act::Create(task) = decide(&cron, &World::default(), at(NOON)).act else { panic!() };
    assert_eq!(
        serde_json::to_value(&*task).unwrap(),
        json!({
            "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Task",
            "metadata": {
                "name": format!("c-{}", at(NOON).as_second()), "namespace": "ns",
                "labels": {"team": "x", "pilothouse.dev/crontask": "c"},
                "annotations": {"why": "y", "pilothouse.dev/scheduled-at": "2026-06-10T12:00:00Z"},
                "ownerReferences": [{
                    "apiVersion": "pilothouse.dev/v1alpha1", "kind": "CronTask", "name": "c", "uid": "u",
                    "controller": true, "blockOwnerDeletion": true,
                }],
            },
            "spec": {"agentRef": {"name": "a"}, "description": "sweep", "timeout": "1h"},
        })
    );
    assert_eq!(child::owner(&task).map(|(uid, _)| uid), Some("u"));
}

#[test]
fn jitter_is_the_same_for_whoever_decides_and_spreads_many() {
    let with = |uid: &str| {
        let mut cron = cron(json!({"jitterSeconds": 60}), json!({}), json!({}));
        cron.metadata.uid = Some(uid.into());
        cron
    };
    let all: BTreeSet<_> = (0..500).map(|n| jitter(&with(&n.to_string())).as_secs()).collect();
    assert_eq!(all.len(), 61, "{all:?}");
    let late = jitter(&with("u"));
    assert!(late > SignedDuration::from_secs(1), "{late}");
    let before = at(NOON) + late - SignedDuration::from_millis(1);
    let decision = decide(&with("u"), &World::default(), before);
    assert_eq!((decision.act, decision.next), (Act::Nothing, Next::After(Duration::from_millis(1))));
    let decision = decide(&with("u"), &World::default(), at(NOON) + late);
    assert_eq!(line(&decision), "create 12:00", "the name is that of the schedule's time");
    assert_eq!(due_after(&with("u"), at(NOON), at(NOON) + late), Duration::ZERO);
}

/// What happens in the life of a `CronTask`.
#[derive(Clone, Debug)]
enum Event {
    /// Seconds pass, also backwards.
    Time(i64),
    /// The Task of that number ends, or goes.
    Ends(usize),
    Goes(usize),
    Suspends(bool),
    Trigger,
    Policy(ConcurrencyPolicy),
    /// The process dies after so many steps of its next decision.
    Dies(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (1i64..7200).prop_map(Event::Time),
        1 => (7200i64..2_000_000).prop_map(Event::Time),
        1 => (-4000i64..0).prop_map(Event::Time),
        4 => (0usize..20).prop_map(Event::Ends),
        2 => (0usize..20).prop_map(Event::Goes),
        1 => any::<bool>().prop_map(Event::Suspends),
        1 => Just(Event::Trigger),
        1 => prop_oneof![
            Just(Event::Policy(ConcurrencyPolicy::Allow)),
            Just(Event::Policy(ConcurrencyPolicy::Forbid)),
            Just(Event::Policy(ConcurrencyPolicy::Replace)),
        ],
        2 => (0usize..4).prop_map(Event::Dies),
    ]
}

#[test]
fn a_task_is_owed_until_its_time_is_written_down() {
    let noon = at("12:00");
    let claimed = json!({annotation::TRIGGER: NOON});
    let suspended = json!({"conditions": [ready("Suspended")]});
    for (what, cron, time, expected) in [
        ("not written down", cron(json!({}), json!({}), json!({})), noon, true),
        ("never looked at", cron(json!({}), json!(null), json!({})), noon, true),
        ("written down", cron(json!({}), json!({"lastScheduleTime": NOON}), json!({})), noon, false),
        (
            "a later one is",
            cron(json!({}), json!({"lastScheduleTime": "2026-06-10T13:00:00Z"}), json!({})),
            noon,
            false,
        ),
        ("by hand, long ago", cron(json!({}), json!({}), json!({})), at("12:10"), false),
        ("by hand, asked for", cron(json!({}), json!({}), claimed.clone()), noon, true),
        ("by hand, and no schedule", cron(json!({"schedule": "never"}), json!({}), claimed), noon, true),
        ("another schedule now", cron(json!({}), json!({"observedSchedule": "1 * * * * UTC"}), json!({})), noon, false),
        ("suspended, and not known yet", cron(json!({"suspend": true}), json!({}), json!({})), noon, true),
        ("what came while suspended is skipped", cron(json!({}), suspended, json!({})), noon, false),
    ] {
        assert_eq!(is_owed(&cron, time, at("13:10")), expected, "{what}");
        let mut going = cron;
        going.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(noon));
        assert!(!is_owed(&going, time, at("13:10")), "{what}, being deleted");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens: it comes to rest, at rest nothing is written, no time gets two Tasks, Forbid never makes one beside
    /// another, the limit holds, the trigger is always cleared, and at most one Task is made a round.
    #[test]
    fn a_life(events in prop::collection::vec(event(), 1..60), schedule in 0usize..4) {
        let schedule = ["0 * * * *", "* * * * *", "*/20 2,3 * * *", "30 2 * * *"][schedule];
        let spec = json!({"schedule": schedule, "timeZone": "Europe/Berlin", "maxRetainedTasks": 4});
        let mut cron = cron(spec, json!(null), json!({}));
        let mut now = at("2026-03-28T22:10:00Z");
        cron.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
        let (mut world, mut dies) = (World::default(), None);
        let (mut ever, mut steady) = (BTreeSet::new(), true);
        for event in events {
            match event {
                Event::Time(seconds) => {
                    now += SignedDuration::from_secs(seconds);
                    steady &= seconds > 0;
                }
                Event::Ends(n) => {
                    if let Some(child) = world.children.get_mut(n) { child.finished = true }
                }
                Event::Goes(n) => {
                    // Cleanup keeps one whose time is not written yet.
                    let second = |child: &Child| child.name.rsplit('-').next().unwrap().parse().unwrap();
                    let time = world.children.get(n).map(|child| Timestamp::from_second(second(child)).unwrap());
                    if time.is_some_and(|time| !is_owed(&cron, time, now)) { world.children.remove(n); }
                }
                Event::Suspends(yes) => cron.spec.suspend = Some(yes),
                Event::Trigger => _ = cron.metadata.annotations.get_or_insert_default().insert(annotation::TRIGGER.into(), "true".into()),
                Event::Policy(policy) => cron.spec.concurrency_policy = policy,
                Event::Dies(steps) => dies = Some(steps),
            }
            let (mut made, mut local) = (0, cron.clone());
            let by_hand = cron.metadata.annotations.iter().any(|a| a.contains_key(annotation::TRIGGER));
            let mut steps = 0;
            loop {
                if dies.is_some_and(|after| after <= steps) { break }
                steps += 1;
                prop_assert!(steps < 20, "it does not come to rest");
                let decision = decide(&local, &world, now);
                local.status = Some(decision.status.clone());
                match decision.act {
                    Act::Nothing => {
                        cron.status = Some(decision.status);
                        let again = decide(&cron, &world, now);
                        prop_assert_eq!(&again.act, &Act::Nothing);
                        prop_assert_eq!(Some(&again.status), cron.status.as_ref(), "written twice");
                        prop_assert!(again.notes.is_empty());
                        dies = None;
                        break;
                    }
                    Act::Create(task) => {
                        let name = task.metadata.name.clone().unwrap();
                        prop_assert!(!world.has(&name));
                        prop_assert!(ever.insert(name.clone()) || by_hand || !steady, "made again after its cleanup");
                        let forbidden = cron.spec.concurrency_policy == ConcurrencyPolicy::Forbid && !by_hand;
                        prop_assert!(!(forbidden && world.active().next().is_some()), "two at a time");
                        prop_assert!(world.children.len() < 4, "more than may be");
                        prop_assert!(by_hand || !is_suspended(&cron), "while suspended");
                        world.children.push(Child { name: name.clone(), uid: name, finished: false, succeeded: None, stopping: false });
                        made += 1;
                    }
                    Act::Stop { uid, .. } => world.children.iter_mut().filter(|c| c.uid == uid).for_each(|c| c.stopping = true),
                    Act::Claim { at } => {
                        let annotations = [(annotation::TRIGGER.to_string(), at.to_string())];
                        (local.metadata.annotations, cron.metadata.annotations) = (Some(annotations.clone().into()), Some(annotations.into()));
                    }
                    Act::Clear => (local.metadata.annotations, cron.metadata.annotations) = (None, None),
                }
            }
            prop_assert!(made <= if by_hand { 2 } else { 1 }, "{} at once", made);
            if dies.is_none() {
                prop_assert!(!cron.metadata.annotations.iter().any(|a| a.contains_key(annotation::TRIGGER)), "not cleared");
            }
            if dies == Some(steps) { dies = None }
        }
    }
}
