//! Numbers for `/metrics`.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::ConstGauge,
        histogram::{Histogram, exponential_buckets},
    },
};

use super::index::Index;
use crate::server::metrics::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    result: &'static str,
}

/// Counters of deliveries.
#[derive(Clone)]
pub(super) struct Counts {
    deliveries: Family<ByResult, Counter>,
    took: Histogram,
}

impl Counts {
    /// Registers them.
    pub(super) fn new(metrics: &Metrics, index: &Arc<Mutex<Index>>) -> Self {
        let counts = Self { deliveries: Family::default(), took: Histogram::new(exponential_buckets(0.001, 2.0, 14)) };
        let hooks = Hooks(index.clone());
        metrics.register(|registry| {
            let help = "Deliveries of webhooks by result";
            registry.register("webhook_deliveries", help, counts.deliveries.clone());
            let help = "Time from the head of a delivery to the answer";
            registry.register("webhook_delivery_duration_seconds", help, counts.took.clone());
            registry.register_collector(Box::new(hooks));
        });
        counts
    }

    /// Counts one delivery.
    pub(super) fn delivered(&self, result: &'static str, took: Duration) {
        self.deliveries.get_or_create(&ByResult { result }).inc();
        self.took.observe(took.as_secs_f64());
    }
}

struct Hooks(Arc<Mutex<Index>>);

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooks")
    }
}

impl Collector for Hooks {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let gauge = ConstGauge::new(i64::try_from(self.0.lock().len()).unwrap_or(i64::MAX));
        let help = "Repositories with a webhook that the receiver knows";
        let metric = encoder.encode_descriptor("webhooks", help, None, gauge.metric_type())?;
        gauge.encode(metric)
    }
}
