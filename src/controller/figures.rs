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

use super::{caches::Caches, voice::Voices};
use crate::git::Sources;

/// Reads the sources, the connected sidecars and the caches.
pub(super) struct Figures {
    pub(super) sources: Sources,
    pub(super) voices: Arc<Voices>,
    pub(super) caches: Caches,
}

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let git = self.sources.counters();
        let counters: [(&str, &str, &AtomicU64); 4] = [
            ("git_listings", "Listings of references at remotes", &git.listings),
            ("git_failed_listings", "Listings that failed", &git.failed_listings),
            ("git_fetches", "Fetches from remotes", &git.fetches),
            ("git_failed_fetches", "Fetches that failed", &git.failed_fetches),
        ];
        for (name, help, counter) in counters {
            let value = ConstCounter::new(counter.load(Ordering::Relaxed));
            value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)?;
        }
        gauge(&mut encoder, "git_remotes", "Remotes that are polled", self.sources.remotes())?;
        gauge(&mut encoder, "sidecars_connected", "Agent pods that are connected", self.voices.connected())?;
        let agents = self.caches.agents.all();
        let states = agents.iter().map(|a| a.status.as_ref().and_then(|s| s.state).map(|s| format!("{s:?}")));
        by_label(&mut encoder, "agents", "Agents by state", "state", states.map(Option::unwrap_or_default))?;
        let tasks = self.caches.tasks.all();
        let phases = tasks.iter().map(|t| t.status.as_ref().and_then(|s| s.phase).map(|p| format!("{p:?}")));
        by_label(&mut encoder, "tasks", "Tasks by phase", "phase", phases.map(Option::unwrap_or_default))
    }
}

#[allow(clippy::cast_possible_wrap, reason = "counts of objects")]
fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: usize) -> fmt::Result {
    let value = ConstGauge::new(value as i64);
    value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)
}

/// How many items have each value; those without one are counted as `Unknown`.
fn by_label(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &'static str,
    values: impl Iterator<Item = String>,
) -> fmt::Result {
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    for value in values {
        let value = if value.is_empty() { "Unknown".into() } else { value };
        *counts.entry(value).or_default() += 1;
    }
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (value, count) in counts {
        ConstGauge::new(count).encode(family.encode_family(&[(label, value)])?)?;
    }
    Ok(())
}
