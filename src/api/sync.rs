//! Sync: one path of a Repository, applied to a namespace.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{GoDuration, common::LocalRef, form, schema};

/// What is rendered, where it is applied, and what happens to what is gone.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "pilothouse.dev",
    version = "v1alpha1",
    kind = "Sync",
    plural = "syncs",
    namespaced,
    shortname = "sync",
    category = "pilothouse",
    status = "SyncStatus",
    derive = "PartialEq",
    doc = "One path of a Repository, rendered and applied to a namespace, with inventory, pruning and health.",
    printcolumn(name = "Path", type_ = "string", json_path = ".spec.path"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.lastAppliedRevision"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct SyncSpec {
    /// The Repository to take files from, in the same namespace.
    pub repository_ref: LocalRef,
    /// Directory to render.
    #[serde(default = "root_path")]
    pub path: String,
    /// Namespace that every namespaced object is applied to. The Sync's own unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = form::LABEL.pattern))]
    pub target_namespace: Option<String>,
    /// `ServiceAccount` of the Sync's namespace whose rights are used. default unless given; never the controller's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// How often the cluster is compared with the files where nothing changed.
    #[serde(default = "ten_minutes")]
    pub interval: GoDuration,
    /// Longest wait after a failure.
    #[serde(default = "one_minute")]
    pub retry_interval: GoDuration,
    /// How long the applied objects may take to get healthy.
    #[serde(default = "five_minutes")]
    pub timeout: GoDuration,
    /// Whether objects that are gone from the files are deleted.
    #[serde(default = "yes")]
    pub prune: bool,
    /// What happens to the objects when the Sync is deleted: `MirrorPrune` (as `prune` says), Delete or Orphan.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Whether the Sync is Ready only when the applied objects are healthy.
    #[serde(default = "yes")]
    pub wait: bool,
    /// Whether objects are replaced where a field cannot be changed in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
    /// Syncs of the same namespace that must be Ready first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depends_on: Option<Vec<LocalRef>>,
    /// Values for templates (*.j2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any_object")]
    pub values: Option<Map<String, Value>>,
    /// Further values, from `ConfigMaps` and Secrets; later ones win, `values` wins over all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values_from: Option<Vec<ValuesFrom>>,
    /// Patches of rendered objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patches: Option<Vec<Patch>>,
    /// Replacements of images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<Vec<ImageOverride>>,
    /// How encrypted files are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decryption: Option<Decryption>,
    /// Whether nothing is applied and nothing pruned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
}

impl Default for SyncSpec {
    fn default() -> Self {
        Self {
            repository_ref: LocalRef::default(),
            path: root_path(),
            target_namespace: None,
            service_account_name: None,
            interval: ten_minutes(),
            retry_interval: one_minute(),
            timeout: five_minutes(),
            prune: true,
            deletion_policy: DeletionPolicy::default(),
            wait: true,
            force: None,
            depends_on: None,
            values: None,
            values_from: None,
            patches: None,
            images: None,
            decryption: None,
            suspend: None,
        }
    }
}

/// What happens to applied objects when their Sync is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// Deleted where `prune` is set, else left.
    #[default]
    MirrorPrune,
    /// Deleted.
    Delete,
    /// Left.
    Orphan,
}

/// A source of values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ValuesFrom {
    /// `ConfigMap` or Secret.
    pub kind: ValuesKind,
    /// Name of the object, in the same namespace.
    pub name: String,
    /// Key that holds YAML. values.yaml unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Whether the object may be missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// Kind of a source of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ValuesKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

/// A patch of rendered objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Patch {
    /// A strategic merge patch or a JSON patch, as YAML.
    pub patch: String,
    /// Which objects are patched. The one that the patch names unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<PatchTarget>,
}

/// Which objects a patch is for; every field given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PatchTarget {
    /// API group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// API version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Name; a regular expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Namespace; a regular expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Selector of labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<String>,
    /// Selector of annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotation_selector: Option<String>,
}

/// A replacement of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageOverride {
    /// Image as the files name it, without tag.
    pub name: String,
    /// Other name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_name: Option<String>,
    /// Other tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_tag: Option<String>,
    /// Digest instead of a tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// How encrypted files are read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Decryption {
    /// The format: sops.
    pub provider: DecryptionProvider,
    /// Secret with the private keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalRef>,
}

/// Format of encrypted files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DecryptionProvider {
    /// SOPS.
    Sops,
}

/// What is known about a Sync.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SyncStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Value of the annotation pilothouse.dev/reconcile-at that was handled last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,
    /// Ready, Reconciling, Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Revision that was applied completely last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_applied_revision: Option<String>,
    /// Revision that was tried last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_attempted_revision: Option<String>,
    /// The objects that this Sync owns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Inventory>,
    /// What happened, newest first; five entries at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5), extend("x-kubernetes-list-type" = "atomic"))]
    pub history: Vec<HistoryEntry>,
}

/// The objects that a Sync owns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Inventory {
    /// One entry an object, sorted by id.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub entries: Vec<InventoryEntry>,
}

/// One object that a Sync owns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InventoryEntry {
    /// <namespace>_<name>_<group>_<kind>.
    pub id: String,
    /// API version.
    pub v: String,
    /// Uid of the object, where it runs once (a Task).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Hash of the rendered spec, where the object runs once (a Task).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec_hash: Option<String>,
    /// Whether the run has ended, where the object runs once (a Task).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<bool>,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// Revision.
    pub revision: String,
    /// Digest of the rendered objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// When it happened.
    pub applied_at: Time,
    /// How it ended: a condition reason such as Applied or `HealthCheckFailed`.
    pub result: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

fn root_path() -> String {
    "./".into()
}

fn one_minute() -> GoDuration {
    "1m".into()
}

fn five_minutes() -> GoDuration {
    "5m".into()
}

fn ten_minutes() -> GoDuration {
    "10m".into()
}

fn yes() -> bool {
    true
}
