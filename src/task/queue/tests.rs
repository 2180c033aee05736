use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;

use super::*;

const AGENT: Agent<'static> = ("ns", "a");

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn ticket(name: &str, second: i64, running: bool) -> Ticket {
    Ticket { uid: format!("uid-{name}"), name: name.into(), priority: 0, created: at(second), tries: 0, running }
}

fn urgent(name: &str, second: i64, priority: i32) -> Ticket {
    Ticket { priority, ..ticket(name, second, false) }
}

fn start(uid: &str, second: i64) -> TaskStart {
    TaskStart {
        task_name: uid.trim_start_matches("uid-").into(),
        task_namespace: "ns".into(),
        task_uid: Some(uid.into()),
        attempt: None,
        start_time: Time(at(second)),
    }
}

fn places(places: usize) -> Limits {
    Limits { places: Some(places), ..Limits::default() }
}

fn admit(ledger: &mut Ledger, uid: &str, limit: usize, tickets: &[Ticket]) -> Place {
    ledger.admit(AGENT, &start(uid, 0), &places(limit), tickets)
}

fn due(ledger: &Ledger, limit: usize, tickets: &[Ticket]) -> Vec<String> {
    ledger.due(AGENT, &places(limit), tickets).into_iter().map(|t| t.name.clone()).collect()
}

#[test]
fn the_most_urgent_go_first_then_the_oldest_then_by_name() {
    let tickets = [
        ticket("c", 2, false),
        ticket("b", 1, false),
        ticket("a", 2, false),
        ticket("r", 9, true),
        urgent("late", 99, 5),
        urgent("least", 0, -1),
    ];
    let ledger = Ledger::default();
    let table: &[(usize, &[&str])] = &[
        (0, &[]),
        (1, &[]),
        (2, &["late"]),
        (3, &["late", "b"]),
        (5, &["late", "b", "a", "c"]),
        (99, &["late", "b", "a", "c", "least"]),
    ];
    for (limit, expected) in table {
        assert_eq!(due(&ledger, *limit, &tickets), *expected, "{limit:?}");
    }
    assert_eq!(ledger.due(AGENT, &Limits::default(), &tickets).len(), 5, "without limits all may go");
}

#[test]
fn a_place_that_was_given_counts_before_the_cache_shows_it() {
    let tickets = [ticket("a", 1, false), ticket("b", 2, false)];
    let mut ledger = Ledger::default();
    assert_eq!(admit(&mut ledger, "uid-b", 1, &tickets), Place::Full, "a is older");
    assert_eq!(admit(&mut ledger, "uid-a", 1, &tickets), Place::Held);
    assert_eq!(admit(&mut ledger, "uid-a", 1, &tickets), Place::Held, "asked twice");
    assert_eq!(admit(&mut ledger, "uid-b", 1, &tickets), Place::Full, "the cache is behind");
    let shown = [ticket("a", 1, true), ticket("b", 2, false)];
    ledger.settle("uid-a");
    assert_eq!(admit(&mut ledger, "uid-b", 1, &shown), Place::Full, "it runs");
    assert_eq!(admit(&mut ledger, "uid-b", 1, &shown[1..]), Place::Held, "it has ended");
}

#[test]
fn who_cannot_start_gives_way_until_it_is_tried_again() {
    let tickets = [ticket("a", 1, false), ticket("b", 2, false)];
    let mut ledger = Ledger::default();
    assert_eq!(admit(&mut ledger, "uid-a", 1, &tickets), Place::Held);
    ledger.block("uid-a");
    assert_eq!(due(&ledger, 1, &tickets), ["b"]);
    assert_eq!(admit(&mut ledger, "uid-a", 1, &tickets), Place::Held, "tried again before b came");
    ledger.block("uid-a");
    assert_eq!(admit(&mut ledger, "uid-b", 1, &tickets), Place::Held);
    assert_eq!(admit(&mut ledger, "uid-a", 1, &tickets), Place::Full);
}

