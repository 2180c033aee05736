//! What the door knows about work behind it: a state machine with a sequence number (no I/O; times are given).

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::pod::opencode::SessionStatus;

/// Nothing may have changed for this long before the server counts as idle.
pub const QUIET: Duration = Duration::from_millis(100);
/// A prompt was taken but no status was seen: after this long without one, the session counts as idle again. The
/// first prompt of an instance was seen to need 1.5 s before its session showed busy; a machine under load needs more.
pub const GRACE: Duration = Duration::from_secs(15);
/// More sessions than this at work are counted, not named.
const MAX_SESSIONS: usize = 4096;

/// At most this many sessions at work are named to the controller.
pub const MAX_NAMED: usize = 16;
/// Stands for sessions at work whose id is not known.
const NAMELESS: &str = "-";

/// What a session does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Session {
    /// A prompt was sent at this time and its work was not seen yet.
    Expected(Instant),
    /// Seen at work; missing in that many listings since. Another prompt was sent meanwhile at that time: its work may
    /// begin only after the end of this one was seen.
    Busy { missed: u8, again: Option<Instant> },
    /// Waits to try again; missing in that many listings since.
    Retrying { missed: u8, again: Option<Instant> },
}

impl Session {
    /// When a prompt was sent whose work was not seen yet.
    fn prompted(self) -> Option<Instant> {
        match self {
            Self::Expected(since) => Some(since),
            Self::Busy { again, .. } | Self::Retrying { again, .. } => again,
        }
    }
}

/// Work in front of and behind the door.
#[derive(Debug)]
pub struct Activity {
    sequence: u64,
    changed: Instant,
    in_flight: u32,
    attached: u32,
    sessions: HashMap<String, Session>,
    /// Prompts whose session did not fit into the table, or was not named by the request.
    nameless: Option<Instant>,
    known: bool,
    held_until: Option<Instant>,
    /// The same for a change that this pod makes by itself: neither lease ends the other.
    inside_until: Option<Instant>,
    draining: bool,
    /// The pod goes on with its sessions while it ends.
    lasting: bool,
}

/// A copy of the state that leaves the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Grows with every change; two equal numbers mean that nothing happened between.
    pub sequence: u64,
    /// Requests that may change something, begun and not ended.
    pub in_flight: u32,
    /// Sessions at work, those expected to begin included.
    pub busy: u32,
    /// Sessions that wait to try again.
    pub retrying: u32,
    /// Upgraded connections (terminals and other web sockets).
    pub attached: u32,
    /// Whether prompts wait at the door.
    pub held: bool,
    /// Whether the server's events are being followed. Without them nothing is known of its sessions.
    pub known: bool,
    /// Whether the pod ends: new prompts are refused, and what was begun goes on.
    pub draining: bool,
}

impl Snapshot {
    /// No work that anybody knows of. Says nothing about how long; see [`Activity::idle`].
    pub fn without_work(&self) -> bool {
        self.known && self.in_flight == 0 && self.busy == 0 && self.retrying == 0
    }
}

impl Activity {
    /// Nothing is known yet.
    pub fn new(now: Instant) -> Self {
        Self {
            sequence: 0,
            changed: now,
            in_flight: 0,
            attached: 0,
            sessions: HashMap::new(),
            nameless: None,
            known: false,
            held_until: None,
            inside_until: None,
            draining: false,
            lasting: false,
        }
    }

    /// The same of a pod that goes on with its sessions, also with new prompts in them, while it ends.
    pub fn lasting(now: Instant) -> Self {
        Self { lasting: true, ..Self::new(now) }
    }

    /// Whether a prompt in this session (empty for none) is refused because the pod ends.
    pub fn refuses(&self, session: &str) -> bool {
        self.draining && (!self.lasting || session.is_empty())
    }

    /// Something else that is reported changed.
    pub fn note(&mut self, now: Instant) {
        self.change(now);
    }

