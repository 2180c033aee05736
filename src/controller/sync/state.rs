//! What is remembered of each Sync between reconciles. Everything here can be lost: it is found again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{report, unanswered::Unanswered};
use crate::{
    api::{GoDuration, SyncStatus},
    apply::Memory,
    object::ObjectId,
    plan::{Health, digest},
    status::Backoff,
};

/// Delays between two rounds of looking at objects that are not healthy yet.
const ROUNDS: Backoff = Backoff { base: Duration::from_millis(300), cap: Duration::from_secs(10) };

/// How often at most it is said which objects are not healthy yet.
const SAY: Duration = Duration::from_secs(1);

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
    /// What the last render warned of.
    pub(super) warnings: Vec<String>,
    /// Digest of what was tried last.
    pub(super) tried: Option<String>,
    /// New objects of that which could not be applied: they are tried by a dry run first.
    pub(super) doubtful: BTreeSet<ObjectId>,
    /// What the last pass was made from that told what the Sync wants.
    pub(super) seen: Option<Input>,
    /// Since when something of this input waits for other Syncs.
    pub(super) deferred: Option<(Option<Input>, Instant)>,
    /// Tasks that are in the way until they end or are gone.
    pub(super) awaited: BTreeSet<ObjectId>,
    /// Objects that are not healthy.
    pub(super) unhealthy: BTreeMap<ObjectId, Health>,
    /// Objects of which an event told that their health may have changed.
    pub(super) touched: BTreeSet<ObjectId>,
    /// Whether a pass is under way: an event may be about what it applies just now.
    pub(super) busy: bool,
    /// Since when health is waited for.
    pub(super) waiting: Option<Instant>,
    /// When objects that are not watched are looked at next, and how many such rounds there were.
    pub(super) round_at: Option<Instant>,
    pub(super) rounds: u32,
    /// When it was said last which objects are not healthy yet.
    pub(super) said: Option<Instant>,
    /// Whether the wait is over although something is not healthy.
    pub(super) gave_up: bool,
    /// Failures since the last success that wait for `spec.retryInterval`.
    pub(super) failures: u32,
    /// When changes made by others are looked for next.
    pub(super) look_at: Option<Instant>,
    /// Objects of which an event said that they may have changed.
    pub(super) dirty: BTreeSet<ObjectId>,
    /// Objects of which a write may come yet that got no answer.
    pub(super) unanswered: Unanswered,
}

/// A pass is under way, until this is dropped: a pass that panics or takes too long is dropped as well.
pub(super) struct Busy<'a>(&'a State);

impl<'a> Busy<'a> {
    pub(super) fn of(state: &'a State) -> Self {
        state.progress.lock().busy = true;
        Self(state)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.progress.lock().busy = false;
    }
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
    /// How long to wait before it is said again which objects are not healthy yet: many may become so one by one, and each
    /// write carries the whole inventory. What is not said now is said then.
    pub(super) fn said_lately(&mut self, state: &report::State, now: Instant) -> Option<Duration> {
        if !matches!(state, report::State::Checking(_)) {
            self.said = None;
            return None;
        }
        let left = self.said.map_or(Duration::ZERO, |said| (said + SAY).saturating_duration_since(now));
        if left.is_zero() {
            self.said = Some(now);
            return None;
        }
        Some(left)
    }

    /// Plans the next round of health checks, which get ever rarer; `share` is drawn from `0.0..1.0`.
    pub(super) fn plan_round(&mut self, now: Instant, share: f64) {
        self.rounds = self.rounds.saturating_add(1);
        self.round_at = Some(now + ROUNDS.delay(self.rounds, share));
    }

    /// Delay before a failure is tried again: a share, drawn from `0.0..1.0`, of the interval asked for, which from a
    /// second on is twice as long each time up to a minute. Never less than a second.
    pub(super) fn next_retry(&mut self, interval: &GoDuration, share: f64) -> Duration {
        let first = interval.or(RETRIES.1).max(RETRIES.0);
        let bound = first.saturating_mul(1 << self.failures.min(16)).min(first.max(RETRIES.1));
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(share.clamp(0.0, 1.0)).max(RETRIES.0)
    }

    /// Whether waiting has lasted as long as `timeout`.
    pub(super) fn is_late(&self, timeout: Duration, now: Instant) -> bool {
        self.waiting.is_some_and(|since| now.duration_since(since) >= timeout)
    }

    /// The wait for health as it is after a look: begun anew where other content was applied, or something that was
    /// healthy is not any more, and over where everything is.
    pub(super) fn settle_wait(&mut self, now: Instant, anew: bool) {
        if anew || self.unhealthy.is_empty() || self.waiting.is_none() {
            self.waiting = (!self.unhealthy.is_empty()).then_some(now);
            self.gave_up = false;
            (self.round_at, self.rounds) = (None, 0);
        }
    }

