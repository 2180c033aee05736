use super::*;

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
