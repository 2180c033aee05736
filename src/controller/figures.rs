//! Metrics that are read off when somebody asks for them: nothing is counted twice, and nothing goes stale.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use jiff::Timestamp;
use kube::ResourceExt;

use super::{artifacts::Copies, caches::Caches, voice::Voices};
use crate::{
    agent::{decide::policy, limit, merge},
    api::{
        Agent, AgentTemplate, TaskPhase,
        names::{condition, reasons},
    },
    artifact::Store,
    git::Sources,
    task::agent_of,
};

/// Reads the sources, the connected sidecars and the caches.
pub(super) struct Figures {
    pub(super) sources: Sources,
    pub(super) voices: Arc<Voices>,
    pub(super) caches: Caches,
    pub(super) copies: Copies,
    pub(super) artifacts: Arc<Store>,
}

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let git = self.sources.counters();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = [
            ("git_listings", "Listings of references at remotes", read(&git.listings)),
            ("git_failed_listings", "Listings that failed", read(&git.failed_listings)),
            ("git_fetches", "Fetches from remotes", read(&git.fetches)),
            ("git_failed_fetches", "Fetches that failed", read(&git.failed_fetches)),
            ("artifact_copies", "Artifacts that were copied from other replicas", self.copies.fetched()),
            ("artifact_copied_bytes", "Bytes of artifacts that were copied from other replicas", self.copies.bytes()),
            ("artifact_failed_copies", "Copies that failed and are tried again", self.copies.failed()),
        ];
        for (name, help, value) in counters {
            let value = ConstCounter::new(value);
            value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)?;
        }
        gauge(&mut encoder, "git_remotes", "Remotes that are polled", self.sources.remotes())?;
        gauge(&mut encoder, "sidecars_connected", "Agent pods that are connected", self.voices.connected())?;
        let missing = usize::try_from(self.copies.missing()).unwrap_or_default();
        gauge(&mut encoder, "artifact_missing", "Artifacts that are named and not on this replica", missing)?;
        let lag = usize::try_from(self.copies.lag()).unwrap_or_default();
        gauge(&mut encoder, "artifact_lag_seconds", "For how long one of them has been missing", lag)?;
        let (taken, total) = self.artifacts.usage();
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        gauge(&mut encoder, "artifact_disk_bytes", "Bytes of artifacts on this replica's disk", bytes(taken))?;
        gauge(&mut encoder, "artifact_disk_limit_bytes", "How many they may be", bytes(total))?;
        self.agents(&mut encoder)?;
        self.rollouts(&mut encoder, Timestamp::now())?;
        self.tasks(&mut encoder)?;
        self.crontasks(&mut encoder)
    }
}

