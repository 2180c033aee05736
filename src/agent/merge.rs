//! An Agent with the gaps filled from its template.

use crate::api::{AgentSpec, AgentTemplateSpec};

/// The effective spec.
///
/// Texts, numbers and objects come from the Agent unless they are absent or zero; objects are taken whole. Lists come
/// from the Agent as soon as they are present, also when empty; `command` only when it is not empty. Fields that a
/// template does not have stay the Agent's.
pub fn merge(agent: &AgentSpec, template: Option<&AgentTemplateSpec>) -> AgentSpec {
    let mut spec = agent.clone();
    spec.agent_image = text(spec.agent_image);
    spec.executor_image = text(spec.executor_image);
    spec.attach_image = text(spec.attach_image);
    spec.workspace_dir = text(spec.workspace_dir);
    spec.service_account_name = text(spec.service_account_name);
    spec.command = spec.command.filter(|c| !c.is_empty());
    spec.max_concurrent_tasks = spec.max_concurrent_tasks.filter(|n| *n != 0);
    let Some(base) = template.cloned() else { return spec };
    AgentSpec {
        agent_image: spec.agent_image.or(text(base.agent_image)),
        executor_image: spec.executor_image.or(text(base.executor_image)),
        attach_image: spec.attach_image.or(text(base.attach_image)),
        workspace_dir: spec.workspace_dir.or(text(Some(base.workspace_dir))),
        command: spec.command.or(base.command.filter(|c| !c.is_empty())),
        contexts: spec.contexts.or(base.contexts),
        skills: spec.skills.or(base.skills),
        plugins: spec.plugins.or(base.plugins),
        config: spec.config.or(base.config),
        credentials: spec.credentials.or(base.credentials),
        pod_spec: spec.pod_spec.or(base.pod_spec),
        service_account_name: spec.service_account_name.or(text(Some(base.service_account_name))),
        max_concurrent_tasks: spec.max_concurrent_tasks.or(base.max_concurrent_tasks),
        quota: spec.quota.or(base.quota),
        ca_bundle: spec.ca_bundle.or(base.ca_bundle),
        proxy: spec.proxy.or(base.proxy),
        image_pull_secrets: spec.image_pull_secrets.or(base.image_pull_secrets),
        extra_ports: spec.extra_ports.or(base.extra_ports),
        rollout: spec.rollout.or(base.rollout),
        // The Agent's alone: templateRef, profile, port, persistence, suspend, standby, share.
        ..spec
    }
}

/// How many Tasks may run on an agent at a time; none: as many as there are.
pub fn limit(agent: &AgentSpec, template: Option<&AgentTemplateSpec>) -> Option<usize> {
    let own = agent.max_concurrent_tasks.filter(|n| *n != 0);
    let limit = own.or_else(|| template.and_then(|t| t.max_concurrent_tasks));
    limit.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0)
}

fn text(value: Option<String>) -> Option<String> {
    value.filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests;