    fn change(&mut self, now: Instant) {
        self.sequence += 1;
        self.changed = now;
    }

    /// A request that may change something begins. `prompt` names its session when it starts work there.
    pub fn begin(&mut self, prompt: Option<&str>, now: Instant) {
        self.in_flight += 1;
        if let Some(session) = prompt {
            self.expect(session, now);
            if let Some(Session::Busy { again, .. } | Session::Retrying { again, .. }) = self.sessions.get_mut(session)
            {
                *again = Some(now);
            }
        }
        self.change(now);
    }

    /// The request ended, or its client went away. `served`: the answer was given to its last byte; a prompt that is
    /// answered so (`message`, `command`, `shell`) is over, and only events can say otherwise.
    pub fn end(&mut self, prompt: Option<&str>, served: bool, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        match prompt {
            Some(session) if served => {
                if matches!(self.sessions.get(session), Some(Session::Expected(_))) {
                    self.sessions.remove(session);
                }
            }
            Some(session) => self.expect(session, now),
            None => {}
        }
        self.change(now);
    }

    fn expect(&mut self, session: &str, now: Instant) {
        let full = self.sessions.len() >= MAX_SESSIONS && !self.sessions.contains_key(session);
        if session.is_empty() || full {
            self.nameless = Some(now);
        } else if !matches!(self.sessions.get(session), Some(Session::Busy { .. } | Session::Retrying { .. })) {
            self.sessions.insert(session.to_owned(), Session::Expected(now));
        }
    }

    /// A WebSocket opened (`true`) or closed.
    pub fn attach(&mut self, opened: bool, now: Instant) {
        self.attached = if opened { self.attached + 1 } else { self.attached.saturating_sub(1) };
        self.change(now);
    }

    /// A `session.status` event.
    pub fn status(&mut self, session: &str, status: &SessionStatus, now: Instant) {
        match status {
            // A prompt may have been taken while the last one's end was on its way: what is expected stays expected
            // until it is seen at work, or its grace is over.
            SessionStatus::Idle if matches!(self.sessions.get(session), Some(Session::Expected(_))) => {}
            SessionStatus::Idle => self.ended(session, now),
            SessionStatus::Retry { .. } => {
                self.at_work(session, Session::Retrying { missed: 0, again: self.again(session) }, now);
            }
            SessionStatus::Busy | SessionStatus::Other => {
                self.at_work(session, Session::Busy { missed: 0, again: self.again(session) }, now);
            }
        }
        self.change(now);
    }

    /// A prompt that was sent while the session was at work. One that was expected is what is at work now.
    fn again(&self, session: &str) -> Option<Instant> {
        self.sessions.get(session).filter(|state| !matches!(state, Session::Expected(_)))?.prompted()
    }

    /// The work that was seen is over. Of a prompt that was sent meanwhile it may have been the end too, or its work
    /// comes yet: which of the two only time tells.
    fn ended(&mut self, session: &str, now: Instant) {
        let again = self.again(session).filter(|since| now.saturating_duration_since(*since) < GRACE);
        match again {
            Some(since) => _ = self.sessions.insert(session.to_owned(), Session::Expected(since)),
            None => _ = self.sessions.remove(session),
        }
    }

    fn at_work(&mut self, session: &str, state: Session, now: Instant) {
        if self.sessions.len() < MAX_SESSIONS || self.sessions.contains_key(session) {
            self.sessions.insert(session.to_owned(), state);
        } else {
            self.nameless = Some(now);
        }
    }

