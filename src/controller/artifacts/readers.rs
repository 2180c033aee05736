//! Who may read which artifact.

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::ResourceExt;

use super::Named;
use crate::{
    api::{
        API_VERSION,
        names::{self, label},
    },
    artifact::Digest,
    controller::{Settings, caches::Caches},
    server::voice::{
        artifacts::Rights,
        identity::{Identity, belongs},
    },
};

/// Label that the Deployment's controller gives its `ReplicaSets` and their pods.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// A pod of an agent's server reads what its agent names, in its namespace; the pod of a Task of its own what that Task
/// names. A replica of the controller reads all.
///
/// Who may create pods in a namespace may mount its Secrets, among them the credentials of its Repositories, and run as
/// any of its accounts; so what keeps agents apart is the namespace. All the same a label that somebody set by hand is
/// not enough: the pod must be one that the Deployment of the agent made, and the Deployment the Agent's.
pub(super) struct Readers {
    named: Named,
    caches: Caches,
    /// Namespace and `ServiceAccount` of the controller.
    own: Option<(String, String)>,
}

impl Readers {
    pub(super) fn new(named: Named, caches: Caches, settings: &Settings) -> Self {
        let own = settings.own_account().map(|account| (settings.namespace.clone(), account.to_owned()));
        Self { named, caches, own }
    }

    /// Name and uid of the Agent whose server a pod is.
    fn agent_of(&self, who: &Identity) -> Option<(String, String)> {
        let pod = self.caches.agent_pods.get(&who.namespace, &who.pod)?;
        let agent = pod.labels().get(label::AGENT)?.clone();
        let uid = self.caches.agents.get(&who.namespace, &agent)?.uid()?;
        let deployment = self.caches.deployments.get(&who.namespace, &names::agent::deployment(&agent))?;
        let is_own = deployment.owner_references().iter().any(|owner| owner.kind == "Agent" && owner.uid == uid);
        let may = is_own && pod.uid().as_deref() == Some(&who.pod_uid) && is_servers(&pod, &agent);
        may.then_some((agent, uid))
    }

    /// Name and uid of the Task whose pod it is.
    fn task_of(&self, who: &Identity) -> Option<(String, String)> {
        let pod = self.caches.task_pods.get(&who.namespace, &who.pod)?;
        let owner = pod
            .owner_references()
            .iter()
            .find(|owner| owner.kind == "Task" && owner.api_version == API_VERSION && owner.controller == Some(true))?;
        let task = self.caches.tasks.get(&who.namespace, &owner.name)?;
        let own = task.uid().as_deref() == Some(&owner.uid) && names::task::pod(&owner.name) == who.pod;
        let may = own && pod.uid().as_deref() == Some(&who.pod_uid);
        may.then(|| (owner.name.clone(), owner.uid.clone()))
    }
}

/// Whether a pod is what the Deployment of an agent makes: by its labels, its name, and the `ReplicaSet` in control.
fn is_servers(pod: &Pod, agent: &str) -> bool {
    let is_server = pod.labels().get(label::COMPONENT).map(String::as_str) == Some(names::value::SERVER);
    let Some(hash) = pod.labels().get(TEMPLATE_HASH) else { return false };
    let replica_set = format!("{}-{hash}", names::agent::deployment(agent));
    let made = |owner: &OwnerReference| {
        owner.kind == "ReplicaSet"
            && owner.api_version == "apps/v1"
            && owner.controller == Some(true)
            && owner.name == replica_set
    };
    is_server && belongs(&pod.name_any(), agent) && pod.owner_references().iter().any(made)
}

impl Rights for Readers {
    fn may_read(&self, who: &Identity, digest: &Digest) -> bool {
        let own = self
            .own
            .as_ref()
            .is_some_and(|(namespace, account)| *namespace == who.namespace && *account == who.account);
        let by_agent =
            || self.agent_of(who).map(|(name, uid)| self.named.by_agent(&who.namespace, &name, &uid, digest));
        let by_task = || self.task_of(who).map(|(name, uid)| self.named.by_task(&who.namespace, &name, &uid, digest));
        own || by_agent().or_else(by_task).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_label_alone_makes_no_server() {
        let good = json!({
            "metadata": {
                "name": "coder-server-6c9f-x1b2c", "namespace": "ns",
                "labels": {
                    label::AGENT: "coder", label::COMPONENT: names::value::SERVER, TEMPLATE_HASH: "6c9f",
                },
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "coder-server-6c9f", "uid": "r",
                    "controller": true,
                }],
            },
        });
        let is = |pod: &Value| is_servers(&serde_json::from_value(pod.clone()).unwrap(), "coder");
        assert!(is(&good));
        for (path, value) in [
            ("/metadata/name", json!("mine")),
            ("/metadata/name", json!("coder-server-6c9f-x-y")),
            ("/metadata/labels/pod-template-hash", json!("1234")),
            ("/metadata/labels/app.kubernetes.io~1component", json!("task")),
            ("/metadata/ownerReferences", json!([])),
            ("/metadata/ownerReferences/0/kind", json!("Job")),
            ("/metadata/ownerReferences/0/apiVersion", json!("example.com/v1")),
            ("/metadata/ownerReferences/0/name", json!("other-server-6c9f")),
            ("/metadata/ownerReferences/0/controller", json!(false)),
        ] {
            let mut bad = good.clone();
            *bad.pointer_mut(path).unwrap() = value;
            assert!(!is(&bad), "{path}");
        }
    }
}
