use proptest::prelude::*;

use super::*;

const HOUR: i64 = 3600;
const START: i64 = 1_800_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn causes() -> BTreeSet<String> {
    ["config".to_string(), "image".to_string()].into()
}

fn pending(hash: &str, since: i64) -> Pending {
    Pending { hash: hash.into(), since: at(since), causes: causes(), held: false }
}

const PROTECTS: [Protect; 3] = [Protect::TasksAndSessions, Protect::Tasks, Protect::None];
const ACTIVITIES: [Activity; 4] = [Activity::NoServer, Activity::Idle, Activity::Busy, Activity::Unknown];

/// What the gate says for each kind of work, written down and not computed.
///
/// Rows: protect, Running Tasks, activity. `O` open, `H` open with prompts held, `W` wait.
const TABLE: &[(Protect, usize, Activity, char)] = &[
    (Protect::TasksAndSessions, 0, Activity::NoServer, 'O'),
    (Protect::TasksAndSessions, 0, Activity::Idle, 'H'),
    (Protect::TasksAndSessions, 0, Activity::Busy, 'W'),
    (Protect::TasksAndSessions, 0, Activity::Unknown, 'W'),
    (Protect::TasksAndSessions, 2, Activity::NoServer, 'W'),
    (Protect::TasksAndSessions, 2, Activity::Idle, 'W'),
    (Protect::TasksAndSessions, 2, Activity::Busy, 'W'),
    (Protect::TasksAndSessions, 2, Activity::Unknown, 'W'),
    (Protect::Tasks, 0, Activity::NoServer, 'O'),
    (Protect::Tasks, 0, Activity::Idle, 'O'),
    (Protect::Tasks, 0, Activity::Busy, 'O'),
    (Protect::Tasks, 0, Activity::Unknown, 'O'),
    (Protect::Tasks, 2, Activity::NoServer, 'W'),
    (Protect::Tasks, 2, Activity::Idle, 'W'),
    (Protect::Tasks, 2, Activity::Busy, 'W'),
    (Protect::Tasks, 2, Activity::Unknown, 'W'),
    (Protect::None, 0, Activity::NoServer, 'O'),
    (Protect::None, 0, Activity::Idle, 'O'),
    (Protect::None, 0, Activity::Busy, 'O'),
    (Protect::None, 0, Activity::Unknown, 'O'),
    (Protect::None, 2, Activity::NoServer, 'O'),
    (Protect::None, 2, Activity::Idle, 'O'),
    (Protect::None, 2, Activity::Busy, 'O'),
    (Protect::None, 2, Activity::Unknown, 'O'),
];

fn letter(verdict: &Verdict) -> char {
    match verdict {
        Verdict::Open { hold: false } => 'O',
        Verdict::Open { hold: true } => 'H',
        Verdict::Wait { until: Some(_), .. } => 'W',
        Verdict::Wait { until: None, .. } => 'w',
        Verdict::Forced { .. } => 'F',
    }
}

/// Every kind of work × what was applied × how long it waited × what happens at the timeout.
#[test]
fn every_combination() {
    let running = Applied { hash: "old".into(), suspended: false };
    let same = Applied { hash: "new".into(), suspended: false };
    let asleep = Applied { hash: "old".into(), suspended: true };
    for &(protect, running_tasks, activity, expected) in TABLE {
        for applied in [None, Some(&running), Some(&same), Some(&asleep)] {
            for waited in [None, Some(0), Some(HOUR - 1), Some(HOUR), Some(10 * HOUR)] {
                for on_timeout in [OnTimeout::Force, OnTimeout::Wait] {
                    let pending = waited.map(|w| pending("new", START - w));
                    let verdict = decide(&GateInput {
                        change: Change::default(),
                        desired: "new",
                        applied,
                        pending: pending.as_ref(),
                        causes: &causes(),
                        work: Work { running_tasks, activity },
                        policy: Policy { protect, on_timeout, ..Policy::default() },
                        beside: None,
                        ask: Ask::Nothing,
                        now: at(START),
                    });
                    let late = waited.is_some_and(|w| w >= HOUR);
                    let want = match (applied == Some(&running), expected, on_timeout) {
                        (false, ..) => 'O',
                        (true, 'W', OnTimeout::Wait) => 'w',
                        (true, 'W', OnTimeout::Force) if late => 'F',
                        (true, letter, _) => letter,
                    };
                    let context =
                        format!("{protect:?} {running_tasks} {activity:?} {applied:?} {waited:?} {on_timeout:?}");
                    assert_eq!(letter(&verdict), want, "{context}");
                }
            }
        }
    }
    assert_eq!(TABLE.len(), PROTECTS.len() * ACTIVITIES.len() * 2, "every combination of work has a row");
}

