//! Puts what became of Tasks and Syncs into the history, beside the reconciles: none of them waits for the database.
//!
//! The objects are the truth, and the queue holds their names alone: whatever is in the cache and not known to be in the
//! history is written. So a database that was away, or a process that ended, costs nothing but time. Of objects that are
//! deleted meanwhile the record itself is kept, `desk::LEFT` at most.

mod desk;

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use jiff::Timestamp;
use kube::ResourceExt;
use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Loop, Settings, caches::Caches, runtime::Runtime};
use crate::{
    api::{Sync, Task, names::reasons},
    status::{Backoff, Failure},
    store::{Keep, Store, StoreError, SyncRecord, TaskRecord},
    task,
};
use desk::{Batch, Desk};

/// How long after its end a Task is kept for a history that does not take it.
pub const PATIENCE: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);
/// How many finished Tasks a namespace keeps beyond what it may for such a history.
pub const SPARE: usize = 1000;
/// Objects that are written at once.
const AT_ONCE: usize = 100;
/// Between two looks for records that are not kept any more.
const TRIM: Duration = Duration::from_hours(1);
/// Between two tries at a database that does not do its work: short, so that it soon has what it lacks.
const RETRY: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(15) };

/// The history as reconcilers see it. Cheap to clone; without a database it keeps nobody.
#[derive(Clone, Default)]
pub struct History(Option<Arc<Inner>>);

struct Inner {
    store: Store,
    keep: Keep,
    caches: Caches,
    desk: Mutex<Desk>,
    changed: Notify,
    counts: Counts,
    wake: OnceLock<Wake>,
}

/// Called with namespace and name of a Task.
type Wake = Box<dyn Fn(&str, &str) + Send + std::marker::Sync>;

#[derive(Default)]
struct Counts {
    up: AtomicBool,
    written: AtomicU64,
    failed: AtomicU64,
}

/// The store that the flags name, if they name one. Nothing is connected yet.
///
/// # Errors
/// A stalled [`Failure`] where they name none that is known.
pub fn open(settings: &Settings) -> Result<Option<Store>, Failure> {
    let failed = |error: StoreError| Failure::stalled(reasons::HISTORY_UNAVAILABLE, error.to_string());
    let Some(place) = settings.history_database_url.place(&settings.data_dir).map_err(failed)? else {
        info!("there is no history: --history-database-url is none");
        return Ok(None);
    };
    info!("history: {place}");
    Store::open(&place).map(Some).map_err(failed)
}

impl History {
    /// Watches the caches.
    pub fn new(store: Option<Store>, settings: &Settings, caches: &Caches) -> Self {
        let Some(store) = store else { return Self(None) };
        let age = Duration::from_hours(u64::from(settings.history_days) * 24);
        let inner = Arc::new(Inner {
            store,
            keep: Keep { age, records: settings.history_records },
            caches: caches.clone(),
            desk: Mutex::default(),
            changed: Notify::new(),
            counts: Counts::default(),
            wake: OnceLock::new(),
        });
        let this = inner.clone();
        caches.tasks.on_change(move |change| this.task(change.object, change.deleted));
        let this = inner.clone();
        caches.syncs.on_change(move |change| this.sync(change.object, change.deleted));
        Self(Some(inner))
    }

    /// Whether what became of a finished Task is in the history, or none is kept. Who hears that it is not is woken when
    /// it is.
    pub fn is_recorded(&self, task: &Task) -> bool {
        self.0.as_ref().is_none_or(|inner| inner.desk.lock().is_recorded(&task.uid().unwrap_or_default()))
    }

    /// Whom to wake when a Task that has asked is recorded: by namespace and name.
    pub fn on_recorded(&self, wake: impl Fn(&str, &str) + Send + std::marker::Sync + 'static) {
        if let Some(inner) = &self.0 {
            let _ = inner.wake.set(Box::new(wake)); // there is one kind that asks
        }
    }

    /// The loop that writes, for the replica that leads.
    pub fn writer(&self) -> Option<Loop> {
        let inner = self.0.clone()?;
        Some(Loop::new(
            "the loop of the history",
            move |runtime: Runtime| async move { inner.work(runtime.stop).await },
        ))
    }

    /// What is measured of it.
    pub fn collector(&self) -> Option<Box<dyn Collector>> {
        self.0.clone().map(|inner| Box::new(Figures(inner)) as Box<dyn Collector>)
    }
}

impl Inner {
    fn task(&self, task: &Task, deleted: bool) {
        if !task::is_finished(task) {
            return;
        }
        let uid = task.uid().unwrap_or_default();
        let record = || TaskRecord::of(task);
        let left = deleted.then(record).flatten();
        let news = self.desk.lock().task(&key(task), &uid, left);
        if news {
            self.changed.notify_one();
        }
    }

    fn sync(&self, sync: &Sync, deleted: bool) {
        let records = SyncRecord::of(sync);
        let news = self.desk.lock().sync(&key(sync), &sync.uid().unwrap_or_default(), records, deleted);
        if news {
            self.changed.notify_one();
        }
    }

    /// Writes until `stop`; what is there already is found in the caches.
    async fn work(&self, stop: CancellationToken) {
        self.desk.lock().begin();
        for task in self.caches.tasks.all() {
            self.task(&task, false);
        }
        for sync in self.caches.syncs.all() {
            self.sync(&sync, false);
        }
        tokio::select! { () = stop.cancelled() => {} () = self.serve() => {} }
        self.store.close().await;
    }

