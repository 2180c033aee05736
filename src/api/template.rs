//! `AgentTemplate`: base for Agents, blueprint for one-shot Tasks.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    common::{CaBundle, ImagePullSecret, Proxy},
    context::{ContextItem, PluginSpec, SkillSource},
    form,
    pod::{AgentPodSpec, Credential, ExtraPort, Quota},
    rollout::Rollout,
    schema,
};

/// What Agents and Tasks that name this template get where they say nothing.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "pilothouse.dev",
    version = "v1alpha1",
    kind = "AgentTemplate",
    namespaced,
    shortname = "agt",
    category = "pilothouse",
    status = "AgentTemplateStatus",
    derive = "PartialEq",
    doc = "Base for Agents, and blueprint for Tasks that run in a pod of their own.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "ServiceAccount", type_ = "string", json_path = ".spec.serviceAccountName"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.executorImage", priority = "1"),
    printcolumn(name = "WorkspaceDir", type_ = "string", json_path = ".spec.workspaceDir", priority = "1")
)]
#[serde(rename_all = "camelCase")]
pub struct AgentTemplateSpec {
    /// Image of the init container that puts the opencode binary at `$TOOLS_DIR`/opencode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_image: Option<String>,
    /// Image of the container that the agent works in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executor_image: Option<String>,
    /// Image of the pods that run Tasks against an agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach_image: Option<String>,
    /// Absolute path of the workspace.
    #[schemars(length(min = 1), regex(pattern = form::ABSOLUTE.pattern))]
    pub workspace_dir: String,
    /// Replaces the command of the executor container. In the pod of a Task that names this template it runs in the place of
    /// the server and of our client, and its exit code is the outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Knowledge the agent gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub contexts: Option<Vec<ContextItem>>,
    /// Skills the agent gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub skills: Option<Vec<SkillSource>>,
    /// Plugins of opencode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugins: Option<Vec<PluginSpec>>,
    /// Configuration of opencode (opencode.json): an object, or a string that holds JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any")]
    pub config: Option<Value>,
    /// Secrets that reach the agent as environment or files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Vec<Credential>>,
    /// Settings of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_spec: Option<AgentPodSpec>,
    /// `ServiceAccount` of the pods.
    pub service_account_name: String,
    /// How many Tasks run at the same time; more are queued. 0 or absent is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrent_tasks: Option<i32>,
    /// How often Tasks may start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
    /// Certificates of own authorities, for all containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<CaBundle>,
    /// HTTP proxies, for all containers; wins over the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// Secrets for image registries, for all generated pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_secrets: Option<Vec<ImagePullSecret>>,
    /// Further ports of the executor container. 14096 is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra_ports: Option<Vec<ExtraPort>>,
    /// How changes reach running agents, and what they wait for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
}

/// What is known about a template.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentTemplateStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Value of the annotation pilothouse.dev/reconcile-at that was handled last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,
    /// Ready, Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}
