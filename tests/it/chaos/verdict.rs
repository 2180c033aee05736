//! What must never be.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::{
    kubelet::{Content, Exchange},
    watched::What,
    written::Change,
};
use crate::common::agent_server::{End, ledger::Work};

/// Something that must not be, at an agent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fault {
    pub(super) agent: String,
    pub(super) what: String,
}

/// Everything that is known.
pub(super) struct Evidence<'a> {
    pub(super) work: &'a [Work],
    /// What was written, each object's changes in their order.
    pub(super) changes: &'a [Change],
    pub(super) exchanges: &'a [Exchange],
    /// How long work is protected at most.
    pub(super) protection: &'a dyn Fn(&str) -> Duration,
    /// When somebody first could know that a pod ends.
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

    /// A pod template or a text that was written while protected work went on. That content is decided changes nothing in a
    /// pod that runs: see [`Self::under_the_feet`].
    fn came_too_early(&self, change: &Change) -> Option<Fault> {
        if change.what == What::Content {
            return None;
        }
        let work = self.at_work(&change.agent, change.received, change.answered)?;
        // If it was carried out before, without a line in the log, work must have gone on all that time.
        let elsewhere = change.unlogged.is_some_and(|(from, to)| self.at_work(&change.agent, from, to).is_none());
        let over = change.since.is_some_and(|since| change.received >= since + self.protection_of(&change.agent));
        let what = format!("{change:?} came while {work:?}");
        (!over && !elsewhere).then(|| Fault { agent: change.agent.clone(), what })
    }

    /// Work that went on from one moment to the other, in a pod that stays.
    fn at_work(&self, agent: &str, from: Timestamp, to: Timestamp) -> Option<&Work> {
        let of = self.work.iter().filter(|work| work.agent == agent);
        let mut on = of.filter(|work| work.begun < from && work.end.is_none_or(|(end, _)| end > to));
        on.find(|work| (self.ending)(&work.pod).is_none_or(|ending| ending >= from))
    }

    /// Documents or skills that changed in a pod while it worked.
    fn under_the_feet(&self, exchange: &Exchange) -> Option<Fault> {
        let of = self.work.iter().filter(|work| work.pod == exchange.pod);
        let mut on =
            of.filter(|work| work.begun < exchange.after && work.end.is_none_or(|(end, _)| end > exchange.before));
        let work = on.next()?;
        let what = format!("{exchange:?} was made while {work:?}");
        let forced = self.may_be_forced(&exchange.agent, &exchange.pod, exchange.content, exchange.before);
        (!forced).then(|| Fault { agent: exchange.agent.clone(), what })
    }

    /// Whether the time was over, of what the pods were to have at that moment. What was wanted before counts as long as
    /// this pod had not got it: the order of something newer may have been on its way.
    fn may_be_forced(&self, agent: &str, pod: &str, content: Content, at: Timestamp) -> bool {
        let of = |e: &&Exchange| e.pod == pod && e.content == content && e.before < at;
        let last = self.exchanges.iter().filter(of).map(|exchange| exchange.after).max();
        let decided = self.changes.iter().filter(|c| c.agent == agent && c.what == What::Content && c.received <= at);
        let newest = decided.clone().map(|change| change.received).max();
        let mut counts = decided.filter(|c| Some(c.received) == newest || last.is_none_or(|last| c.received >= last));
        counts.any(|change| change.since.is_some_and(|since| at >= since + self.protection_of(agent)))
    }

    /// Work that somebody ended. Its time begins with itself at the latest.
    fn cut(&self, work: &Work) -> Option<Fault> {
        let Some((at, End::Cut(why))) = work.end else { return None };
        let lasted = at.duration_since(work.begun);
        let protected = lasted < self.protection_of(&work.agent);
        // A reload may be forced when the time of what it brings is over, however young the work is.
        let reload = why.contains("disposed") && self.may_be_forced(&work.agent, &work.pod, Content::Skills, at);
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
