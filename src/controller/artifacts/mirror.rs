//! Copies of what is named, so that any replica can serve it whoever dies: a follower asks the leader, and a leader that
//! lacks something asks the Service, behind which the others are.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::Rng as _;
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tracing::{debug, info, warn};

use super::{super::runtime::Crew, Named};
use crate::{
    artifact::{
        Digest, FetchError, Fetcher, Store,
        fetch::{Endpoint, Trust},
    },
    server::voice::Leadership,
};

/// Copies that are fetched at once.
const AT_ONCE: usize = 4;
/// Changes that come together are looked at together.
const GATHER: Duration = Duration::from_millis(100);
/// How often everything is looked at, whatever events say: files may vanish.
const ROUND: Duration = Duration::from_mins(1);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_mins(1);
/// A follower lacks what the leader makes this very moment: what is missing for less long is nothing to speak of.
const WORTH_A_WORD: u32 = 4;

/// How other replicas are asked.
#[derive(Clone)]
pub(in crate::controller) struct Source {
    /// The Service of all replicas; its name is what certificates are for.
    pub service: String,
    /// The authority of their certificates, in PEM.
    pub authority: Arc<str>,
    /// The controller's own token for the audience of sidecars.
    pub token_file: std::path::PathBuf,
}

/// How far the copies are. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(in crate::controller) struct Copies(Arc<Numbers>);

#[derive(Debug, Default)]
struct Numbers {
    fetched: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
    missing: AtomicI64,
    /// When the artifact that has been missing for longest was missed, in seconds since the epoch; 0 for none.
    since: AtomicI64,
}

impl Copies {
    pub(in crate::controller) fn fetched(&self) -> u64 {
        self.0.fetched.load(Ordering::Relaxed)
    }

    pub(in crate::controller) fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    pub(in crate::controller) fn failed(&self) -> u64 {
        self.0.failed.load(Ordering::Relaxed)
    }

    pub(in crate::controller) fn missing(&self) -> i64 {
        self.0.missing.load(Ordering::Relaxed)
    }

    /// For how long something has been missing, in seconds.
    pub(in crate::controller) fn lag(&self) -> i64 {
        match self.0.since.load(Ordering::Relaxed) {
            0 => 0,
            since => (jiff::Timestamp::now().as_second() - since).max(0),
        }
    }

    fn set(&self, missing: &HashMap<Digest, Attempt>) {
        self.0.missing.store(i64::try_from(missing.len()).unwrap_or(i64::MAX), Ordering::Relaxed);
        let since = missing.values().map(|attempt| attempt.since.elapsed()).max();
        let since = since.map_or(0, |ago| {
            let ago = i64::try_from(ago.as_secs()).unwrap_or(i64::MAX);
            jiff::Timestamp::now().as_second().saturating_sub(ago)
        });
        self.0.since.store(since, Ordering::Relaxed);
    }
}

/// Something that is named and not here.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    since: Instant,
    failures: u32,
    next: Instant,
}

/// A copy of one that has not run knows of nothing that is missing.
#[derive(Clone)]
struct Mirror {
    store: Arc<Store>,
    named: Named,
    fetcher: Fetcher,
    leadership: watch::Receiver<Leadership>,
    counts: Copies,
    missing: HashMap<Digest, Attempt>,
    under_way: HashSet<Digest>,
}

/// Keeps copies, and counts them in `counts`.
pub(in crate::controller) fn start(
    store: &Arc<Store>,
    named: &Named,
    source: &Source,
    (leadership, counts): (watch::Receiver<Leadership>, Copies),
    crew: &Crew,
) {
    let trust = Trust::Pem(source.authority.clone());
    let fetcher = match Endpoint::trusting(&source.service, trust, source.token_file.clone()) {
        Ok(endpoint) => Fetcher::new(endpoint),
        Err(error) => return warn!("artifacts are not copied between replicas: {error}"),
    };
    let (store, named, (missing, under_way)) = (store.clone(), named.clone(), Default::default());
    let mirror = Mirror { store, named, fetcher, leadership, counts, missing, under_way };
    crew.keep("copies", move || mirror.clone().run());
}

impl Mirror {
    async fn run(mut self) {
        let mut running = JoinSet::new();
        let mut looked = self.look().await;
        loop {
            self.begin(&mut running);
            let wake = self.next_attempt().unwrap_or(looked + ROUND).min(looked + ROUND);
            tokio::select! {
                () = self.named.changed() => {
                    tokio::time::sleep(GATHER).await;
                    looked = self.look().await;
                }
                Ok(()) = self.leadership.changed() => self.ask_again(),
                Some(done) = running.join_next() => {
                    if let Ok((digest, result)) = done {
                        self.note(digest, result);
                    } else {
                        // It panicked: whose it was is not known, so all are begun again.
                        self.under_way.clear();
                        running.abort_all();
                    }
                }
                () = tokio::time::sleep_until(wake) => {
                    if looked.elapsed() >= ROUND {
                        looked = self.look().await;
                    }
                }
            }
        }
    }

