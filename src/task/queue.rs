//! The places of an agent: first come, first served.
//!
//! Whether a Task may start is decided from the whole queue of its agent, under one lock. The caches that the queue is
//! read from lag behind the writes of this process, so a place that was given is remembered until they show it.

use std::collections::BTreeSet;

use jiff::Timestamp;

/// A Task in the queue of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Uid of the Task.
    pub uid: String,
    /// Name of the Task; the second key of the order.
    pub name: String,
    /// When the Task was created; the first key of the order.
    pub created: Timestamp,
    /// Whether the cache shows that it runs.
    pub running: bool,
}

/// Whether a Task may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It may: the agent has no limit.
    Unlimited,
    /// It may: it holds a place.
    Held,
    /// It may not: the places are taken, or an older Task comes first.
    Full,
}

/// Remembers who was given a place. Uids are unique, so one ledger serves all agents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    started: BTreeSet<String>,
    blocked: BTreeSet<String>,
}

impl Ledger {
    /// Whether the Task `uid` may start now; if so, it holds its place until [`settle`](Self::settle) or
    /// [`block`](Self::block). `tickets` are the unfinished Tasks of its agent, in any order; `limit` the number of
    /// places.
    pub fn admit(&mut self, uid: &str, limit: Option<usize>, tickets: &[Ticket]) -> Place {
        self.blocked.remove(uid);
        let Some(limit) = limit else {
            return Place::Unlimited;
        };
        if tickets.iter().any(|t| t.uid == uid && self.runs(t)) {
            return Place::Held;
        }
        if !self.next(Some(limit), tickets).iter().any(|t| t.uid == uid) {
            return Place::Full;
        }
        self.started.insert(uid.into());
        Place::Held
    }

    /// The Tasks that would be given a place now, oldest first: they have to be looked at when a place gets free.
    pub fn next<'a>(&self, limit: Option<usize>, tickets: &'a [Ticket]) -> Vec<&'a Ticket> {
        let taken = tickets.iter().filter(|t| self.runs(t)).count();
        let free = limit.map_or(usize::MAX, |limit| limit.saturating_sub(taken));
        let mut waiting: Vec<_> = tickets.iter().filter(|t| !self.runs(t) && !self.blocked.contains(&t.uid)).collect();
        waiting.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
        waiting.truncate(free);
        waiting
    }

    fn runs(&self, ticket: &Ticket) -> bool {
        ticket.running || self.started.contains(&ticket.uid)
    }

    /// The cache shows what became of the Task: it runs, it is finished, or it is gone.
    pub fn settle(&mut self, uid: &str) {
        self.started.remove(uid);
        self.blocked.remove(uid);
    }

    /// The Task could not start. It gives its place back, and others go first until it is looked at again.
    pub fn block(&mut self, uid: &str) {
        self.started.remove(uid);
        self.blocked.insert(uid.into());
    }
}

#[cfg(test)]
mod tests;
