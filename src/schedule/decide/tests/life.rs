use proptest::prelude::*;

use super::*;

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
