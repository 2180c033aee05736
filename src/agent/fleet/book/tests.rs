use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn pace(spec: Value) -> Pace {
    Pace::parse(&serde_json::from_value(spec).unwrap()).unwrap()
}

fn at(seconds: i64) -> Now {
    let time = Timestamp::from_second(1_000_000 + seconds).unwrap();
    Now { steady: time, wall: time }
}

fn key(name: &str) -> Key {
    ("ns".into(), name.into())
}

fn steps(list: &[&str]) -> Steps {
    list.iter().map(ToString::to_string).collect()
}

fn member(ring: u32) -> Member {
    Member {
        labels: [("ring".to_string(), ring.to_string())].into(),
        healthy: Some(at(-9000).wall),
        ..Member::default()
    }
}

fn waiting(list: &[&str], since: i64, knocks: bool) -> Waiting {
    Waiting { steps: steps(list), knocks, since: at(since).wall }
}

fn waves(soak: &str) -> Value {
    json!({"maxConcurrent": 2, "waves": [
        {"name": "canary", "selector": {"matchLabels": {"ring": "0"}}, "soak": soak},
        {"selector": {"matchLabels": {"ring": "1"}}},
    ]})
}

/// Agents that are known and want nothing: the ring of each.
fn book(rings: &[(&str, u32)]) -> Book {
    let mut book = Book::default();
    for (name, ring) in rings {
        book.exists(&key(name));
        book.note(&key(name), member(*ring), at(0));
    }
    book
}

/// A reconcile of these that finds nothing new.
fn look(book: &mut Book, rings: &[(&str, u32)], second: i64) {
    for (name, ring) in rings {
        book.note(&key(name), member(*ring), at(second));
    }
}

fn goes(book: &mut Book, name: &str) -> bool {
    book.take(&key(name), Of::Server)
}

fn refusal<'a>(book: &'a Book, name: &str) -> Option<&'a Refusal> {
    book.refusal(&key(name), Of::Server)
}

#[test]
fn who_waited_longest_goes_first_then_the_name() {
    let mut book = book(&[("a", 0), ("b", 0), ("c", 0), ("d", 0)]);
    let pace = pace(json!({"maxConcurrent": 2}));
    for (name, since) in [("d", 1), ("c", 2), ("b", 2), ("a", 3)] {
        book.wait(&key(name), Of::Server, waiting(&["image=1"], since, true), at(since));
    }
    let plan = book.plan(&pace, at(5));
    assert_eq!(plan.wake.len(), 4);
    assert!(goes(&mut book, "d") && goes(&mut book, "b"), "who waits longest; of one second the first by name");
    assert_eq!((refusal(&book, "a"), refusal(&book, "c")), (Some(&Refusal::Turn), Some(&Refusal::Turn)));
    // One is written and on its way, the other has arrived at once.
    book.done(&key("d"), Of::Server);
    book.note(&key("d"), Member { flying: steps(&["image=1"]), ..member(0) }, at(6));
    book.done(&key("b"), Of::Server);
    book.note(&key("b"), member(0), at(6));
    let plan = book.plan(&pace, at(6));
    assert_eq!(plan.wake, BTreeSet::from([key("c")]), "exactly who may go next");
    assert!(goes(&mut book, "c") && !goes(&mut book, "a"));
    let again = Plan { at: Some(at(6 + 15 * 60).steady), ..Plan::default() };
    assert_eq!(book.plan(&pace, at(7)), again, "nothing changed");
}

