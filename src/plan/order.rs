//! The order in which objects are applied, and the reverse in which they are pruned.

use crate::{api, object::ObjectId};

/// Objects of one stage do not need each other and are applied side by side; a later stage may need an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Custom resource definitions: later objects may be of these kinds.
    Definitions,
    /// Namespaces.
    Namespaces,
    /// Accounts and their rights.
    Access,
    /// What workloads mount or are limited by.
    Config,
    /// Volumes and claims.
    Storage,
    /// Everything that has no place of its own.
    Workloads,
    /// Admission webhooks and aggregated APIs: they can block writes until what serves them runs.
    Admission,
    /// Our own kinds that others refer to.
    Foundations,
    /// Agents and Syncs.
    Agents,
    /// Tasks: work begins when everything else is there.
    Tasks,
}

/// The stage of a kind.
pub fn stage(group: &str, kind: &str) -> Stage {
    match (group, kind) {
        ("apiextensions.k8s.io", "CustomResourceDefinition") => Stage::Definitions,
        ("", "Namespace") => Stage::Namespaces,
        ("", "ServiceAccount") | ("rbac.authorization.k8s.io", _) => Stage::Access,
        ("", "ConfigMap" | "Secret" | "LimitRange" | "ResourceQuota")
        | ("networking.k8s.io", "NetworkPolicy")
        | ("scheduling.k8s.io", "PriorityClass")
        | ("node.k8s.io", "RuntimeClass") => Stage::Config,
        ("", "PersistentVolume" | "PersistentVolumeClaim") | ("storage.k8s.io", _) => Stage::Storage,
        ("admissionregistration.k8s.io" | "apiregistration.k8s.io", _) => Stage::Admission,
        (api::GROUP, "PilothouseConfig" | "AgentTemplate" | "Repository") => Stage::Foundations,
        (api::GROUP, "Task" | "CronTask") => Stage::Tasks,
        (api::GROUP, _) => Stage::Agents,
        _ => Stage::Workloads,
    }
}

/// The stage of an object.
pub fn stage_of(id: &ObjectId) -> Stage {
    stage(&id.group, &id.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_stages_need_earlier_ones() {
        let order = [
            ("apiextensions.k8s.io", "CustomResourceDefinition"),
            ("", "Namespace"),
            ("rbac.authorization.k8s.io", "RoleBinding"),
            ("", "Secret"),
            ("", "PersistentVolumeClaim"),
            ("apps", "Deployment"),
            ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
            ("pilothouse.dev", "AgentTemplate"),
            ("pilothouse.dev", "Agent"),
            ("pilothouse.dev", "Task"),
        ];
        let stages: Vec<Stage> = order.iter().map(|(group, kind)| stage(group, kind)).collect();
        assert!(stages.windows(2).all(|pair| pair[0] < pair[1]), "{stages:?}");
    }

    #[test]
    fn kinds_of_other_groups_are_no_namesakes() {
        assert_eq!(stage("example.com", "Task"), Stage::Workloads);
        assert_eq!(stage("example.com", "ConfigMap"), Stage::Workloads);
    }
}
