//! The queue of an agent: higher priority first, then older first.
//!
//! Whether a Task may start is decided from the whole queue of its agent, under one lock. The caches that the queue is
//! read from lag behind the writes of this process, so a place or a start that was given is remembered until they show
//! it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::quota::{self, Quota};
use crate::api::agent::TaskStart;

/// A Task in the queue of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Uid of the Task.
    pub uid: String,
    /// Name of the Task; the last key of the order.
    pub name: String,
    /// Its priority; the first key of the order, higher first.
    pub priority: i32,
    /// When the Task was created; the second key of the order.
    pub created: Timestamp,
    /// How many of its tries have failed.
    pub tries: usize,
    /// Whether the cache shows that it runs.
    pub running: bool,
}

/// What an agent allows now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// How many Tasks may run at the same time; none: no limit.
    pub places: Option<usize>,
    /// How often Tasks may start; none: no limit.
    pub quota: Option<Quota>,
    /// Starts that the Agent's status shows.
    pub history: Vec<TaskStart>,
    /// The present.
    pub now: Timestamp,
}

/// Whether a Task may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It may: the agent has no limit.
    Unlimited,
    /// It may: it holds a place.
    Held,
    /// It may not: the places are taken, or others come first.
    Full,
    /// It may not: as many have started as may within the window.
    Spent {
        /// When the next may start; given to the first in the queue alone, which wakes the others.
        until: Option<Timestamp>,
    },
}

/// Namespace and name of an agent.
pub type Agent<'a> = (&'a str, &'a str);

/// Remembers who was given a place, and who started. Uids are unique, so one ledger serves all agents.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    started: BTreeSet<String>,
    blocked: BTreeSet<String>,
    /// Starts that no cache may show yet, by agent.
    begun: BTreeMap<(String, String), Vec<TaskStart>>,
    /// The rank that each waiting Task has been told.
    told: BTreeMap<String, Rank>,
}

impl Ledger {
    /// Whether the Task of `start` may start now; if so, it holds its place until [`settle`](Self::settle) or
    /// [`block`](Self::block), and the start counts. `tickets` are the unfinished Tasks of its agent, in any order.
    pub fn admit(&mut self, agent: Agent<'_>, start: &TaskStart, limits: &Limits, tickets: &[Ticket]) -> Place {
        let uid = start.task_uid.as_deref().unwrap_or_default();
        self.blocked.remove(uid);
        if limits.places.is_none() && limits.quota.is_none() {
            return Place::Unlimited;
        }
        if tickets.iter().any(|t| t.uid == uid && self.runs(t)) {
            return Place::Held;
        }
        let waiting = self.waiting(tickets);
        let Some(at) = waiting.iter().position(|t| t.uid == uid) else { return Place::Full };
        if at >= self.free(limits, tickets) {
            return Place::Full;
        }
        // One whose start counts already (its pod could not be made) needs no second one.
        let counts = self.starts(agent, limits).iter().any(|s| quota::same(s, start));
        if !counts && at >= self.left(agent, limits) {
            return Place::Spent { until: self.frees_at(agent, limits).filter(|_| at == 0) };
        }
        self.started.insert(uid.into());
        if limits.quota.is_some() && !counts {
            self.begun.entry(owned(agent)).or_default().push(start.clone());
        }
        Place::Held
    }

    /// The Tasks that have to be looked at when something about the queue has changed: those that would be given a
    /// place now, the first one that waits for the window, and those whose rank is another than they were told.
    pub fn due<'a>(&self, agent: Agent<'_>, limits: &Limits, tickets: &'a [Ticket]) -> Vec<&'a Ticket> {
        let waiting = self.waiting(tickets);
        let (free, left) = (self.free(limits, tickets), self.left(agent, limits));
        let may = if left == 0 { free.min(1) } else { free.min(left) };
        let news = |at: usize, t: &Ticket| self.told.get(&t.uid).is_some_and(|told| *told != Rank::of(at));
        waiting.into_iter().enumerate().filter(|(at, t)| *at < may || news(*at, t)).map(|(_, t)| t).collect()
    }

