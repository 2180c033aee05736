//! Agent: a running opencode server.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    common::{CaBundle, ImagePullSecret, LocalRef, Proxy},
    context::{ContextItem, PluginSpec, SkillSource, SyncPolicy},
    form,
    pod::{AgentPodSpec, Credential, ExtraPort, Persistence, Quota, Standby},
    rollout::{Rollout, RolloutStatus},
    schema,
};

/// What an agent is made of. Fields that are left out come from the template, if one is named.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "pilothouse.dev",
    version = "v1alpha1",
    kind = "Agent",
    namespaced,
    shortname = "ag",
    category = "pilothouse",
    status = "AgentStatus",
    derive = "PartialEq",
    doc = "A running session server: a Deployment and a Service, with contexts, skills, credentials and configuration.",
    validation = Rule::new("self.metadata.name.size() <= 50")
        .message("an Agent's name has at most 50 characters, because generated names are made from it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message(
        "an Agent's name begins with a letter and holds only lower-case letters, digits and '-', \
         because its Service has the same name"
    ),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.revision"),
    printcolumn(name = "Tasks", type_ = "string", json_path = ".status.tasks"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = "1"
    ),
    printcolumn(name = "Profile", type_ = "string", json_path = ".spec.profile", priority = "1"),
    printcolumn(name = "Image", type_ = "string", json_path = ".status.image", priority = "1")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("!has(self.share)", "share is not supported by this release of Pilothouse; remove the field"))]
pub struct AgentSpec {
    /// The `AgentTemplate` that fills in what is left out here, in the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_ref: Option<LocalRef>,
    /// What the agent is for. For people; nothing depends on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Image of the init container that puts the opencode binary at `$TOOLS_DIR`/opencode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_image: Option<String>,
    /// Image of the container that the agent works in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executor_image: Option<String>,
    /// Image of the pods that run Tasks against this agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach_image: Option<String>,
    /// Absolute path of the workspace. Required here or in the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = form::ABSOLUTE.pattern))]
    pub workspace_dir: Option<String>,
    /// Replaces the command of the executor container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Knowledge the agent gets. Replaces the template's list, also when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub contexts: Option<Vec<ContextItem>>,
    /// Skills the agent gets. Replaces the template's list, also when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub skills: Option<Vec<SkillSource>>,
    /// Plugins of opencode. Replaces the template's list, also when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugins: Option<Vec<PluginSpec>>,
    /// Configuration of opencode (opencode.json): an object, or a string that holds JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any")]
    pub config: Option<Value>,
    /// Secrets that reach the agent as environment or files. Replaces the template's list, also when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Vec<Credential>>,
    /// Settings of the pods. Replaces the template's as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_spec: Option<AgentPodSpec>,
    /// `ServiceAccount` of the pods. Required here or in the template before a Task can start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
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
    /// Secrets for image registries, for all generated pods. Replaces the template's list, also when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_secrets: Option<Vec<ImagePullSecret>>,
    /// Port of the Service, and of the server inside the pod.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    #[x_kube(validation = ("self != 14096", "port 14096 is taken by the door of the agent's pod"))]
    pub port: i32,
    /// Further ports of the executor container. 14096 is taken. Replaces the template's list, also when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra_ports: Option<Vec<ExtraPort>>,
    /// Which data outlives a pod. Nothing unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<Persistence>,
    /// Whether the agent is stopped: no pod, while Service and data stay. Waits for active work like a rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// Puts an idle agent to sleep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<Standby>,
    /// How changes reach the running agent, and what they wait for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// Reserved for sharing a terminal by link; not supported by this release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any_object")]
    pub share: Option<Value>,
}

impl Default for AgentSpec {
    fn default() -> Self {
        Self {
            template_ref: None,
            profile: None,
            agent_image: None,
            executor_image: None,
            attach_image: None,
            workspace_dir: None,
            command: None,
            contexts: None,
            skills: None,
            plugins: None,
            config: None,
            credentials: None,
            pod_spec: None,
            service_account_name: None,
            max_concurrent_tasks: None,
            quota: None,
            ca_bundle: None,
            proxy: None,
            image_pull_secrets: None,
            port: DEFAULT_PORT,
            extra_ports: None,
            persistence: None,
            suspend: None,
            standby: None,
            rollout: None,
            share: None,
        }
    }
}