/// One namespace with many agents, all of which have waited for longer, keeps no other one waiting.
#[test]
fn namespaces_take_turns() {
    let (mut book, pace) = (Book::default(), pace(json!({"maxConcurrent": 1})));
    let big: Vec<Key> = (0..20).map(|n| ("big".to_owned(), format!("a{n:02}"))).collect();
    let small: Key = ("small".into(), "z".into());
    for key in big.iter().chain([&small]) {
        book.note(key, member(0), at(0));
        book.wait(key, Of::Server, waiting(&["image=1"], i64::from(*key == small), true), at(1));
    }
    let mut gone = vec![];
    for second in 2..6 {
        let plan = book.plan(&pace, at(second));
        let goes = plan.wake.into_iter().find(|key| book.take(key, Of::Server)).expect("one at a time");
        book.done(&goes, Of::Server);
        book.note(&goes, member(0), at(second));
        gone.push(goes);
    }
    assert_eq!(gone, [big[0].clone(), small.clone(), big[1].clone(), big[2].clone()]);
    book.forget(&small);
    for key in &big {
        book.forget(key);
    }
    assert!(format!("{:?}", book.turns).ends_with("last: {} }"), "who is gone is forgotten");
}

#[test]
fn a_place_is_given_back_by_who_is_busy_again_and_kept_by_who_writes() {
    let mut book = book(&[("a", 0), ("b", 0)]);
    let pace = pace(json!({"maxConcurrent": 1}));
    for name in ["a", "b"] {
        book.wait(&key(name), Of::Server, waiting(&["image=1"], 1, true), at(1));
    }
    book.plan(&pace, at(1));
    assert!(goes(&mut book, "a"));
    book.note(&key("a"), member(0), at(2));
    book.plan(&pace, at(2));
    assert!(!goes(&mut book, "b"), "its write failed, and is tried again");
    book.wait(&key("a"), Of::Server, waiting(&["image=1"], 1, false), at(3));
    book.plan(&pace, at(3));
    assert!(goes(&mut book, "b") && !goes(&mut book, "a"));
    book.wait(&key("a"), Of::Text, waiting(&["text/a=1"], 3, true), at(4));
    book.plan(&pace, at(4));
    assert!(!book.take(&key("a"), Of::Text), "text takes a place like a pod");
    // Who has a place needs no other.
    book.wait(&key("b"), Of::Text, waiting(&["text/a=1"], 4, true), at(5));
    book.plan(&pace, at(5));
    assert!(book.take(&key("b"), Of::Text));
}

#[test]
fn a_wave_waits_for_the_one_before_it_and_for_its_soak() {
    let (mut book, pace) = (book(&[("a", 0), ("b", 1), ("c", 2), ("other", 2)]), pace(waves("60s")));
    let first = |own, first| Some(Refusal::Wave { own, first });
    for name in ["b", "c"] {
        book.wait(&key(name), Of::Server, waiting(&["image=1", "env=2"], 0, true), at(0));
    }
    // The push has not reached the first wave yet.
    assert_eq!(book.plan(&pace, at(1)).at, Some(at(10).steady));
    look(&mut book, &[("a", 0), ("b", 1)], 3);
    assert_eq!(refusal(&book, "b").cloned(), first(1, 0));
    book.wait(&key("a"), Of::Server, waiting(&["image=1"], 2, false), at(2));
    book.wait(&key("other"), Of::Server, waiting(&["image=7"], 2, true), at(2));
    book.plan(&pace, at(20));
    assert_eq!(refusal(&book, "b").cloned(), first(1, 0), "one that waits for its own work is waited for");
    assert!(goes(&mut book, "other"), "another change is none of this wave's");
    book.done(&key("other"), Of::Server);
    book.note(&key("other"), member(2), at(20));
    book.done(&key("a"), Of::Server);
    book.note(&key("a"), Member { flying: steps(&["image=1"]), ..member(0) }, at(21));
    book.plan(&pace, at(21));
    assert_eq!(refusal(&book, "b").cloned(), first(1, 0));
    let settled = |since: i64| BTreeMap::from([("image=1".to_string(), at(since).wall)]);
    book.note(&key("a"), Member { settled: settled(30), healthy: None, ..member(0) }, at(30));
    assert_eq!(book.plan(&pace, at(31)).at, None, "it is not healthy");
    book.note(&key("a"), Member { settled: settled(30), healthy: Some(at(40).wall), ..member(0) }, at(40));
    assert_eq!(book.plan(&pace, at(41)).at, Some(at(100).steady));
    assert_eq!((refusal(&book, "b").cloned(), refusal(&book, "c").cloned()), (first(1, 0), first(2, 0)));
    book.plan(&pace, at(100));
    assert!(goes(&mut book, "b"));
    assert_eq!(refusal(&book, "c").cloned(), first(2, 1), "each wave after the one before it");
    book.done(&key("b"), Of::Server);
    book.note(&key("b"), Member { suspended: true, ..member(1) }, at(101));
    book.plan(&pace, at(101));
    assert!(goes(&mut book, "c"));
}

