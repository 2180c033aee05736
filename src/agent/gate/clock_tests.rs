//! Holds, orders and clocks: what makes a wait longer or shorter than the work does.

use proptest::prelude::*;

use super::*;

const HOUR: i64 = 3600;
const START: i64 = 1_800_000_000;
const BUSY: Work = Work { running_tasks: 1, activity: Activity::Busy };
const IDLE: Work = Work { running_tasks: 0, activity: Activity::Idle };
const GONE: Work = Work { running_tasks: 0, activity: Activity::NoServer };
const HELD: Ask<'static> = Ask::Hold { why: "ask Jo" };

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// Decides about a change from `applied` to `new`.
fn ask(
    applied: Option<&Applied>,
    pending: Option<&Pending>,
    work: Work,
    policy: Policy,
    ask: Ask<'_>,
    now: i64,
) -> Verdict {
    let causes = ["image".to_owned()].into();
    decide(&GateInput {
        change: Change::Template,
        desired: "new",
        applied,
        pending,
        causes: &causes,
        work,
        policy,
        beside: None,
        ask,
        now: at(now),
    })
}

fn letter(verdict: &Verdict) -> char {
    match verdict {
        Verdict::Open { hold: false } => 'O',
        Verdict::Open { hold: true } => 'H',
        Verdict::Wait { until: Some(_), .. } => 'W',
        Verdict::Wait { until: None, .. } => 'w',
        Verdict::Forced { .. } => 'F',
    }
}

/// What was applied × work × what is asked × whether the time is over × what happens then; written down, not computed.
#[test]
fn orders_of_people_win_over_the_policy() {
    let applied = |hash: &str, suspended| Applied { hash: hash.into(), suspended };
    let (old, new, asleep) = (applied("old", false), applied("new", false), applied("old", true));
    let pending = |since| Pending { hash: "new".into(), since: at(since), causes: BTreeSet::new(), held: false };
    // Letters for: time left and Force, time over and Force, time over and Wait.
    let table = [
        (Some(&old), BUSY, Ask::Nothing, "WFw"),
        (Some(&old), BUSY, Ask::Now, "FFF"),
        (Some(&old), BUSY, HELD, "www"),
        (Some(&old), IDLE, Ask::Nothing, "HHH"),
        (Some(&old), IDLE, Ask::Now, "HHH"),
        (Some(&old), IDLE, HELD, "www"),
        (Some(&old), GONE, HELD, "www"),
        (Some(&asleep), IDLE, Ask::Nothing, "OOO"),
        (Some(&asleep), IDLE, HELD, "www"),
        (Some(&new), BUSY, HELD, "OOO"),
        (Some(&new), BUSY, Ask::Now, "OOO"),
        (None, BUSY, HELD, "OOO"),
    ];
    for (applied, work, asked, expected) in table {
        let cases = [(START, OnTimeout::Force), (START - HOUR, OnTimeout::Force), (START - HOUR, OnTimeout::Wait)];
        let said: String = cases
            .into_iter()
            .map(|(since, on_timeout)| {
                let policy = Policy { on_timeout, ..Policy::default() };
                letter(&ask(applied, Some(&pending(since)), work, policy, asked, START))
            })
            .collect();
        assert_eq!(said, expected, "{applied:?} {work:?} {asked:?}");
    }
}