fn busy<'a>(
    pending: Option<&'a Pending>,
    applied: &'a Applied,
    causes: &'a BTreeSet<String>,
    now: i64,
) -> GateInput<'a> {
    GateInput {
        change: Change::default(),
        desired: "new",
        applied: Some(applied),
        pending,
        causes,
        work: Work { running_tasks: 2, activity: Activity::Busy },
        policy: Policy::default(),
        beside: None,
        ask: Ask::Nothing,
        now: at(now),
    }
}

#[test]
fn the_message_says_what_why_since_and_until() {
    let (applied, causes) = (Applied { hash: "old".into(), suspended: false }, causes());
    let Verdict::Wait { message, until, pending } = decide(&busy(None, &applied, &causes, START)) else {
        panic!("must wait")
    };
    assert_eq!(
        message,
        "waiting for 2 running Tasks and busy sessions to end before the rollout (changed: config, image), \
         since 2027-01-15T08:00:00Z, until 2027-01-15T09:00:00Z at the latest"
    );
    assert_eq!(until, Some(at(START + HOUR)));
    assert_eq!(pending, super::tests::pending("new", START));
}

#[test]
fn a_moved_target_keeps_the_clock() {
    let (applied, causes) = (Applied { hash: "old".into(), suspended: false }, causes());
    let before = pending("older", START - 100);
    let Verdict::Wait { pending, until, .. } = decide(&busy(Some(&before), &applied, &causes, START)) else {
        panic!("must wait")
    };
    assert_eq!((pending.hash.as_str(), pending.since), ("new", at(START - 100)));
    assert_eq!(until, Some(at(START - 100 + HOUR)));
}

#[test]
fn a_start_in_the_future_is_the_present() {
    let (applied, causes) = (Applied { hash: "old".into(), suspended: false }, causes());
    let before = pending("new", START + 90 * HOUR);
    let Verdict::Wait { until, .. } = decide(&busy(Some(&before), &applied, &causes, START)) else {
        panic!("must wait")
    };
    assert_eq!(until, Some(at(START + HOUR)));
}

fn work() -> impl Strategy<Value = Work> {
    (0..3_usize, prop::sample::select(ACTIVITIES.to_vec()))
        .prop_map(|(running_tasks, activity)| Work { running_tasks, activity })
}

fn policy() -> impl Strategy<Value = Policy> {
    (prop::sample::select(PROTECTS.to_vec()), 0..10_000_u64, any::<bool>()).prop_map(|(protect, seconds, force)| {
        Policy {
            protect,
            timeout: Duration::from_secs(seconds),
            on_timeout: if force { OnTimeout::Force } else { OnTimeout::Wait },
        }
    })
}

/// The annotations of a Deployment in the simulation.
#[derive(Clone, Debug)]
struct World {
    applied: Applied,
    pending: Option<Pending>,
    rollouts: usize,
}

#[derive(Clone, Debug)]
struct Step {
    seconds: i64,
    work: Work,
    target: Option<u8>,
    /// The controller dies after deciding and before writing.
    crash_before_write: bool,
    /// The controller dies after writing: the next one sees what was written and nothing else.
    runs_again: bool,
}

fn step() -> impl Strategy<Value = Step> {
    (0..5000_i64, work(), prop::option::weighted(0.3, 0..4_u8), any::<bool>(), any::<bool>()).prop_map(
        |(seconds, work, target, crash_before_write, runs_again)| Step {
            seconds,
            work,
            target,
            crash_before_write,
            runs_again,
        },
    )
}

/// One reconcile: decide from the annotations, then one write that changes template and state together.
fn reconcile(world: &mut World, desired: &str, work: Work, policy: Policy, now: i64, write: bool) -> Verdict {
    let causes = causes();
    let verdict = decide(&GateInput {
        change: Change::default(),
        desired,
        applied: Some(&world.applied),
        pending: world.pending.as_ref(),
        causes: &causes,
        work,
        policy,
        beside: None,
        ask: Ask::Nothing,
        now: at(now),
    });
    if write {
        match &verdict {
            Verdict::Wait { pending, .. } => world.pending = Some(pending.clone()),
            Verdict::Open { .. } | Verdict::Forced { .. } => {
                world.rollouts += usize::from(world.applied.hash != desired);
                world.applied.hash = desired.into();
                world.pending = None;
            }
        }
    }
    verdict
}

