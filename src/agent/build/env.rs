//! Environment of the containers.

use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector};

use super::{Plan, layout};
use crate::{agent::config, api::pod::SystemContainer};

/// A variable with a value.
pub(super) fn var(name: &str, value: impl Into<String>) -> EnvVar {
    EnvVar { name: name.into(), value: Some(value.into()), value_from: None }
}

/// A variable with a field of the pod.
pub(super) fn field(name: &str, path: &str) -> EnvVar {
    let field_ref = ObjectFieldSelector { api_version: Some("v1".into()), field_path: path.into() };
    let source = EnvVarSource { field_ref: Some(field_ref), ..EnvVarSource::default() };
    EnvVar { name: name.into(), value: None, value_from: Some(source) }
}

/// Of the executor container, but for credentials.
pub(super) fn server(plan: &Plan<'_>) -> Vec<EnvVar> {
    let mut env = vec![
        var("HOME", layout::HOME),
        var("SHELL", "/bin/bash"),
        var("PATH", "/tools:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        var("WORKSPACE_DIR", plan.workspace.as_str()),
        var("OPENCODE_CONFIG_CONTENT", config::instructions(layout::CONTEXT_FILE)),
    ];
    env.extend(safe_directories(plan));
    if let Some(config) = &plan.config {
        env.push(var("OPENCODE_CONFIG", layout::CONFIG));
        if !config.has_permission {
            env.push(allow_all());
        }
    } else {
        env.push(allow_all());
    }
    env
}

/// The root of a volume belongs to nobody in the pod, and Git refuses to work in a repository of somebody else unless it is told.
fn safe_directories(plan: &Plan<'_>) -> Vec<EnvVar> {
    let mut env: Vec<EnvVar> = plan
        .git
        .checkouts()
        .enumerate()
        .flat_map(|(index, path)| {
            [var(&format!("GIT_CONFIG_KEY_{index}"), "safe.directory"), var(&format!("GIT_CONFIG_VALUE_{index}"), path)]
        })
        .collect();
    if !env.is_empty() {
        env.push(var("GIT_CONFIG_COUNT", (env.len() / 2).to_string()));
    }
    env
}

/// Nobody sits before an agent to answer: everything is allowed unless the configuration says otherwise.
fn allow_all() -> EnvVar {
    var("OPENCODE_PERMISSION", r#"{"*":"allow"}"#)
}

/// Joins lists: a later variable replaces an earlier one of the same name, in the later one's place, as the kubelet
/// would have it (server-side apply refuses a name that is there twice).
pub(super) fn join(lists: impl IntoIterator<Item = Vec<EnvVar>>) -> Vec<EnvVar> {
    let mut out: Vec<EnvVar> = vec![];
    for variable in lists.into_iter().flatten() {
        out.retain(|v| v.name != variable.name);
        out.push(variable);
    }
    out
}

/// The user's variables for all containers.
pub(super) fn extra(plan: &Plan<'_>) -> Vec<EnvVar> {
    plan.inputs.spec.pod_spec.as_ref().map(|p| p.extra_env.clone()).unwrap_or_default()
}

/// The user's variables for one of our containers.
pub(super) fn system(container: Option<&SystemContainer>) -> Vec<EnvVar> {
    container.map(|c| c.extra_env.clone()).unwrap_or_default()
}