#[test]
fn no_limit_gives_a_place_to_everybody() {
    assert_eq!(Ledger::default().admit(AGENT, &start("uid-a", 0), &Limits::default(), &[]), Place::Unlimited);
}

#[test]
fn the_first_waits_for_the_window_and_the_others_for_the_first() {
    let tickets = [ticket("a", 1, false), ticket("b", 2, false)];
    let quota = Some(Quota { starts: 1, window: SignedDuration::from_secs(60) });
    let spent = Limits { places: None, quota, history: vec![start("uid-z", 100)], now: at(110) };
    let mut ledger = Ledger::default();
    let mut admit = |uid: &str, limits: &Limits| ledger.admit(AGENT, &start(uid, 110), limits, &tickets);
    assert_eq!(admit("uid-b", &spent), Place::Spent { until: None });
    assert_eq!(admit("uid-a", &spent), Place::Spent { until: Some(at(160)) });
    let free = Limits { now: at(160), ..spent.clone() };
    assert_eq!(admit("uid-a", &free), Place::Held);
    assert_eq!(admit("uid-a", &free), Place::Held, "asked twice, it started once");
    assert_eq!(admit("uid-b", &free), Place::Spent { until: Some(at(170)) }, "the status is behind");
    assert_eq!(ledger.due(AGENT, &free, &tickets).len(), 1, "only b waits");
    // Its pod could not be made: the start counts all the same, and it needs no second one.
    ledger.block("uid-a");
    assert_eq!(ledger.admit(AGENT, &start("uid-a", 165), &free, &tickets), Place::Held);
    ledger.take_back(AGENT, &start("uid-a", 0));
    assert_eq!(ledger.admit(AGENT, &start("uid-a", 165), &free, &tickets), Place::Held, "taken back, it is free again");
}

#[test]
fn ranks_are_exact_in_front() {
    let table = [
        (0, "place 1 in its queue"),
        (1, "place 2 to 5 in its queue"),
        (4, "place 2 to 5 in its queue"),
        (5, "place 6 to 20 in its queue"),
        (19, "place 6 to 20 in its queue"),
        (20, "place 21 to 100 in its queue"),
        (499, "place 101 to 500 in its queue"),
        (5_000, "place 2501 or later in its queue"),
    ];
    for (before, expected) in table {
        assert_eq!(Rank::of(before).to_string(), expected, "{before}");
    }
}

#[test]
fn whose_rank_has_changed_is_looked_at() {
    let tickets: Vec<_> = (0..6).map(|n| ticket(&format!("t{n}"), n, false)).collect();
    let mut ledger = Ledger::default();
    for ticket in &tickets {
        assert!(ledger.rank(&ticket.uid, &tickets).is_some());
    }
    assert_eq!(due(&ledger, 0, &tickets), [""; 0]);
    // t0 has gone: t1 is the first now, t2 to t4 stay in the same range, t5 comes into it.
    assert_eq!(due(&ledger, 0, &tickets[1..]), ["t1", "t5"]);
    assert_eq!(ledger.rank("uid-t0", &tickets[1..]), None);
}

