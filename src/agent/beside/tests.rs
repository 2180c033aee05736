use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::agent::{
    decide::{self, Action, Situation},
    gate::{self, Activity, Applied, Ask, Change, GateInput, Verdict, Work},
    preview::sample,
    state,
};

const HOUR: Duration = Duration::from_hours(1);

fn spec(rollout: &Value, pod: &Value) -> AgentSpec {
    serde_json::from_value(json!({"workspaceDir": "/w", "rollout": rollout, "podSpec": pod})).unwrap()
}

/// A Deployment as it is made from a spec, and as it is read back.
fn live(spec: &Value) -> Value {
    let desired = sample(spec);
    let mut live = desired.deployment.value().clone();
    let marks = live["metadata"].as_object_mut().unwrap().entry("annotations").or_insert_with(|| json!({}));
    for (key, value) in state::applied_annotations(&desired.hash, &desired.parts) {
        marks[key] = json!(value);
    }
    live
}

fn beside(image: &str, rollout: &Value) -> Value {
    let mut rollout = rollout.clone();
    rollout["strategy"] = json!("SideBySide");
    json!({"workspaceDir": "/w", "executorImage": image, "rollout": rollout})
}

fn busy(old: Option<usize>, policy: Policy, asked: Option<&str>) -> Situation<'_> {
    let work = Work { running_tasks: 2, activity: Activity::Busy };
    Situation { work, policy, old, asked, now: Timestamp::UNIX_EPOCH }
}

/// What a push of another image over work does: `A`pplies at once, or `W`aits.
fn push(live_spec: &Value, new: &Value, old: usize) -> char {
    let desired = sample(new);
    let spec: AgentSpec = serde_json::from_value(new.clone()).unwrap();
    let old = is_wanted(&spec).then_some(old);
    match decide::server(&desired, Some(&live(live_spec)), &busy(old, decide::policy(&spec), None)) {
        Action::Apply { hold: false, forced: None, .. } => 'A',
        Action::Wait { .. } => 'W',
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_comes_at_once_where_what_it_leaves_ends_its_work() {
    let plain = |image: &str| json!({"workspaceDir": "/w", "executorImage": image});
    let short = json!({"timeout": "10m"});
    let wait = json!({"onTimeout": "Wait"});
    let none = json!({"protect": "None", "timeout": "10m"});
    let all = json!({});
    let suspended = {
        let mut spec = beside("i:2", &all);
        spec["suspend"] = json!(true);
        spec
    };
    let table = [
        ("at once", beside("i:1", &all), beside("i:2", &all), 0, 'A'),
        ("one is left already", beside("i:1", &all), beside("i:2", &all), 1, 'W'),
        ("its pods were not made for it", plain("i:1"), beside("i:2", &all), 0, 'W'),
        ("the strategy goes", beside("i:1", &all), plain("i:2"), 0, 'W'),
        ("its pods have less time than is protected now", beside("i:1", &short), beside("i:2", &all), 0, 'W'),
        ("and more", beside("i:1", &all), beside("i:2", &short), 0, 'A'),
        ("less than for ever", beside("i:1", &all), beside("i:2", &wait), 0, 'W'),
        ("for ever", beside("i:1", &wait), beside("i:2", &wait), 0, 'A'),
        ("nothing was protected, now it is", beside("i:1", &none), beside("i:2", &short), 0, 'W'),
        ("nothing is to come beside it", beside("i:1", &all), suspended, 0, 'W'),
    ];
    for (what, live, new, old, expected) in table {
        assert_eq!(push(&live, &new, old), expected, "{what}");
    }
}

#[test]
fn somebody_may_ask_for_one_more_and_for_none() {
    let (old, new) = (live(&beside("i:1", &json!({}))), sample(&beside("i:2", &json!({}))));
    let now = format!("now-{}-1", new.hash);
    let decided = |count, asked| decide::server(&new, Some(&old), &busy(Some(count), Policy::default(), Some(asked)));
    assert!(matches!(decided(1, &now), Action::Apply { forced: None, .. }), "nothing is cut");
    assert!(matches!(decided(0, "hold: ask Jo"), Action::Wait { .. }));
    let Action::Wait { message, .. } = decided(1, "") else { panic!("it waits") };
    assert!(
        message.starts_with(
            "waiting for 2 running Tasks and busy sessions to end, or for a pod of an older revision to end its own, \
             before the rollout (changed: image)"
        ),
        "{message}"
    );
}

#[test]
fn a_pod_has_as_long_to_end_as_is_protected() {
    let day = 86_400;
    for (protect, on_timeout, timeout, seconds) in [
        (Protect::TasksAndSessions, OnTimeout::Force, HOUR, 3600),
        (Protect::Tasks, OnTimeout::Force, 5 * 24 * HOUR, 5 * day),
        (Protect::TasksAndSessions, OnTimeout::Force, Duration::MAX, 30 * day),
        (Protect::Tasks, OnTimeout::Force, Duration::ZERO, 30),
        (Protect::TasksAndSessions, OnTimeout::Wait, HOUR, 30 * day),
        (Protect::None, OnTimeout::Wait, HOUR, 30),
    ] {
        assert_eq!(grace(&Policy { protect, timeout, on_timeout }), seconds, "{protect:?} {on_timeout:?} {timeout:?}");
    }
    let made = live(&beside("i:1", &json!({"timeout": "2h"})));
    assert_eq!(made.pointer("/spec/template/spec/terminationGracePeriodSeconds"), Some(&json!(7200)));
}

#[test]
fn what_two_pods_cannot_have_is_refused_by_name() {
    let beside = json!({"strategy": "SideBySide"});
    let claim = |read_only: bool| json!({"extraVolumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c", "readOnly": read_only}}]});
    let own = json!({"extraVolumes": [{"name": "data", "ephemeral": {}}, {"name": "tmp", "emptyDir": {}}]});
    let hook = json!({"lifecycle": {"preStop": {"exec": {"command": ["sleep", "1"]}}}});
    let table = [
        (&beside, claim(false), Some("podSpec.extraVolumes \"data\"")),
        (&beside, claim(true), None),
        (&beside, own, None),
        (&beside, hook.clone(), Some("podSpec.lifecycle.preStop")),
        (&beside, Value::Null, None),
        (&json!({}), claim(false), None),
        (&json!({"strategy": "RollingUpdate"}), hook, None),
    ];
    for (rollout, pod, expected) in table {
        let said = check(&spec(rollout, &pod)).err().map(|e| e.message);
        assert_eq!(said.is_some(), expected.is_some(), "{rollout} {pod}: {said:?}");
        assert!(said.unwrap_or_default().contains(expected.unwrap_or_default()), "{rollout} {pod}");
    }
}

