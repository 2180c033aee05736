//! Who is connected and what each said last (no I/O).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Instant,
};

use crate::api::{content::Report, voice::Activity};

/// An agent: namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentKey {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub agent: Arc<str>,
}

impl AgentKey {
    /// From both names.
    pub fn new(namespace: &str, agent: &str) -> Self {
        Self { namespace: namespace.into(), agent: agent.into() }
    }
}

/// What one connected pod said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSeen {
    /// Name of the pod.
    pub pod: String,
    /// Its uid.
    pub uid: String,
    /// Its words.
    pub activity: Activity,
    /// When it said so.
    pub heard: Instant,
    /// What it said last of its content; `None` before it said anything.
    pub content: Option<Arc<Report>>,
}

/// What is known of an agent: its connected pods, sorted by name. None connected means *unknown*, never idle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The pods.
    pub pods: Vec<PodSeen>,
}

impl Seen {
    /// The pods' activities as one: counts added up, `idle`, `held` and `serverReady` only where all are, hash and
    /// version empty where they differ. Pods that end do not count. `None` if no other is connected.
    pub fn activity(&self) -> Option<Activity> {
        merge(self.staying().map(|pod| &pod.activity))
    }

    /// Pods that are not about to end: what the others still do goes on to its end and concerns no decision.
    pub fn staying(&self) -> impl Iterator<Item = &PodSeen> {
        self.pods.iter().filter(|pod| !pod.activity.draining)
    }

    /// When the pod that spoke least recently did.
    pub fn since(&self) -> Option<Instant> {
        self.pods.iter().map(|pod| pod.heard).min()
    }
}

/// See [`Seen::activity`].
pub(super) fn merge<'a>(all: impl Iterator<Item = &'a Activity>) -> Option<Activity> {
    all.cloned().reduce(|mut sum, next| {
        sum.sequence = sum.sequence.wrapping_add(next.sequence);
        sum.in_flight = sum.in_flight.saturating_add(next.in_flight);
        sum.retrying = sum.retrying.saturating_add(next.retrying);
        sum.pending_questions = sum.pending_questions.saturating_add(next.pending_questions);
        sum.attached = sum.attached.saturating_add(next.attached);
        sum.busy_sessions.extend(next.busy_sessions);
        sum.busy_sessions.sort_unstable();
        sum.idle &= next.idle;
        sum.held &= next.held;
        sum.server_ready &= next.server_ready;
        sum.server_exposed |= next.server_exposed;
        for (mine, other) in
            [(&mut sum.server_version, next.server_version), (&mut sum.context_hash, next.context_hash)]
        {
            if *mine != other {
                mine.clear();
            }
        }
        sum
    })
}

/// Whether a controller should look again: not for every number that ticks.
fn worth_a_look(old: &Activity, new: &Activity) -> bool {
    let facts = |a: &Activity| (a.idle, a.server_ready, a.server_exposed, a.works_on() == 0, a.attached == 0);
    facts(old) != facts(new)
        || old.draining != new.draining
        || old.context_hash != new.context_hash
        || old.server_version != new.server_version
}

#[derive(Debug)]
struct Pod<H> {
    /// Which of the connections of this pod: a late goodbye of an older one must not remove the newer.
    connection: u64,
    name: String,
    activity: Activity,
    heard: Instant,
    content: Option<Arc<Report>>,
    handle: H,
}

/// All connections; `H` reaches one.
#[derive(Debug)]
pub(super) struct Table<H> {
    agents: HashMap<AgentKey, BTreeMap<String, Pod<H>>>,
    next: u64,
    len: usize,
}

impl<H> Default for Table<H> {
    fn default() -> Self {
        Self { agents: HashMap::new(), next: 0, len: 0 }
    }
}

impl<H: Clone> Table<H> {
    /// A pod connected. One that is connected already is replaced: its older connection is dead, or will be.
    pub(super) fn connect(&mut self, key: &AgentKey, pod: &str, uid: &str, handle: H, now: Instant) -> u64 {
        self.next += 1;
        let (connection, activity) = (self.next, Activity::default());
        let entry = Pod { connection, name: pod.to_owned(), activity, heard: now, content: None, handle };
        if self.agents.entry(key.clone()).or_default().insert(uid.to_owned(), entry).is_none() {
            self.len += 1;
        }
        connection
    }

    /// A pod said something. Returns whether a controller should look.
    pub(super) fn heard(&mut self, key: &AgentKey, uid: &str, connection: u64, new: Activity, now: Instant) -> bool {
        let Some(pod) = self.agents.get_mut(key).and_then(|pods| pods.get_mut(uid)) else { return false };
        if pod.connection != connection {
            return false;
        }
        pod.heard = now;
        let look = worth_a_look(&pod.activity, &new);
        pod.activity = new;
        look
    }

    /// A pod said what its content is. Returns whether that is news.
    pub(super) fn told_content(&mut self, key: &AgentKey, uid: &str, connection: u64, new: Report) -> bool {
        let Some(pod) = self.agents.get_mut(key).and_then(|pods| pods.get_mut(uid)) else { return false };
        if pod.connection != connection || pod.content.as_deref() == Some(&new) {
            return false;
        }
        pod.content = Some(Arc::new(new));
        true
    }