#[test]
fn one_that_fails_stops_the_same_change_alone() {
    let (mut book, pace) = (book(&[("a", 0), ("b", 0), ("c", 0)]), pace(waves("0s")));
    let failed = Failed { steps: steps(&["image=1"]), why: "ProgressDeadlineExceeded".into() };
    book.note(&key("a"), Member { failed: Some(failed.clone()), healthy: None, ..member(0) }, at(1));
    book.wait(&key("a"), Of::Server, waiting(&["image=1"], 1, true), at(1));
    book.wait(&key("b"), Of::Server, waiting(&["env=3", "image=1"], 1, true), at(1));
    book.wait(&key("c"), Of::Server, waiting(&["image=2"], 1, true), at(1));
    book.plan(&pace, at(1));
    let stopped = Refusal::Stopped { by: key("a"), why: failed.why.clone() };
    assert_eq!(refusal(&book, "b"), Some(&stopped));
    assert!(goes(&mut book, "a") && goes(&mut book, "c"), "the failed one itself, and something newer");
    book.done(&key("a"), Of::Server);
    book.note(&key("a"), Member { suspended: true, failed: Some(failed), ..member(0) }, at(2));
    book.plan(&pace, at(2));
    assert!(goes(&mut book, "b"), "without a pod it is in nobody's way");
}

#[test]
fn nobody_goes_before_all_are_known_or_while_the_door_is_closed() {
    let mut book = book(&[("a", 0)]);
    book.exists(&key("b"));
    book.exists(&key("gone"));
    let open = pace(json!({}));
    book.wait(&key("a"), Of::Server, waiting(&["image=1"], 1, true), at(1));
    assert_eq!(book.plan(&open, at(1)).at, Some(at(60).steady));
    assert_eq!(refusal(&book, "a"), Some(&Refusal::Start));
    book.forget(&key("gone"));
    assert!(book.is_dirty());
    book.plan(&open, at(2));
    assert!(!goes(&mut book, "a"));
    book.plan(&open, at(60));
    assert!(goes(&mut book, "a"), "one that cannot be looked at is not waited for without end");

    let frozen = pace(json!({"freeze": true}));
    book.wait(&key("b"), Of::Server, waiting(&["image=1"], 1, true), at(61));
    book.plan(&frozen, at(61));
    assert!(matches!(refusal(&book, "b"), Some(Refusal::Closed { .. })));
    assert!(goes(&mut book, "a"), "what is being written cannot be called back");
    let nights = pace(json!({"windows": [{"schedule": "0 2 * * *", "duration": "1h"}]}));
    let plan = book.plan(&nights, at(62));
    assert!(plan.wall.is_some(), "{plan:?}");
}

#[test]
fn clocks_that_jump_neither_shorten_nor_stretch_a_soak() {
    let pace = pace(waves("60s"));
    let plan = |since: i64, noted_before: bool| {
        let mut book = Book::default();
        if noted_before {
            book.note(&key("a"), member(0), at(0));
        }
        let settled = BTreeMap::from([("image=1".to_string(), at(since).wall)]);
        book.note(&key("a"), Member { settled, ..member(0) }, at(100));
        book.note(&key("b"), member(1), at(100));
        book.wait(&key("b"), Of::Server, waiting(&["image=1"], 0, true), at(0));
        let next = book.plan(&pace, at(100)).at;
        next.map(|next| next.duration_since(at(100).steady).as_secs())
    };
    assert_eq!(plan(90, false), Some(50), "after a restart the time is believed");
    assert_eq!(plan(5000, false), Some(60), "one in the future is now");
    assert_eq!(plan(90, true), Some(60), "what was seen to happen happened now");
    assert_eq!(plan(-5000, true), Some(60));
}

