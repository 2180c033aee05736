//! The sidecar: door, activity, voice; it also puts the files of contexts into the workspace.

use k8s_openapi::api::core::v1::{Container, ContainerPort, ExecAction, Lifecycle, LifecycleHandler, Probe};

use super::{Plan, containers, env, layout, reach, security};
use crate::agent::beside;

/// A native sidecar: starts before the server, outlives it.
pub(super) fn sidecar(plan: &Plan<'_>) -> Container {
    let system = containers::system(plan);
    let own = [
        system.and_then(|s| s.context_init.as_ref()),
        system.and_then(|s| s.git_init.as_ref()),
        system.and_then(|s| s.git_sync.as_ref()),
    ];
    let mut mounts = vec![
        containers::mount("workspace", &plan.workspace),
        containers::read_only("context", layout::CONTEXT),
        containers::read_only("files", layout::FILES),
        containers::read_only("auth", layout::AUTH),
        containers::read_only("authority", layout::AUTHORITY),
        containers::read_only("token", layout::TOKEN),
    ];
    mounts.extend(plan.git.sidecar_mounts());
    mounts.extend(reach::mount(plan));
    mounts.extend(own.iter().flatten().flat_map(|c| c.extra_volume_mounts.clone()));
    let own_env = own.iter().flat_map(|c| env::system(*c)).collect();
    let probe = |path: &str| Probe { http_get: Some(containers::door(path)), ..Probe::default() };
    Container {
        name: layout::SIDECAR.into(),
        image: Some(plan.images.system.clone()),
        image_pull_policy: plan.images.system_pull_policy.map(String::from),
        args: Some(vec!["sidecar".into()]),
        restart_policy: Some("Always".into()),
        env: Some(env::join([variables(plan), reach::variables(plan), env::extra(plan), own_env])),
        ports: Some(vec![ContainerPort {
            name: Some(layout::DOOR_NAME.into()),
            container_port: layout::DOOR_PORT,
            protocol: Some("TCP".into()),
            ..ContainerPort::default()
        }]),
        resources: Some(security::sidecar_resources()),
        volume_mounts: Some(mounts),
        security_context: Some(security::of_container(plan)),
        lifecycle: Some(Lifecycle { pre_stop: Some(drain()), ..Lifecycle::default() }),
        // Passes when all content is in place: the server starts after it.
        startup_probe: Some(Probe {
            period_seconds: Some(1),
            failure_threshold: Some(300),
            timeout_seconds: Some(5),
            ..probe("/startz")
        }),
        liveness_probe: Some(Probe {
            period_seconds: Some(10),
            failure_threshold: Some(3),
            timeout_seconds: Some(5),
            ..probe("/healthz")
        }),
        ..Container::default()
    }
}

/// The kubelet alone can tell the door that the pod ends.
fn drain() -> LifecycleHandler {
    let command = ["pilothouse", "drain"].map(String::from).into();
    LifecycleHandler { exec: Some(ExecAction { command: Some(command) }), ..LifecycleHandler::default() }
}

fn variables(plan: &Plan<'_>) -> Vec<k8s_openapi::api::core::v1::EnvVar> {
    let mut variables = vec![
        env::var("HOME", layout::HOME),
        env::var("PILOTHOUSE_AGENT", plan.name),
        env::var("PILOTHOUSE_LAYOUT", plan.inputs.layout.to_string()),
        env::var("PILOTHOUSE_SERVER_PORT", plan.inputs.spec.port.to_string()),
        env::var("PILOTHOUSE_WORKSPACE", plan.workspace.as_str()),
        env::var("PILOTHOUSE_AUTH_DIR", layout::AUTH),
        env::var("PILOTHOUSE_CONTEXT_DIR", layout::CONTEXT),
        env::var("PILOTHOUSE_FILES_DIR", layout::FILES),
        env::var("PILOTHOUSE_AUTHORITY_DIR", layout::AUTHORITY),
        env::var("PILOTHOUSE_TOKEN_DIR", layout::TOKEN),
        env::field("POD_NAME", "metadata.name"),
        env::field("POD_NAMESPACE", "metadata.namespace"),
        env::field("POD_UID", "metadata.uid"),
        env::field("PILOTHOUSE_POD_IP", "status.podIP"),
    ];
    if let Some(address) = plan.inputs.voice_address {
        variables.push(env::var("PILOTHOUSE_VOICE_ADDRESS", address));
    }
    if beside::is_wanted(plan.inputs.spec) {
        variables.push(env::var(beside::MARK, "true"));
    }
    if !plan.git.is_empty() {
        variables.push(env::var("PILOTHOUSE_CONTENT_DIR", layout::CONTENT));
    }
    variables
}
