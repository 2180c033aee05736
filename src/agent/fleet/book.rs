//! Who waits, who is in the middle of a change, who has failed; from that, who may go.
//!
//! The book is kept up to date agent by agent, as each is reconciled, and holds nothing that cannot be read again from the
//! cluster: a new process fills it before it lets anybody go. Who may go is decided for all at once ([`Book::plan`]).
//! Places are given to namespaces by turns (`turns`), and within one in the order in which changes began to wait, then by
//! name.
//!
//! Two clocks: windows follow the wall, since people mean that. Waits follow one that does not jump. A time that was stored
//! is believed once, when this process first sees it; one in the future counts as now.

mod turns;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::{SignedDuration, Timestamp};

use super::{Labels, Pace, Steps};
use turns::Turns;

/// For how long an agent of a later wave waits at least: a push reaches all agents within that, so it is known by then
/// who of an earlier wave has the same change.
pub(super) const SETTLE: SignedDuration = SignedDuration::from_secs(10);
/// For how long after a start agents that could not be looked at are waited for; and those of earlier waves that were
/// not looked at since a later one heard of a change.
const START: SignedDuration = SignedDuration::from_secs(60);

/// A change keeps its place for this long at most: how long its pods may take is a setting of its own, without a bound.
const PLACE: SignedDuration = SignedDuration::from_mins(15);

/// Namespace and name.
pub type Key = (String, String);

/// What of an agent changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Of {
    /// Its pods.
    Server,
    /// Its gathered text.
    Text,
    /// Its content from Git that is exchanged in the running pod.
    Content,
}

/// The present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// By a clock that does not jump.
    pub steady: Timestamp,
    /// By the wall.
    pub wall: Timestamp,
}

/// A change that has not gone out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// What it consists of.
    pub steps: Steps,
    /// Whether only the fleet keeps it; else it waits for work of its own, or a person holds it.
    pub knocks: bool,
    /// Since when it waits, as the object says.
    pub since: Timestamp,
}

/// What is known about an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Its labels, which decide about its wave.
    pub labels: Labels,
    /// Steps that are written and not ready, or not loaded, yet.
    pub flying: Steps,
    /// Steps that a person keeps from it, since it is pinned to an older revision: later waves wait for them.
    pub kept: Steps,
    /// What it has failed with.
    pub failed: Option<Failed>,
    /// Steps that have arrived, since when.
    pub settled: BTreeMap<String, Timestamp>,
    /// Since when it has been ready; `None` while it is not.
    pub healthy: Option<Timestamp>,
    /// Without a pod it is in nobody's way.
    pub suspended: bool,
}

/// A change that did not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What it consists of.
    pub steps: Steps,
    /// A stable word for why.
    pub why: String,
}

/// Why an agent may not go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not every agent is known yet.
    Start,
    /// A freeze, or outside of the windows.
    Closed {
        /// For people.
        why: String,
    },
    /// Another agent has failed with the same change.
    Stopped {
        /// Which one.
        by: Key,
        /// How.
        why: String,
    },
    /// An earlier wave goes first.
    Wave {
        /// The agent's own.
        own: usize,
        /// The one that goes first.
        first: usize,
    },
    /// As many as may are in the middle of a change.
    Turn,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Turn {
    /// Nothing was decided.
    Open,
    Refused(Refusal),
    Granted,
    /// It was told so, and may be writing.
    Taken,
}

#[derive(Clone, Debug)]
struct Change {
    waiting: Waiting,
    /// Since when something of this kind waits, by the steady clock: the order.
    first: Timestamp,
    /// Since when these very steps wait.
    known: Timestamp,
    turn: Turn,
}

#[derive(Clone, Debug, Default)]
struct Record {
    member: Member,
    /// Whether `member` was ever told.
    noted: bool,
    changes: BTreeMap<Of, Change>,
    /// When it was looked at last, by the steady clock.
    looked: Option<Timestamp>,
    /// Times of `member` by the steady clock.
    settled: BTreeMap<String, Timestamp>,
    healthy: Option<Timestamp>,
    /// Since when these steps fly, by the steady clock.
    flying: Option<Timestamp>,
}