/// A canary that somebody took back by hand tells nothing of the change: it does not go on to the others.
#[test]
fn what_a_person_keeps_from_an_agent_holds_later_waves_and_nobody_else() {
    let (mut book, pace) = (book(&[("a", 0), ("b", 1), ("c", 0)]), pace(waves("0s")));
    book.note(&key("a"), Member { kept: steps(&["image=1"]), ..member(0) }, at(1));
    for name in ["b", "c"] {
        book.wait(&key(name), Of::Server, waiting(&["image=1"], 1, true), at(1));
    }
    book.plan(&pace, at(30));
    assert_eq!(refusal(&book, "b"), Some(&Refusal::Wave { own: 1, first: 0 }));
    assert!(goes(&mut book, "c"), "its own wave goes on");
    book.done(&key("c"), Of::Server);
    look(&mut book, &[("a", 0), ("c", 0)], 31);
    book.plan(&pace, at(31));
    assert!(goes(&mut book, "b"), "released");
}

/// A busy controller may look at the first wave long after others have heard of a change: nobody knows before that whether
/// it has the same one.
#[test]
fn a_wave_goes_when_those_before_it_have_been_looked_at_since() {
    let first = |own, first| Some(Refusal::Wave { own, first });
    let heard = |looks: &[(&str, u32, i64)], now: i64| {
        let (mut book, pace) = (book(&[("a", 0), ("b", 0), ("c", 1), ("d", 2)]), pace(waves("0s")));
        book.wait(&key("d"), Of::Server, waiting(&["image=1"], 5, true), at(5));
        for (name, ring, second) in looks {
            look(&mut book, &[(name, *ring)], *second);
        }
        let plan = book.plan(&pace, at(now));
        let woken: Vec<_> = plan.wake.iter().map(|(_, name)| name.as_str().to_owned()).collect();
        (woken.join(" "), plan.at.map(|at| at.as_second() - 1_000_000), refusal(&book, "d").cloned())
    };
    let (ab, abc) = ([("a", 0, 6), ("b", 0, 6)], [("a", 0, 6), ("b", 0, 6), ("c", 1, 6)]);
    assert_eq!(heard(&abc, 14), ("d".into(), Some(15), first(2, 1)), "the least that it waits");
    assert_eq!(heard(&abc, 15), ("d".into(), None, None));
    assert_eq!(heard(&ab, 15), ("c d".into(), Some(65), first(2, 1)), "who was not looked at is woken");
    assert_eq!(
        heard(&[("a", 0, 6), ("b", 0, 5)], 15),
        ("b d".into(), Some(65), first(2, 0)),
        "in that second is before"
    );
    assert_eq!(heard(&[], 64), ("a b d".into(), Some(65), first(2, 0)));
    assert_eq!(heard(&[], 65), ("d".into(), None, None), "one that cannot be looked at is not waited for without end");

    // It is looked at late, and has the same change.
    let (mut book, pace) = (book(&[("a", 0), ("b", 1)]), pace(waves("0s")));
    book.wait(&key("b"), Of::Server, waiting(&["image=1"], 5, true), at(5));
    assert_eq!(book.plan(&pace, at(15)).wake.len(), 2);
    assert_eq!(book.plan(&pace, at(16)).wake.len(), 0, "woken once");
    book.wait(&key("a"), Of::Server, waiting(&["image=1"], 20, true), at(20));
    book.note(&key("a"), member(0), at(20));
    assert!(book.is_dirty(), "that is what is waited for");
    book.plan(&pace, at(20));
    assert!(goes(&mut book, "a") && !goes(&mut book, "b"));
    assert_eq!(refusal(&book, "b").cloned(), first(1, 0));
    // Nothing of it is left, and one without a pod is not waited for.
    book.done(&key("a"), Of::Server);
    book.note(&key("a"), Member { suspended: true, ..member(0) }, at(21));
    book.wait(&key("b"), Of::Server, waiting(&["image=2"], 30, true), at(30));
    book.plan(&pace, at(40));
    assert!(goes(&mut book, "b"));
}

