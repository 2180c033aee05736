//! Images: the Agent's or its template's, else the cluster's.

use super::Inputs;
use crate::{
    agent::Invalid,
    api::{PullPolicy, names::reasons},
};

/// Images of the three containers.
pub(super) struct Images {
    pub agent: String,
    pub executor: String,
    pub system: String,
    pub system_pull_policy: Option<&'static str>,
    /// The sidecar has the controller's own image.
    pub own_system: bool,
}

/// Finds them, or names the one that is missing.
pub(super) fn images(inputs: &Inputs<'_>) -> Result<Images, Invalid> {
    let (spec, cluster) = (inputs.spec, inputs.config);
    let system = cluster.and_then(|c| c.system_image.as_ref());
    let named = text(system.and_then(|s| s.image.as_deref()));
    let own_system = named.is_none();
    Ok(Images {
        agent: or_missing(text(spec.agent_image.as_deref()), text(cluster.and_then(|c| c.agent_image.as_deref())))
            .ok_or_else(|| missing("agentImage"))?,
        executor: or_missing(
            text(spec.executor_image.as_deref()),
            text(cluster.and_then(|c| c.executor_image.as_deref())),
        )
        .ok_or_else(|| missing("executorImage"))?,
        system: or_missing(named, text(inputs.system_image)).ok_or_else(missing_system)?,
        system_pull_policy: system.and_then(|s| s.image_pull_policy).map(policy),
        own_system,
    })
}

fn text(value: Option<&str>) -> Option<&str> {
    value.filter(|v| !v.is_empty())
}

fn or_missing(first: Option<&str>, second: Option<&str>) -> Option<String> {
    first.or(second).map(String::from)
}

fn missing(field: &str) -> Invalid {
    Invalid::stalled(
        reasons::IMAGE_MISSING,
        format!("no image: set spec.{field} in the Agent, in its template, or in PilothouseConfig cluster for all"),
    )
}

fn missing_system() -> Invalid {
    Invalid::stalled(
        reasons::IMAGE_MISSING,
        "no image for the sidecar: set spec.systemImage.image in PilothouseConfig cluster, or start the controller \
         with --system-image",
    )
}

fn policy(policy: PullPolicy) -> &'static str {
    match policy {
        PullPolicy::Always => "Always",
        PullPolicy::Never => "Never",
        PullPolicy::IfNotPresent => "IfNotPresent",
    }
}
