use proptest::prelude::*;

use super::*;

fn ticket(name: &str, second: i64, running: bool) -> Ticket {
    let created = Timestamp::from_second(second).unwrap();
    Ticket { uid: format!("uid-{name}"), name: name.into(), created, running }
}

fn names(tickets: Vec<&Ticket>) -> Vec<&str> {
    tickets.into_iter().map(|t| t.name.as_str()).collect()
}

#[test]
fn the_oldest_go_first_then_by_name() {
    let tickets = [
        ticket("c", 2, false),
        ticket("b", 1, false),
        ticket("a", 2, false),
        ticket("r", 9, true),
        ticket("d", 3, false),
    ];
    let ledger = Ledger::default();
    let table: &[(Option<usize>, &[&str])] = &[
        (Some(0), &[]),
        (Some(1), &[]),
        (Some(2), &["b"]),
        (Some(3), &["b", "a"]),
        (Some(4), &["b", "a", "c"]),
        (None, &["b", "a", "c", "d"]),
    ];
    for (limit, expected) in table {
        assert_eq!(names(ledger.next(*limit, &tickets)), *expected, "{limit:?}");
    }
}

#[test]
fn a_place_that_was_given_counts_before_the_cache_shows_it() {
    let tickets = [ticket("a", 1, false), ticket("b", 2, false)];
    let mut ledger = Ledger::default();
    assert_eq!(ledger.admit("uid-b", Some(1), &tickets), Place::Full, "a is older");
    assert_eq!(ledger.admit("uid-a", Some(1), &tickets), Place::Held);
    assert_eq!(ledger.admit("uid-a", Some(1), &tickets), Place::Held, "asked twice");
    assert_eq!(ledger.admit("uid-b", Some(1), &tickets), Place::Full, "the cache is behind");
    let shown = [ticket("a", 1, true), ticket("b", 2, false)];
    ledger.settle("uid-a");
    assert_eq!(ledger.admit("uid-b", Some(1), &shown), Place::Full, "it runs");
    assert_eq!(ledger.admit("uid-b", Some(1), &shown[1..]), Place::Held, "it has ended");
}

#[test]
fn who_cannot_start_gives_way_until_it_is_tried_again() {
    let tickets = [ticket("a", 1, false), ticket("b", 2, false)];
    let mut ledger = Ledger::default();
    assert_eq!(ledger.admit("uid-a", Some(1), &tickets), Place::Held);
    ledger.block("uid-a");
    assert_eq!(names(ledger.next(Some(1), &tickets)), ["b"]);
    assert_eq!(ledger.admit("uid-a", Some(1), &tickets), Place::Held, "tried again before b came");
    ledger.block("uid-a");
    assert_eq!(ledger.admit("uid-b", Some(1), &tickets), Place::Held);
    assert_eq!(ledger.admit("uid-a", Some(1), &tickets), Place::Full);
}

#[test]
fn no_limit_gives_a_place_to_everybody() {
    assert_eq!(Ledger::default().admit("uid-a", None, &[]), Place::Unlimited);
}

/// What happens to one agent's Tasks, the cache lagging behind by any number of steps.
#[derive(Clone, Debug)]
enum Happens {
    Created,
    Looks(usize),
    StartFails(usize),
    Ends(usize),
    CacheCatchesUp(usize),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        2 => Just(Happens::Created),
        4 => (0..12usize).prop_map(Happens::Looks),
        1 => (0..12usize).prop_map(Happens::StartFails),
        2 => (0..12usize).prop_map(Happens::Ends),
        3 => (0..12usize).prop_map(Happens::CacheCatchesUp),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Real {
    Waits,
    Runs,
    Ended,
}

/// The world as it is, and as the cache shows it.
#[derive(Default)]
struct Scene {
    ledger: Ledger,
    real: Vec<Real>,
    cached: Vec<Option<Real>>,
}

impl Scene {
    fn ticket(index: usize, state: Real) -> Ticket {
        ticket(&format!("{index:02}"), i64::try_from(index / 2).unwrap(), state == Real::Runs)
    }

