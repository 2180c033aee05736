use super::*;

#[test]
fn on_time() {
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
    ]);
}

#[test]
fn beside_others() {
    let (forbid, allow, replace) =
        (json!({}), json!({"concurrencyPolicy": "Allow"}), json!({"concurrencyPolicy": "Replace"}));
    check(vec![
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
    ]);
}

#[test]
fn with_a_deadline() {
    check(vec![
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
    ]);
}

#[test]
fn up_to_a_limit() {
    check(vec![
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
    ]);
}

#[test]
fn suspended() {
    check(vec![
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
    ]);
}

#[test]
fn what_was_missed() {
    check(vec![
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
    ]);
}

#[test]
fn another_schedule() {
    check(vec![
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
    ]);
}

#[test]
fn clocks_that_jump() {
    check(vec![
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
    ]);
}

#[test]
fn what_cannot_be() {
    check(vec![
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
