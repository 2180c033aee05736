//! What a Task has to know about its agent and the cluster's settings.

use std::sync::Arc;

use crate::{
    agent::{drain::draining, limit, merge, wants_suspension},
    api::{
        Agent, AgentTemplate, PilothouseConfig, TaskInput,
        agent::GitSyncStatus,
        content::{CONTEXTS, SKILLS},
        names,
    },
    controller::{Settings as Flags, caches::Caches},
    task::{AgentView, Quota, Settings},
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
    let name = agent.metadata.name.clone().unwrap_or_default();
    let draining = draining(&name, &spec, &status);
    let pod = spec.pod_spec.unwrap_or_default();
    AgentView {
        name,
        ready: status.ready == Some(true),
        // Also one that will be as soon as its work ends: no further work is given to it.
        suspended: wants_suspension(agent) || status.suspended == Some(true),
        draining,
        verifying: status.rollout.and_then(|r| r.verifying),
        url: status.url,
        revision: status.revision,
        inputs: inputs(&status.git_sync_statuses),
        max_running: limit(&agent.spec, template.map(|t| &t.spec)),
        quota: spec.quota.as_ref().map(Quota::of),
        image_pull_secrets: spec.image_pull_secrets.unwrap_or_default(),
        scheduling: pod.scheduling,
        labels: pod.labels,
        pod_security_context: pod.pod_security_context,
    }
}

/// What the agent works with, under the ids that its pieces have.
fn inputs(statuses: &[GitSyncStatus]) -> Vec<TaskInput> {
    let input = |status: &GitSyncStatus| {
        let id = match &status.name {
            name if name.starts_with(SKILLS) => name.clone(),
            name => format!("{CONTEXTS}{name}"),
        };
        Some(TaskInput { id, commit: status.commit_hash.clone()? })
    };
    let mut inputs: Vec<_> = statuses.iter().filter_map(input).collect();
    inputs.sort_by(|a, b| a.id.cmp(&b.id));
    inputs
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