/// What is known about all agents.
#[derive(Debug, Default)]
pub struct Book {
    records: BTreeMap<Key, Record>,
    /// Agents that exist and were not looked at yet.
    unknown: BTreeSet<Key>,
    began: Option<Timestamp>,
    /// Steps that wait somewhere: when that was known first, by the steady clock.
    steps: BTreeMap<String, Timestamp>,
    /// Agents that later waves wait for, until they were looked at.
    awaited: BTreeSet<Key>,
    /// Whose namespace had a place when.
    turns: Turns,
    dirty: bool,
}

/// What is decided about a change.
type Verdict = (Key, Of, Option<Refusal>);

/// What a plan changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Agents that may go now, or that wait for something else than before.
    pub wake: BTreeSet<Key>,
    /// When time alone may change it: by the steady clock.
    pub at: Option<Timestamp>,
    /// The same by the wall's.
    pub wall: Option<Timestamp>,
}

impl Book {
    /// An agent exists.
    pub fn exists(&mut self, key: &Key) {
        if !self.records.contains_key(key) {
            self.unknown.insert(key.clone());
        }
    }

    /// An agent is gone.
    pub fn forget(&mut self, key: &Key) {
        let known = self.records.remove(key).is_some();
        self.dirty |= self.unknown.remove(key) || known;
        self.awaited.remove(key);
        if self.records.range((key.0.clone(), String::new())..).next().is_none_or(|((other, _), _)| *other != key.0) {
            self.turns.forget(&key.0);
        }
    }

    /// What a reconcile found at the end.
    pub fn note(&mut self, key: &Key, member: Member, now: Now) {
        self.began.get_or_insert(now.steady);
        self.dirty |= self.unknown.remove(key) && self.unknown.is_empty();
        self.dirty |= self.awaited.remove(key);
        let record = self.records.entry(key.clone()).or_default();
        let new = !std::mem::replace(&mut record.noted, true);
        record.looked = Some(now.steady);
        for change in record.changes.values_mut().filter(|c| c.turn == Turn::Taken) {
            // It was told to go, and did not, yet: its place is kept.
            change.turn = Turn::Granted;
        }
        if !new && record.member == member {
            return;
        }
        let stored = |since: Timestamp| if new { since.min(now.steady) } else { now.steady };
        let (before, bases) = (&record.member, &record.settled);
        let base = |(step, since): (&String, &Timestamp)| {
            let known = bases.get(step).filter(|_| before.settled.get(step) == Some(since));
            (step.clone(), known.copied().unwrap_or_else(|| stored(*since)))
        };
        let settled = member.settled.iter().map(base).collect();
        let healthy = match (member.healthy, before.healthy) {
            (Some(now), Some(then)) if now == then => record.healthy,
            (since, _) => since.map(stored),
        };
        let goes_on = !before.flying.is_empty() && member.flying.is_subset(&before.flying);
        record.flying = if goes_on { record.flying } else { Some(now.steady) };
        record.settled = settled;
        record.healthy = healthy;
        record.member = member;
        self.dirty = true;
    }

    /// A change of an agent waits. What was allowed for other steps, or is not knocked for any more, is decided anew by the
    /// next [`plan`](Self::plan).
    pub fn wait(&mut self, key: &Key, of: Of, waiting: Waiting, now: Now) {
        let record = self.records.entry(key.clone()).or_default();
        let stored = if record.noted { now.steady } else { waiting.since.min(now.steady) };
        let Some(change) = record.changes.get_mut(&of) else {
            record.changes.insert(of, Change { waiting, first: stored, known: stored, turn: Turn::Open });
            self.dirty = true;
            return;
        };
        if change.waiting.steps != waiting.steps {
            (change.known, change.turn) = (now.steady, Turn::Open);
            self.dirty = true;
        } else if change.waiting.knocks != waiting.knocks {
            if matches!(change.turn, Turn::Granted | Turn::Taken) {
                change.turn = Turn::Open;
            }
            self.dirty = true;
        }
        change.waiting = waiting;
    }