/// What happens to one agent's Tasks, the caches lagging behind by any number of steps.
#[derive(Clone, Debug)]
enum Happens {
    Created(i32),
    Looks(usize),
    StartFails(usize),
    Ends(usize),
    CacheCatchesUp(usize),
    HistoryCatchesUp,
    TimePasses(i64),
    /// The window is used by a leader before this one, whose last write comes late.
    StrangeStart,
    Failover,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        2 => (0..3).prop_map(Happens::Created),
        5 => (0..12usize).prop_map(Happens::Looks),
        1 => (0..12usize).prop_map(Happens::StartFails),
        2 => (0..12usize).prop_map(Happens::Ends),
        3 => (0..12usize).prop_map(Happens::CacheCatchesUp),
        1 => Just(Happens::HistoryCatchesUp),
        2 => (1..40i64).prop_map(Happens::TimePasses),
        1 => Just(Happens::StrangeStart),
        1 => Just(Happens::Failover),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Real {
    Waits,
    Runs,
    Ended,
}

/// The world as it is, and as the caches show it.
struct Scene {
    ledger: Ledger,
    limit: usize,
    quota: Quota,
    now: i64,
    priorities: Vec<i32>,
    real: Vec<Real>,
    cached: Vec<Option<Real>>,
    /// `status.taskStartHistory`, and what the cache shows of it.
    live: Vec<TaskStart>,
    shown: Vec<TaskStart>,
    /// All starts there ever were.
    begun: Vec<i64>,
}

impl Scene {
    fn new(limit: usize, starts: usize) -> Self {
        let quota = Quota { starts, window: SignedDuration::from_secs(60) };
        let none = Vec::new;
        let (ledger, now) = (Ledger::default(), 1_000);
        Self {
            ledger,
            limit,
            quota,
            now,
            priorities: vec![],
            real: vec![],
            cached: vec![],
            live: none(),
            shown: none(),
            begun: vec![],
        }
    }

    fn tickets(&self) -> Vec<Ticket> {
        let shown = self.cached.iter().enumerate().filter_map(|(i, c)| Some((i, (*c)?)));
        shown.filter(|(_, c)| *c != Real::Ended).map(|(i, c)| self.ticket(i, c)).collect()
    }

    fn ticket(&self, index: usize, state: Real) -> Ticket {
        let ticket = ticket(&format!("{index:02}"), i64::try_from(index / 2).unwrap(), state == Real::Runs);
        Ticket { priority: self.priorities[index], ..ticket }
    }

    fn limits(&self) -> Limits {
        Limits { places: Some(self.limit), quota: Some(self.quota), history: self.shown.clone(), now: at(self.now) }
    }

    fn uid(index: usize) -> String {
        format!("uid-{index:02}")
    }

    fn happen(&mut self, what: &Happens) {
        match what {
            Happens::Created(priority) => {
                self.priorities.push(*priority);
                self.real.push(Real::Waits);
                self.cached.push(None);
            }
            Happens::Looks(i) | Happens::StartFails(i) if self.cached.get(*i).copied().flatten().is_some() => {
                self.look(*i, matches!(what, Happens::StartFails(_)));
            }
            Happens::Ends(i) if self.real.get(*i) == Some(&Real::Runs) => self.real[*i] = Real::Ended,
            Happens::CacheCatchesUp(i) if *i < self.real.len() => self.show(*i),
            Happens::HistoryCatchesUp => self.shown.clone_from(&self.live),
            Happens::TimePasses(seconds) => self.now += seconds,
            Happens::StrangeStart => {
                let uid = format!("uid-strange-{}", self.begun.len());
                self.record(&start(&uid, self.now));
            }
            Happens::Failover => {
                // What the new leader needs: its caches show what there was when it began.
                self.ledger = Ledger::default();
                (0..self.real.len()).for_each(|i| self.show(i));
            }
            _ => {}
        }
    }

    fn show(&mut self, i: usize) {
        self.cached[i] = Some(self.real[i]);
        if self.real[i] != Real::Waits {
            self.ledger.settle(&Self::uid(i));
        }
    }

    /// The write over the list that was counted; as the controller makes it.
    fn record(&mut self, start: &TaskStart) -> bool {
        let mut starts = self.quota.within(&self.live, at(self.now));
        if starts.iter().any(|s| quota::same(s, start)) {
            return true;
        }
        if self.quota.left(&starts, at(self.now)) == 0 {
            self.ledger.take_back(AGENT, start);
            self.ledger.saw(AGENT, self.quota, &starts, at(self.now));
            return false;
        }
        starts.push(start.clone());
        self.ledger.saw(AGENT, self.quota, &starts, at(self.now));
        self.live = starts;
        self.begun.push(self.now);
        true
    }

