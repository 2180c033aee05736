//! What must never be.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::{
    kubelet::Exchange,
    watched::{Change, What},
};
use crate::common::{
    agent_server::{End, ledger::Work},
    audit::Request,
};

/// A text is decided at most so long before it is written, on a busy machine.
const STALE: SignedDuration = SignedDuration::from_secs(10);

/// Something that must not be, at an agent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fault {
    pub(super) agent: String,
    pub(super) what: String,
}

/// Everything that is known.
pub(super) struct Evidence<'a> {
    pub(super) work: &'a [Work],
    pub(super) changes: &'a [Change],
    pub(super) exchanges: &'a [Exchange],
    /// The controller's writes that went well.
    pub(super) writes: &'a [Request],
    /// How long work is protected at most.
    pub(super) protection: &'a dyn Fn(&str) -> Duration,
    /// When it was seen that a pod ends.
    pub(super) ending: &'a dyn Fn(&str) -> Option<Timestamp>,
}

impl Evidence<'_> {
    pub(super) fn faults(&self) -> BTreeSet<Fault> {
        let mut found = BTreeSet::new();
        found.extend(self.changes.iter().filter_map(|change| self.came_too_early(change)));
        found.extend(self.exchanges.iter().filter_map(|exchange| self.under_the_feet(exchange)));
        found.extend(self.work.iter().filter_map(|work| self.cut(work)));
        found.extend(self.twice());
        found
    }

    /// A change that came while protected work went on. The write is found in the audit log; where several may be it, all of
    /// them would have to be wrong.
    ///
    /// Text is decided without holding prompts, so only what had gone on for a while counts. That content is decided changes
    /// nothing in a pod: see [`Self::under_the_feet`].
    fn came_too_early(&self, change: &Change) -> Option<Fault> {
        let age = match change.what {
            What::Template => SignedDuration::ZERO,
            What::Text => STALE,
            What::Content => return None,
        };
        let second = SignedDuration::from_secs(1);
        let object = format!("{}/{}", change.agent.split('/').next()?, change.object);
        let near = |w: &&Request| {
            w.object() == object && w.answered <= change.seen + second / 10 && w.received >= change.seen - second * 5
        };
        let mut writes = self.writes.iter().filter(near).peekable();
        writes.peek()?;
        let over = |at: Timestamp| change.since.is_some_and(|since| at >= since + self.protection_of(&change.agent));
        let wrong = |write: &Request| {
            let cut = self.at_work(&change.agent, write.received - age, write.answered);
            cut.filter(|_| !over(write.received)).map(|work| (write.received, work))
        };
        let all: Option<Vec<_>> = writes.map(wrong).collect();
        let (at, work) = all?.into_iter().next()?;
        let what = format!(
            "{:?} {} was written at {at} (it waited since {:?}) while {work:?}",
            change.what, change.hash, change.since
        );
        Some(Fault { agent: change.agent.clone(), what })
    }

    /// Work that went on from one moment to the other, in a pod that stays.
    fn at_work(&self, agent: &str, from: Timestamp, to: Timestamp) -> Option<&Work> {
        let of = self.work.iter().filter(|work| work.agent == agent);
        let mut on = of.filter(|work| work.begun < from && work.end.is_none_or(|(end, _)| end > to));
        on.find(|work| (self.ending)(&work.pod).is_none_or(|ending| ending >= from))
    }

    /// Documents that changed in a pod while it worked.
    fn under_the_feet(&self, exchange: &Exchange) -> Option<Fault> {
        let work = self.at_work(&exchange.agent, exchange.after, exchange.before).filter(|w| w.pod == exchange.pod)?;
        let over = work.begun + self.protection_of(&exchange.agent) <= exchange.before;
        let forced = self.changes.iter().rev().any(|change| {
            let age = exchange.before.duration_since(change.seen);
            change.agent == exchange.agent && change.what == What::Content && age >= self.protection_of(&exchange.agent)
        });
        let what = format!("documents were exchanged before {} while {work:?}", exchange.before);
        (!over && !forced).then(|| Fault { agent: exchange.agent.clone(), what })
    }

    /// Work that somebody ended. Its time begins with itself at the latest.
    fn cut(&self, work: &Work) -> Option<Fault> {
        let Some((at, End::Cut(why))) = work.end else { return None };
        let lasted = at.duration_since(work.begun);
        let protected = lasted < self.protection_of(&work.agent);
        // A reload may be forced when the time of what it brings is over, however young the work is.
        let since = self.changes.iter().filter(|c| c.agent == work.agent && c.what == What::Content && c.seen <= at);
        let reload = why.contains("disposed")
            && since
                .into_iter()
                .any(|c| at.duration_since(c.since.unwrap_or(c.seen)) >= self.protection_of(&work.agent));
        let what = format!("work was cut at {at} after {lasted:#}, {why}: {work:?}");
        (protected && !reload).then(|| Fault { agent: work.agent.clone(), what })
    }

    fn protection_of(&self, agent: &str) -> SignedDuration {
        SignedDuration::try_from((self.protection)(agent)).unwrap_or(SignedDuration::MAX)
    }

    /// Each hash is rolled out once.
    fn twice(&self) -> Vec<Fault> {
        let mut seen: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let mut found = vec![];
        for change in self.changes.iter().filter(|change| change.what == What::Template) {
            let of = seen.entry(&change.agent).or_default();
            if of.contains(&change.hash.as_str()) {
                let what = format!("the pod template {} was rolled out twice: {of:?}", change.hash);
                found.push(Fault { agent: change.agent.clone(), what });
            }
            of.push(&change.hash);
        }
        found
    }
}
