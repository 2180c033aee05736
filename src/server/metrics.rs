//! Metrics in the OpenMetrics text format.

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::{
    api::names::reasons,
    status::{Class, Failure},
};

/// Labels of reconcile metrics.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    kind: String,
    result: &'static str,
}

/// Labels by kind alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByKind {
    kind: String,
}

/// Labels of panics.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Panicked {
    what: &'static str,
}

/// Labels by agent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByAgent {
    namespace: String,
    agent: String,
}

/// Labels by namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByNamespace {
    namespace: String,
}

/// Labels of skipped runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Skipped {
    namespace: String,
    reason: String,
}

/// Why times of a schedule are skipped.
const SKIPS: [&str; 7] = [
    reasons::ACTIVE_TASK_EXISTS,
    reasons::MAX_RETAINED_TASKS_REACHED,
    reasons::MISSED_DEADLINE,
    reasons::NAME_CONFLICT,
    reasons::SLOTS_MISSED,
    reasons::SUSPENDED,
    reasons::TOO_MANY_MISSED,
];

/// All metrics of the process; `docs/metrics.md` lists them.
pub struct Metrics {
    registry: parking_lot::Mutex<Registry>,
    tasks: Family<ByAgent, Histogram>,
    forced: Family<ByAgent, Counter>,
    reconciles: Family<Outcome, Counter>,
    durations: Family<ByKind, Histogram>,
    panics: Family<Panicked, Counter>,
    crontask_runs: Family<ByNamespace, Counter>,
    crontask_skips: Family<Skipped, Counter>,
    crontask_lateness: Family<ByNamespace, Histogram>,
    leader: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("pilothouse");
        let reconciles = Family::default();
        registry.register("reconciles", "Reconciles by kind and result", reconciles.clone());
        let durations =
            Family::<ByKind, Histogram>::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 16)));
        registry.register("reconcile_duration_seconds", "Time a reconcile took", durations.clone());
        let panics = Family::<Panicked, Counter>::default();
        for what in ["reconcile", "listener", "loop"] {
            drop(panics.get_or_create(&Panicked { what }));
        }
        registry.register("panics", "Bugs: panics that were caught, by what panicked", panics.clone());
        let tasks =
            Family::<ByAgent, Histogram>::new_with_constructor(|| Histogram::new(exponential_buckets(10.0, 2.0, 10)));
        registry.register("task_duration_seconds", "Time from the start of a Task to its end", tasks.clone());
        let forced = Family::<ByAgent, Counter>::default();
        registry.register("rollouts_forced", "Rollouts that cut work", forced.clone());
        let crontask_runs = Family::<ByNamespace, Counter>::default();
        registry.register("crontask_runs", "Tasks made by CronTasks", crontask_runs.clone());
        let crontask_skips = Family::<Skipped, Counter>::default();
        let help = "Times of the schedules of CronTasks for which no Task was made";
        registry.register("crontask_skips", help, crontask_skips.clone());
        let crontask_lateness = Family::<ByNamespace, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.01, 2.0, 16))
        });
        let help = "Time from a time of the schedule of a CronTask to its Task";
        registry.register("crontask_lateness_seconds", help, crontask_lateness.clone());
        let leader = Gauge::default();
        registry.register("leader", "Whether this replica is the leader", leader.clone());
        Self {
            registry: registry.into(),
            tasks,
            forced,
            reconciles,
            durations,
            panics,
            crontask_runs,
            crontask_skips,
            crontask_lateness,
            leader,
        }
    }
}

impl Metrics {
    /// Counts one reconcile.
    pub fn reconciled(&self, kind: &str, failure: Option<&Failure>, took: Duration) {
        let result = match failure.map(|f| f.class) {
            None => "ok",
            Some(Class::Transient) => "error",
            Some(Class::Waiting) => "waiting",
            Some(Class::Stalled) => "stalled",
        };
        self.reconciles.get_or_create(&Outcome { kind: kind.into(), result }).inc();
        self.durations.get_or_create(&ByKind { kind: kind.into() }).observe(took.as_secs_f64());
    }

    /// Counts a panic that was caught.
    pub fn panicked(&self, what: &'static str) {
        self.panics.get_or_create(&Panicked { what }).inc();
    }

    /// Counts a Task of an agent that has ended.
    pub fn task_ended(&self, namespace: &str, agent: &str, took: Duration) {
        self.tasks.get_or_create(&by_agent(namespace, agent)).observe(took.as_secs_f64());
    }

    /// An agent is gone, and with it what was counted by its name.
    pub fn forget_agent(&self, namespace: &str, agent: &str) {
        self.tasks.remove(&by_agent(namespace, agent));
        self.forced.remove(&by_agent(namespace, agent));
    }

    /// An agent's counters exist before they count: who reads them sees the first rise too.
    pub fn agent_seen(&self, namespace: &str, agent: &str) {
        drop(self.forced.get_or_create(&by_agent(namespace, agent)));
    }

    /// Counts a rollout that cut work.
    pub fn rollout_forced(&self, namespace: &str, agent: &str) {
        self.forced.get_or_create(&by_agent(namespace, agent)).inc();
    }

    /// The counters of a namespace with `CronTasks` exist before they count: who reads them sees the first rise too.
    pub fn crontask_seen(&self, namespace: &str) {
        let of = ByNamespace { namespace: namespace.into() };
        drop(self.crontask_runs.get_or_create(&of));
        drop(self.crontask_lateness.get_or_create(&of));
        for reason in SKIPS {
            drop(self.crontask_skips.get_or_create(&Skipped { namespace: namespace.into(), reason: reason.into() }));
        }
    }

    /// Counts a Task that a `CronTask` made; by schedule, with how late it was.
    pub fn crontask_ran(&self, namespace: &str, late: Option<Duration>) {
        let of = ByNamespace { namespace: namespace.into() };
        self.crontask_runs.get_or_create(&of).inc();
        if let Some(late) = late {
            self.crontask_lateness.get_or_create(&of).observe(late.as_secs_f64());
        }
    }

    /// Counts a time of the schedule of a `CronTask` for which no Task was made.
    pub fn crontask_skipped(&self, namespace: &str, reason: &str) {
        self.crontask_skips.get_or_create(&Skipped { namespace: namespace.into(), reason: reason.into() }).inc();
    }

    /// Says whether this replica leads.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// Lets another room add its metrics.
    pub fn register(&self, with: impl FnOnce(&mut Registry)) {
        with(&mut self.registry.lock());
    }

    /// The OpenMetrics text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry.lock());
        text
    }
}

fn by_agent(namespace: &str, agent: &str) -> ByAgent {
    ByAgent { namespace: namespace.into(), agent: agent.into() }
}