    fn look(&mut self, i: usize, fails: bool) {
        // A reconcile sees its own pod, so it never asks for what runs or has ended.
        if self.real[i] != Real::Waits {
            return;
        }
        let (tickets, limits) = (self.tickets(), self.limits());
        let before = self.ledger.clone();
        let start = start(&Self::uid(i), self.now);
        if self.ledger.admit(AGENT, &start, &limits, &tickets) != Place::Held || !self.record(&start) {
            return;
        }
        if fails {
            return self.ledger.block(&Self::uid(i));
        }
        let mut known = before.waiting(&tickets).into_iter().map(|t| t.uid.clone());
        if self.limit == 1 && !before.blocked.contains(&Self::uid(i)) && !before.started.contains(&Self::uid(i)) {
            assert_eq!(known.next(), Some(Self::uid(i)), "another Task comes first");
        }
        self.real[i] = Real::Runs;
    }

    fn running(&self) -> usize {
        self.real.iter().filter(|r| **r == Real::Runs).count()
    }

    /// Everything that is due, with caches that keep up.
    fn settle(&mut self) {
        for _ in 0..100 {
            (0..self.real.len()).for_each(|i| self.show(i));
            self.happen(&Happens::HistoryCatchesUp);
            let (tickets, limits) = (self.tickets(), self.limits());
            let due: Vec<_> = self.ledger.due(AGENT, &limits, &tickets).into_iter().map(|t| t.uid.clone()).collect();
            let before = self.real.clone();
            // In any order: the order of the queue must not depend on who is looked at first.
            for uid in due.iter().rev() {
                let i = (0..self.real.len()).find(|i| Self::uid(*i) == *uid).unwrap();
                self.look(i, false);
            }
            if before == self.real {
                return;
            }
        }
        panic!("it does not come to rest");
    }
}

proptest! {
    #[test]
    fn never_above_a_limit_and_nothing_is_left_free(
        limit in 1..4usize,
        starts in 1..6usize,
        story in prop::collection::vec(happens(), 0..120),
    ) {
        let mut scene = Scene::new(limit, starts);
        for what in &story {
            scene.happen(what);
            prop_assert!(scene.running() <= limit, "{} run at a limit of {limit}", scene.running());
            let window = scene.begun.iter().filter(|begun| **begun > scene.now - 60).count();
            prop_assert!(window <= starts, "{window} starts where {starts} may be");
        }
        scene.settle();
        let waits = scene.tickets().iter().any(|t| !t.running && !scene.ledger.blocked.contains(&t.uid));
        let free = scene.running() < limit;
        let room = scene.quota.left(&scene.live, at(scene.now)) > 0;
        prop_assert!(!(waits && free && room), "somebody waits, and there is room: {:?}", scene.real);
        // The first one knows when it goes on.
        if waits && free {
            let (tickets, limits) = (scene.tickets(), scene.limits());
            let first = scene.ledger.waiting(&tickets)[0].uid.clone();
            let place = scene.ledger.admit(AGENT, &start(&first, scene.now), &limits, &tickets);
            prop_assert!(matches!(place, Place::Spent { until: Some(_) }), "{place:?}");
        }
    }

    #[test]
    fn everybody_has_a_turn_in_order(priorities in prop::collection::vec(0..3i32, 1..10), limit in 1..4usize) {
        // Nothing fails and the cache keeps up: the order of starts is the order of the queue.
        let mut scene = Scene::new(limit, 99);
        for priority in &priorities {
            scene.happen(&Happens::Created(*priority));
        }
        (0..priorities.len()).for_each(|i| scene.show(i));
        let mut order: Vec<_> = (0..priorities.len()).collect();
        order.sort_by_key(|i| (-priorities[*i], i / 2, *i));
        for turn in 0..priorities.len() {
            scene.settle();
            let begun: Vec<_> = order.iter().filter(|i| scene.real[**i] != Real::Waits).copied().collect();
            prop_assert_eq!(&begun, &order[..(turn + limit).min(order.len())], "turn {}", turn);
            scene.happen(&Happens::Ends(order[turn]));
        }
    }
}
