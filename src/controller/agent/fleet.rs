//! The pace of the fleet: asked where the gate opens, told at the end of each reconcile.
//!
//! Who may go is decided for all agents at once, a moment after something changed, by one task; it wakes those for whom the
//! answer is another one. Where nothing was decided lately, an agent that asks is answered at once.

mod note;

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Agents, act::Who};
use crate::{
    agent::{
        Desired,
        decide::Action,
        fleet::{self, Book, Glance, Key, Member, Now, Of, Pace, Postponed, Refusal, Waiting, steps},
        gate::{self, Ask, Pending},
        history,
        state::{Annotations, State},
    },
    api::{
        Agent,
        names::{annotation, condition, reasons},
    },
    controller::runtime::Change,
};

/// Changes of this time are decided together.
const TOGETHER: Duration = Duration::from_millis(100);
/// How often windows are looked at at least, because the clock on the wall may be set.
const LOOK: Duration = Duration::from_mins(1);

/// What is known about all agents, and the settings.
pub(super) struct Fleet {
    inner: Mutex<Inner>,
    changed: Arc<Notify>,
    began: (Timestamp, Instant),
}

struct Inner {
    book: Book,
    pace: Option<Arc<Pace>>,
    planned: Option<Instant>,
    glance: Glance,
}

/// A decision about one of an agent's objects, and what it was made from.
pub(super) struct Decided<'a> {
    pub of: Of,
    pub desired: &'a Desired,
    /// Hash of what is wanted of the object.
    pub hash: &'a str,
    /// Annotations of the object that is there.
    pub marks: Option<&'a Annotations>,
    /// It is none of the fleet's business: a first creation, an agent without pods, a way back.
    pub exempt: bool,
    /// The present, as far as this wait goes.
    pub now: Timestamp,
}

enum Answer {
    Go,
    Undecided,
    Refused(Refusal, Arc<Pace>),
}

impl Fleet {
    pub(super) fn new(now: Timestamp) -> Self {
        let inner = Inner { book: Book::default(), pace: None, planned: None, glance: Glance::default() };
        Self { inner: Mutex::new(inner), changed: Arc::default(), began: (now, Instant::now()) }
    }

    /// Whether the settings set a pace at all.
    pub(super) fn is_set(&self) -> bool {
        self.inner.lock().pace.is_some()
    }

    fn now(&self, wall: Timestamp) -> Now {
        let (wall_then, then) = self.began;
        let passed = SignedDuration::try_from(then.elapsed()).unwrap_or(SignedDuration::MAX);
        Now { steady: wall_then.checked_add(passed).unwrap_or(Timestamp::MAX), wall }
    }

    /// Told of whatever may change who may go.
    pub(super) fn changed(&self) -> Arc<Notify> {
        self.changed.clone()
    }

    /// New settings, or none any more.
    pub(super) fn set(&self, pace: Option<Pace>) {
        let mut inner = self.inner.lock();
        if inner.pace.is_some() && pace.is_none() {
            inner.book.restart();
        }
        inner.pace = pace.map(Arc::new);
        inner.planned = None;
        inner.glance = Glance::default();
        self.changed.notify_one();
    }

    /// An Agent came, changed or went.
    pub(super) fn exists(&self, change: &Change<'_, Agent>) {
        let agent = change.object;
        let key = (agent.namespace().unwrap_or_default(), agent.name_any());
        let mut inner = self.inner.lock();
        if change.deleted || agent.meta().deletion_timestamp.is_some() {
            inner.book.forget(&key);
            self.changed.notify_one();
        } else {
            inner.book.exists(&key);
        }
    }

    /// What a reconcile found at its end.
    pub(super) fn note(&self, key: &Key, member: Member, wall: Timestamp) {
        let mut inner = self.inner.lock();
        inner.book.note(key, member, self.now(wall));
        self.tell(&inner);
    }

    /// Nothing waits there.
    pub(super) fn done(&self, key: &Key, of: &[Of]) {
        let mut inner = self.inner.lock();
        for of in of {
            inner.book.done(key, *of);
        }
        self.tell(&inner);
    }

    fn tell(&self, inner: &Inner) {
        if inner.book.is_dirty() {
            self.changed.notify_one();
        }
    }

    fn ask(&self, key: &Key, of: Of, waiting: Waiting, wall: Timestamp, wake: impl Fn(&Key)) -> Answer {
        let (knocks, now) = (waiting.knocks, self.now(wall));
        let mut inner = self.inner.lock();
        let Inner { book, pace: Some(pace), planned, glance } = &mut *inner else { return Answer::Go };
        book.wait(key, of, waiting, now);
        let open = glance.is_open(pace, wall);
        if knocks && open && book.take(key, of) {
            return Answer::Go;
        }
        if book.is_dirty() && planned.is_none_or(|at| at.elapsed() >= TOGETHER) {
            let plan = book.plan(pace, now);
            *planned = Some(Instant::now());
            // The task knows nothing of what time may change.
            self.changed.notify_one();
            plan.wake.iter().filter(|other| *other != key).for_each(wake);
            if knocks && book.take(key, of) {
                return Answer::Go;
            }
        } else if book.is_dirty() {
            self.changed.notify_one();
        }
        match book.refusal(key, of) {
            Some(refusal) => Answer::Refused(refusal.clone(), pace.clone()),
            None if knocks => Answer::Undecided,
            None => Answer::Go,
        }
    }

