use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    agent::{
        Inputs, build,
        gate::{Activity, Work},
        merge,
    },
    api::{Agent, AgentSpec, PilothouseConfigSpec, content::Placed},
};

const START: i64 = 1_800_000_000;
const HOUR: i64 = 3600;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(START + second).unwrap()
}

/// An agent with a context and skills at commits, and perhaps more.
fn desired(context: &str, skills: &str, more: bool) -> Desired {
    let git = json!({"repository": "u", "path": "p", "sync": {"enabled": true}});
    let item = |name: &str| json!({"name": name, "type": "Git", "mountPath": name, "git": git});
    let mut contexts = vec![item("docs")];
    contexts.extend(more.then(|| item("more")));
    let spec = json!({"workspaceDir": "/w", "contexts": contexts, "skills": [{"name": "team", "git": git}]});
    let spec: AgentSpec = serde_json::from_value(spec).unwrap();
    let config = json!({"agentImage": "a", "executorImage": "e"});
    let config: PilothouseConfigSpec = serde_json::from_value(config).unwrap();
    let at = |digest: &str| Resolved { revision: digest.into(), digest: digest.into(), ..Resolved::default() };
    let pieces = Pieces::from([
        ("contexts/docs".into(), at(context)),
        ("contexts/more".into(), at("m")),
        ("skills/team".into(), at(skills)),
    ]);
    build(&Inputs {
        agent: &Agent::new("coder", spec.clone()),
        spec: &merge(&spec, None),
        config: Some(&config),
        system_image: Some("p"),
        grace: None,
        layout: crate::agent::build::layout::NEWEST,
        upgrade: None,
        upgraded: None,
        voice_address: None,
        suspended: false,
        pieces: &pieces,
        unread: &BTreeSet::new(),
        config_maps: &BTreeMap::new(),
        secrets: &BTreeMap::new(),
    })
    .unwrap()
}

/// Annotations of the ConfigMap as it is written where pods have what was decided before.
fn written(desired: &Desired, before: Option<&Annotations>, now: Timestamp) -> Annotations {
    written_while(false, desired, before, now)
}

fn written_while(lacking: bool, desired: &Desired, before: Option<&Annotations>, now: Timestamp) -> Annotations {
    let wanted = desired.exchange.as_ref().unwrap();
    let mut map = state::parts_annotation(&wanted.parts);
    map.extend(state::pieces_annotation(&wanted.pieces));
    map.insert(state::SHAPE.into(), wanted.shape.clone());
    map.insert(state::SINCE.into(), since(wanted, before, lacking, now).to_string());
    map.insert(annotation::CONTENT_HASH.into(), wanted.hash.clone());
    map.insert(state::OBJECT_HASH.into(), object_hash(wanted.object.value()));
    map
}

fn live(map: &Annotations, rolled: bool) -> Live<'_> {
    Live { map: Some(map), rolled, suspended: false }
}

fn work(activity: Activity) -> Work {
    Work { running_tasks: 0, activity }
}

fn situation(work: Work, policy: Policy, now: Timestamp) -> Situation<'static> {
    Situation { work, policy, old: None, asked: None, now }
}

fn policy(on_timeout: OnTimeout) -> Policy {
    Policy { on_timeout, ..Policy::default() }
}

fn causes(action: &Action) -> Vec<&str> {
    match action {
        Action::Apply { causes, .. } => causes.iter().map(String::as_str).collect(),
        Action::Wait { pending, .. } => pending.causes.iter().map(String::as_str).collect(),
        Action::Keep => vec![],
    }
}