/// What a whole rollout costs: each agent is woken to learn that it waits and when its turn has come, and not with the turn
/// of each other one.
#[test]
fn agents_are_woken_for_their_own_turn_alone() {
    const MANY: usize = 300;
    let names: Vec<String> = (0..MANY).map(|n| format!("a{n:03}")).collect();
    let rings: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 0)).collect();
    let (mut book, pace) = (book(&rings), pace(json!({"maxConcurrent": 7})));
    for name in &names {
        book.wait(&key(name), Of::Server, waiting(&["image=1"], 0, true), at(0));
    }
    let (mut woken, mut flying, mut arrived, mut second) = (0, vec![], 0, 0);
    while arrived < MANY {
        second += 1;
        assert!(second < 10 * 300, "they do not arrive");
        let plan = book.plan(&pace, at(second));
        woken += plan.wake.len();
        for wake in plan.wake {
            if book.take(&wake, Of::Server) {
                book.done(&wake, Of::Server);
                book.note(&wake, Member { flying: steps(&["image=1"]), ..member(0) }, at(second));
                flying.push(wake);
            }
        }
        if !flying.is_empty() {
            book.note(&flying.remove(0), member(0), at(second));
            arrived += 1;
        }
    }
    assert!(woken <= 2 * MANY, "{woken} wakings of {MANY} agents");
}

const AGENTS: usize = 9;

#[derive(Clone, Debug)]
enum Event {
    /// Every agent of these is to have this.
    Push(u8, [bool; AGENTS]),
    Busy(usize, bool),
    /// A pod gets ready, or does not.
    Ready(usize),
    Fails(usize),
    Suspend(usize, bool),
    Freeze(bool),
    Pass(u8),
}

fn event() -> impl Strategy<Value = Event> {
    let agent = 0..AGENTS;
    prop_oneof![
        2 => (0u8..4, any::<[bool; AGENTS]>()).prop_map(|(n, who)| Event::Push(n, who)),
        2 => (agent.clone(), any::<bool>()).prop_map(|(a, b)| Event::Busy(a, b)),
        6 => agent.clone().prop_map(Event::Ready),
        1 => agent.clone().prop_map(Event::Fails),
        1 => (agent, any::<bool>()).prop_map(|(a, b)| Event::Suspend(a, b)),
        1 => any::<bool>().prop_map(Event::Freeze),
        5 => (0u8..40).prop_map(Event::Pass),
    ]
}

#[derive(Clone, Debug, Default)]
struct Agent {
    applied: u8,
    wanted: u8,
    flying: bool,
    failed: bool,
    busy: bool,
    suspended: bool,
    ready: Option<i64>,
    settled: BTreeMap<u8, i64>,
}

/// Agents that do what they are allowed to, and what must never be.
struct World {
    agents: Vec<Agent>,
    book: Book,
    now: i64,
    frozen: bool,
    most: usize,
    /// Since when a step was wanted first by one that has not got it.
    pushed: BTreeMap<u8, i64>,
}

const SOAK: i64 = 20;

impl World {
    fn new(most: usize) -> Self {
        let agents = vec![Agent { ready: Some(-100), ..Agent::default() }; AGENTS];
        let mut world = Self { agents, book: Book::default(), now: 0, frozen: false, most, pushed: BTreeMap::new() };
        for n in 0..AGENTS {
            world.note(n);
        }
        world
    }