    /// Where a Task stands among those that wait, and notes that it was told so.
    pub fn rank(&mut self, uid: &str, tickets: &[Ticket]) -> Option<Rank> {
        let at = self.waiting(tickets).iter().position(|t| t.uid == uid);
        match at.map(Rank::of) {
            Some(rank) => self.told.insert(uid.into(), rank),
            None => self.told.remove(uid),
        };
        at.map(Rank::of)
    }

    /// Those that wait, in the order in which they start.
    fn waiting<'a>(&self, tickets: &'a [Ticket]) -> Vec<&'a Ticket> {
        let mut waiting: Vec<_> = tickets.iter().filter(|t| !self.runs(t) && !self.blocked.contains(&t.uid)).collect();
        waiting.sort_by(|a, b| (-a.priority, a.created, &a.name).cmp(&(-b.priority, b.created, &b.name)));
        waiting
    }

    fn free(&self, limits: &Limits, tickets: &[Ticket]) -> usize {
        let taken = tickets.iter().filter(|t| self.runs(t)).count();
        limits.places.map_or(usize::MAX, |places| places.saturating_sub(taken))
    }

    fn left(&self, agent: Agent<'_>, limits: &Limits) -> usize {
        limits.quota.map_or(usize::MAX, |quota| quota.left(&self.starts(agent, limits), limits.now))
    }

    fn frees_at(&self, agent: Agent<'_>, limits: &Limits) -> Option<Timestamp> {
        limits.quota?.frees_at(&self.starts(agent, limits), limits.now)
    }

    fn starts(&self, agent: Agent<'_>, limits: &Limits) -> Vec<TaskStart> {
        let begun = self.begun.get(&owned(agent)).map_or(&[][..], Vec::as_slice);
        quota::union(&limits.history, begun)
    }

    fn runs(&self, ticket: &Ticket) -> bool {
        ticket.running || self.started.contains(&ticket.uid)
    }

    /// The API server shows these starts of an agent; the cache may not.
    pub fn saw(&mut self, agent: Agent<'_>, quota: Quota, starts: &[TaskStart], now: Timestamp) {
        let begun = self.begun.entry(owned(agent)).or_default();
        *begun = quota.within(&quota::union(begun, starts), now);
    }

    /// A start that was given did not come about, for certain: the window was full after all.
    pub fn take_back(&mut self, agent: Agent<'_>, start: &TaskStart) {
        if let Some(begun) = self.begun.get_mut(&owned(agent)) {
            begun.retain(|s| !quota::same(s, start));
        }
        self.started.remove(start.task_uid.as_deref().unwrap_or_default());
    }

    /// The cache shows what became of the Task: it runs, it is finished, or it is gone.
    pub fn settle(&mut self, uid: &str) {
        self.started.remove(uid);
        self.blocked.remove(uid);
        self.told.remove(uid);
    }

    /// The Task could not start. It gives its place back, and others go first until it is looked at again.
    pub fn block(&mut self, uid: &str) {
        self.started.remove(uid);
        self.blocked.insert(uid.into());
    }
}

fn owned(agent: Agent<'_>) -> (String, String) {
    (agent.0.to_owned(), agent.1.to_owned())
}

/// Where a Task stands in the queue. Exact for the first, and coarser behind: a long queue must not be written anew with each
/// Task that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    /// The first place that is meant, from 1.
    from: usize,
    /// The last one.
    to: usize,
}

impl Rank {
    /// Of the one with `before` others before it.
    fn of(before: usize) -> Self {
        /// Ends of the ranges. Each that a Task passes on its way is a write of its status.
        const ENDS: [usize; 6] = [1, 5, 20, 100, 500, 2_500];
        let place = before + 1;
        let from = ENDS.iter().copied().rfind(|end| *end < place);
        let to = ENDS.iter().copied().find(|end| place <= *end);
        Self { from: from.map_or(1, |end| end + 1), to: to.unwrap_or(usize::MAX) }
    }
}

impl std::fmt::Display for Rank {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.from, self.to) {
            (from, to) if from == to => write!(f, "place {from} in its queue"),
            (from, usize::MAX) => write!(f, "place {from} or later in its queue"),
            (from, to) => write!(f, "place {from} to {to} in its queue"),
        }
    }
}

#[cfg(test)]
mod tests;