    async fn serve(&self) {
        self.prepare().await;
        let mut trim = Instant::now();
        loop {
            if trim <= Instant::now() {
                // Not patiently: who may not delete can write all the same.
                if let Err(error) = self.store.trim(self.keep, Timestamp::now()).await {
                    self.counts.failed.fetch_add(1, Relaxed);
                    warn!("records that are too old stay in the history for another hour: {error}");
                }
                trim = Instant::now() + TRIM;
            }
            let changed = self.changed.notified();
            let batch = self.desk.lock().take(AT_ONCE);
            if batch.is_empty() {
                tokio::select! { () = changed => {} () = sleep_until(trim) => {} }
            } else {
                self.write(batch).await;
            }
        }
    }

    async fn prepare(&self) {
        self.patiently("the history cannot be opened", || self.store.prepare()).await;
    }

    async fn write(&self, batch: Batch) {
        let since = self.keep.since(Timestamp::now());
        let mut tasks: Vec<TaskRecord> = batch
            .tasks
            .iter()
            .filter_map(|key| {
                let task = self.caches.tasks.get(&key.0, &key.1)?;
                TaskRecord::of(&task)
            })
            .collect();
        let syncs = batch.syncs.iter().filter_map(|key| self.caches.syncs.get(&key.0, &key.1));
        let mut syncs: Vec<SyncRecord> = syncs.flat_map(|sync| SyncRecord::of(&sync)).collect();
        let done = desk::Done::of(&tasks, &syncs);
        tasks.extend(batch.left.tasks);
        syncs.extend(batch.left.syncs);
        // What would be taken out again at once.
        tasks.retain(|record| record.ended >= since);
        syncs.retain(|record| record.applied >= since);
        if !self.put(&tasks, &syncs).await {
            // One of them is in the way of the others.
            for task in &tasks {
                self.alone(&format!("Task {}/{}", task.namespace, task.name), std::slice::from_ref(task), &[]).await;
            }
            for sync in &syncs {
                self.alone(&format!("Sync {}/{}", sync.namespace, sync.name), &[], std::slice::from_ref(sync)).await;
            }
        }
        let woken = self.desk.lock().done(done, |key, uid| self.is_there(key, uid));
        for (namespace, name) in woken {
            if let Some(wake) = self.wake.get() {
                wake(&namespace, &name);
            }
        }
    }

    /// Whether an object of that uid is in the caches still. Who is not will never be told as deleted.
    fn is_there(&self, key: &desk::Key, uid: &str) -> bool {
        let task = self.caches.tasks.get(&key.0, &key.1).and_then(|task| task.uid());
        let sync = self.caches.syncs.get(&key.0, &key.1).and_then(|sync| sync.uid());
        [task, sync].iter().flatten().any(|found| found == uid)
    }

    /// Puts them in. False where the database refuses one of them for good.
    async fn put(&self, tasks: &[TaskRecord], syncs: &[SyncRecord]) -> bool {
        if tasks.is_empty() && syncs.is_empty() {
            return true;
        }
        let put = || async {
            match self.store.put(tasks, syncs).await {
                Err(error) if error.is_refusal() => Ok(Err(error)),
                other => other.map(Ok),
            }
        };
        match self.patiently("what became of Tasks and Syncs is not in the history", put).await {
            Ok(written) => {
                self.counts.written.fetch_add(written, Relaxed);
                true
            }
            Err(error) => {
                debug!("the database of the history refuses a record: {error}");
                false
            }
        }
    }

    async fn alone(&self, whose: &str, tasks: &[TaskRecord], syncs: &[SyncRecord]) {
        if !self.put(tasks, syncs).await {
            warn!("the database of the history refuses the record of {whose}: it is lost (is its encoding UTF8?)");
            self.desk.lock().lose();
        }
    }

    /// Does it until it has worked. A database that is away is said once.
    async fn patiently<T, F>(&self, what: &str, work: impl Fn() -> F) -> T
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut failed = 0_u32;
        loop {
            match work().await {
                Ok(done) => {
                    if !self.counts.up.swap(true, Relaxed) {
                        info!("the history is written");
                    }
                    return done;
                }
                Err(error) => {
                    self.counts.failed.fetch_add(1, Relaxed);
                    if self.counts.up.swap(false, Relaxed) || failed == 0 {
                        warn!("{what}; it is tried again until it works: {error}");
                    } else {
                        debug!("{what}: {error}");
                    }
                    failed = failed.saturating_add(1);
                    sleep(RETRY.delay(failed, rand::random())).await;
                    // It may have been made anew, without our tables.
                    let _ = self.store.prepare().await;
                }
            }
        }
    }
}

fn key(object: &impl kube::ResourceExt) -> desk::Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

struct Figures(Arc<Inner>);

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures(history)")
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (counts, desk) = (&self.0.counts, self.0.desk.lock());
        for (name, help, value) in [
            ("history_written", "Records that were put in the history", counts.written.load(Relaxed)),
            (
                "history_failed_writes",
                "Requests to the database of the history that failed",
                counts.failed.load(Relaxed),
            ),
            (
                "history_lost",
                "Records that the history never got: too many of deleted objects waited, or it refused them",
                desk.lost(),
            ),
        ] {
            let value = ConstCounter::new(value);
            value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)?;
        }
        for (name, help, value) in [
            (
                "history_up",
                "Whether the database of the history answered the last request",
                i64::from(counts.up.load(Relaxed)),
            ),
            (
                "history_waiting",
                "Objects whose records are not in the history yet",
                i64::try_from(desk.waiting()).unwrap_or_default(),
            ),
        ] {
            let value = ConstGauge::new(value);
            value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)?;
        }
        Ok(())
    }
}