proptest! {
    #[test]
    fn never_open_over_protected_work_before_the_timeout(work in work(), policy in policy(), waited in prop::option::of(0..20_000_i64)) {
        let (applied, causes) = (Applied { hash: "old".into(), suspended: false }, causes());
        let pending = waited.map(|w| pending("new", START - w));
        let verdict = decide(&GateInput {
            change: Change::default(),
            desired: "new", applied: Some(&applied), pending: pending.as_ref(), causes: &causes, work, policy, beside: None, ask: Ask::Nothing,
                        now: at(START),
        });
        let active = match policy.protect {
            Protect::TasksAndSessions => work.running_tasks > 0 || !matches!(work.activity, Activity::Idle | Activity::NoServer),
            Protect::Tasks => work.running_tasks > 0,
            Protect::None => false,
        };
        let over = waited.unwrap_or(0) >= i64::try_from(policy.timeout.as_secs()).unwrap();
        match verdict {
            Verdict::Open { .. } => prop_assert!(!active),
            Verdict::Forced { .. } => prop_assert!(active && over && policy.on_timeout == OnTimeout::Force),
            Verdict::Wait { until, .. } => {
                prop_assert!(active);
                prop_assert_eq!(until.is_none(), policy.on_timeout == OnTimeout::Wait);
                prop_assert!(until.is_none_or(|t| t > at(START)));
            }
        }
    }

    #[test]
    fn what_is_stored_decides_the_same_again(work in work(), policy in policy(), waited in prop::option::of(0..20_000_i64)) {
        let (applied, causes) = (Applied { hash: "old".into(), suspended: false }, causes());
        let pending = waited.map(|w| pending("new", START - w));
        let input = GateInput {
            change: Change::default(),
            desired: "new", applied: Some(&applied), pending: pending.as_ref(), causes: &causes, work, policy, beside: None, ask: Ask::Nothing,
                        now: at(START),
        };
        let first = decide(&input);
        if let Verdict::Wait { pending, .. } = &first {
            prop_assert_eq!(&decide(&GateInput { pending: Some(pending), ..input }), &first);
        }
    }

    /// However reconciles, changes and crashes mix: a rollout happens at most once for each target that was decided,
    /// the clock never restarts while something waits, and nothing waits longer than the timeout.
    #[test]
    fn crashes_repeat_no_rollout_and_lose_no_clock(policy in policy(), steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World { applied: Applied { hash: "t0".into(), suspended: false }, pending: None, rollouts: 0 };
        let (mut now, mut desired, mut changes) = (START, "t0".to_string(), 0);
        let mut waiting_since: Option<i64> = None;
        for step in steps {
            now += step.seconds;
            if let Some(target) = step.target {
                let target = format!("t{target}");
                changes += usize::from(target != desired);
                desired = target;
            }
            reconcile(&mut world, &desired, step.work, policy, now, !step.crash_before_write);
            if step.runs_again && !step.crash_before_write {
                let before = (world.pending.clone(), world.rollouts);
                reconcile(&mut world, &desired, step.work, policy, now, true);
                prop_assert_eq!(&before, &(world.pending.clone(), world.rollouts));
            }
            match &world.pending {
                Some(pending) => {
                    let since = *waiting_since.get_or_insert(now);
                    prop_assert_eq!(pending.since, at(since), "the clock moved");
                }
                None => waiting_since = None,
            }
        }
        prop_assert!(world.rollouts <= changes);
        // In the end the work stops, or the timeout comes.
        let idle = Work { running_tasks: 0, activity: Activity::Idle };
        let mut forced = world.clone();
        reconcile(&mut world, &desired, idle, policy, now, true);
        prop_assert_eq!(&world.applied.hash, &desired);
        if policy.on_timeout == OnTimeout::Force {
            let busy = Work { running_tasks: 1, activity: Activity::Unknown };
            reconcile(&mut forced, &desired, busy, policy, now, true);
            reconcile(&mut forced, &desired, busy, policy, now + 10_000, true);
            prop_assert_eq!(&forced.applied.hash, &desired);
        }
    }
}