#[test]
fn a_hold_says_who_to_ask_and_its_time_is_no_waiting_for_work() {
    let old = Applied { hash: "old".into(), suspended: false };
    let wait =
        |pending: Option<&Pending>, asked, now| match ask(Some(&old), pending, BUSY, Policy::default(), asked, now) {
            Verdict::Wait { pending, until, message } => (pending, until, message),
            other => panic!("{other:?}"),
        };
    let (first, ..) = wait(None, Ask::Nothing, START);
    let (held, until, message) = wait(Some(&first), HELD, START + 60);
    assert_eq!((held.since, held.held, until), (at(START), true, None));
    assert_eq!(
        message,
        "held by the annotation pilothouse.dev/rollout (ask Jo), since 2027-01-15T08:00:00Z: changed: image; to let it \
         go on: pilothouse rollout agent NAME --resume"
    );
    let (again, ..) = wait(Some(&held), HELD, START + 9 * HOUR);
    assert_eq!(again, held, "nothing is written while it is held");
    // Released after nine hours: the work has its hour.
    let (released, until, _) = wait(Some(&held), Ask::Nothing, START + 9 * HOUR);
    assert_eq!((released.held, until), (false, Some(at(START + 10 * HOUR))));
}

#[test]
fn what_is_cut_is_said() {
    let old = Applied { hash: "old".into(), suspended: false };
    let Verdict::Forced { message } = ask(Some(&old), None, BUSY, Policy::default(), Ask::Now, START) else { panic!() };
    assert_eq!(
        message,
        "1 running Task and busy sessions did not end first, as the annotation pilothouse.dev/rollout asks: changed: image"
    );
}

#[derive(Clone, Debug)]
enum Event {
    /// Time passes, and somebody looks.
    Pass(i64),
    /// The wall clock jumps.
    Jump(i64),
    /// Another process goes on, with what is stored and what the clock shows.
    Crash,
    /// The target moves.
    Push,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1..HOUR).prop_map(Event::Pass),
        2 => (-48 * HOUR..48 * HOUR).prop_map(Event::Jump),
        1 => Just(Event::Push),
    ]
}

/// A controller's process: what it stores, and what it remembers only while it lives.
#[derive(Default)]
struct Process {
    stored: Option<Pending>,
    /// Start of the wait as stored, the clock when it was seen first, and the time that has really passed then.
    watched: Option<(Timestamp, Timestamp, i64)>,
}

impl Process {
    fn watch(&mut self, since: Timestamp, real: i64, wall: i64) -> (Timestamp, Timestamp, i64) {
        let known = self.watched.filter(|(known, ..)| *known == since);
        *self.watched.insert(known.unwrap_or((since, at(wall), real)))
    }

    /// One look at `real` seconds, when the clock shows `wall`; whether the work was cut.
    fn look(&mut self, real: i64, wall: i64, target: u32) -> bool {
        let now = match &self.stored {
            None => at(wall),
            Some(pending) => {
                let (since, first, seen) = self.watch(pending.since, real, wall);
                waited_until(since, first, Duration::from_secs(u64::try_from(real - seen).unwrap()))
            }
        };
        let causes = ["image".to_owned()].into();
        let verdict = decide(&GateInput {
            change: Change::Template,
            desired: &target.to_string(),
            applied: Some(&Applied { hash: "old".into(), suspended: false }),
            pending: self.stored.as_ref(),
            causes: &causes,
            work: BUSY,
            policy: Policy::default(),
            beside: None,
            ask: Ask::Nothing,
            now,
        });
        match verdict {
            Verdict::Wait { pending, .. } => {
                self.watch(pending.since, real, wall);
                self.stored = Some(pending);
                false
            }
            Verdict::Forced { .. } => true,
            Verdict::Open { .. } => panic!("over work"),
        }
    }
}

/// Runs events until work is cut; for how long it was protected.
fn protected(events: &[Event]) -> Option<i64> {
    let (mut process, mut real, mut offset, mut target) = (Process::default(), 0, 0, 0);
    process.look(real, START, target);
    for event in events {
        match event {
            Event::Pass(seconds) => real += seconds,
            Event::Jump(seconds) => offset += seconds,
            Event::Crash => process.watched = None,
            Event::Push => target += 1,
        }
        if process.look(real, START + real + offset, target) {
            return Some(real);
        }
    }
    None
}