    /// A listing of all sessions that are not idle. A session that was seen at work must be missing twice before it
    /// counts as idle (a listing may be older than the event before it).
    pub fn listed(&mut self, list: &[(String, SessionStatus)], now: Instant) {
        let before = self.snapshot(now);
        for (session, status) in list {
            match status {
                SessionStatus::Idle => {}
                SessionStatus::Retry { .. } => {
                    self.at_work(session, Session::Retrying { missed: 0, again: self.again(session) }, now);
                }
                SessionStatus::Busy | SessionStatus::Other => {
                    self.at_work(session, Session::Busy { missed: 0, again: self.again(session) }, now);
                }
            }
        }
        self.sessions.retain(|name, state| {
            if list.iter().any(|(listed, status)| listed == name && *status != SessionStatus::Idle) {
                return true;
            }
            let fresh = |since: Instant| now.saturating_duration_since(since) < GRACE;
            match state {
                Session::Expected(since) => fresh(*since),
                Session::Busy { missed, again } | Session::Retrying { missed, again } => {
                    *missed += 1;
                    *missed < 2 || again.is_some_and(fresh)
                }
            }
        });
        if self.nameless.is_some_and(|since| now.saturating_duration_since(since) >= GRACE) {
            self.nameless = None;
        }
        if self.snapshot(now) != before {
            self.change(now);
        }
    }

    /// The server's events are followed from now on (`true`), or not any more.
    pub fn follow(&mut self, known: bool, now: Instant) {
        if self.known != known {
            self.known = known;
            self.change(now);
        }
    }

    /// Holds prompts until `until`. A later call replaces the lease.
    pub fn hold(&mut self, until: Instant, now: Instant) {
        self.held_until = Some(until);
        self.change(now);
    }

    /// Lets prompts pass again.
    pub fn release(&mut self, now: Instant) {
        if self.held_until.take().is_some() {
            self.change(now);
        }
    }

    /// Holds prompts until `until` for a change inside of this pod, beside what the controller holds.
    pub fn hold_inside(&mut self, until: Instant, now: Instant) {
        if self.inside_until.replace(until).is_none() {
            self.change(now);
        }
    }

    /// The change is made.
    pub fn release_inside(&mut self, now: Instant) {
        if self.inside_until.take().is_some() {
            self.change(now);
        }
    }

    /// Until when prompts wait, if they do.
    pub fn held(&self, now: Instant) -> Option<Instant> {
        self.held_until.max(self.inside_until).filter(|until| *until > now)
    }

    /// The pod ends: from now on new prompts are refused. There is no way back.
    pub fn drain(&mut self, now: Instant) {
        if !self.draining {
            self.draining = true;
            self.change(now);
        }
    }

    /// Somebody left. While the pod ends that is worth a word.
    pub fn left(&mut self, now: Instant) {
        if self.draining {
            self.change(now);
        }
    }

    /// Whether any session is at work or expected to be: then the listing is read more often.
    pub fn has_sessions(&self) -> bool {
        !self.sessions.is_empty() || self.nameless.is_some()
    }

    /// The state now.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let retrying = self.sessions.values().filter(|s| matches!(s, Session::Retrying { .. })).count();
        let busy = self.sessions.len() - retrying + usize::from(self.nameless.is_some());
        Snapshot {
            sequence: self.sequence,
            in_flight: self.in_flight,
            busy: u32::try_from(busy).unwrap_or(u32::MAX),
            retrying: u32::try_from(retrying).unwrap_or(u32::MAX),
            attached: self.attached,
            held: self.held(now).is_some(),
            known: self.known,
            draining: self.draining,
        }
    }

    /// No work, and nothing changed for [`QUIET`]. A change that cuts work also needs prompts to be held.
    pub fn idle(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.changed) >= QUIET && self.snapshot(now).without_work()
    }

    /// Ids of the sessions at work or expected to be, sorted, [`MAX_NAMED`] at most.
    pub fn busy_sessions(&self) -> Vec<String> {
        let busy = self.sessions.iter().filter(|(_, state)| !matches!(state, Session::Retrying { .. }));
        let mut names: Vec<String> = busy.map(|(name, _)| name.clone()).collect();
        if self.nameless.is_some() {
            names.push(NAMELESS.to_owned());
        }
        names.sort_unstable();
        names.truncate(MAX_NAMED);
        names
    }
}

#[cfg(test)]
#[path = "activity_tests.rs"]
mod tests;
