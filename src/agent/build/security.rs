//! Security contexts and resources: restricted unless the user replaces them.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Capabilities, PodSecurityContext, ResourceRequirements, SeccompProfile, SecurityContext},
    apimachinery::pkg::api::resource::Quantity,
};

use super::Plan;

/// User and group of the pods.
const ID: i64 = 1000;

/// Of the pod; the user's replaces it as a whole.
pub(super) fn of_pod(plan: &Plan<'_>) -> PodSecurityContext {
    let own = plan.inputs.spec.pod_spec.as_ref().and_then(|p| p.pod_security_context.clone());
    own.unwrap_or_else(|| PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(ID),
        run_as_group: Some(ID),
        fs_group: Some(ID),
        fs_group_change_policy: Some("OnRootMismatch".into()),
        seccomp_profile: Some(runtime_default()),
        ..PodSecurityContext::default()
    })
}

/// Of every container; the user's replaces it as a whole.
pub(super) fn of_container(plan: &Plan<'_>) -> SecurityContext {
    let own = plan.inputs.spec.pod_spec.as_ref().and_then(|p| p.security_context.clone());
    own.unwrap_or_else(|| SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), ..Capabilities::default() }),
        seccomp_profile: Some(runtime_default()),
        ..SecurityContext::default()
    })
}

fn runtime_default() -> SeccompProfile {
    SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }
}

/// Of the executor container; the user's replace them as a whole.
pub(super) fn resources(plan: &Plan<'_>) -> ResourceRequirements {
    let own = plan.inputs.spec.pod_spec.as_ref().and_then(|p| p.resources.clone());
    own.unwrap_or_else(|| memory("512Mi", "4Gi"))
}

/// Of the sidecar: a few MiB are used.
pub(super) fn sidecar_resources() -> ResourceRequirements {
    let mut resources = memory("32Mi", "128Mi");
    if let Some(requests) = resources.requests.as_mut() {
        requests.insert("cpu".into(), Quantity("10m".into()));
    }
    resources
}

fn memory(request: &str, limit: &str) -> ResourceRequirements {
    let one = |amount: &str| Some(BTreeMap::from([("memory".to_string(), Quantity(amount.into()))]));
    ResourceRequirements { requests: one(request), limits: one(limit), claims: None }
}
