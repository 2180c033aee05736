mod by_hand;
mod by_schedule;
mod life;

use std::fmt::Write as _;

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
                "labels": {"team": "x", "pilothouse.dev/crontask": "c", "pilothouse.dev/agent": "a"},
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