proptest! {
    /// A clock that jumps, by hours or days and in either direction, forces nothing early and keeps nothing for ever;
    /// neither does a target that moves.
    #[test]
    fn a_clock_that_jumps_changes_no_wait(events in prop::collection::vec(event(), 1..40)) {
        let passed: i64 = events.iter().map(|e| if let Event::Pass(seconds) = e { *seconds } else { 0 }).sum();
        match protected(&events) {
            Some(after) => prop_assert!(after >= HOUR, "cut after {} s", after),
            None => prop_assert!(passed < 2 * HOUR, "it waits for {} s already", passed),
        }
    }

    /// A crash alone loses no time and adds none, and who does not answer moves nothing.
    #[test]
    fn a_crash_changes_no_wait(passes in prop::collection::vec(1..HOUR, 1..20)) {
        let plain: Vec<_> = passes.iter().map(|s| Event::Pass(*s)).collect();
        let crashed: Vec<_> = passes.iter().flat_map(|s| [Event::Crash, Event::Pass(*s)]).collect();
        prop_assert_eq!(protected(&plain), protected(&crashed));
    }

    /// While nobody can say what a server does, the clock is the same as if it were busy.
    #[test]
    fn an_unreachable_server_moves_no_clock(since in 0..HOUR, policy_wait in any::<bool>()) {
        let old = Applied { hash: "old".into(), suspended: false };
        let pending = Pending { hash: "new".into(), since: at(START - since), causes: BTreeSet::new(), held: false };
        let on_timeout = if policy_wait { OnTimeout::Wait } else { OnTimeout::Force };
        let policy = Policy { on_timeout, ..Policy::default() };
        let waits = |activity| {
            let work = Work { running_tasks: 0, activity };
            match ask(Some(&old), Some(&pending), work, policy, Ask::Nothing, START) {
                Verdict::Wait { pending, until, .. } => Some((pending.since, until)),
                _ => None,
            }
        };
        prop_assert_eq!(waits(Activity::Unknown), waits(Activity::Busy));
        prop_assert!(waits(Activity::Unknown).is_some());
    }
}

/// After a crash the clock is believed, but a start that is still to come counts as now.
#[test]
fn a_crash_with_a_clock_set_back_waits_longer_never_shorter() {
    for days in [1, -1] {
        let back = [Event::Pass(HOUR / 2), Event::Jump(-days.max(0) * 24 * HOUR), Event::Crash, Event::Pass(HOUR)];
        let after = protected(&back).unwrap();
        assert!(after >= HOUR, "{after}");
    }
}

/// Tasks come one after another, faster than they end: with `drain` the rollout comes when those that run have ended,
/// without it only when its time is over.
#[test]
fn a_busy_agent_rolls_only_if_new_tasks_wait() {
    const LONGEST: i64 = 600;
    for drain in [true, false] {
        let mut running: Vec<i64> = vec![LONGEST];
        let (mut pending, mut rolled) = (None::<Pending>, None);
        for second in 0..2 * HOUR {
            running.retain(|ends| *ends > second);
            let queued = drain && pending.is_some();
            if !queued && second % 60 == 0 {
                running.push(second + 60 + second % (LONGEST - 60));
            }
            if second < 300 {
                continue;
            }
            let old = Applied { hash: "old".into(), suspended: false };
            let work = Work { running_tasks: running.len(), ..GONE };
            match ask(Some(&old), pending.as_ref(), work, Policy::default(), Ask::Nothing, START + second) {
                Verdict::Wait { pending: stored, .. } => pending = Some(stored),
                Verdict::Open { .. } => rolled = Some((second - 300, "open")),
                Verdict::Forced { .. } => rolled = Some((second - 300, "forced")),
            }
            if rolled.is_some() {
                break;
            }
        }
        let (after, how) = rolled.unwrap();
        if drain {
            assert!(how == "open" && after <= LONGEST, "{how} after {after} s");
        } else {
            assert_eq!((how, after), ("forced", HOUR));
        }
    }
}