    /// Nothing waits there any more.
    pub fn done(&mut self, key: &Key, of: Of) {
        if let Some(record) = self.records.get_mut(key) {
            self.dirty |= record.changes.remove(&of).is_some();
        }
    }

    /// Whether the agent may go, by the last plan; then it is taken as being on its way.
    pub fn take(&mut self, key: &Key, of: Of) -> bool {
        let Some(change) = self.records.get_mut(key).and_then(|r| r.changes.get_mut(&of)) else { return false };
        let may = matches!(change.turn, Turn::Granted | Turn::Taken);
        if may {
            change.turn = Turn::Taken;
        }
        may
    }

    /// Why it may not, by the last plan.
    pub fn refusal(&self, key: &Key, of: Of) -> Option<&Refusal> {
        match &self.records.get(key)?.changes.get(&of)?.turn {
            Turn::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Whether anything changed since the last plan.
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// How many agents are in the middle of a change that keeps its place, or may begin one.
    pub fn changing(&self, now: Timestamp) -> usize {
        self.records.values().filter(|r| r.has_place(now)).count()
    }

    /// Nobody has looked at any agent: what is known is forgotten.
    pub fn restart(&mut self) {
        self.unknown.extend(std::mem::take(&mut self.records).into_keys());
        (self.began, self.steps, self.awaited, self.turns) = Default::default();
        self.dirty = true;
    }

    /// Decides for every agent that waits. Cost grows with the number of agents, so this is to be called for many changes
    /// at once.
    pub fn plan(&mut self, pace: &Pace, now: Now) -> Plan {
        self.dirty = false;
        let mut plan = Plan::default();
        self.know_steps();
        if self.records.values().all(|record| record.changes.is_empty()) {
            return plan;
        }
        let (starts, complete) = (!self.unknown.is_empty(), end(self.began.unwrap_or(now.steady), START));
        let door = pace.door(now.wall);
        plan.wall = door.until;
        let verdicts = if starts && now.steady < complete {
            plan.at = Some(complete);
            self.candidates().into_iter().map(|(key, of)| (key, of, Some(Refusal::Start))).collect()
        } else if let Some(why) = door.closed {
            let refusal = Refusal::Closed { why };
            self.candidates().into_iter().map(|(key, of)| (key, of, Some(refusal.clone()))).collect()
        } else {
            let (looks, mut verdicts) = self.verdicts(pace, now.steady, &mut plan.at);
            self.give_places(pace, now.steady, &mut verdicts, &mut plan.at);
            let unheard = self.unheard(pace, &looks);
            plan.wake.extend(unheard.difference(&self.awaited).cloned());
            self.awaited = unheard;
            verdicts
        };
        for (key, of, refusal) in verdicts {
            let Some(change) = self.records.get_mut(&key).and_then(|r| r.changes.get_mut(&of)) else { continue };
            let next = match (refusal, change.waiting.knocks) {
                // What is being written is granted already, and cannot be called back.
                (None, true) | (Some(_), _) if change.turn == Turn::Taken => continue,
                (None, true) => Turn::Granted,
                (None, false) => Turn::Open,
                (Some(refusal), _) => Turn::Refused(refusal),
            };
            if change.turn != next {
                // A place that was given back is there for another.
                self.dirty |= change.turn == Turn::Granted;
                change.turn = next;
                plan.wake.insert(key);
            }
        }
        plan
    }

    /// What waits, in order.
    fn candidates(&self) -> Vec<(Key, Of)> {
        let mut all: Vec<_> = self
            .records
            .iter()
            .flat_map(|(key, record)| record.changes.iter().map(move |(of, c)| (c.first.as_second(), key, *of)))
            .collect();
        all.sort();
        all.into_iter().map(|(_, key, of)| (key.clone(), of)).collect()
    }

    /// Notes since when it is known that steps wait.
    fn know_steps(&mut self) {
        let mut steps = BTreeMap::new();
        for change in self.records.values().flat_map(|record| record.changes.values()) {
            for step in &change.waiting.steps {
                let known = self.steps.get(step).copied().unwrap_or(change.known).min(change.known);
                let first = steps.entry(step.clone()).or_insert(known);
                *first = known.min(*first);
            }
        }
        self.steps = steps;
    }

    /// When the last of these steps was first known.
    fn known(&self, steps: &Steps) -> Option<Timestamp> {
        steps.iter().filter_map(|step| self.steps.get(step)).max().copied()
    }

    /// By wave: when its last agent was looked at; in the past for one that never was.
    fn looked(&self, pace: &Pace) -> BTreeMap<usize, Timestamp> {
        let mut waves = BTreeMap::new();
        for record in self.records.values().filter(|r| !r.member.suspended) {
            let looked = record.looked.unwrap_or(Timestamp::MIN);
            let last = waves.entry(pace.wave(&record.member.labels)).or_insert(looked);
            *last = looked.min(*last);
        }
        waves
    }

    /// Agents that were not looked at since the time of their wave.
    fn unheard(&self, pace: &Pace, looks: &BTreeMap<usize, Timestamp>) -> BTreeSet<Key> {
        let mut unheard = BTreeSet::new();
        for (key, record) in self.records.iter().filter(|(_, r)| !looks.is_empty() && !r.member.suspended) {
            let since = looks.get(&pace.wave(&record.member.labels));
            if since.is_some_and(|since| record.looked.is_none_or(|looked| looked <= *since)) {
                unheard.insert(key.clone());
            }
        }
        unheard
    }

    /// By wave, since when its agents are to be looked at before others go on; and what is decided.
    fn verdicts(
        &self,
        pace: &Pace,
        now: Timestamp,
        at: &mut Option<Timestamp>,
    ) -> (BTreeMap<usize, Timestamp>, Vec<Verdict>) {
        let (stops, holds, looked) = (self.stops(), self.holds(pace, now), self.looked(pace));
        let mut looks = BTreeMap::new();
        let mut verdicts = vec![];
        for (key, of) in self.candidates() {
            let Some((record, change)) = self.records.get(&key).and_then(|r| Some((r, r.changes.get(&of)?))) else {
                continue;
            };
            let own = pace.wave(&record.member.labels);
            let refusal = stopped(&stops, &key, change).or_else(|| waits(&holds, own, change, now, at)).or_else(|| {
                let since = self.known(&change.waiting.steps).filter(|since| now < end(*since, START))?;
                let first = *looked.iter().find(|(wave, looked)| **wave < own && **looked <= since)?.0;
                *at = Some(at.map_or(end(since, START), |at| at.min(end(since, START))));
                let wave = looks.entry(first).or_insert(since);
                *wave = since.max(*wave);
                Some(Refusal::Wave { own, first })
            });
            verdicts.push((key, of, refusal));
        }
        (looks, verdicts)
    }

    /// Gives the places that are free to those that nothing else keeps; the others wait for their turn.
    fn give_places(&mut self, pace: &Pace, now: Timestamp, verdicts: &mut [Verdict], at: &mut Option<Timestamp>) {
        let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
        for (key, _) in self.records.iter().filter(|(_, record)| record.has_place(now)) {
            *taken.entry(&key.0).or_default() += 1;
        }
        let agents = self.records.len() + self.unknown.len();
        let free = pace.most(agents).saturating_sub(taken.values().sum());
        let wants = |(key, of, refusal): &Verdict| {
            let knocks = |record: &Record| record.changes.get(of).is_some_and(|change| change.waiting.knocks);
            refusal.is_none() && self.records.get(key).is_some_and(|record| knocks(record) && !record.has_place(now))
        };
        let waiting: Vec<usize> = (0..verdicts.len()).filter(|n| wants(&verdicts[*n])).collect();
        // Whatever of it changes, an agent takes one place.
        let mut known = BTreeSet::new();
        let ready: Vec<&Key> = waiting.iter().map(|n| &verdicts[*n].0).filter(|key| known.insert(*key)).collect();
        let placed: BTreeSet<Key> = self.turns.give(&ready, &taken, free).into_iter().cloned().collect();
        let mut is_full = false;
        for n in waiting {
            let (key, _, refusal) = &mut verdicts[n];
            if !placed.contains(key) {
                (*refusal, is_full) = (Some(Refusal::Turn), true);
            }
        }
        if is_full {
            let ends = self.records.values().filter_map(Record::leaves_at).filter(|end| *end > now);
            *at = ends.chain(*at).min();
        }
    }

    /// By step, the first agent that has failed with it.
    fn stops(&self) -> HashMap<&str, (&Key, &str)> {
        let mut stops = HashMap::new();
        for (key, record) in &self.records {
            let Some(failed) = record.member.failed.as_ref().filter(|_| !record.member.suspended) else { continue };
            for step in &failed.steps {
                stops.entry(step.as_str()).or_insert((key, failed.why.as_str()));
            }
        }
        stops
    }

    /// By step, the waves that are not through with it: until when, or until something happens.
    fn holds(&self, pace: &Pace, now: Timestamp) -> HashMap<&str, BTreeMap<usize, Option<Timestamp>>> {
        let mut holds: HashMap<&str, BTreeMap<usize, Option<Timestamp>>> = HashMap::new();
        if pace.waves() == 0 {
            return holds;
        }
        for record in self.records.values().filter(|r| !r.member.suspended) {
            let wave = pace.wave(&record.member.labels);
            let mut hold = |step, until: Option<Timestamp>| {
                let held = holds.entry(step).or_default().entry(wave).or_insert(until);
                *held = held.zip(until).map(|(a, b)| a.max(b));
            };
            let waits = record.changes.values().flat_map(|c| &c.waiting.steps);
            for step in waits.chain(&record.member.flying).chain(&record.member.kept) {
                hold(step.as_str(), None);
            }
            let soak = SignedDuration::try_from(pace.soak(wave)).unwrap_or(SignedDuration::MAX);
            for (step, since) in &record.settled {
                let until = record.healthy.map(|healthy| end(healthy.max(*since), soak));
                if until.is_none_or(|until| until > now) {
                    hold(step.as_str(), until);
                }
            }
        }
        holds
    }
}

impl Record {
    /// Until when what flies keeps its place, if nothing happens before.
    fn leaves_at(&self) -> Option<Timestamp> {
        self.flying.filter(|_| !self.member.flying.is_empty()).map(|since| end(since, PLACE))
    }

    fn has_place(&self, now: Timestamp) -> bool {
        self.leaves_at().is_some_and(|end| now < end)
            || self.changes.values().any(|c| matches!(c.turn, Turn::Granted | Turn::Taken))
    }
}

fn stopped(stops: &HashMap<&str, (&Key, &str)>, own: &Key, change: &Change) -> Option<Refusal> {
    let found = change.waiting.steps.iter().filter_map(|step| stops.get(step.as_str()));
    let (by, why) = found.filter(|(by, _)| *by != own).min()?;
    Some(Refusal::Stopped { by: (*by).clone(), why: (*why).to_string() })
}

fn waits(
    holds: &HashMap<&str, BTreeMap<usize, Option<Timestamp>>>,
    own: usize,
    change: &Change,
    now: Timestamp,
    at: &mut Option<Timestamp>,
) -> Option<Refusal> {
    let mut wake = |time: Timestamp| *at = Some(at.map_or(time, |at| at.min(time)));
    let earlier = change.waiting.steps.iter().filter_map(|step| holds.get(step.as_str())).flatten();
    let earlier: Vec<_> = earlier.filter(|(wave, _)| **wave < own).collect();
    earlier.iter().filter_map(|(_, until)| **until).for_each(&mut wake);
    if let Some((first, _)) = earlier.iter().min_by_key(|(wave, _)| **wave) {
        return Some(Refusal::Wave { own, first: **first });
    }
    let ready = end(change.known, SETTLE);
    if own == 0 || now >= ready {
        return None;
    }
    wake(ready);
    Some(Refusal::Wave { own, first: own - 1 })
}

fn end(since: Timestamp, length: SignedDuration) -> Timestamp {
    since.checked_add(length).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