/// Labels and a value.
type Row = (Vec<(&'static str, String)>, i64);

impl Figures {
    fn agents(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let agents = self.caches.agents.all();
        let states = agents.iter().map(|a| (namespace(&**a), a.status.as_ref().and_then(|s| s.state)));
        gauges(encoder, "agents", "Agents by state", counted("state", states))?;
        let limits = agents.iter().filter_map(|a| Some((of(a), signed(self.limit(a)?))));
        let help = "Tasks that may run on the agent at a time; absent where there is no limit";
        gauges(encoder, "agent_capacity", help, limits)?;
        let open = self.open();
        let count =
            |a: &Agent, at: fn(&(i64, i64)) -> i64| open.get(&(namespace(a), a.name_any())).map(at).unwrap_or_default();
        let running = agents.iter().map(|a| (of(a), count(a, |n| n.0)));
        gauges(encoder, "agent_running_tasks", "Tasks that run on the agent", running)?;
        let waiting = agents.iter().map(|a| (of(a), count(a, |n| n.1)));
        gauges(encoder, "agent_queue_length", "Tasks that wait for the agent", waiting)
    }

    /// Changes that wait, as the Agents' statuses show them.
    fn rollouts(&self, encoder: &mut DescriptorEncoder<'_>, now: Timestamp) -> fmt::Result {
        let agents = self.caches.agents.all();
        let waiting: Vec<(&Agent, Timestamp)> = agents
            .iter()
            .filter_map(|a| Some((&**a, a.status.as_ref()?.rollout.as_ref()?.since.as_ref()?.0)))
            .collect();
        let mut counts: BTreeMap<String, i64> = agents.iter().map(|a| (namespace(&**a), 0)).collect();
        for (agent, _) in &waiting {
            *counts.entry(namespace(*agent)).or_default() += 1;
        }
        let counts = counts.into_iter().map(|(ns, n)| (vec![("namespace", ns)], n));
        gauges(encoder, "rollouts_waiting", "Agents with a rollout that waits", counts)?;
        let ages = waiting.iter().map(|(a, since)| (of(a), now.duration_since(*since).as_secs().max(0)));
        gauges(encoder, "rollout_wait_seconds", "For how long the rollout of the agent has waited", ages)?;
        let old = agents.iter().filter_map(|a| {
            let pods = a.status.as_ref()?.rollout.as_ref()?.finishing.len();
            (pods > 0).then(|| (of(a), signed(pods)))
        });
        let help = "Pods of older revisions that end their work beside the newest one; absent while there are none";
        gauges(encoder, "agent_old_pods", help, old)?;
        let limits = waiting.iter().map(|(a, _)| (of(a), self.timeout(a)));
        let help = "For how long a rollout of the agent may wait (spec.rollout.timeout); while one waits";
        gauges(encoder, "rollout_timeout_seconds", help, limits)?;
        let mut counts: BTreeMap<(String, String), i64> = BTreeMap::new();
        for agent in &agents {
            if let Some(reason) = waits_for_fleet(agent) {
                *counts.entry((namespace(&**agent), reason.into())).or_default() += 1;
            }
        }
        let counts = counts.into_iter().map(|((ns, reason), n)| (vec![("namespace", ns), ("reason", reason)], n));
        gauges(encoder, "agents_waiting_for_fleet", "Agents that wait because of spec.fleet of the settings", counts)
    }

    fn timeout(&self, agent: &Agent) -> i64 {
        let spec = merge(&agent.spec, self.template(agent).as_deref().map(|t| &t.spec));
        i64::try_from(policy(&spec).timeout.as_secs()).unwrap_or(i64::MAX)
    }

    fn template(&self, agent: &Agent) -> Option<Arc<AgentTemplate>> {
        let named = agent.spec.template_ref.as_ref()?;
        self.caches.templates.get(&namespace(agent), &named.name)
    }

    fn tasks(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let tasks = self.caches.tasks.all();
        let phases = tasks.iter().map(|t| (namespace(&**t), t.status.as_ref().and_then(|s| s.phase)));
        gauges(encoder, "tasks", "Tasks by phase", counted("phase", phases))
    }

    fn crontasks(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let crontasks = self.caches.crontasks.all();
        let mut counts: BTreeMap<(String, String), i64> = BTreeMap::new();
        for cron in &crontasks {
            let mut conditions = cron.status.iter().flat_map(|s| &s.conditions);
            let reason = conditions.find(|c| c.type_ == condition::READY).map_or("Unknown", |c| c.reason.as_str());
            *counts.entry((namespace(&**cron), reason.into())).or_default() += 1;
        }
        let counts = counts.into_iter().map(|((ns, reason), n)| (vec![("namespace", ns), ("reason", reason)], n));
        gauges(encoder, "crontasks", "CronTasks by the reason of their condition Ready", counts)
    }

    fn limit(&self, agent: &Agent) -> Option<usize> {
        limit(&agent.spec, self.template(agent).as_deref().map(|t| &t.spec))
    }

    /// Running and waiting Tasks by namespace and agent.
    fn open(&self) -> BTreeMap<(String, String), (i64, i64)> {
        let mut open: BTreeMap<_, (i64, i64)> = BTreeMap::new();
        for task in self.caches.tasks.all() {
            let phase = task.status.as_ref().and_then(|s| s.phase).unwrap_or(TaskPhase::Pending);
            let Some(agent) = agent_of(&task).filter(|_| !phase.is_terminal()) else { continue };
            let (running, waiting) = open.entry((namespace(&*task), agent.into())).or_default();
            *if phase == TaskPhase::Running { running } else { waiting } += 1;
        }
        open
    }
}

/// The reason why the pace of the fleet keeps a change of the agent, if it does.
fn waits_for_fleet(agent: &Agent) -> Option<&str> {
    let kinds = [condition::ROLLOUT_PENDING, condition::GIT_SYNC_PENDING, condition::TEXT_PENDING];
    let reasons = [reasons::WAITING_FOR_FLEET, reasons::FLEET_CLOSED, reasons::FLEET_STOPPED];
    let conditions = agent.status.iter().flat_map(|s| &s.conditions);
    let mut waits = conditions.filter(|c| c.status == "True" && kinds.contains(&c.type_.as_str()));
    waits.find(|c| reasons.contains(&c.reason.as_str())).map(|c| c.reason.as_str())
}

fn namespace(object: &impl ResourceExt) -> String {
    object.namespace().unwrap_or_default()
}

fn of(agent: &Agent) -> Vec<(&'static str, String)> {
    vec![("namespace", namespace(agent)), ("agent", agent.name_any())]
}

#[allow(clippy::cast_possible_wrap, reason = "counts of objects")]
fn signed(value: usize) -> i64 {
    value as i64
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: usize) -> fmt::Result {
    let value = ConstGauge::new(signed(value));
    value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)
}

/// How many items each namespace has of each value; those without one are counted as `Unknown`.
fn counted<V: fmt::Debug>(
    label: &'static str,
    items: impl Iterator<Item = (String, Option<V>)>,
) -> impl Iterator<Item = Row> {
    let mut counts: BTreeMap<(String, String), i64> = BTreeMap::new();
    for (namespace, value) in items {
        let value = value.map_or_else(|| "Unknown".into(), |v| format!("{v:?}"));
        *counts.entry((namespace, value)).or_default() += 1;
    }
    counts.into_iter().map(move |((namespace, value), n)| (vec![("namespace", namespace), (label, value)], n))
}

fn gauges(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, rows: impl Iterator<Item = Row>) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in rows {
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