#[test]
fn new_commits_wait_for_work_and_keep_their_clock() {
    let (old, new, newer) = (desired("1", "1", false), desired("2", "1", false), desired("2", "3", false));
    let mut map = written(&old, None, at(0));
    let policy = policy(OnTimeout::Force);
    let decide = |desired: &Desired, map: &Annotations, activity, second| {
        exchange(desired, live(map, true), &situation(work(activity), policy, at(second))).unwrap()
    };
    assert_eq!(decide(&old, &map, Activity::Busy, 1), Action::Keep);
    let open = decide(&new, &map, Activity::Idle, 10);
    assert!(matches!(&open, Action::Apply { hold: false, forced: None, .. }), "{open:?}");
    assert_eq!(causes(&open), ["contexts/docs"]);
    let wait = decide(&new, &map, Activity::Busy, 10);
    let Action::Wait { pending, write: true, until: Some(until), message, .. } = &wait else { panic!("{wait:?}") };
    assert_eq!((pending.since, *until), (at(10), at(10 + HOUR)));
    assert!(message.starts_with("what is new in contexts/docs waits for busy sessions to end"), "{message}");
    map.extend(state::pending_annotations(pending));
    let moved = decide(&newer, &map, Activity::Busy, 20);
    let Action::Wait { pending, until: Some(until), .. } = &moved else { panic!("{moved:?}") };
    assert_eq!((pending.since, *until, causes(&moved)), (at(10), at(10 + HOUR), vec!["contexts/docs", "skills/team"]));
    let forced = decide(&newer, &map, Activity::Busy, 10 + HOUR);
    assert!(matches!(&forced, Action::Apply { forced: Some(_), .. }), "{forced:?}");
    let back = decide(&old, &map, Activity::Busy, 30);
    assert_eq!(
        (causes(&back), matches!(back, Action::Apply { .. })),
        (vec![], true),
        "nothing waits any more: written down"
    );
    let after = written(&newer, Some(&map), at(10 + HOUR));
    assert_eq!(after[state::SINCE], at(10).to_string(), "the pods' wait began with the gate's");
}

#[test]
fn another_template_brings_its_own() {
    let (old, new) = (desired("1", "1", false), desired("2", "1", true));
    let map = written(&old, None, at(0));
    let policy = policy(OnTimeout::Force);
    for activity in [Activity::Idle, Activity::Busy] {
        assert_eq!(exchange(&new, live(&map, false), &situation(work(activity), policy, at(1))), None, "{activity:?}");
    }
    // The template is applied, and somebody took this back.
    let odd = exchange(&new, live(&map, true), &situation(work(Activity::Idle), policy, at(1))).unwrap();
    assert_eq!(causes(&odd), ["contexts/docs", "contexts/more"]);
    let none = Live { map: None, rolled: false, suspended: false };
    let first = exchange(&new, none, &situation(work(Activity::Busy), policy, at(1))).unwrap();
    assert!(matches!(first, Action::Apply { .. }), "no pod has any yet: {first:?}");
    let suspended = Live { suspended: true, ..live(&map, true) };
    let open =
        exchange(&desired("2", "1", false), suspended, &situation(work(Activity::Unknown), policy, at(1))).unwrap();
    assert!(matches!(open, Action::Apply { .. }), "{open:?}");
}

