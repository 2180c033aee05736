//! What went on, and how each piece of work ended.

use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;

use super::Setup;

/// How work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself.
    Done,
    /// By an error that the prompt asked for.
    Failed,
    /// Somebody who works with the agent stopped it.
    Stopped,
    /// Nobody wanted that.
    Cut(&'static str),
}

/// One prompt.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) agent: String,
    pub(crate) pod: String,
    pub(crate) session: String,
    /// When the server had it.
    pub(crate) begun: Timestamp,
    pub(crate) end: Option<(Timestamp, End)>,
}

/// The work of many servers, shared by them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger(Arc<Mutex<Vec<Work>>>);

impl Ledger {
    pub(super) fn begin(&self, setup: &Setup, session: &str) -> usize {
        let (agent, pod, session) = (setup.agent.clone(), setup.pod.clone(), session.to_owned());
        let mut all = self.0.lock();
        all.push(Work { agent, pod, session, begun: Timestamp::now(), end: None });
        all.len() - 1
    }

    pub(super) fn finish(&self, work: usize, end: End) {
        let mut all = self.0.lock();
        all[work].end.get_or_insert((Timestamp::now(), end));
    }

    /// Ends what goes on in a session.
    pub(super) fn end(&self, pod: &str, session: &str, end: End) {
        self.end_where(|work| work.pod == pod && work.session == session, end);
    }

    /// Ends all that goes on in a pod.
    pub(super) fn cut(&self, pod: &str, why: &'static str) {
        self.end_where(|work| work.pod == pod, End::Cut(why));
    }

    fn end_where(&self, which: impl Fn(&Work) -> bool, end: End) {
        let now = Timestamp::now();
        for work in self.0.lock().iter_mut().filter(|work| work.end.is_none() && which(work)) {
            work.end = Some((now, end));
        }
    }

    /// All of it, oldest first.
    pub(crate) fn all(&self) -> Vec<Work> {
        self.0.lock().clone()
    }

    /// How much goes on.
    pub(crate) fn open(&self) -> usize {
        self.0.lock().iter().filter(|work| work.end.is_none()).count()
    }
}
