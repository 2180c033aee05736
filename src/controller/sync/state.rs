//! What is remembered of each Sync between reconciles. Everything here can be lost: it is found again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    api::{GoDuration, SyncStatus},
    apply::Memory,
    object::ObjectId,
    plan::{Health, digest},
};

/// First and longest delay between two rounds of looking at objects that are not healthy yet.
const ROUNDS: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(10));

/// Shortest delay before a failure is tried again, and how far repetition stretches shorter ones than it.
const RETRIES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// One Sync.
#[derive(Debug)]
pub(super) struct State {
    /// The object's uid: another object of the same name starts anew.
    pub(super) uid: String,
    /// What was true of each object when it was applied.
    pub(super) objects: Memory,
    /// The rest.
    pub(super) progress: Mutex<Progress>,
}

/// The part of a Sync's state that changes as a whole.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// The status as written last. The cache may still show an older one, and deciding from an old inventory would
    /// leak objects.
    pub(super) status: Option<SyncStatus>,
    /// `resourceVersion` of the Sync as it was seen when its finalizer was written.
    pub(super) finalizer_written_at: Option<String>,
    /// Artifact and generation that the last complete apply was made from.
    pub(super) input: Option<Input>,
    /// Digest of what was applied completely.
    pub(super) digest: Option<String>,
    /// Objects that are not healthy.
    pub(super) unhealthy: BTreeMap<ObjectId, Health>,
    /// Since when health is waited for, and how many rounds there were.
    pub(super) waiting: Option<(Instant, u32)>,
    /// Failures since the last success that wait for `spec.retryInterval`.
    pub(super) failures: u32,
    /// When changes made by others are looked for next.
    pub(super) look_at: Option<Instant>,
    /// Objects of which an event said that they may have changed.
    pub(super) dirty: BTreeSet<ObjectId>,
}

/// What a render depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Input {
    pub(super) revision: String,
    pub(super) digest: String,
    pub(super) generation: Option<i64>,
}

impl State {
    pub(super) fn new(uid: &str) -> Self {
        Self { uid: uid.into(), objects: Memory::default(), progress: Mutex::default() }
    }
}

impl Progress {
    /// Delay before the next round of health checks.
    pub(super) fn next_round(&self) -> Duration {
        let rounds = self.waiting.map_or(0, |(_, rounds)| rounds).min(16);
        ROUNDS.0.saturating_mul(1 << rounds).min(ROUNDS.1)
    }

    /// Delay before a failure is tried again: the interval asked for, from a second on, twice as long each time up to
    /// a minute.
    pub(super) fn next_retry(&mut self, interval: &GoDuration) -> Duration {
        let first = interval.or(RETRIES.1).max(RETRIES.0);
        let delay = first.saturating_mul(1 << self.failures.min(16)).min(first.max(RETRIES.1));
        self.failures = self.failures.saturating_add(1);
        delay
    }

    /// Whether waiting has lasted longer than `timeout`.
    pub(super) fn is_late(&self, timeout: Duration, now: Instant) -> bool {
        self.waiting.is_some_and(|(since, _)| now.duration_since(since) > timeout)
    }

    /// An apply of other content: a wait for the older one is over.
    pub(super) fn restart_wait(&mut self, now: Instant) {
        self.waiting = (!self.unhealthy.is_empty()).then_some((now, 0));
    }
}

/// All Syncs, by `namespace/name`.
#[derive(Default)]
pub(super) struct States(Mutex<HashMap<String, Arc<State>>>);

impl States {
    /// The state of a Sync; a new one where there is none of this object.
    pub(super) fn of(&self, key: &str, uid: &str) -> Arc<State> {
        let mut all = self.0.lock();
        let state = all.entry(key.to_owned()).or_insert_with(|| Arc::new(State::new(uid)));
        if state.uid != uid {
            *state = Arc::new(State::new(uid));
        }
        state.clone()
    }

    /// The state of a Sync, if there is one.
    pub(super) fn get(&self, key: &str) -> Option<Arc<State>> {
        self.0.lock().get(key).cloned()
    }

    pub(super) fn forget(&self, key: &str) {
        self.0.lock().remove(key);
    }
}

/// The time until the next look: the interval, less up to a tenth by the Sync's name, so that many Syncs that were
/// created together do not look together.
pub(super) fn jittered(interval: Duration, key: &str) -> Duration {
    interval.mul_f64(1.0 - 0.1 * share(key))
}

/// A number in `0.0..1.0` that is the same for the same name.
pub(super) fn share(key: &str) -> f64 {
    let digits = digest::of_value(&key.into());
    let number = u32::from_str_radix(&digits[..6], 16).unwrap_or_default();
    f64::from(number) / f64::from(1 << 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_grow_to_their_bound() {
        let mut progress = Progress::default();
        let mut delays = vec![];
        for round in [0, 1, 5, 40] {
            progress.waiting = Some((Instant::now(), round));
            delays.push(progress.next_round().as_millis());
        }
        assert_eq!(delays, [300, 600, 9600, 10_000]);
    }

    #[test]
    fn retries_have_a_floor_and_get_rarer() {
        for (interval, want) in
            [("0s", [1, 2, 4, 8, 16, 32, 60]), ("30s", [30, 60, 60, 60, 60, 60, 60]), ("5m", [300; 7])]
        {
            let mut progress = Progress::default();
            assert_eq!(want.map(|_| progress.next_retry(&interval.into()).as_secs()), want, "{interval}");
        }
    }

    #[test]
    fn another_object_of_the_same_name_starts_anew() {
        let states = States::default();
        states.of("n/a", "1").progress.lock().digest = Some("d".into());
        assert!(states.of("n/a", "1").progress.lock().digest.is_some());
        assert!(states.of("n/a", "2").progress.lock().digest.is_none());
    }

    #[test]
    fn shares_are_spread() {
        let shares: Vec<f64> = (0..100).map(|n| share(&format!("ns/sync-{n}"))).collect();
        assert!(shares.iter().all(|s| (0.0..1.0).contains(s)));
        assert!(shares.iter().filter(|s| **s < 0.5).count() > 25);
    }
}