#[test]
fn pods_are_told_more_when_the_time_is_over() {
    use OnTimeout::{Force, Wait};
    use Protect::{None as Nothing, Tasks, TasksAndSessions};

    let wanted = desired("2", "2", false);
    let exchange = wanted.exchange.as_ref().unwrap();
    let protect = |protect, on_timeout| Policy { protect, on_timeout, ..Policy::default() };
    // protect, on timeout, live: Immediately, seconds; immediately, force, whether more comes
    let table = [
        (TasksAndSessions, Force, false, 1, false, false, true),
        (TasksAndSessions, Force, true, 1, true, false, true),
        (TasksAndSessions, Force, false, HOUR, true, true, false),
        (TasksAndSessions, Wait, false, HOUR, true, false, false),
        (TasksAndSessions, Wait, true, HOUR, true, false, false),
        (Tasks, Force, false, 1, false, false, true),
        (Nothing, Force, false, 0, true, true, false),
        (Nothing, Wait, false, 0, true, true, false),
    ];
    for (protects, on_timeout, now, second, immediately, force, more) in table {
        let policy = protect(protects, on_timeout);
        let (load, until) = load(exchange.manifest.clone(), at(0), policy, (now, false), at(second));
        let what = format!("{policy:?} {now} {second}");
        assert_eq!((load.immediately, load.force, until.is_some()), (immediately, force, more), "{what}");
        assert!(until.is_none_or(|until| until == at(HOUR)), "{what}");
        assert_eq!(load.manifest.hash(), exchange.hash);
    }
    // Who does not want to wait need not, whatever the policy says; for what he saw alone.
    let whole = history::id(&wanted);
    for (asked, force) in [
        (None, false),
        (Some("hold".to_string()), false),
        (Some(format!("now-{}-1", exchange.hash)), true),
        (Some(format!("now-{whole}-1")), true),
        (Some(format!("now-{}-1", wanted.hash)), false),
        (Some(format!("now-{}-1", history::id(&desired("3", "2", false)))), false),
    ] {
        let urgent = is_urgent(&wanted, asked.as_deref());
        let (policy, manifest) = (protect(TasksAndSessions, Wait), exchange.manifest.clone());
        let (load, until) = load(manifest, at(0), policy, (false, urgent), at(1));
        assert_eq!((load.immediately, load.force, until.is_none()), (force, force, force), "{asked:?}");
    }
}

/// A pod with these pieces in place.
fn report(pieces: &Pieces, note: &str) -> Report {
    let placed = |(id, piece): (&String, &Resolved)| Placed {
        id: id.clone(),
        digest: piece.digest.clone(),
        note: note.into(),
        ..Placed::default()
    };
    Report { pieces: pieces.iter().map(placed).collect(), ..Report::default() }
}

#[test]
fn a_push_keeps_the_clock_of_what_pods_lack() {
    let (old, new, newer) = (desired("1", "1", false), desired("1", "2", false), desired("1", "3", false));
    let map = written(&new, Some(&written(&old, None, at(-HOUR))), at(0));
    assert_eq!(map[state::SINCE], at(0).to_string());
    for (lacking, since) in [(true, at(0)), (false, at(3000))] {
        let after = written_while(lacking, &newer, Some(&map), at(3000));
        assert_eq!(after[state::SINCE], since.to_string(), "{lacking}");
    }
    // It was written before the newest one began to wait at the gate, and its clock goes on beside that one's.
    let mut waits = map.clone();
    let pending = gate::Pending { held: false, hash: "x".into(), since: at(3000), causes: BTreeSet::new() };
    waits.extend(state::pending_annotations(&pending));
    let exchange = newer.exchange.as_ref().unwrap();
    let told = decided(exchange, &waits, || state::pieces(&map));
    assert_eq!(
        told.as_ref(),
        new.exchange.as_ref().map(|exchange| &exchange.manifest),
        "what is decided is still told"
    );
    assert_eq!(since(exchange, Some(&waits), true, at(3300)), at(0));
    assert_eq!(since(exchange, Some(&waits), false, at(3300)), at(3000));
    let own = decided(exchange, &written(&newer, None, at(0)), Pieces::new);
    assert_eq!(own.as_ref(), Some(&exchange.manifest), "nothing is needed for what is wanted");
    // Somebody else's word, or other places.
    assert_eq!(decided(exchange, &waits, Pieces::new), None);
    assert_eq!(decided(exchange, &waits, || state::pieces(&written(&old, None, at(0)))), None);
    assert_eq!(decided(desired("1", "3", true).exchange.as_ref().unwrap(), &waits, || state::pieces(&map)), None);
    assert_eq!(decided(exchange, &Annotations::new(), || state::pieces(&map)), None);
}

