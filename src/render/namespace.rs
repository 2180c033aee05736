//! Which kinds have a namespace, and giving one to those that do.

use std::collections::BTreeMap;

use super::Item;
use crate::{
    api::GROUP,
    object::{Gvk, Object},
};

/// Where objects of a kind live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// In none.
    Cluster,
}

/// Cluster-scoped kinds of Kubernetes, by group.
const CLUSTER: &[(&str, &[&str])] = &[
    ("", &["ComponentStatus", "Namespace", "Node", "PersistentVolume"]),
    (
        "admissionregistration.k8s.io",
        &[
            "MutatingAdmissionPolicy",
            "MutatingAdmissionPolicyBinding",
            "MutatingWebhookConfiguration",
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionPolicyBinding",
            "ValidatingWebhookConfiguration",
        ],
    ),
    ("apiextensions.k8s.io", &["CustomResourceDefinition"]),
    ("apiregistration.k8s.io", &["APIService"]),
    ("authentication.k8s.io", &["SelfSubjectReview", "TokenReview"]),
    ("authorization.k8s.io", &["SelfSubjectAccessReview", "SelfSubjectRulesReview", "SubjectAccessReview"]),
    ("certificates.k8s.io", &["CertificateSigningRequest", "ClusterTrustBundle"]),
    ("flowcontrol.apiserver.k8s.io", &["FlowSchema", "PriorityLevelConfiguration"]),
    ("internal.apiserver.k8s.io", &["StorageVersion"]),
    ("networking.k8s.io", &["IPAddress", "IngressClass", "ServiceCIDR"]),
    ("node.k8s.io", &["RuntimeClass"]),
    ("policy", &["PodSecurityPolicy"]),
    ("rbac.authorization.k8s.io", &["ClusterRole", "ClusterRoleBinding"]),
    ("resource.k8s.io", &["DeviceClass", "DeviceTaintRule", "ResourceSlice"]),
    ("scheduling.k8s.io", &["PriorityClass"]),
    ("storage.k8s.io", &["CSIDriver", "CSINode", "StorageClass", "VolumeAttachment", "VolumeAttributesClass"]),
    ("storagemigration.k8s.io", &["StorageVersionMigration"]),
    (GROUP, &["PilothouseConfig"]),
];

/// Groups whose kinds are all known: what is not cluster-scoped there is namespaced.
const KNOWN_NAMESPACED: &[&str] = &[
    "",
    "apps",
    "autoscaling",
    "batch",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    GROUP,
];

/// The scope of a kind of Kubernetes or of ours; `None` for custom kinds.
pub fn builtin_scope(group: &str, kind: &str) -> Option<Scope> {
    if CLUSTER.iter().any(|(g, kinds)| *g == group && kinds.contains(&kind)) {
        return Some(Scope::Cluster);
    }
    KNOWN_NAMESPACED.contains(&group).then_some(Scope::Namespaced)
}

/// Puts every namespaced object into `target`, whatever namespace it asked for; leaves cluster-scoped ones alone.
///
/// A kind's scope is that of Kubernetes and ours, else that of a CRD among the objects, else what `scope_of` says (the
/// cluster's discovery), else namespaced.
pub fn set_namespace(items: &mut [Item], target: &str, scope_of: impl Fn(&Gvk) -> Option<Scope>) {
    let defined: BTreeMap<(String, String), Scope> =
        items.iter().filter_map(|item| defined_scope(&item.object)).collect();
    for item in items {
        let gvk = item.object.gvk();
        let scope = builtin_scope(&gvk.group, &gvk.kind)
            .or_else(|| defined.get(&(gvk.group.to_string(), gvk.kind.to_string())).copied())
            .or_else(|| scope_of(&gvk))
            .unwrap_or(Scope::Namespaced);
        if scope == Scope::Namespaced {
            item.object.set_namespace(target);
        }
    }
}

/// Group, kind and scope that a CRD defines.
fn defined_scope(object: &Object) -> Option<((String, String), Scope)> {
    if object.kind() != "CustomResourceDefinition" {
        return None;
    }
    let text = |pointer: &str| object.value().pointer(pointer)?.as_str();
    let scope = if text("/spec/scope")? == "Cluster" { Scope::Cluster } else { Scope::Namespaced };
    Some(((text("/spec/group")?.to_owned(), text("/spec/names/kind")?.to_owned()), scope))
}
