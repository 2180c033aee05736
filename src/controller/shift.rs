//! The loops of all kinds while this replica leads: they begin together, and have ended before the Lease is given back.

use std::time::Duration;

use futures::future::BoxFuture;
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::runtime::{Crew, Runtime};
use crate::status::Failure;

/// Within this a loop that is cut comes to the next place where it can be. What computes for longer may still write.
const CUT: Duration = Duration::from_secs(3);

/// A kind's loop, ready to be started with the runtime.
pub struct Loop {
    name: String,
    start: Box<dyn FnOnce(Runtime) -> BoxFuture<'static, ()> + Send>,
}

impl Loop {
    /// It is called `name` where it fails, and ends when the runtime stops, not before.
    pub fn new<F>(name: impl Into<String>, start: impl FnOnce(Runtime) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self { name: name.into(), start: Box::new(move |runtime| Box::pin(start(runtime))) }
    }
}

/// What works until it is asked to stop, and may take this long about it.
pub struct Shift {
    loops: JoinSet<Failure>,
    crew: Crew,
    stop: CancellationToken,
    drain: Duration,
}

impl Shift {
    /// Begins all `kinds`.
    pub fn begin(kinds: Vec<Loop>, runtime: &Runtime, crew: Crew, drain: Duration) -> Self {
        let mut loops = JoinSet::new();
        for Loop { name, start } in kinds {
            let (crew, work) = (crew.clone(), start(runtime.clone()));
            loops.spawn(async move { crew.watched(&name, work).await });
        }
        Self { loops, crew, stop: runtime.stop.clone(), drain }
    }

    /// Resolves when all loops have ended after a stop, or their time is over.
    ///
    /// # Errors
    /// What ended before a stop, at once: a loop of this shift, or one of the crew.
    pub async fn over(&mut self) -> Result<(), Failure> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            failure = self.crew.lost() => return Err(failure),
            Some(ended) = self.loops.join_next() => {
                let failure = ended.unwrap_or_else(|error| cut(&error));
                error!(reason = failure.reason, "{failure}");
                return Err(failure);
            }
        }
        if timeout(self.drain, self.all()).await.is_err() {
            warn!("some reconciles did not end in {} s and are cut", self.drain.as_secs());
        }
        Ok(())
    }

    /// Ends what still runs. Whether nothing does any more: else nobody else may begin, because it may write.
    pub async fn cut(mut self) -> bool {
        self.loops.abort_all();
        timeout(CUT, self.all()).await.is_ok()
    }

    async fn all(&mut self) {
        while self.loops.join_next().await.is_some() {}
    }
}

/// Their panics are caught, and nobody aborts them before their time.
fn cut(error: &tokio::task::JoinError) -> Failure {
    Failure::transient(crate::api::names::reasons::INTERNAL_ERROR, format!("a loop of a kind was cut: {error}"))
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::{
        controller::{report::Reports, runtime::tests::nobody},
        status::Backoff,
    };

    const DRAIN: Duration = Duration::from_secs(20);

    /// A shift of one loop that writes once a second and ends `late` after the stop, if it does not panic at a count.
    fn begin(late: Duration, panics_at: u32) -> (Shift, Crew, CancellationToken, Arc<AtomicU32>) {
        let (crew, stop, written) = (Crew::new(Arc::default()), CancellationToken::new(), Arc::new(AtomicU32::new(0)));
        let runtime = Runtime {
            concurrency: 1,
            backoff: Backoff::default(),
            stop: stop.clone(),
            metrics: Arc::default(),
            reports: Reports::new(nobody(), "test", &crew),
        };
        let count = written.clone();
        let works = Loop::new("the loop of Agents", move |runtime: Runtime| async move {
            let writes = async {
                loop {
                    sleep(Duration::from_secs(1)).await;
                    assert!(count.fetch_add(1, Ordering::SeqCst) < panics_at, "on purpose");
                }
            };
            let ends = async {
                runtime.stop.cancelled().await;
                sleep(late).await;
            };
            tokio::select! { () = writes => {}, () = ends => {} }
        });
        (Shift::begin(vec![works], &runtime, crew.clone(), DRAIN), crew, stop, written)
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_stop_it_waits_for_what_ends_in_time_and_cuts_what_does_not() {
        for (late, waits) in [(5, Duration::from_secs(5)), (3600, DRAIN)] {
            let (mut shift, _, stop, written) = begin(Duration::from_secs(late), u32::MAX);
            sleep(Duration::from_millis(500)).await;
            stop.cancel();
            let asked = Instant::now();
            shift.over().await.unwrap();
            assert_eq!(asked.elapsed(), waits, "{late}");
            assert!(shift.cut().await);
            assert_eq!(asked.elapsed(), waits, "{late}: cutting takes no time");
            let before = written.load(Ordering::SeqCst);
            sleep(Duration::from_hours(1)).await;
            assert_eq!(written.load(Ordering::SeqCst), before, "{late}: nothing is written afterwards");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_panics_is_the_end_of_all() {
        let (mut shift, _, _, _) = begin(Duration::ZERO, 3);
        let failure = shift.over().await.unwrap_err();
        assert!(failure.message.contains("the loop of Agents panicked (on purpose)"), "{failure}");
        let (mut shift, crew, _, written) = begin(Duration::ZERO, u32::MAX);
        crew.vital("the watch of Tasks", sleep(Duration::from_millis(2500)));
        let failure = shift.over().await.unwrap_err();
        assert!(failure.message.contains("the watch of Tasks has ended"), "{failure}");
        assert!(shift.cut().await);
        sleep(Duration::from_hours(1)).await;
        assert_eq!(written.load(Ordering::SeqCst), 2);
    }

    /// What computes cannot be cut: whoever takes over has to wait for the end of the Lease.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_computes_is_not_said_to_have_ended() {
        let (crew, stop) = (Crew::new(Arc::default()), CancellationToken::new());
        let reports = Reports::new(nobody(), "test", &crew);
        let (backoff, metrics) = (Backoff::default(), Arc::default());
        let runtime = Runtime { concurrency: 1, backoff, stop, metrics, reports };
        let (told, computes) = tokio::sync::oneshot::channel();
        let (end, ends) = std::sync::mpsc::channel::<()>();
        let works = Loop::new("computes", move |_| async move {
            let _ = told.send(());
            let _ = ends.recv();
        });
        let shift = Shift::begin(vec![works], &runtime, crew, DRAIN);
        computes.await.unwrap();
        assert!(!shift.cut().await);
        drop(end);
    }
}