    fn pace(&self) -> Pace {
        let wave = |ring: usize| json!({"selector": {"matchLabels": {"ring": ring.to_string()}}, "soak": "20s"});
        pace(json!({"maxConcurrent": self.most, "waves": [wave(0), wave(1)], "freeze": self.frozen}))
    }

    fn key(n: usize) -> Key {
        key(&format!("a{n}"))
    }

    fn note(&mut self, n: usize) {
        let agent = &self.agents[n];
        let step = |n: u8| format!("image={n}");
        let applied = steps(&[&step(agent.applied)]);
        let member = Member {
            labels: [("ring".to_string(), (n % 3).to_string())].into(),
            flying: if agent.flying && !agent.failed { applied.clone() } else { Steps::new() },
            kept: Steps::new(),
            failed: agent.failed.then(|| Failed { steps: applied, why: "why".into() }),
            settled: agent.settled.iter().map(|(n, since)| (step(*n), at(*since).wall)).collect(),
            healthy: agent.ready.map(|since| at(since).wall),
            suspended: agent.suspended,
        };
        self.book.note(&Self::key(n), member, at(self.now));
    }

    /// A reconcile of one agent.
    fn reconcile(&mut self, n: usize) {
        let (key, agent) = (Self::key(n), self.agents[n].clone());
        if agent.applied == agent.wanted || agent.suspended {
            self.book.done(&key, Of::Server);
            if agent.suspended {
                self.agents[n] = Agent { applied: agent.wanted, flying: false, failed: false, ready: None, ..agent };
            }
        } else {
            let step = format!("image={}", agent.wanted);
            self.book.wait(&key, Of::Server, waiting(&[&step], self.now, !agent.busy), at(self.now));
            if !agent.busy && self.book.take(&key, Of::Server) {
                self.goes(n);
            }
        }
        self.note(n);
    }

    fn goes(&mut self, n: usize) {
        let wanted = self.agents[n].wanted;
        assert!(!self.frozen, "a{n} goes in a freeze");
        for (other, agent) in self.agents.iter().enumerate().filter(|(other, agent)| *other != n && !agent.suspended) {
            let stopped = agent.failed && agent.applied == wanted;
            assert!(!stopped, "a{n} goes to {wanted} although a{other} has failed with it");
            if other % 3 >= n % 3 {
                continue;
            }
            assert!(agent.wanted != wanted || agent.applied == wanted, "a{n} goes to {wanted} before a{other}");
            if agent.applied == wanted
                && let Some(since) = agent.settled.get(&wanted)
            {
                let healthy = agent.ready.is_some_and(|ready| ready.max(*since) + SOAK <= self.now);
                assert!(healthy, "a{n} goes before the soak of a{other}");
            }
            assert!(agent.applied != wanted || !agent.flying, "a{n} goes while a{other} is on its way");
        }
        let agent = &mut self.agents[n];
        (agent.applied, agent.flying, agent.failed, agent.ready) = (wanted, true, false, None);
        agent.settled.remove(&wanted);
        self.book.done(&Self::key(n), Of::Server);
        let flying = self.agents.iter().filter(|a| a.flying && !a.failed && !a.suspended).count();
        assert!(flying <= self.most, "{flying} at a time");
    }

    fn turn(&mut self) {
        for _ in 0..3 {
            let frozen = self.pace();
            let plan = self.book.plan(&frozen, at(self.now));
            for n in 0..AGENTS {
                if plan.wake.contains(&Self::key(n)) {
                    self.reconcile(n);
                }
            }
        }
    }

