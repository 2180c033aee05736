//! The loop of one remote: wait, list, fetch, tell.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use tokio::{sync::Notify, task::JoinError, time::Instant};
use tracing::{debug, error, info, warn};

use super::{Counters, Inner, Remote, RemoteState, Subscriber, hosts::Who, pace::Pace};
use crate::{
    git::{
        Access, CommitId, Fetched, GitError, Reason, Reference, RemoteRef, Resolved, Stop, Whole,
        refs::{self, RefError},
    },
    status::panic,
};

/// How long a finished deadline may take to be noticed, for example in a name lookup, before its thread is abandoned.
const GRACE: Duration = Duration::from_secs(15);

/// Follows one remote until nobody does.
pub(super) async fn run(inner: Arc<Inner>, remote: Arc<Remote>) {
    let (inner, remote) = (&inner, &remote);
    let work = |pace, last| async move {
        let listing = due(inner, remote, pace, last).await;
        round(inner, remote, listing).await
    };
    tokio::select! {
        () = remote.stop.cancelled() => {}
        () = again_and_again(work, || panicked(inner, remote)) => {}
    }
}

/// Works in rounds, each after a pause that depends on how the last one went. One that panics has failed.
async fn again_and_again<F: Future<Output = bool>>(
    work: impl Fn(Pace, Option<Instant>) -> F,
    panicked: impl Fn() -> bool,
) {
    let mut pace = Pace::default();
    let mut last: Option<Instant> = None;
    loop {
        let failed = match AssertUnwindSafe(work(pace, last)).catch_unwind().await {
            Ok(failed) => failed,
            Err(panic) => {
                error!("a bug in Pilothouse: a look at a remote panicked ({})", panic::text(&*panic));
                panicked()
            }
        };
        pace = Pace { failures: if failed { pace.failures.saturating_add(1) } else { 0 }, share: rand::random() };
        last = Some(Instant::now());
    }
}

/// Waits until there is something to do; whether that is a listing.
async fn due(inner: &Inner, remote: &Remote, pace: Pace, last: Option<Instant>) -> bool {
    loop {
        let (interval, poked, lacks_tree) = {
            let status = remote.status.lock();
            (status.interval(), status.poked > status.state.answered, status.lacks_tree())
        };
        let Some(last) = last.filter(|_| !poked) else { return true };
        let pinned = matches!(remote.reference, Reference::Commit(_));
        let delay = pace.delay(if pinned { Duration::MAX } else { interval }, &inner.options.backoff);
        if lacks_tree && pace.failures == 0 {
            return false;
        }
        tokio::select! {
            () = tokio::time::sleep_until(last + delay) => return true,
            () = remote.wake.notified() => {}
        }
    }
}

/// What a round found out.
#[derive(Default)]
struct Outcome {
    observed: Option<Resolved>,
    tree: Option<(CommitId, Arc<Fetched>)>,
    error: Option<GitError>,
}

/// One listing, where asked for, and one fetch, where needed. Returns whether it failed.
async fn round(inner: &Arc<Inner>, remote: &Arc<Remote>, listing: bool) -> bool {
    let turn = inner.hosts.turn(&remote.access.url, || remote.who(), &remote.wake);
    let Some(turn) = turn.await else { return true };
    let poked = remote.status.lock().poked;
    let outcome = attempt(inner, remote, listing).await;
    if let Some(GitError { retry_after: Some(pause), .. }) = &outcome.error {
        inner.hosts.pause(&remote.access.url, &turn, *pause);
    }
    let failed = outcome.error.is_some();
    !tell(inner, remote, &settle(remote, outcome, listing.then_some(poked))) || failed
}

/// Whether all of them heard of it; who did not is told after the next round.
fn tell(inner: &Inner, remote: &Remote, woken: &[Subscriber]) -> bool {
    if woken.is_empty() {
        return true;
    }
    let missed = inner.wake(woken);
    let mut status = remote.status.lock();
    status.untold = missed.into_iter().filter(|who| status.subscribers.contains_key(who)).collect();
    status.untold.is_empty()
}

/// A round that panicked is one that failed, and answers whoever poked: else it would begin again at once.
fn panicked(inner: &Inner, remote: &Remote) -> bool {
    let poked = remote.status.lock().poked;
    let outcome = Outcome { error: Some(bug()), ..Outcome::default() };
    tell(inner, remote, &settle(remote, outcome, Some(poked)));
    true
}