proptest! {
    /// It never waits while it may start beside what runs, unless a person holds it; and where it may not, it is the
    /// gate of every other strategy.
    #[test]
    fn beside_the_old_or_through_the_gate(
        old in prop::option::of(0..4_usize), running_tasks in 0..3_usize, activity in 0..4_usize, held: bool, now: bool,
        waited in prop::option::of(0..20_000_i64),
    ) {
        let activity = [Activity::NoServer, Activity::Idle, Activity::Busy, Activity::Unknown][activity];
        let applied = Applied { hash: "old".into(), suspended: false };
        let causes: BTreeSet<String> = ["image".to_owned()].into();
        let start = Timestamp::from_second(1_800_000_000).unwrap();
        let pending = waited.map(|w| gate::Pending {
            hash: "new".into(), since: start - jiff::SignedDuration::from_secs(w), causes: causes.clone(), held: false,
        });
        let ask = match (held, now) {
            (true, _) => Ask::Hold { why: "" },
            (false, true) => Ask::Now,
            (false, false) => Ask::Nothing,
        };
        let input = GateInput {
            change: Change::Template, desired: "new", applied: Some(&applied), pending: pending.as_ref(), causes: &causes,
            work: Work { running_tasks, activity }, policy: Policy::default(), beside: old, ask, now: start,
        };
        let verdict = gate::decide(&input);
        match (old, ask) {
            (_, Ask::Hold { .. }) => {
                let waits = matches!(verdict, Verdict::Wait { .. });
                prop_assert!(waits);
            }
            (Some(n), ask) if n < MOST_OLD || ask == Ask::Now => prop_assert_eq!(verdict, Verdict::Open { hold: false }),
            _ => {
                let plain = gate::decide(&GateInput { beside: None, ..input });
                prop_assert_eq!(std::mem::discriminant(&verdict), std::mem::discriminant(&plain));
            }
        }
    }
}

/// What may be given to an old pod while a new one starts: it ends by itself what it begins, and has as long as the new one
/// would.
#[test]
fn a_pod_takes_new_work_where_it_ends_it_by_itself() {
    let plain = json!({"workspaceDir": "/w", "executorImage": "e:1"});
    let side = |timeout: &str| beside("e:1", &json!({ "timeout": timeout }));
    let pod = |spec: &Value| live(spec)["spec"]["template"].clone();
    let table = [
        (side("10m"), side("10m"), true),
        (side("20m"), side("10m"), true),
        (side("10m"), side("20m"), false),
        (plain.clone(), side("10m"), false),
        (side("10m"), plain.clone(), false),
    ];
    for (old, new, expected) in table {
        assert_eq!(ends_what_it_begins(&pod(&old), &live(&new)), expected, "{old} {new}");
    }
}
