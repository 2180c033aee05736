//! What the running server knows of the skills in place, and how it is made to read them again.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use super::skills::{self, Skill};
use crate::pod::{
    opencode::{Error, Skill as Listed},
    sidecar::watch::Server,
};

/// All instances end within this time, or the reload failed.
const DISPOSED: Duration = Duration::from_secs(10);
/// The first question makes the server read everything.
const LISTED: Duration = Duration::from_secs(20);
/// An answer that is different this long after the reload stays so.
const SETTLED: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);

/// Why a reload failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotLoaded {
    /// The server lists something else: it does not take what is wanted.
    Different(String),
    /// It did not answer, or its events were lost: nobody knows what it has, and another time may be better.
    Silent(String),
    /// It is not there, and was asked for nothing.
    Away(String),
}

/// The server, and what was last heard of its skills.
#[derive(Debug)]
pub(super) struct Known {
    server: Server,
    /// Folders whose skills are ours.
    root: String,
    names: Option<Vec<String>>,
    /// Whether it listed what is in place, or what is different; `None` while it was not asked.
    verdict: Option<Result<(), String>>,
}

impl Known {
    pub(super) fn new(server: Server, root: &std::path::Path) -> Self {
        Self { server, root: root.to_string_lossy().into_owned(), names: None, verdict: None }
    }

    /// The names that it listed last; `None` while it was not asked.
    pub(super) fn names(&self) -> Option<Vec<String>> {
        self.names.clone()
    }

    /// Whether it listed what is in place, or what is different.
    pub(super) fn verdict(&self) -> Option<&Result<(), String>> {
        self.verdict.as_ref()
    }

    /// Whether somebody should ask it.
    pub(super) fn is_asked_for(&self) -> bool {
        self.verdict.is_none()
    }

    /// It may be another process by now.
    pub(super) fn forget(&mut self) {
        self.verdict = None;
    }

    /// There are no skills.
    pub(super) fn nothing_to_ask(&mut self) {
        self.verdict = Some(Ok(()));
    }

    /// Reads the listings of sessions, before somebody decides by them.
    pub(super) async fn confirm(&self) {
        self.server.confirm().await;
    }

    /// Asks what it lists, and compares.
    ///
    /// # Errors
    /// It does not answer. The inner error says what is different.
    pub(super) async fn ask(&mut self, wanted: &[Skill]) -> Result<Result<(), String>, String> {
        let listed = self.server.client().with_timeout(LISTED).skills().await.map_err(|error| error.to_string())?;
        Ok(self.compare(wanted, &listed))
    }

    fn compare(&mut self, wanted: &[Skill], listed: &[Listed]) -> Result<(), String> {
        let verdict = skills::compare(wanted, listed, &BTreeSet::from([self.root.clone()]));
        (self.names, self.verdict) = (Some(skills::names(listed)), Some(verdict.clone()));
        verdict
    }

    /// Makes the server forget what it has cached, in all directories, and waits until it lists what is wanted. It cuts
    /// what runs: prompts must be held, and nothing at work.
    ///
    /// # Errors
    /// It does not answer, or lists something else.
    pub(super) async fn reload(&mut self, wanted: &[Skill]) -> Result<(), NotLoaded> {
        self.dispose().await?;
        let begun = Instant::now();
        loop {
            let (why, limit) = match self.ask(wanted).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(why)) => (NotLoaded::Different(why), SETTLED),
                Err(why) => (NotLoaded::Silent(why), LISTED),
            };
            if begun.elapsed() >= limit {
                return Err(why);
            }
            sleep(PAUSE).await;
        }
    }

    /// Ends all instances. They end after the answer: a prompt before that would be cut.
    async fn dispose(&self) -> Result<(), NotLoaded> {
        let mut disposals = self.server.disposals();
        disposals.mark_unchanged();
        self.server.client().with_timeout(DISPOSED).dispose_all().await.map_err(|error| not_disposed(&error))?;
        let silent = |why: &str| NotLoaded::Silent(why.into());
        let ended = timeout(DISPOSED, disposals.changed()).await;
        ended
            .map_err(|_| silent("the server did not say that it has reloaded"))?
            .map_err(|_| silent("nobody follows the server"))
    }
}

fn not_disposed(error: &Error) -> NotLoaded {
    let why = format!("the server does not reload: {error}");
    if matches!(error, Error::Unreachable { sent: false, .. }) { NotLoaded::Away(why) } else { NotLoaded::Silent(why) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_was_not_reached_was_asked_for_nothing() {
        let error = |sent| Error::Unreachable { url: "u".into(), why: "w".into(), sent };
        assert!(matches!(not_disposed(&error(false)), NotLoaded::Away(_)));
        for other in [error(true), Error::Unauthorized { url: "u".into() }] {
            assert!(matches!(not_disposed(&other), NotLoaded::Silent(_)), "{other}");
        }
    }
}
