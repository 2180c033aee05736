//! By which keys Kubernetes' own lists are merged.
#![allow(clippy::match_same_arms, reason = "a table, one line a list")]

use crate::render::kustomize::references::PODS;

const NAME: &[&str] = &["name"];
const ITEMS: &[&str] = &[];

/// The keys of the list at `fields` (steps without indexes) of a kind of Kubernetes; empty for lists of plain values
/// that are united. `None`: the list is replaced.
pub(super) fn of(group: &str, kind: &str, fields: &[String]) -> Option<&'static [&'static str]> {
    let path = fields.join("/");
    let own = match (group, kind, path.as_str()) {
        ("", "Service", "spec/ports") => Some(["port", "protocol"].as_slice()),
        ("", "ServiceAccount", "secrets") => Some(NAME),
        ("", "Node", "spec/podCIDRs") => Some(ITEMS),
        (
            "admissionregistration.k8s.io",
            "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration",
            "webhooks",
        ) => Some(NAME),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy", "spec/variables") => Some(NAME),
        ("admissionregistration.k8s.io", _, "webhooks/matchConditions" | "spec/matchConditions") => Some(NAME),
        ("storage.k8s.io", "CSINode", "spec/drivers") => Some(NAME),
        _ => None,
    };
    own.or_else(|| metadata(&path)).or_else(|| pod(kind, &path))
}

fn metadata(path: &str) -> Option<&'static [&'static str]> {
    let field = path.strip_prefix("metadata/").or_else(|| path.rsplit_once("/metadata/").map(|(_, field)| field))?;
    match field {
        "finalizers" => Some(ITEMS),
        "ownerReferences" => Some(&["uid"]),
        _ => None,
    }
}

fn pod(kind: &str, path: &str) -> Option<&'static [&'static str]> {
    let (_, pod) = PODS.iter().find(|(k, _)| *k == kind)?;
    let field = path.strip_prefix(pod)?.strip_prefix('/')?;
    let container =
        ["containers/", "initContainers/", "ephemeralContainers/"].iter().find_map(|c| field.strip_prefix(c));
    match (field, container) {
        (_, Some("env")) => Some(NAME),
        (_, Some("ports")) => Some(&["containerPort", "protocol"]),
        (_, Some("volumeDevices")) => Some(&["devicePath"]),
        (_, Some("volumeMounts")) => Some(&["mountPath"]),
        ("containers" | "initContainers" | "ephemeralContainers", _) => Some(NAME),
        ("imagePullSecrets" | "resourceClaims" | "schedulingGates" | "volumes", _) => Some(NAME),
        ("hostAliases", _) => Some(&["ip"]),
        ("topologySpreadConstraints", _) => Some(&["topologyKey", "whenUnsatisfiable"]),
        _ => None,
    }
}