    /// Finds out what is missing.
    async fn look(&mut self) -> Instant {
        let (named, store) = (self.named.clone(), self.store.clone());
        let missing = tokio::task::spawn_blocking(move || {
            named.needed().into_iter().filter(|digest| !store.contains(digest)).collect::<BTreeSet<_>>()
        });
        let missing = missing.await.unwrap_or_default();
        let now = Instant::now();
        self.missing.retain(|digest, _| missing.contains(digest));
        for digest in missing {
            self.missing.entry(digest).or_insert(Attempt { since: now, failures: 0, next: now });
        }
        self.counts.set(&self.missing);
        now
    }

    /// Somebody else leads: it may have what its predecessor lacked.
    fn ask_again(&mut self) {
        let now = Instant::now();
        for attempt in self.missing.values_mut() {
            (attempt.next, attempt.failures) = (now, 0);
        }
    }

    fn next_attempt(&self) -> Option<Instant> {
        let waiting = self.missing.iter().filter(|(digest, _)| !self.under_way.contains(digest));
        let room = self.under_way.len() < AT_ONCE;
        waiting.map(|(_, attempt)| attempt.next).min().filter(|_| room)
    }

    /// Begins what is due, as far as there is room.
    fn begin(&mut self, running: &mut JoinSet<(Digest, Result<u64, FetchError>)>) {
        let leadership = self.leadership.borrow().clone();
        let from = match leadership {
            Leadership::Leader => None,
            Leadership::Follower(address) => Some(address),
            Leadership::Unknown => return self.put_off(),
        };
        let now = Instant::now();
        let mut due: Vec<(Instant, Digest)> = self
            .missing
            .iter()
            .filter(|(digest, attempt)| attempt.next <= now && !self.under_way.contains(digest))
            .map(|(digest, attempt)| (attempt.next, *digest))
            .collect();
        due.sort_unstable();
        for (_, digest) in due.into_iter().take(AT_ONCE.saturating_sub(self.under_way.len())) {
            self.under_way.insert(digest);
            let (fetcher, store, from) = (self.fetcher.clone(), self.store.clone(), from.clone());
            running.spawn(async move { (digest, copy(&fetcher, store, digest, from.as_deref()).await) });
        }
    }

    /// Nobody leads: who will is told by the Lease.
    fn put_off(&mut self) {
        let later = Instant::now() + FIRST_RETRY;
        for attempt in self.missing.values_mut() {
            attempt.next = attempt.next.max(later);
        }
    }

    fn note(&mut self, digest: Digest, result: Result<u64, FetchError>) {
        self.under_way.remove(&digest);
        match result {
            Ok(size) => {
                info!(%digest, size, "an artifact was copied");
                self.counts.0.fetched.fetch_add(1, Ordering::Relaxed);
                self.counts.0.bytes.fetch_add(size, Ordering::Relaxed);
                self.missing.remove(&digest);
            }
            Err(error) => {
                self.counts.0.failed.fetch_add(1, Ordering::Relaxed);
                let Some(attempt) = self.missing.get_mut(&digest) else { return };
                attempt.failures += 1;
                let ceiling = LAST_RETRY.min(FIRST_RETRY * 2u32.saturating_pow(attempt.failures.min(10)));
                let pause = rand::rng().random_range(FIRST_RETRY / 2..=ceiling);
                attempt.next = Instant::now() + pause;
                if attempt.failures == WORTH_A_WORD {
                    warn!(%digest, %error, "an artifact that is named is not here and cannot be copied; it is tried again");
                } else {
                    debug!(%digest, %error, retry_in = ?pause, "an artifact was not copied");
                }
            }
        }
        self.counts.set(&self.missing);
    }
}

/// Fetches and keeps an archive; returns its size.
async fn copy(fetcher: &Fetcher, store: Arc<Store>, digest: Digest, from: Option<&str>) -> Result<u64, FetchError> {
    if store.contains(&digest) {
        return Ok(0); // made or put here meanwhile
    }
    let parts = store.parts();
    let archive = fetcher.download(&digest, None, &parts, from).await?;
    let kept = tokio::task::spawn_blocking(move || {
        let size = archive.as_file().metadata()?.len();
        store.adopt(archive, &digest).map_err(|error| std::io::Error::other(error.to_string()))?;
        Ok(size)
    });
    kept.await.unwrap_or_else(|e| Err(std::io::Error::other(e))).map_err(|error| FetchError::Disk(parts, error))
}