fn bug() -> GitError {
    GitError::new(Reason::ProtocolError, "a bug in Pilothouse: reading the remote panicked")
}

/// A new commit and its tree are told in one piece, so that nobody sees the one without the other.
async fn attempt(inner: &Arc<Inner>, remote: &Arc<Remote>, listing: bool) -> Outcome {
    let resolved =
        if listing { resolve(inner, remote).await.map(Some) } else { Ok(remote.status.lock().state.observed.clone()) };
    let observed = match resolved {
        Ok(Some(observed)) => observed,
        Ok(None) => return Outcome::default(),
        Err(error) => return Outcome { error: Some(error), ..Outcome::default() },
    };
    let commit = observed.commit.clone();
    if !remote.status.lock().lacks(&commit) {
        return Outcome { observed: Some(observed), ..Outcome::default() };
    }
    match fetch(inner, remote, &commit).await {
        Ok(tree) => Outcome { observed: Some(observed), tree: Some((commit, Arc::new(tree))), error: None },
        Err(error) => {
            let message = format!("cannot fetch {}: {}", observed.revision, error.message);
            Outcome { observed: Some(observed), tree: None, error: Some(GitError { message, ..error }) }
        }
    }
}

/// Writes down how a round went and names those who must hear of it.
fn settle(remote: &Remote, outcome: Outcome, answered: Option<u64>) -> Vec<Subscriber> {
    let mut status = remote.status.lock();
    let after = RemoteState {
        observed: outcome.observed.or_else(|| status.state.observed.clone()),
        error: outcome.error,
        answered: answered.unwrap_or(status.state.answered),
    };
    let news = after != status.state || outcome.tree.is_some();
    status.state = after;
    if outcome.tree.is_some() {
        status.tree = outcome.tree;
    }
    status.release();
    if !news {
        return status.untold.iter().cloned().collect();
    }
    let url = &remote.access.url;
    match (&status.state.error, &status.state.observed) {
        (Some(error), _) => warn!(%url, reference = %remote.reference, reason = error.reason.as_str(), "{error}"),
        (None, Some(observed)) => info!(%url, revision = observed.revision, "observed"),
        (None, None) => {}
    }
    status.subscribers.keys().cloned().collect()
}

async fn resolve(inner: &Arc<Inner>, remote: &Arc<Remote>) -> Result<Resolved, GitError> {
    if matches!(remote.reference, Reference::Commit(_)) {
        return Ok(refs::choose(&[], &remote.reference)?);
    }
    remote.reference.check()?;
    let listing = list(inner, remote, refs::prefixes(&remote.reference)).await?;
    match refs::choose(&listing, &remote.reference) {
        Ok(resolved) => Ok(resolved),
        // Once more without the filter, to name what is alike; not again while it stays missing.
        Err(RefError::NotFound { .. }) if !remote.is_missing() => {
            let all = list(inner, remote, vec!["refs/heads/".into(), "refs/tags/".into()]).await?;
            Ok(refs::choose(&all, &remote.reference)?)
        }
        Err(error @ RefError::NotFound { .. }) => Err(remote.status.lock().state.error.clone().unwrap_or(error.into())),
        Err(error) => Err(error.into()),
    }
}

impl Remote {
    /// Whose places an operation takes: those of one who follows.
    fn who(&self) -> Who {
        let mut namespaces: Vec<String> =
            self.status.lock().subscribers.keys().map(|subscriber| subscriber.namespace.clone()).collect();
        namespaces.sort();
        namespaces.dedup();
        Who { credential: self.fingerprint, namespaces }
    }

    fn is_missing(&self) -> bool {
        self.status.lock().state.error.as_ref().is_some_and(|error| error.reason == Reason::ReferenceNotFound)
    }
}

async fn list(inner: &Arc<Inner>, remote: &Arc<Remote>, prefixes: Vec<String>) -> Result<Vec<RemoteRef>, GitError> {
    Counters::add(&inner.counters.listings);
    let result = blocking(inner, remote, move |inner, access, stop| inner.git.list(access, &prefixes, stop)).await;
    if result.is_err() {
        Counters::add(&inner.counters.failed_listings);
    }
    result
}