    /// A connection ended. Returns whether the pod is gone with it.
    pub(super) fn disconnect(&mut self, key: &AgentKey, uid: &str, connection: u64) -> bool {
        let Some(pods) = self.agents.get_mut(key) else { return false };
        if pods.get(uid).is_none_or(|pod| pod.connection != connection) {
            return false;
        }
        pods.remove(uid);
        if pods.is_empty() {
            self.agents.remove(key);
        }
        self.len -= 1;
        true
    }

    /// What is known of an agent.
    pub(super) fn seen(&self, key: &AgentKey) -> Seen {
        let pods = self.agents.get(key).into_iter().flatten();
        let mut pods: Vec<PodSeen> = pods
            .map(|(uid, pod)| PodSeen {
                pod: pod.name.clone(),
                uid: uid.clone(),
                activity: pod.activity.clone(),
                heard: pod.heard,
                content: pod.content.clone(),
            })
            .collect();
        pods.sort_by(|a, b| a.pod.cmp(&b.pod));
        Seen { pods }
    }

    /// How to reach the pods of an agent that are not about to end.
    pub(super) fn handles(&self, key: &AgentKey) -> Vec<(String, H)> {
        self.handles_of(key, |_, activity| !activity.draining)
    }

    /// The same, those that end included.
    pub(super) fn all_handles(&self, key: &AgentKey) -> Vec<(String, H)> {
        self.handles_of(key, |_, _| true)
    }

    /// How to reach some of the pods of an agent, by their names and what they do.
    pub(super) fn handles_of(&self, key: &AgentKey, whom: impl Fn(&str, &Activity) -> bool) -> Vec<(String, H)> {
        let pods = self.agents.get(key).into_iter().flatten();
        let picked = pods.filter(|(_, pod)| whom(&pod.name, &pod.activity));
        picked.map(|(_, pod)| (pod.name.clone(), pod.handle.clone())).collect()
    }

    /// Number of connected pods.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activity(sequence: u64, idle: bool) -> Activity {
        Activity { sequence, idle, server_ready: true, ..Activity::default() }
    }

    #[test]
    fn a_late_goodbye_of_an_older_connection_changes_nothing() {
        let (mut table, key, now) = (Table::default(), AgentKey::new("ns", "a"), Instant::now());
        let old = table.connect(&key, "a-1", "uid", (), now);
        let new = table.connect(&key, "a-1", "uid", (), now);
        assert_eq!(table.len(), 1);
        assert!(!table.heard(&key, "uid", old, activity(9, true), now), "the old one is not listened to");
        assert!(!table.disconnect(&key, "uid", old));
        assert!(table.heard(&key, "uid", new, activity(1, true), now));
        assert_eq!(table.seen(&key).activity().unwrap().sequence, 1);
        assert!(table.disconnect(&key, "uid", new));
        assert_eq!((table.len(), table.seen(&key)), (0, Seen::default()));
        assert!(table.agents.is_empty(), "nothing is left of it");
    }

    #[test]
    fn only_what_matters_wakes_a_controller() {
        let (mut table, key, now) = (Table::default(), AgentKey::new("ns", "a"), Instant::now());
        let c = table.connect(&key, "a-1", "uid", (), now);
        let mut say = |new: Activity| table.heard(&key, "uid", c, new, now);
        let busy = |n: u32| Activity { in_flight: n, ..activity(u64::from(n), false) };
        for (new, look) in [
            (activity(1, true), true),
            (activity(2, true), false),
            (busy(1), true),
            (busy(2), false),
            (activity(5, true), true),
            (Activity { context_hash: "x".into(), ..activity(5, true) }, true),
            (Activity { context_hash: "x".into(), held: true, ..activity(6, true) }, false),
        ] {
            assert_eq!(say(new.clone()), look, "{new:?}");
        }
    }

    #[test]
    fn a_pod_that_ends_is_left_out() {
        let (mut table, key, now) = (Table::default(), AgentKey::new("ns", "a"), Instant::now());
        let old = table.connect(&key, "a-1", "old", 1, now);
        let new = table.connect(&key, "a-2", "new", 2, now);
        let busy = Activity { in_flight: 1, ..activity(1, false) };
        table.heard(&key, "old", old, busy.clone(), now);
        table.heard(&key, "new", new, activity(1, true), now);
        assert!(!table.seen(&key).activity().unwrap().idle);
        assert!(table.heard(&key, "old", old, Activity { draining: true, ..busy }, now), "worth a look");
        assert_eq!(table.seen(&key).activity(), Some(activity(1, true)));
        assert_eq!(table.handles(&key), [("a-2".to_owned(), 2)]);
        table.disconnect(&key, "new", new);
        assert_eq!(table.seen(&key).activity(), None, "unknown, not idle");
    }

    #[test]
    fn two_pods_are_idle_only_together() {
        let one = Activity { held: true, context_hash: "x".into(), ..activity(1, true) };
        let two =
            Activity { in_flight: 2, busy_sessions: vec!["s".into()], context_hash: "y".into(), ..activity(2, false) };
        let both = merge([&one, &two].into_iter()).unwrap();
        assert_eq!(
            (both.sequence, both.in_flight, both.idle, both.held, both.server_ready),
            (3, 2, false, false, true)
        );
        assert_eq!(both.context_hash, "");
        assert_eq!(merge([].into_iter()), None);
    }
}
