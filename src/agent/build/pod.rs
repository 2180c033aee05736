//! The pod template.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        ConfigMapVolumeSource, EmptyDirVolumeSource, LocalObjectReference, PodReadinessGate, PodSpec, PodTemplateSpec,
        ProjectedVolumeSource, SecretVolumeSource, ServiceAccountTokenProjection, Volume, VolumeProjection,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::Value;

use super::{Plan, containers, json, reach, security, sidecar};
use crate::{
    agent::{beside, decide, gate::Protect, verify},
    api::names::{self, annotation},
};

/// Pod annotation: keyed hashes of credentials, so that a new value makes a new pod. (The door
/// takes a new password of its own without one.).
const CREDENTIALS_HASH: &str = "pilothouse.dev/credentials-hash";

/// Seconds that a pod has to end at least: the server goes at once when asked.
const LEAST_GRACE_S: u64 = 30;
/// Seconds that a pod has to end at most, whatever the rollout's timeout is.
const MOST_GRACE_S: u64 = 86_400;

/// Volume of the manifest of what is exchanged in the running pod.
pub(super) const CONTENT: &str = "content";

/// Seconds that a token for the controller is good for; the kubelet renews it.
const TOKEN_S: i64 = 3600;

/// The whole template as JSON.
pub(super) fn template(plan: &Plan<'_>) -> Value {
    let mut annotations = BTreeMap::from([
        (annotation::LAYOUT.to_string(), plan.inputs.layout.to_string()),
        (CREDENTIALS_HASH.to_string(), credentials_hash(plan)),
    ]);
    annotations.extend(plan.inputs.upgrade.map(|mark| (annotation::UPGRADE.to_string(), mark.to_string())));
    let metadata =
        ObjectMeta { labels: Some(super::labels(plan)), annotations: Some(annotations), ..ObjectMeta::default() };
    json(&PodTemplateSpec { metadata: Some(metadata), spec: Some(spec(plan)) })
}

fn credentials_hash(plan: &Plan<'_>) -> String {
    crate::agent::hash::short(&serde_json::json!(plan.credentials.hashes))
}

/// Its spec.
pub(super) fn spec(plan: &Plan<'_>) -> PodSpec {
    let (spec, own) = (plan.inputs.spec, plan.inputs.spec.pod_spec.as_ref());
    let scheduling = own.and_then(|p| p.scheduling.as_ref());
    PodSpec {
        init_containers: Some(vec![containers::opencode_init(plan), sidecar::sidecar(plan)]),
        containers: vec![containers::server(plan)],
        volumes: Some(volumes(plan)),
        service_account_name: spec.service_account_name.clone(),
        // Nobody asked for rights: the default account's token stays outside.
        automount_service_account_token: spec.service_account_name.is_none().then_some(false),
        // Variables named after Services would differ from pod to pod.
        enable_service_links: Some(false),
        image_pull_secrets: pull_secrets(plan),
        security_context: Some(security::of_pod(plan)),
        readiness_gates: verify::wanted(spec).map(|_| vec![PodReadinessGate { condition_type: verify::GATE.into() }]),
        termination_grace_period_seconds: Some(plan.inputs.grace.unwrap_or_else(|| grace(plan))),
        runtime_class_name: own.and_then(|p| p.runtime_class_name.clone()),
        node_selector: scheduling.map(|s| s.node_selector.clone()).filter(|m| !m.is_empty()),
        tolerations: scheduling.map(|s| s.tolerations.clone()).filter(|l| !l.is_empty()),
        affinity: scheduling.and_then(|s| s.affinity.clone()),
        ..PodSpec::default()
    }
}

/// Work that was begun before a pod ends has as long to end as a rollout would have waited for it.
fn grace(plan: &Plan<'_>) -> i64 {
    let policy = decide::policy(plan.inputs.spec);
    let seconds = match policy.protect {
        _ if beside::is_wanted(plan.inputs.spec) => beside::grace(&policy),
        Protect::None => LEAST_GRACE_S,
        Protect::Tasks | Protect::TasksAndSessions => policy.timeout.as_secs().clamp(LEAST_GRACE_S, MOST_GRACE_S),
    };
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn pull_secrets(plan: &Plan<'_>) -> Option<Vec<LocalObjectReference>> {
    let mut list: Vec<LocalObjectReference> = vec![];
    for secret in plan.inputs.spec.image_pull_secrets.iter().flatten().filter(|s| !s.name.is_empty()) {
        if list.iter().all(|l| l.name != secret.name) {
            list.push(LocalObjectReference { name: secret.name.clone() });
        }
    }
    Some(list).filter(|l| !l.is_empty())
}

/// Every volume of the pod.
pub(super) fn volumes(plan: &Plan<'_>) -> Vec<Volume> {
    let mut volumes = vec![
        empty("tools"),
        empty("workspace"),
        config_map("context", names::agent::context(plan.name), None, Some(true)),
        config_map("files", plan.files.name.clone(), Some(plan.files.items()), None),
        secret("auth", names::agent::auth(plan.name)),
        config_map("authority", names::AUTHORITY_CONFIG_MAP.into(), None, Some(true)),
        token(),
    ];
    for (index, items) in plan.files.directories.values().enumerate() {
        let name = containers::directory_volume(index);
        volumes.push(config_map(&name, plan.files.name.clone(), Some(items.clone()), None));
    }
    volumes.extend(plan.git.volumes());
    if !plan.git.is_empty() {
        volumes.push(config_map(CONTENT, names::agent::content(plan.name), None, Some(true)));
    }
    volumes.extend(plan.credentials.volumes.iter().cloned());
    volumes.extend(reach::volume(plan));
    if containers::needs_home(plan) {
        volumes.push(empty("home"));
    }
    volumes.extend(plan.inputs.spec.pod_spec.iter().flat_map(|p| p.extra_volumes.clone()));
    volumes
}

fn empty(name: &str) -> Volume {
    Volume { name: name.into(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() }
}

fn config_map(
    volume: &str,
    name: String,
    items: Option<Vec<k8s_openapi::api::core::v1::KeyToPath>>,
    optional: Option<bool>,
) -> Volume {
    let source = ConfigMapVolumeSource { name, items, optional, default_mode: Some(0o644) };
    Volume { name: volume.into(), config_map: Some(source), ..Volume::default() }
}

fn secret(volume: &str, name: String) -> Volume {
    let source =
        SecretVolumeSource { secret_name: Some(name), default_mode: Some(0o444), ..SecretVolumeSource::default() };
    Volume { name: volume.into(), secret: Some(source), ..Volume::default() }
}

fn token() -> Volume {
    let token = ServiceAccountTokenProjection {
        audience: Some(names::AUDIENCE.into()),
        expiration_seconds: Some(TOKEN_S),
        path: "token".into(),
    };
    let sources = vec![VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() }];
    let projected = ProjectedVolumeSource { sources: Some(sources), default_mode: Some(0o444) };
    Volume { name: "token".into(), projected: Some(projected), ..Volume::default() }
}