    fn tickets(&self) -> Vec<Ticket> {
        let shown = self.cached.iter().enumerate().filter_map(|(i, c)| Some((i, (*c)?)));
        shown.filter(|(_, c)| *c != Real::Ended).map(|(i, c)| Self::ticket(i, c)).collect()
    }

    fn uid(index: usize) -> String {
        format!("uid-{index:02}")
    }

    fn happen(&mut self, what: &Happens, limit: usize) {
        match what {
            Happens::Created => {
                self.real.push(Real::Waits);
                self.cached.push(None);
            }
            Happens::Looks(i) | Happens::StartFails(i) if self.cached.get(*i).copied().flatten().is_some() => {
                self.look(*i, limit, matches!(what, Happens::StartFails(_)));
            }
            Happens::Ends(i) if self.real.get(*i) == Some(&Real::Runs) => self.real[*i] = Real::Ended,
            Happens::CacheCatchesUp(i) if *i < self.real.len() => {
                self.cached[*i] = Some(self.real[*i]);
                if self.real[*i] != Real::Waits {
                    self.ledger.settle(&Self::uid(*i));
                }
            }
            _ => {}
        }
    }

    fn look(&mut self, i: usize, limit: usize, fails: bool) {
        let tickets = self.tickets();
        // A reconcile sees its own pod, so it never asks for what runs or has ended.
        if self.real[i] != Real::Waits {
            return;
        }
        let older_waiting = self.ledger.next(Some(usize::MAX), &tickets).first().map(|t| t.uid.clone());
        match self.ledger.admit(&Self::uid(i), Some(limit), &tickets) {
            Place::Held if fails => self.ledger.block(&Self::uid(i)),
            Place::Held => {
                let first_free = limit == 1 && older_waiting.is_some();
                if first_free && !self.was_blocked(i, &tickets) {
                    assert_eq!(older_waiting, Some(Self::uid(i)), "an older Task waits");
                }
                self.real[i] = Real::Runs;
            }
            Place::Full => {}
            Place::Unlimited => panic!("there is a limit"),
        }
    }

    /// Whether `i` had given way, so that it was not the first before it was looked at.
    fn was_blocked(&self, i: usize, tickets: &[Ticket]) -> bool {
        !self.ledger.next(Some(usize::MAX), tickets).iter().any(|t| t.uid == Self::uid(i))
    }
}

proptest! {
    #[test]
    fn never_more_than_the_limit_run(
        limit in 1..4usize,
        story in prop::collection::vec(happens(), 0..120),
    ) {
        let mut scene = Scene::default();
        for what in &story {
            scene.happen(what, limit);
            let running = scene.real.iter().filter(|r| **r == Real::Runs).count();
            prop_assert!(running <= limit, "{running} run at a limit of {limit}");
        }
    }

    #[test]
    fn everybody_has_a_turn_in_order(count in 1..10usize, limit in 1..4usize) {
        // Nothing fails and the cache keeps up: the order of starts is the order of the queue.
        let mut scene = Scene::default();
        for i in 0..count {
            scene.happen(&Happens::Created, limit);
            scene.happen(&Happens::CacheCatchesUp(i), limit);
        }
        let mut starts = vec![];
        while starts.len() < count {
            for i in (0..count).rev() {
                let before = scene.real[i];
                scene.happen(&Happens::Looks(i), limit);
                if before != scene.real[i] {
                    starts.push(i);
                    scene.happen(&Happens::CacheCatchesUp(i), limit);
                }
            }
            let oldest = scene.real.iter().position(|r| *r == Real::Runs);
            prop_assert!(oldest.is_some(), "nobody runs, {starts:?} of {count} have run");
            let oldest = oldest.unwrap();
            prop_assert_eq!(oldest, scene.real.iter().take_while(|r| **r == Real::Ended).count(), "one was left out");
            scene.happen(&Happens::Ends(oldest), limit);
            scene.happen(&Happens::CacheCatchesUp(oldest), limit);
        }
    }
}
