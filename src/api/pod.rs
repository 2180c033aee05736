//! What an agent's pods are made of.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Affinity, EnvVar, Lifecycle, PodSecurityContext, ResourceRequirements, SecurityContext, Toleration, Volume,
        VolumeMount,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// A secret that reaches the agent as environment or as files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "!has(self.env) || has(self.secretRef.key)",
        "env can only be set when secretRef.key is specified"
    )
)]
pub struct Credential {
    /// Name of the credential, unique in the list.
    pub name: String,
    /// The Secret and, where only one value is wanted, its key.
    pub secret_ref: CredentialSecret,
    /// Where the file is put; a directory where no key is given. Without it and without `env` every key of the Secret
    /// becomes an environment variable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_path: Option<String>,
    /// Environment variable that takes the value of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    /// Permissions of the file, as a number (256 is 0400). 0600 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<i32>,
}

/// A Secret and maybe one of its keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CredentialSecret {
    /// Name of the Secret, in the same namespace.
    pub name: String,
    /// One key. All keys unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// A further port of the executor container, also on the Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct ExtraPort {
    /// Name of the port, unique in the list.
    #[schemars(length(min = 1, max = 15))]
    pub name: String,
    /// Number of the port.
    #[schemars(range(min = 1, max = 65535))]
    #[x_kube(validation = ("self != 14096", "port 14096 is taken by the door of the agent's pod"))]
    pub port: i32,
    /// TCP or UDP.
    #[serde(default)]
    pub protocol: Protocol,
}

/// Transport of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// How often Tasks may start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quota {
    /// Starts within the window, 1000 at most: the Agent's status holds them.
    #[schemars(range(min = 1, max = 1000))]
    pub max_task_starts: i32,
    /// Length of the sliding window in seconds.
    #[schemars(range(min = 60, max = 86400))]
    pub window_seconds: i32,
}

/// Settings of the generated pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentPodSpec {
    /// Further labels of the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Which nodes may run the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduling: Option<Scheduling>,
    /// `RuntimeClass` of the pods, for example gvisor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_class_name: Option<String>,
    /// Resources of the executor container. 512Mi of memory requested and 4Gi at most unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::embedded::<ResourceRequirements>")]
    pub resources: Option<ResourceRequirements>,
    /// Security context of the executor container; replaces the restricted default as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::embedded::<SecurityContext>")]
    pub security_context: Option<SecurityContext>,
    /// Security context of the pods; replaces the default (user, group and `fsGroup` 1000) as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::embedded::<PodSecurityContext>")]
    pub pod_security_context: Option<PodSecurityContext>,
    /// Hooks of the executor container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::embedded::<Lifecycle>")]
    pub lifecycle: Option<Lifecycle>,
    /// Further volumes of the pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::embedded_list::<Volume>")]
    pub extra_volumes: Vec<Volume>,
    /// Further mounts of the executor container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::embedded_list::<VolumeMount>")]
    pub extra_volume_mounts: Vec<VolumeMount>,
    /// Further environment of all containers; comes last, so it wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::embedded_list::<EnvVar>")]
    pub extra_env: Vec<EnvVar>,
    /// Further settings of the containers that prepare and accompany the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_containers: Option<SystemContainers>,
}

/// Which nodes may run the pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scheduling {
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that are tolerated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::embedded_list::<Toleration>")]
    pub tolerations: Vec<Toleration>,
    /// Affinity of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::embedded::<Affinity>")]
    pub affinity: Option<Affinity>,
}

/// Settings of the containers that prepare and accompany the agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SystemContainers {
    /// The container that puts the opencode binary in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_code_init: Option<SystemContainer>,
    /// The sidecar, which places the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_init: Option<SystemContainer>,
    /// The sidecar, which places Git content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_init: Option<SystemContainer>,
    /// The sidecar, which follows Git content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_sync: Option<SystemContainer>,
    /// The container that installs plugins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin_init: Option<SystemContainer>,
}

/// Settings of one such container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SystemContainer {
    /// Further environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::embedded_list::<EnvVar>")]
    pub extra_env: Vec<EnvVar>,
    /// Further mounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::embedded_list::<VolumeMount>")]
    pub extra_volume_mounts: Vec<VolumeMount>,
}

/// Which data outlives a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Persistence {
    /// Sessions; 1Gi unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<VolumeRequest>,
    /// The workspace; 10Gi unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<VolumeRequest>,
}

/// A claim of storage; fixed after creation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeRequest {
    /// Storage class. The cluster's default unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
    /// Size, for example 10Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::int_or_string")]
    pub size: Option<Quantity>,
}

/// When an idle agent is put to sleep.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Standby {
    /// How long an agent is idle before it is suspended; the next Task or connection wakes it.
    pub idle_timeout: super::GoDuration,
}

/// Container image of the program itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SystemImage {
    /// The image. The controller's own unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// When it is pulled. `IfNotPresent` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "super::common::PullPolicy")]
    pub image_pull_policy: Option<super::common::PullPolicy>,
}