async fn fetch(inner: &Arc<Inner>, remote: &Arc<Remote>, commit: &CommitId) -> Result<Fetched, GitError> {
    Counters::add(&inner.counters.fetches);
    let (commit, started) = (commit.clone(), Instant::now());
    let result = blocking(inner, remote, move |inner, access, stop| inner.git.fetch(access, &commit, stop)).await;
    match &result {
        Ok(fetched) => {
            debug!(url = %remote.access.url, files = fetched.tree.len(), took = ?started.elapsed(), "fetched");
        }
        Err(_) => Counters::add(&inner.counters.failed_fetches),
    }
    result
}

/// A commit as a whole repository.
pub(super) async fn checkout(
    inner: &Arc<Inner>,
    remote: &Arc<Remote>,
    commit: &CommitId,
    whole: &Whole,
) -> Result<Fetched, GitError> {
    let url = &remote.access.url;
    // The news of the remote are the poller's.
    let turn = inner.hosts.turn(url, || remote.who(), &Notify::new()).await;
    let Some(turn) = turn else { return Err(crate::git::remote::timeout()) };
    Counters::add(&inner.counters.fetches);
    let (commit, whole) = (commit.clone(), whole.clone());
    let work =
        move |inner: &Inner, access: &Access, stop: &Arc<Stop>| inner.git.checkout(access, &commit, &whole, stop);
    let result = blocking(inner, remote, work).await;
    if let Err(error) = &result {
        Counters::add(&inner.counters.failed_fetches);
        if let Some(pause) = error.retry_after {
            inner.hosts.pause(url, &turn, pause);
        }
    }
    result
}

/// Runs `work` on a thread for blocking things, stopped at the deadline and when this future is dropped.
async fn blocking<T: Send + 'static>(
    inner: &Arc<Inner>,
    remote: &Arc<Remote>,
    work: impl FnOnce(&Inner, &Access, &Arc<Stop>) -> Result<T, GitError> + Send + 'static,
) -> Result<T, GitError> {
    let limit = remote.status.lock().timeout();
    let stop = Arc::new(Stop::after(limit));
    let access = Access { namespaces: remote.who().namespaces, ..remote.access.clone() };
    let (inner, given) = (inner.clone(), stop.clone());
    let work = tokio::task::spawn_blocking(move || work(&inner, &access, &given));
    let _stopped = StopOnDrop(stop);
    match tokio::time::timeout(limit + GRACE, work).await {
        Ok(ended) => match outcome(ended) {
            Some(result) => result,
            None => std::future::pending().await,
        },
        Err(_) => Err(crate::git::remote::timeout()),
    }
}

/// What came of a thread; `None` where it never ran, because the process ends: then there is nothing to say.
fn outcome<T>(ended: Result<Result<T, GitError>, JoinError>) -> Option<Result<T, GitError>> {
    match ended {
        Ok(result) => Some(result),
        Err(error) if error.is_cancelled() => None,
        Err(_) => Some(Err(bug())),
    }
}

struct StopOnDrop(Arc<Stop>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_round_that_panics_has_failed_and_is_followed_by_others() {
        let (rounds, told) = (parking_lot::Mutex::new(vec![]), std::cell::Cell::new(0));
        let work = |pace: Pace, _| {
            let rounds = &rounds;
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let number = rounds.lock().len();
                rounds.lock().push(pace.failures);
                assert!(![1, 2].contains(&number), "on purpose");
                false
            }
        };
        let panicked = || {
            told.set(told.get() + 1);
            true
        };
        let ended = tokio::time::timeout(Duration::from_millis(5500), again_and_again(work, panicked)).await;
        assert!(ended.is_err());
        assert_eq!((rounds.into_inner(), told.get()), (vec![0, 0, 1, 2, 0], 2));
    }

    #[tokio::test]
    async fn a_process_that_ends_reports_no_bug() {
        let never = tokio::spawn(std::future::pending::<Result<(), GitError>>());
        never.abort();
        assert_eq!(outcome(never.await), None);
        let panicked = tokio::spawn(async { assert!(std::hint::black_box(false), "as a test") });
        let error = outcome(panicked.await.map(Ok)).unwrap().unwrap_err();
        assert!(error.to_string().contains("panicked"), "{error}");
    }
}
