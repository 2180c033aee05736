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

use crate::status::{Class, Failure};

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

/// All metrics of the process.
pub struct Metrics {
    registry: parking_lot::Mutex<Registry>,
    reconciles: Family<Outcome, Counter>,
    durations: Family<ByKind, Histogram>,
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
        let leader = Gauge::default();
        registry.register("leader", "Whether this replica is the leader", leader.clone());
        Self { registry: registry.into(), reconciles, durations, leader }
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