    /// Decides, and says whom to wake and when to decide again.
    fn plan(&self, wall: Timestamp) -> (BTreeSet<Key>, Option<Duration>) {
        let now = self.now(wall);
        let mut inner = self.inner.lock();
        let Inner { book, pace: Some(pace), planned, .. } = &mut *inner else { return (BTreeSet::new(), None) };
        let plan = book.plan(pace, now);
        *planned = Some(Instant::now());
        let left = |at: Timestamp, now: Timestamp| Duration::try_from(at.duration_since(now)).unwrap_or_default();
        let steady = plan.at.map(|at| left(at, now.steady));
        let wall = plan.wall.map(|at| left(at, now.wall).min(LOOK));
        let again = book.is_dirty().then_some(Duration::ZERO);
        (plan.wake, [steady, wall, again].into_iter().flatten().min())
    }
}

/// Decides again and again, for as long as there are agents to decide about.
pub(super) async fn follow(agents: Weak<Agents>, changed: Arc<Notify>) {
    let mut left = None;
    loop {
        tokio::select! {
            () = changed.notified() => {}
            () = ring(left) => {}
        }
        tokio::time::sleep(TOGETHER).await;
        let Some(agents) = agents.upgrade() else { return };
        let (wake, next) = agents.fleet.plan(agents.context.now());
        left = next;
        for (namespace, name) in &wake {
            agents.triggers.now(namespace, name);
        }
    }
}

async fn ring(left: Option<Duration>) {
    match left {
        Some(left) => tokio::time::sleep(left).await,
        None => std::future::pending().await,
    }
}

impl Agents {
    /// Turns a decision to apply into a wait where other agents go first.
    pub(super) fn paced(&self, who: &Who<'_>, decided: &Decided<'_>, action: Action) -> Action {
        if !self.fleet.is_set() {
            return action;
        }
        let (key, state) = ((who.namespace.clone(), who.name.clone()), state(decided));
        let (causes, knocks) = match &action {
            Action::Keep => (&BTreeSet::new(), false),
            Action::Apply { causes, .. } => (causes, true),
            Action::Wait { pending, .. } => (&pending.causes, false),
        };
        let asked = who.agent.annotations().get(annotation::ROLLOUT).map(String::as_str);
        let names = [decided.hash, &history::id(decided.desired)];
        let ask = gate::asked(asked, state.rollout_seen.as_deref(), &names);
        if decided.exempt || causes.is_empty() || ask == Ask::Now {
            self.fleet.done(&key, &[decided.of]);
            return action;
        }
        let steps = steps::steps(decided.of, decided.desired, &who.namespace, causes);
        let since = state.pending.as_ref().map_or(decided.now, |pending| pending.since);
        let waiting = Waiting { steps: steps.clone(), knocks, since };
        let wake = |(namespace, name): &Key| self.triggers.now(namespace, name);
        let answer = self.fleet.ask(&key, decided.of, waiting, self.context.now(), wake);
        let mut what = Postponed {
            hash: decided.hash,
            stored: state.pending.as_ref(),
            steps: &steps,
            said: said(who.agent, decided.of),
            now: decided.now,
        };
        match answer {
            // What a person holds says so.
            _ if matches!(ask, Ask::Hold { .. }) => action,
            Answer::Go => action,
            Answer::Undecided => undecided(causes, decided),
            Answer::Refused(refusal, _) if !knocks && matches!(refusal, Refusal::Start | Refusal::Turn) => action,
            Answer::Refused(refusal, pace) => {
                what.said = what.said.filter(|_| refusal == Refusal::Start);
                fleet::postpone(action, &what, &refusal, &pace)
            }
        }
    }

    /// What an apply remembers for the fleet; nothing where the settings set no pace.
    pub(super) fn change_mark(&self, who: &Who<'_>, decided: &Decided<'_>, causes: &BTreeSet<String>) -> Annotations {
        if !self.fleet.is_set() {
            return Annotations::new();
        }
        let new = if decided.exempt {
            fleet::Steps::new()
        } else {
            steps::steps(decided.of, decided.desired, &who.namespace, causes)
        };
        let settled = who.agent.status.as_ref().and_then(|s| s.fleet.as_ref());
        steps::annotation(decided.of, decided.desired, &who.namespace, new, decided.marks, settled)
    }
}

/// Nothing is to be written or told before it is decided.
fn undecided(causes: &BTreeSet<String>, decided: &Decided<'_>) -> Action {
    let (hash, causes) = (decided.hash.into(), causes.clone());
    Action::Wait {
        pending: Pending { hash, since: decided.now, causes, held: true },
        write: false,
        until: None,
        message: String::new(),
        paced: Some(fleet::UNDECIDED),
    }
}

/// Whether the fleet has not answered yet: it does in a moment, and wakes the agent.
pub(super) fn is_undecided(action: &Action) -> bool {
    matches!(action, Action::Wait { paced: Some(fleet::UNDECIDED), .. })
}

fn state(decided: &Decided<'_>) -> State {
    let Some(marks) = decided.marks else { return State::default() };
    match decided.of {
        Of::Server => State::of_deployment(marks),
        Of::Text => State::of_context(marks),
        Of::Content => State::of_content(marks),
    }
}

/// What the status says about a wait for the fleet.
fn said(agent: &Agent, of: Of) -> Option<(&'static str, &str)> {
    let kind = match of {
        Of::Server => condition::ROLLOUT_PENDING,
        Of::Text => condition::TEXT_PENDING,
        Of::Content => condition::GIT_SYNC_PENDING,
    };
    let conditions = agent.status.iter().flat_map(|s| &s.conditions);
    let found = conditions.filter(|c| c.status == "True").find(|c| c.type_ == kind)?;
    let known = [reasons::WAITING_FOR_FLEET, reasons::FLEET_CLOSED, reasons::FLEET_STOPPED];
    Some((known.into_iter().find(|reason| *reason == found.reason)?, &found.message))
}