#[test]
fn the_time_of_what_somebody_holds_does_not_run() {
    let (new, newer) = (desired("1", "2", false), desired("1", "3", false));
    let map = written(&new, None, at(0));
    let mut held = map.clone();
    held.insert(state::SINCE.into(), state::HELD.into());
    // What there is, whether it is held, whether pods lack it; what is written.
    let table = [
        (&map, false, true, None),
        (&map, true, false, None),
        (&map, true, true, Some(state::HELD.to_string())),
        (&held, true, true, None),
        (&held, true, false, None),
        (&held, false, true, Some(at(HOUR).to_string())),
        (&held, false, false, Some(at(HOUR).to_string())),
    ];
    for (n, (map, is_held, lacking, expected)) in table.into_iter().enumerate() {
        assert_eq!(held_since(map, (is_held, lacking), at(HOUR)), expected, "{n}");
    }
    for wanted in [&new, &newer] {
        let wanted = wanted.exchange.as_ref().unwrap();
        assert_eq!(since(wanted, Some(&held), true, at(9 * HOUR)), at(9 * HOUR), "it begins when that ends");
    }
    for (asked, expected) in
        [(None, false), (Some(""), false), (Some("now-h-1"), false), (Some("hold"), true), (Some("hold: Jo"), true)]
    {
        assert_eq!(is_held(asked), expected, "{asked:?}");
    }
}

#[test]
fn a_pod_lacks_what_it_waits_for_and_nothing_else() {
    let (old, new) = (desired("1", "1", false), desired("1", "2", false));
    let map = written(&new, None, at(0));
    let (hash, pieces) = (&map[annotation::CONTENT_HASH], state::pieces(&map));
    let had = state::pieces(&written(&old, None, at(0)));
    let table = [
        ("waits", Report { wanted: hash.clone(), ..report(&had, "") }, true),
        ("has none", Report::default(), true),
        ("has it", Report { loaded: hash.clone(), ..report(&pieces, "") }, false),
        ("its server starts", report(&pieces, ""), false),
        ("refused it", Report { wanted: hash.clone(), failed: true, ..report(&had, "") }, false),
        ("refused another", Report { wanted: "other".into(), failed: true, ..report(&had, "") }, true),
        ("has work in the way", report(&had, "WorkspaceDirty: a.md was changed"), false),
        ("edited in the pod", report(&had, "edited in the pod (a.md)"), true),
    ];
    for (what, report, expected) in table {
        assert_eq!(lacks(&map, &pieces, &report), expected, "{what}");
    }
    assert!(!lacks(&Annotations::new(), &pieces, &Report::default()), "nothing is decided");
}

