//! The pod template, part by part: names of causes with hashes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Plan, env, reach};
use crate::agent::{
    beside,
    content::Bytes,
    effect::{Parts, SUSPEND, TEMPLATE, TEXT},
    hash,
};

/// Where in the pod template a part is. What is found is taken out, so that the rest is `template`.
const POINTERS: &[(&str, &str)] = &[
    ("layout", "/metadata/annotations/pilothouse.dev~1layout"),
    ("upgrade", "/metadata/annotations/pilothouse.dev~1upgrade"),
    ("labels", "/metadata/labels"),
    ("service-account", "/spec/serviceAccountName"),
    ("service-account", "/spec/automountServiceAccountToken"),
    ("pull-secrets", "/spec/imagePullSecrets"),
    ("verify", "/spec/readinessGates"),
    ("scheduling", "/spec/nodeSelector"),
    ("scheduling", "/spec/tolerations"),
    ("scheduling", "/spec/affinity"),
    ("runtime-class", "/spec/runtimeClassName"),
    ("security", "/spec/securityContext"),
    ("agent-image", "/spec/initContainers/0/image"),
    ("env", "/spec/initContainers/0/env"),
    ("security", "/spec/initContainers/0/securityContext"),
    ("system-image", "/spec/initContainers/1/image"),
    ("system-image", "/spec/initContainers/1/imagePullPolicy"),
    ("security", "/spec/initContainers/1/securityContext"),
    ("image", "/spec/containers/0/image"),
    ("command", "/spec/containers/0/command"),
    ("workspace", "/spec/containers/0/workingDir"),
    ("ports", "/spec/containers/0/ports"),
    ("resources", "/spec/containers/0/resources"),
    ("lifecycle", "/spec/containers/0/lifecycle"),
    ("security", "/spec/containers/0/securityContext"),
];

/// Seconds that the pod has to end.
const GRACE: &str = "/spec/terminationGracePeriodSeconds";

/// Names what the pod template is made of.
pub(super) fn parts(plan: &Plan<'_>, template: &Value) -> Parts {
    let mut rest = template.clone();
    let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (name, pointer) in POINTERS {
        if let Some(value) = take(&mut rest, pointer) {
            found.entry((*name).into()).or_default().push(value);
        }
    }
    found.insert("env".into(), vec![environment(plan)]);
    found.insert("config".into(), vec![json!(plan.config.as_ref().and_then(|c| c.own.as_ref()))]);
    found.insert("port".into(), vec![json!(plan.inputs.spec.port)]);
    if beside::is_wanted(plan.inputs.spec) {
        found.insert("strategy".into(), vec![json!(true)]);
    }
    found.insert(SUSPEND.into(), vec![json!(plan.inputs.suspended)]);
    for (name, hash) in &plan.credentials.hashes {
        found.insert(format!("credentials/{name}"), vec![credential(plan, name), json!(hash)]);
    }
    for file in &plan.content.files {
        let content = match &file.bytes {
            Bytes::Text(text) => hash::text(text),
            Bytes::Binary(bytes) => hash::short(&json!(bytes)),
        };
        found.entry(format!("contexts/{}", file.context)).or_default().push(json!([file.path, file.mode, content]));
    }
    for (name, value) in reach::parts(plan) {
        found.insert(name.into(), vec![value]);
    }
    for (id, part) in &plan.git.parts {
        found.entry(id.clone()).or_default().push(json!(part));
    }
    remove_what_parts_name(&mut rest);
    found.insert(TEMPLATE.into(), vec![rest, podspec(plan)]);
    found.into_iter().map(|(name, values)| (name, hash::short(&Value::Array(values)))).collect()
}

/// Names the contexts that gathered text is made of.
pub(super) fn texts(plan: &Plan<'_>) -> Parts {
    plan.content.texts.iter().map(|(name, text)| (format!("{TEXT}/{name}"), hash::text(text))).collect()
}

/// The user's environment; ours follows from other parts.
fn environment(plan: &Plan<'_>) -> Value {
    let system = super::containers::system(plan).cloned().unwrap_or_default();
    let system = [system.open_code_init, system.context_init, system.git_init, system.git_sync];
    json!([env::extra(plan), system.map(|container| env::system(container.as_ref()))])
}

fn credential(plan: &Plan<'_>, name: &str) -> Value {
    json!(plan.inputs.spec.credentials.iter().flatten().find(|c| c.name == name))
}

/// Volumes of the user, not told from ours once they are in the template, and where the controller is.
fn podspec(plan: &Plan<'_>) -> Value {
    // Settings that name none of these are as none at all; environments are a part of their own.
    let own = plan.inputs.spec.pod_spec.clone().unwrap_or_default();
    let system = own.system_containers.unwrap_or_default();
    let mounts = [system.open_code_init, system.context_init, system.git_init, system.git_sync]
        .map(|container| container.unwrap_or_default().extra_volume_mounts);
    json!([own.extra_volumes, own.extra_volume_mounts, mounts, plan.inputs.voice_address])
}

/// Lists in the rest that follow from other parts (environment, volumes, mounts, the hash of credentials). What they
/// add of the user's own is in `env` and in [`podspec`]; what is ours alone changes with the layout's version.
fn remove_what_parts_name(rest: &mut Value) {
    for pointer in [
        "/metadata/annotations/pilothouse.dev~1credentials-hash",
        GRACE,
        "/spec/volumes",
        "/spec/initContainers/0/volumeMounts",
        "/spec/initContainers/1/env",
        "/spec/initContainers/1/volumeMounts",
        "/spec/containers/0/env",
        "/spec/containers/0/envFrom",
        "/spec/containers/0/volumeMounts",
    ] {
        take(rest, pointer);
    }
}

/// A new release of the controller alone must not replace pods: its own image is no part of what is compared.
pub(super) fn without_system_image(template: &mut Value) {
    take(template, "/spec/initContainers/1/image");
}

/// Nor must another time to end: it matters to the next pod.
pub(super) fn without_grace(template: &mut Value) {
    take(template, GRACE);
}

fn take(value: &mut Value, pointer: &str) -> Option<Value> {
    let (parent, key) = pointer.rsplit_once('/')?;
    value.pointer_mut(parent)?.as_object_mut()?.remove(&key.replace("~1", "/"))
}
