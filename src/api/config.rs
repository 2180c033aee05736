//! `PilothouseConfig`: settings for the whole cluster.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::SecretKeySelector,
    apimachinery::pkg::{
        apis::meta::v1::{Condition, LabelSelector},
        util::intstr::IntOrString,
    },
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{GoDuration, common::Proxy, form, pod::SystemImage, schema};

/// Settings that every namespace shares.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "pilothouse.dev",
    version = "v1alpha1",
    kind = "PilothouseConfig",
    plural = "pilothouseconfigs",
    shortname = "phc",
    category = "pilothouse",
    status = "PilothouseConfigStatus",
    derive = "PartialEq",
    doc = "Settings for the whole cluster; there is one object, named cluster.",
    validation = Rule::new("self.metadata.name == 'cluster'").message("PilothouseConfig must be named 'cluster'"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct PilothouseConfigSpec {
    /// Domain of the cluster's Services. cluster.local unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = form::DOMAIN.pattern))]
    pub cluster_domain: Option<String>,
    /// Image of the program itself, for sidecars and Tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_image: Option<SystemImage>,
    /// Image that holds opencode, for Agents and templates that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_image: Option<String>,
    /// Image to work in, for Agents and templates that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executor_image: Option<String>,
    /// When finished Tasks are deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleanup: Option<Cleanup>,
    /// HTTP proxies, for agents that set none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// Where traces go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observability: Option<Observability>,
    /// At which pace changes go out to agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<Fleet>,
    /// What network policies must let through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
}

/// When finished Tasks are deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cleanup {
    /// Seconds after the end. Never unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub ttl_seconds_after_finished: Option<i32>,
    /// How many finished Tasks a namespace keeps; the oldest go first. All unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_retained_tasks: Option<i32>,
}

/// Where traces go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Observability {
    /// OpenTelemetry for the agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_telemetry: Option<OpenTelemetry>,
}

/// OpenTelemetry for the agents.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "!self.enabled || (has(self.endpoint) && size(self.endpoint) > 0)",
        "endpoint is required when enabled is true"
    )
)]
pub struct OpenTelemetry {
    /// Whether agents send telemetry.
    pub enabled: bool,
    /// Where it goes: OTLP over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), regex(pattern = form::HTTP_URL.pattern))]
    pub endpoint: Option<String>,
    /// Headers of the requests.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub headers: BTreeMap<String, HeaderValue>,
    /// Whether calls of models are traced.
    #[serde(rename = "enableLLMTraces", default, skip_serializing_if = "Option::is_none")]
    pub enable_llm_traces: Option<bool>,
    /// Whether prompts and answers are recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_content: Option<bool>,
    /// Further attributes of the resource.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resource_attributes: BTreeMap<String, String>,
}

/// Value of a header.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "(has(self.value) && self.value != '') || (has(self.valueFrom) && has(self.valueFrom.secretKeyRef))",
        "either value or valueFrom.secretKeyRef must be specified"
    )
)]
pub struct HeaderValue {
    /// The value itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub value: Option<String>,
    /// Where the value is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<HeaderSource>,
}

/// Where the value of a header is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderSource {
    /// A key of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::embedded::<SecretKeySelector>")]
    pub secret_key_ref: Option<SecretKeySelector>,
}

/// At which pace changes go out to agents.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fleet {
    /// How many agents change at the same time: a number or a share. 10% unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::int_or_string")]
    pub max_concurrent: Option<IntOrString>,
    /// Groups of agents, one after another; agents that no wave selects come last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub waves: Option<Vec<Wave>>,
    /// When changes may go out. Always unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub windows: Option<Vec<Window>>,
    /// Whether no change goes out at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze: Option<bool>,
    /// Why, and who to ask; what waits repeats it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub freeze_reason: Option<String>,
}

/// A group of agents that change together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Wave {
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub name: Option<String>,
    /// Labels of the agents.
    #[schemars(schema_with = "schema::embedded::<LabelSelector>")]
    pub selector: LabelSelector,
    /// How long the wave must be healthy before the next one starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak: Option<GoDuration>,
}

/// A time in which changes may go out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// When it opens, in five cron fields.
    #[schemars(schema_with = "form::schedule")]
    pub schedule: String,
    /// How long it stays open.
    pub duration: GoDuration,
    /// Time zone of the schedule. UTC unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
}

/// What network policies must let through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Network {
    /// Addresses that the API server calls pods from.
    #[serde(rename = "apiServerCIDRs", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(max = 49), regex(pattern = form::RANGE.pattern)))]
    pub api_server_cidrs: Option<Vec<String>>,
}

/// What is known about the settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PilothouseConfigStatus {
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