/// Default of `spec.port`, which is opencode's own.
pub const DEFAULT_PORT: i32 = 4096;

fn default_port() -> i32 {
    DEFAULT_PORT
}

/// What is known about an agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Value of the annotation pilothouse.dev/reconcile-at that was handled last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,
    /// Ready, Reconciling, Stalled, `ServerReady`, `ServerHealthy`, Suspended, `RolloutPending`, `RolloutFailed`, Pinned,
    /// `TextPending`, `GitSyncPending`, `SkillsLoaded`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// The most important state in one word: Ready, `NotReady`, Suspended, `RolloutPending`, Pinned or Stalled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "AgentState")]
    pub state: Option<AgentState>,
    /// Git revision that the definition was applied from, short: main@1a2b3c4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Image of the container that the agent works in, as it was applied: from the spec, the template or the cluster's settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Running and queued Tasks: 1/2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<String>,
    /// Name of the Deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment_name: Option<String>,
    /// Name of the Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    /// Address inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Whether the server takes work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Whether the agent is suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<bool>,
    /// Since when the agent has been idle, where standby is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_since: Option<Time>,
    /// Version of opencode, as the server tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// Hash of the gathered text that the running pod has loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_hash: Option<String>,
    /// Version of the pod layout that the running pod has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<i32>,
    /// Generation of the template that was merged in last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_template_generation: Option<i64>,
    /// Which pod template runs, and which one waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
    /// Revisions that were in use and can be gone back to, newest first: pilothouse rollback agent NAME --to ID.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub revisions: Vec<KeptRevision>,
    /// Starts of Tasks within the quota's window, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub task_start_history: Vec<TaskStart>,
    /// Commits of contexts and skills from Git.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub git_sync_statuses: Vec<GitSyncStatus>,
    /// What the pace of the fleet remembers of this agent; only where spec.fleet of the cluster's settings sets one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetStatus>,
}

/// What the pace of the fleet remembers of an agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FleetStatus {
    /// Changes that have arrived, of each part the newest, 64 at most; later waves wait until they have lasted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub settled: Vec<SettledStep>,
}

/// A change that has arrived.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SettledStep {
    /// The part and a hash of what it is now: image=1a2b3c4d5e6f7a8b.
    pub change: String,
    /// When it had arrived.
    pub since: Time,
}

/// The most important state of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AgentState {
    /// The server takes work.
    Ready,
    /// The server does not take work yet.
    NotReady,
    /// Stopped as asked.
    Suspended,
    /// The server takes work; a change waits for it to end.
    RolloutPending,
    /// The server takes work, at an older revision, as asked.
    Pinned,
    /// Only a change of the spec or of an input helps.
    Stalled,
}

/// A revision that was in use: pod template, gathered text and content from Git together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeptRevision {
    /// Names it.
    pub id: String,
    /// Commit that its definition was applied from, short: main@1a2b3c4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Image of the container that the agent works in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Since when it was in use.
    pub since: Time,
}

/// One start of a Task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskStart {
    /// Name of the Task.
    pub task_name: String,
    /// Namespace of the Task.
    pub task_namespace: String,
    /// Uid of the Task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_uid: Option<String>,
    /// Which further try of the Task it was, from 1; absent for the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i32>,
    /// When it started.
    pub start_time: Time,
}

/// Commit of a Git context or a source of skills.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitSyncStatus {
    /// Name of the context; skills/ and the name for a source of skills.
    pub name: String,
    /// Commit that the agent works with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_hash: Option<String>,
    /// When that commit arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_synced: Option<Time>,
    /// Newest known commit that changed its files. Another one than commitHash waits, or cannot be had: the message says why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_commit: Option<String>,
    /// How a new commit arrives: `HotReload` or Rollout. Absent where none is followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SyncPolicy")]
    pub policy: Option<SyncPolicy>,
    /// What there is to know: why a commit waits or is not known, or that local edits keep a file from being replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