proptest! {
    /// However often is pushed to an agent that is never idle: within the time of the policy it is told to take something
    /// over its work, and never before.
    #[test]
    fn pushes_starve_nobody(pushes in prop::collection::vec(1..HOUR, 1..20)) {
        let versions = [desired("1", "1", false), desired("1", "2", false)];
        let policy = policy(OnTimeout::Force);
        let mut map = written(&versions[0], None, at(0));
        let (mut now, mut lacked): (i64, Option<i64>) = (0, None);
        for (n, later) in pushes.into_iter().enumerate() {
            now += later;
            // It was told so, and pods have it.
            lacked = lacked.filter(|first| now < first + HOUR);
            let wanted = &versions[(n + 1) % 2];
            map = written_while(lacked.is_some(), wanted, Some(&map), at(now));
            let first = *lacked.get_or_insert(now);
            let exchange = wanted.exchange.as_ref().unwrap();
            let began = since(exchange, Some(&map), true, at(now));
            prop_assert_eq!(began, at(first));
            let told = |second| load(exchange.manifest.clone(), began, policy, (true, false), at(second)).0.force;
            prop_assert!(!told(first + HOUR - 1) && told(first + HOUR));
        }
    }

    /// Whatever is pushed and whoever works: nothing is written over protected work before the time is over, it is
    /// written at the latest then, and the pods' time ends with the gate's. A crash after any step decides the same.
    #[test]
    fn nothing_is_early_and_nothing_is_lost(
        steps in prop::collection::vec((0..3_usize, any::<bool>(), 1..1200_i64, any::<bool>()), 1..40),
    ) {
        let versions = [desired("1", "1", false), desired("2", "1", false), desired("2", "2", false)];
        let mut map = written(&versions[0], None, at(0));
        let policy = policy(OnTimeout::Force);
        let (mut now, mut waits): (i64, Option<i64>) = (0, None);
        for (version, busy, later, crash) in steps {
            now += later;
            let desired = &versions[version];
            let activity = if busy { Activity::Busy } else { Activity::Idle };
            let decide = |map: &Annotations| exchange(desired, live(map, true), &situation(work(activity), policy, at(now))).unwrap();
            let action = decide(&map);
            let same = State::of_content(&map).applied == desired.exchange.as_ref().map(|e| e.hash.clone());
            match &action {
                Action::Keep => prop_assert!(same && waits.is_none()),
                Action::Apply { .. } if crash => prop_assert_eq!(decide(&map), action),
                Action::Apply { .. } => {
                    let over = waits.is_some_and(|since| now >= since + HOUR);
                    prop_assert!(same || !busy || over, "early at {now}, waits since {waits:?}");
                    map = written(desired, Some(&map), at(now));
                    let first: Timestamp = map[state::SINCE].parse().unwrap();
                    prop_assert!(same || first == at(waits.unwrap_or(now)));
                    waits = None;
                }
                Action::Wait { pending, .. } => {
                    let since = *waits.get_or_insert(now);
                    prop_assert!(busy && now < since + HOUR);
                    if crash {
                        waits = State::of_content(&map).pending.map(|p| p.since.as_second() - START);
                    } else {
                        prop_assert_eq!(pending.since, at(since));
                        map.extend(state::pending_annotations(pending));
                    }
                }
            }
        }
    }
}

#[test]
fn what_was_not_read_since_a_start_still_waits() {
    let (old, new) = (desired("1", "1", false), desired("2", "1", false));
    let mut map = written(&old, None, at(0));
    let policy = policy(OnTimeout::Force);
    let waits = exchange(&new, live(&map, true), &situation(work(Activity::Busy), policy, at(10))).unwrap();
    let Action::Wait { pending, .. } = waits else { panic!("{waits:?}") };
    map.extend(state::pending_annotations(&pending));
    let decide = |unread: &[&str]| {
        let unread = unread.iter().map(ToString::to_string).collect();
        let restarted = Desired { unread, ..old.clone() };
        exchange(&restarted, live(&map, true), &situation(work(Activity::Idle), policy, at(20))).unwrap()
    };
    assert_eq!(decide(&["contexts/docs"]), Action::Keep, "its clock goes on");
    for other in [&[][..], &["skills/team"]] {
        assert!(matches!(decide(other), Action::Apply { .. }), "{other:?}: it is known that nothing waits");
    }
}

#[test]
fn a_rollout_that_waits_for_what_was_not_read_waits_on() {
    let old = desired("1", "1", false);
    let mut live = old.deployment.clone();
    let pending = gate::Pending {
        held: false,
        hash: "new".into(),
        since: at(0),
        causes: [String::from("contexts/docs"), String::from("image")].into(),
    };
    let mut marks = state::applied_annotations(&old.hash, &old.parts);
    marks.extend(state::pending_annotations(&pending));
    for (key, value) in marks {
        live.set_annotation(&key, &value);
    }
    for (unread, keeps) in [("contexts/docs", true), ("contexts/other", false)] {
        let restarted = Desired { unread: [unread.to_string()].into(), ..old.clone() };
        let action = crate::agent::decide::server(
            &restarted,
            Some(live.value()),
            &situation(work(Activity::Idle), Policy::default(), at(20)),
        );
        assert_eq!(action == Action::Keep, keeps, "{unread}: {action:?}");
    }
}