    /// The content with `digest` is tried now: until that has ended nothing is known to be applied completely. Returned
    /// is whether it is other content than before.
    pub(super) fn begin(&mut self, digest: &str) -> bool {
        (self.input, self.digest) = (None, None);
        let other = self.tried.as_deref() != Some(digest);
        if other {
            self.tried = Some(digest.to_owned());
            self.doubtful.clear();
        }
        other
    }

    /// What is doubtful of the content with `digest`: other content is tried without a question.
    pub(super) fn doubtful_of(&self, digest: &str) -> BTreeSet<ObjectId> {
        if self.tried.as_deref() == Some(digest) { self.doubtful.clone() } else { BTreeSet::new() }
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
    fn who_is_not_healthy_is_said_once_a_second() {
        let (mut progress, now) = (Progress::default(), Instant::now());
        let checking = report::State::Checking(vec![]);
        let ms = Duration::from_millis;
        assert_eq!(progress.said_lately(&checking, now), None);
        assert_eq!(progress.said_lately(&checking, now + ms(400)), Some(ms(600)));
        assert_eq!(progress.said_lately(&checking, now + ms(1000)), None);
        assert_eq!(progress.said_lately(&checking, now + ms(1001)), Some(ms(999)));
        assert_eq!(progress.said_lately(&report::State::Ready, now + ms(1002)), None, "the end is said at once");
        assert_eq!(progress.said_lately(&checking, now + ms(1003)), None);
    }

    #[test]
    fn rounds_grow_to_their_bound() {
        let (mut progress, now) = (Progress::default(), Instant::now());
        let mut delay = |share| {
            progress.plan_round(now, share);
            progress.round_at.unwrap().duration_since(now).as_millis()
        };
        assert_eq!([1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 0.1].map(&mut delay), [300, 600, 600, 2400, 4800, 9600, 1000]);
        progress.settle_wait(now, true);
        assert_eq!((progress.round_at, progress.rounds), (None, 0));
    }

    #[test]
    fn a_wait_begins_with_what_is_unhealthy_and_ends_with_it() {
        let (mut progress, start) = (Progress::default(), Instant::now());
        let (second, timeout) = (Duration::from_secs(1), Duration::from_secs(5));
        progress.settle_wait(start, true);
        assert!(!progress.is_late(timeout, start + timeout), "nothing is waited for");
        progress.unhealthy.insert(ObjectId::parse("n_a_apps_Deployment").unwrap(), Health::InProgress("x".into()));
        progress.settle_wait(start + second, false);
        progress.settle_wait(start + second * 2, false);
        assert!(!progress.is_late(timeout, start + timeout));
        assert!(progress.is_late(timeout, start + second + timeout));
        progress.settle_wait(start + second * 2, true);
        assert!(!progress.is_late(timeout, start + second + timeout), "other content has its own time");
        progress.unhealthy.clear();
        progress.settle_wait(start + second * 3, false);
        assert_eq!(progress.waiting, None);
    }

    #[test]
    fn retries_have_a_floor_and_get_rarer() {
        for (interval, share, want) in [
            ("0s", 1.0, [1, 2, 4, 8, 16, 32, 60]),
            ("30s", 1.0, [30, 60, 60, 60, 60, 60, 60]),
            ("5m", 1.0, [300; 7]),
            ("30s", 0.5, [15, 30, 30, 30, 30, 30, 30]),
            ("5m", 0.0, [1; 7]),
        ] {
            let mut progress = Progress::default();
            assert_eq!(
                want.map(|_| progress.next_retry(&interval.into(), share).as_secs()),
                want,
                "{interval} {share}"
            );
        }
    }

    #[test]
    fn only_the_same_content_is_doubtful() {
        let id = ObjectId::parse("n_a__ConfigMap").unwrap();
        let progress = Progress { tried: Some("d".into()), doubtful: [id].into(), ..Progress::default() };
        assert_eq!((progress.doubtful_of("d").len(), progress.doubtful_of("e").len()), (1, 0));
    }

    #[test]
    fn what_is_tried_is_not_applied_yet() {
        let input = Input { revision: "r".into(), digest: "a".into(), generation: Some(1) };
        let id = ObjectId::parse("n_a__ConfigMap").unwrap();
        let applied =
            Progress { digest: Some("d".into()), input: Some(input), doubtful: [id].into(), ..Progress::default() };
        let mut progress = applied.clone();
        assert!(progress.begin("e") && !progress.begin("e"));
        assert_eq!((progress.digest, progress.input, progress.doubtful.len()), (None, None, 0));
        let mut again = Progress { tried: Some("d".into()), ..applied };
        assert!(!again.begin("d"), "a look at the same content");
        assert_eq!((again.digest, again.doubtful.len()), (None, 1));
    }

    #[test]
    fn a_pass_that_panics_is_not_busy_for_ever() {
        let state = State::new("1");
        let panics = std::panic::AssertUnwindSafe(|| {
            let _busy = Busy::of(&state);
            assert!(!state.progress.lock().busy, "on purpose");
        });
        assert!(std::panic::catch_unwind(panics).is_err());
        assert!(!state.progress.lock().busy);
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
