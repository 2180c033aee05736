//! Shared activity: the lock around it, who waits for a release, who is told of changes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::activity::{Activity, QUIET, Snapshot};
use crate::api::voice::MAX_HOLD_MS;

/// A prompt waits at most this long for a release.
pub const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A hold ends by itself after this long, whatever was asked for: a dead controller blocks nobody. A controller that
/// needs longer asks again before.
pub const LONGEST_HOLD: Duration = Duration::from_millis(MAX_HOLD_MS);

/// The activity of one pod, shared by the door, the watcher of events and the voice. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Work {
    activity: Arc<Mutex<Activity>>,
    followers: Arc<AtomicUsize>,
    /// Of a pod that goes on with its sessions while it ends: those who listen to the server's events. They are attached.
    listeners: Option<Arc<AtomicUsize>>,
    sequence: watch::Sender<u64>,
}

/// How long an answer to "has all work ended?" waits for the end to begin: two hooks of a pod run side by side.
const BEGINS: Duration = Duration::from_secs(10);
/// A server whose events are not seen for this long while the pod ends has nothing left that could be waited for.
const LOST: Duration = Duration::from_secs(15);

/// After work has ended while the pod ends, for this long whoever waits for its outcome can read it, ...
const OUTCOME: Duration = Duration::from_secs(3);
/// ... and for this long somebody who still follows the session.
const FOLLOWED: Duration = Duration::from_secs(30);

/// Why a prompt does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Prompts were held for longer than one may wait.
    Held {
        /// When to try again.
        retry_after: Duration,
    },
    /// There is no room for another connection.
    Full,
    /// The pod ends; another one takes the next prompt.
    Ending,
}

/// The pod does not end, so there is no end of work to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotEnding;

impl Default for Work {
    fn default() -> Self {
        let activity = Arc::new(Mutex::new(Activity::new(Instant::now())));
        Self { activity, followers: Arc::default(), listeners: None, sequence: watch::Sender::new(0) }
    }
}

impl Work {
    /// Of a pod that goes on with its sessions while it ends, for as long as somebody is attached.
    pub fn lasting() -> Self {
        let work = Self { listeners: Some(Arc::default()), ..Self::default() };
        *work.activity.lock() = Activity::lasting(Instant::now());
        work
    }

    /// How many are attached to a pod that goes on with its sessions while it ends.
    pub fn attached(&self) -> u32 {
        let Some(listeners) = &self.listeners else { return 0 };
        let listeners = u32::try_from(listeners.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        self.snapshot().attached.saturating_add(listeners)
    }

    /// Whether new sessions are refused because the pod ends.
    pub fn is_ending(&self) -> bool {
        self.snapshot().draining
    }

    /// Changes the activity and tells those who follow it.
    pub fn update<R>(&self, change: impl FnOnce(&mut Activity, Instant) -> R) -> R {
        let (result, sequence) = {
            let now = Instant::now();
            let mut activity = self.activity.lock();
            let result = change(&mut activity, now);
            (result, activity.snapshot(now).sequence)
        };
        self.sequence.send_if_modified(|old| std::mem::replace(old, sequence.max(*old)) < sequence);
        result
    }

    /// The state now.
    pub fn snapshot(&self) -> Snapshot {
        self.activity.lock().snapshot(Instant::now())
    }

    /// Whether any session is at work or expected to be.
    pub fn has_sessions(&self) -> bool {
        self.activity.lock().has_sessions()
    }

    /// Sequence numbers as they come.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.sequence.subscribe()
    }

    /// Begins a request that may change something. A prompt (`session` given) waits while prompts are held; checking
    /// and counting is one step, so none slips between.
    pub async fn enter(&self, session: Option<String>) -> Result<Entered, Refused> {
        let deadline = Instant::now() + LONGEST_WAIT;
        let mut changes = self.changes();
        loop {
            changes.mark_unchanged();
            let held = self.update(|activity, now| try_begin(activity, session.as_deref(), now))?;
            let Some(until) = held else { return Ok(Entered { work: self.clone(), session, served: false }) };
            if Instant::now() >= deadline {
                return Err(Refused::Held { retry_after: until.saturating_duration_since(Instant::now()) });
            }
            let wake = until.min(deadline).into();
            let _ = tokio::time::timeout_at(wake, changes.changed()).await;
        }
    }

    /// Holds prompts for `lease` ([`LONGEST_HOLD`] at most) and says, after the quiet time, whether the server is
    /// idle. Work that is known of is reported at once.
    pub async fn hold(&self, lease: Duration) -> (Snapshot, bool) {
        let until = Instant::now() + lease.min(LONGEST_HOLD);
        self.update(|activity, now| activity.hold(until, now));
        let deadline = Instant::now() + QUIET * 10;
        loop {
            let (snapshot, idle) = self.verdict();
            if idle || !snapshot.without_work() || Instant::now() >= deadline.min(until) {
                return (snapshot, idle);
            }
            tokio::time::sleep(QUIET / 4).await;
        }
    }