    fn happens(&mut self, event: &Event) {
        match event {
            Event::Push(value, who) => {
                self.pushed.insert(*value, self.now);
                for n in (0..AGENTS).filter(|n| who[*n]) {
                    self.agents[n].wanted = *value;
                    self.reconcile(n);
                }
            }
            Event::Busy(n, busy) => self.agents[*n].busy = *busy,
            Event::Ready(n) if self.agents[*n].flying => {
                let (now, agent) = (self.now, &mut self.agents[*n]);
                (agent.flying, agent.failed, agent.ready) = (false, false, Some(now));
                agent.settled = BTreeMap::from([(agent.applied, now)]);
            }
            Event::Fails(n) if self.agents[*n].flying => self.agents[*n].failed = true,
            Event::Suspend(n, suspend) => {
                let (now, agent) = (self.now, &mut self.agents[*n]);
                if !suspend && agent.suspended {
                    agent.ready = Some(now);
                }
                agent.suspended = *suspend;
            }
            Event::Freeze(frozen) => {
                self.frozen = *frozen;
                self.turn();
            }
            Event::Pass(seconds) => self.now += i64::from(*seconds),
            Event::Ready(_) | Event::Fails(_) => {}
        }
        if let Event::Busy(n, _) | Event::Ready(n) | Event::Fails(n) | Event::Suspend(n, _) = event {
            self.reconcile(*n);
        }
        self.turn();
    }

    fn is_done(&self) -> bool {
        self.agents.iter().all(|a| a.applied == a.wanted && !a.flying)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Never more than may, no wave before the one before it, nothing in a freeze, nobody after one that failed; and when
    /// the obstacles are gone all arrive.
    #[test]
    fn the_pace_is_kept_and_all_arrive(most in 1usize..5, events in proptest::collection::vec(event(), 1..120)) {
        let mut world = World::new(most);
        for event in &events {
            world.happens(event);
        }
        world.happens(&Event::Freeze(false));
        // Something newer than all that failed.
        world.happens(&Event::Push(9, [true; AGENTS]));
        for n in 0..AGENTS {
            world.happens(&Event::Busy(n, false));
            world.happens(&Event::Suspend(n, false));
        }
        let mut rounds = 0;
        while !world.is_done() {
            rounds += 1;
            prop_assert!(rounds < 100, "they do not arrive: {:#?} {:#?}", world.agents, world.book);
            for n in 0..AGENTS {
                world.happens(&Event::Ready(n));
            }
            world.happens(&Event::Pass(11));
        }
    }
}

/// How long an agent's pods may take is its own to say; how long they keep others waiting is not.
#[test]
fn what_flies_for_long_gives_its_place_to_another() {
    let mut book = book(&[("a", 0), ("b", 0), ("c", 0)]);
    let pace = pace(json!({"maxConcurrent": 1}));
    let fly = |book: &mut Book, name: &str, list: &[&str], second| {
        book.done(&key(name), Of::Server);
        book.note(&key(name), Member { flying: steps(list), ..member(0) }, at(second));
    };
    fly(&mut book, "a", &["image=1", "env=2"], 0);
    for name in ["b", "c"] {
        book.wait(&key(name), Of::Server, waiting(&["image=1"], 1, true), at(1));
    }
    let plan = book.plan(&pace, at(2));
    assert_eq!((plan.at, refusal(&book, "b")), (Some(at(15 * 60).steady), Some(&Refusal::Turn)));
    // A part of it has arrived; the rest is no flight of its own.
    fly(&mut book, "a", &["env=2"], 600);
    assert_eq!(book.plan(&pace, at(899)).at, Some(at(900).steady));
    assert_eq!(book.changing(at(899).steady), 1);
    assert_eq!(book.plan(&pace, at(900)).wake, BTreeSet::from([key("b")]));
    assert!(goes(&mut book, "b") && !goes(&mut book, "c"));
    fly(&mut book, "b", &["image=1"], 901);
    assert_eq!(book.plan(&pace, at(902)).at, Some(at(901 + 900).steady), "one place, not two");
    fly(&mut book, "a", &["image=2"], 1000);
    assert_eq!(book.changing(at(1001).steady), 2, "something newer has begun, and keeps a place for itself");
}
