//! What a Task has to know about its agent and the cluster's settings.

use std::sync::Arc;

use crate::{
    agent::merge,
    api::{Agent, AgentTemplate, PilothouseConfig, names},
    controller::{Settings as Flags, caches::Caches},
    task::{AgentView, Settings},
};

/// The agent with its template merged in, as far as Tasks need it.
pub(super) fn agent(caches: &Caches, namespace: &str, name: &str) -> Option<AgentView> {
    let agent = caches.agents.get(namespace, name)?;
    let template = agent.spec.template_ref.as_ref().and_then(|r| caches.templates.get(namespace, &r.name));
    Some(view(&agent, template.as_deref()))
}

fn view(agent: &Agent, template: Option<&AgentTemplate>) -> AgentView {
    let spec = merge(&agent.spec, template.map(|t| &t.spec));
    let status = agent.status.clone().unwrap_or_default();
    let pod = spec.pod_spec.unwrap_or_default();
    AgentView {
        name: agent.metadata.name.clone().unwrap_or_default(),
        ready: status.ready == Some(true),
        suspended: suspended(agent) || status.suspended == Some(true),
        url: status.url,
        revision: status.revision,
        max_running: spec.max_concurrent_tasks.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0),
        image_pull_secrets: spec.image_pull_secrets.unwrap_or_default(),
        scheduling: pod.scheduling,
        labels: pod.labels,
        pod_security_context: pod.pod_security_context,
    }
}

/// Whether the agent is, or will be as soon as its work ends, suspended: no further work is given to it.
fn suspended(agent: &Agent) -> bool {
    let annotations = agent.metadata.annotations.as_ref();
    match annotations.and_then(|a| a.get(names::annotation::SUSPEND_OVERRIDE)).map(String::as_str) {
        Some("true") => true,
        Some("false") => false,
        _ => agent.spec.suspend == Some(true),
    }
}

/// The configuration of the cluster.
pub(super) fn config(caches: &Caches) -> Option<Arc<PilothouseConfig>> {
    caches.configs.get("", names::CONFIG)
}

/// The image of Pilothouse: the configuration's, else the flag's.
pub(super) fn settings(config: Option<&PilothouseConfig>, flags: &Flags) -> Settings {
    let image = config.and_then(|c| c.spec.system_image.clone()).unwrap_or_default();
    Settings {
        image: image.image.filter(|i| !i.is_empty()).or_else(|| flags.system_image.clone()),
        pull_policy: image.image_pull_policy,
    }
}

#[cfg(test)]
mod tests;