    /// Holds prompts for a change inside of this pod if nothing is at work: checking and holding is one step. `None`
    /// where something is, or where it does not stay quiet for [`QUIET`].
    pub async fn seize(&self) -> Option<Held> {
        let seized = self.update(|activity, now| {
            let quiet = activity.snapshot(now).without_work();
            if quiet {
                activity.hold_inside(now + LONGEST_HOLD, now);
            }
            quiet
        });
        let held = seized.then(|| Held(self.clone()))?;
        let deadline = Instant::now() + QUIET * 10;
        loop {
            let (snapshot, idle) = self.verdict();
            if idle {
                return Some(held);
            }
            if !snapshot.without_work() || Instant::now() >= deadline {
                return None;
            }
            tokio::time::sleep(QUIET / 4).await;
        }
    }

    /// Holds prompts for a change inside of this pod, whatever goes on.
    pub fn seize_anyway(&self) -> Held {
        self.update(|activity, now| activity.hold_inside(now + LONGEST_HOLD, now));
        Held(self.clone())
    }

    /// The pod ends: new prompts are refused from now on, those that wait included.
    pub fn drain(&self) {
        self.update(Activity::drain);
    }

    /// Returns when the pod ends and its work has ended: the answers are given, and those who wait for the outcome of
    /// a session had time to read it. Whoever asks changes nothing.
    pub async fn drained(&self) -> Result<(), NotEnding> {
        let mut changes = self.changes();
        let begun = async { while !self.snapshot().draining && changes.changed().await.is_ok() {} };
        tokio::time::timeout(BEGINS, begun).await.map_err(|_| NotEnding)?;
        let (mut heard, mut worked, mut rests) = (Instant::now(), false, None::<Instant>);
        loop {
            let ((snapshot, idle), followed) = (self.verdict(), self.followers.load(Ordering::Relaxed) > 0);
            if snapshot.known {
                heard = Instant::now();
            }
            worked |= !snapshot.without_work();
            rests = if idle && self.attached() == 0 { rests.or_else(|| Some(Instant::now())) } else { None };
            let left = if followed {
                FOLLOWED
            } else if worked {
                OUTCOME
            } else {
                Duration::ZERO
            };
            if rests.is_some_and(|since| since.elapsed() >= left) || heard.elapsed() >= LOST {
                return Ok(());
            }
            tokio::time::sleep(QUIET).await;
        }
    }

    /// State and idleness, read at one moment.
    pub fn verdict(&self) -> (Snapshot, bool) {
        let now = Instant::now();
        let activity = self.activity.lock();
        (activity.snapshot(now), activity.idle(now))
    }

    /// State, idleness and sessions at work, read at one moment.
    pub fn report(&self) -> (Snapshot, bool, Vec<String>) {
        let now = Instant::now();
        let activity = self.activity.lock();
        (activity.snapshot(now), activity.idle(now), activity.busy_sessions())
    }

    /// Lets prompts pass.
    pub fn release(&self) {
        self.update(Activity::release);
    }
}

/// Begins a request, or says until when its prompt is held.
///
/// # Errors
/// The pod ends.
pub fn try_begin(activity: &mut Activity, session: Option<&str>, now: Instant) -> Result<Option<Instant>, Refused> {
    if let Some(session) = session {
        if activity.refuses(session) {
            return Err(Refused::Ending);
        }
        if let Some(until) = activity.held(now) {
            return Ok(Some(until));
        }
    }
    activity.begin(session, now);
    Ok(None)
}

/// A request under way; dropping it ends it.
#[derive(Debug)]
pub struct Entered {
    work: Work,
    session: Option<String>,
    served: bool,
}

impl Entered {
    /// The answer that ends the work was given whole.
    pub fn served(&mut self) {
        self.served = true;
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let (session, served) = (self.session.take(), self.served);
        self.work.update(|activity, now| activity.end(session.as_deref(), served, now));
    }
}

/// Prompts are held for a change inside of this pod; dropping it lets them pass.
#[derive(Debug)]
pub struct Held(Work);

impl Held {
    /// Holds them until `change` is made, however long that takes: a prompt that came between its steps would be cut.
    /// One that waits for longer than [`LONGEST_WAIT`] is told to come again.
    pub async fn during<T>(&self, change: impl Future<Output = T>) -> T {
        let mut change = std::pin::pin!(change);
        loop {
            self.0.update(|activity, now| activity.hold_inside(now + LONGEST_HOLD, now));
            if let Ok(done) = tokio::time::timeout(LONGEST_HOLD / 2, change.as_mut()).await {
                return done;
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.update(Activity::release_inside);
    }
}

/// Somebody follows a session of this pod to its end; dropping it ends that.
#[derive(Debug)]
pub struct Following(Work);

impl Following {
    /// Counts a follower.
    pub fn new(work: &Work) -> Self {
        work.followers.fetch_add(1, Ordering::Relaxed);
        Self(work.clone())
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.0.followers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Somebody listens to the server's events; dropping it ends that.
#[derive(Debug)]
pub struct Listening(Work);

impl Listening {
    /// Counts a listener, where they count.
    pub fn new(work: &Work) -> Option<Self> {
        work.listeners.as_ref()?.fetch_add(1, Ordering::Relaxed);
        Some(Self(work.clone()))
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(listeners) = &self.0.listeners {
            listeners.fetch_sub(1, Ordering::Relaxed);
        }
        self.0.update(Activity::left);
    }
}

/// An upgraded connection; dropping it detaches it.
#[derive(Debug)]
pub struct Attached(Work);

impl Attached {
    /// Counts a connection.
    pub fn new(work: &Work) -> Self {
        work.update(|activity, now| activity.attach(true, now));
        Self(work.clone())
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.0.update(|activity, now| activity.attach(false, now));
    }
}
