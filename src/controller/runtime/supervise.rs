//! What runs as long as the process does, beside the reconciles. A panic in it is never silence.
//!
//! There are three ways, by what is lost. Work of one object, [`Crew::caught`] and [`Crew::tried`]: it is left out, and the
//! others go on. A loop that can be begun anew, [`Crew::keep`]: it is, after a pause. A loop that cannot, such as a watch,
//! without which this replica would lead and not see, [`Crew::vital`]: its end is the end of the process, which another
//! replica replaces at once.

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::error;

use crate::{
    api::names::reasons,
    server::metrics::Metrics,
    status::{Backoff, Failure, panic},
};

/// Between a panic and the next try.
const AGAIN: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_mins(1) };

/// Who looks after the loops of a process. Cheap to clone.
#[derive(Clone)]
pub struct Crew {
    metrics: Arc<Metrics>,
    lost: watch::Sender<Option<Failure>>,
    over: CancellationToken,
}

impl Crew {
    /// Nobody is there yet; panics are counted in `metrics`.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, lost: watch::Sender::default(), over: CancellationToken::new() }
    }

    /// Runs a loop that has to go on until the crew is dismissed. When it ends earlier, whether by a panic or not,
    /// [`lost`](Self::lost) says so.
    pub fn vital(&self, name: impl Into<String>, work: impl Future<Output = ()> + Send + 'static) {
        let (crew, name) = (self.clone(), name.into());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = crew.over.cancelled() => {}
                failure = crew.watched(&name, work) => crew.lose(failure),
            }
        });
    }

    /// Runs a loop until it ends or the crew is dismissed; after a panic it is begun anew, with growing pauses.
    pub fn keep<F>(&self, name: &'static str, mut begin: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let crew = self.clone();
        tokio::spawn(async move {
            let work = async {
                let mut failures = 0_u32;
                loop {
                    let since = Instant::now();
                    if crew.caught(name, begin()).await.is_some() {
                        return;
                    }
                    failures = if since.elapsed() > AGAIN.cap { 1 } else { failures.saturating_add(1) };
                    sleep(AGAIN.delay(failures, rand::random())).await;
                }
            };
            tokio::select! {
                () = crew.over.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// Does some work; nothing where it panicked.
    pub async fn caught<T>(&self, what: &'static str, work: impl Future<Output = T>) -> Option<T> {
        match AssertUnwindSafe(work).catch_unwind().await {
            Ok(done) => Some(done),
            Err(panic) => {
                self.note(what, "", &*panic);
                None
            }
        }
    }

    /// The same for work that does not wait; the log says `of` which object it was.
    pub fn tried<T>(&self, what: &'static str, of: impl FnOnce() -> String, work: impl FnOnce() -> T) -> Option<T> {
        match std::panic::catch_unwind(AssertUnwindSafe(work)) {
            Ok(done) => Some(done),
            Err(panic) => {
                self.note(what, &of(), &*panic);
                None
            }
        }
    }

    /// Does the work of a loop that must not end; why it did.
    pub(in crate::controller) async fn watched(&self, name: &str, work: impl Future<Output = ()>) -> Failure {
        let why = match AssertUnwindSafe(work).catch_unwind().await {
            Ok(()) => "has ended".to_owned(),
            Err(panic) => {
                self.metrics.panicked("loop");
                format!("panicked ({})", panic::text(&*panic))
            }
        };
        let message = format!("a bug in Pilothouse: {name} {why}; the process ends, so that another takes over");
        Failure::transient(reasons::INTERNAL_ERROR, message)
    }

    /// Resolves when a loop that must not end has.
    pub async fn lost(&self) -> Failure {
        let mut lost = self.lost.subscribe();
        match lost.wait_for(Option::is_some).await.map(|lost| lost.clone()) {
            Ok(Some(failure)) => failure,
            // The sender is this one's.
            _ => std::future::pending().await,
        }
    }

    /// Ends all loops when the answer is dropped.
    pub fn until_dropped(&self) -> DropGuard {
        self.over.clone().drop_guard()
    }

    fn lose(&self, failure: Failure) {
        error!(reason = failure.reason, "{failure}");
        // The first is the cause.
        self.lost.send_if_modified(|lost| lost.is_none() && lost.replace(failure).is_none());
    }

    fn note(&self, what: &'static str, of: &str, panic: &(dyn Any + Send)) {
        self.metrics.panicked(what);
        error!(what, of, "a bug in Pilothouse: it panicked ({}); the rest goes on", panic::text(panic));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn crew() -> Crew {
        Crew::new(Arc::default())
    }

    #[tokio::test(start_paused = true)]
    async fn a_vital_loop_that_panics_or_ends_is_told_by_name() {
        for (panics, why) in
            [(true, "the watch of Agents panicked (on purpose)"), (false, "the watch of Agents has ended")]
        {
            let crew = crew();
            crew.vital("what goes on", std::future::pending());
            crew.vital("the watch of Agents", async move {
                sleep(Duration::from_secs(5)).await;
                assert!(!panics, "on purpose");
            });
            let since = Instant::now();
            let failure = crew.lost().await;
            assert_eq!(since.elapsed(), Duration::from_secs(5));
            assert!(failure.message.contains(why), "{failure}");
            // Who comes later hears of it too.
            assert_eq!(crew.lost().await, failure);
            assert_eq!(crew.metrics.render().contains("pilothouse_panics_total{what=\"loop\"} 1"), panics);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_lost_after_the_end() {
        let crew = crew();
        let (told, mut ended) = watch::channel(());
        crew.vital("one", async move {
            let _told = told;
            std::future::pending::<()>().await;
        });
        crew.keep("another", std::future::pending::<()>);
        drop(crew.until_dropped());
        assert!(ended.changed().await.is_err(), "it was dropped");
        assert!(tokio::time::timeout(Duration::from_hours(1), crew.lost()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_panics_is_begun_anew_with_growing_pauses_until_it_ends() {
        let (crew, begun) = (crew(), Arc::new(AtomicU32::new(0)));
        let count = begun.clone();
        crew.keep("copies", move || {
            let count = count.clone();
            async move {
                assert!(count.fetch_add(1, Ordering::SeqCst) >= 20, "on purpose");
            }
        });
        sleep(Duration::from_secs(2)).await;
        let soon = begun.load(Ordering::SeqCst);
        assert!((2..15).contains(&soon), "again, and not without a pause: {soon}");
        sleep(Duration::from_hours(1)).await;
        assert_eq!(begun.load(Ordering::SeqCst), 21, "what has ended is not begun again");
        assert!(crew.metrics.render().contains("pilothouse_panics_total{what=\"copies\"} 20"));
        assert!(crew.lost().now_or_never().is_none());
    }

    #[tokio::test]
    async fn what_panics_is_left_out() {
        let crew = crew();
        assert_eq!(crew.caught("event", async { 1 }).await, Some(1));
        assert_eq!(crew.caught("event", async { assert!(std::hint::black_box(false), "on purpose") }).await, None);
        assert_eq!(
            crew.tried("listener", || "a/b".into(), || assert!(std::hint::black_box(false), "on purpose")),
            None
        );
        assert!(crew.metrics.render().contains("pilothouse_panics_total{what=\"listener\"} 1"));
    }
}
