//! Contexts (knowledge), skills (abilities) and plugins of agents and tasks.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{common::LocalRef, duration::GoDuration, form, schema};

/// One piece of knowledge that an agent or a task gets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("self.type != 'Text' || has(self.text)", "text is required when type is Text"),
    validation = ("self.type != 'ConfigMap' || has(self.configMap)", "configMap is required when type is ConfigMap"),
    validation = ("self.type != 'Git' || has(self.git)", "git is required when type is Git"),
    validation = ("self.type != 'URL' || has(self.url)", "url is required when type is URL"),
    validation = ("self.type != 'Git' || has(self.mountPath)", "mountPath is required for Git context type")
)]
pub struct ContextItem {
    /// Name, used in status, in messages and in the gathered text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Where the content comes from: Text, `ConfigMap`, Git, Runtime (facts about the platform) or URL.
    #[serde(rename = "type")]
    pub kind: ContextType,
    /// Where the content is put; relative to `workspaceDir` unless absolute. Without it the content is gathered into
    /// .kubeopencode/context.md, which the agent reads for every prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_path: Option<String>,
    /// Permissions of the file, as a number (493 is 0755). 0644 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<i32>,
    /// The content, for type Text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Where the content is, for type `ConfigMap`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapContext>,
    /// Where the content is, for type Git.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitContext>,
    /// Nothing to set, for type Runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<RuntimeContext>,
    /// Where the content is, for type URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<UrlContext>,
}

/// Where the content of a context comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ContextType {
    /// Inline.
    #[default]
    Text,
    /// A ConfigMap of the same namespace.
    ConfigMap,
    /// A Git repository.
    Git,
    /// Facts about the platform the agent runs on.
    Runtime,
    /// A file fetched over HTTP.
    #[serde(rename = "URL")]
    Url,
}

/// Content from a ConfigMap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapContext {
    /// Name of the `ConfigMap`, in the same namespace.
    pub name: String,
    /// One key. Without it all keys: as files of a directory where `mountPath` is set, else one after another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Whether the object and the key may be missing. Otherwise they are waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// The platform describes itself; there is nothing to set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuntimeContext {}

/// Content from a Git repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "has(self.repository) != has(self.repositoryRef)",
        "exactly one of repository or repositoryRef must be specified"
    ),
    validation = ("!(has(self.ref) && has(self.repositoryRef))", "ref cannot be set together with repositoryRef")
)]
pub struct GitContext {
    /// URL of the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// A Repository object to take the content from, instead of a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_ref: Option<RepositoryRef>,
    /// File or directory in the repository. Without it the whole repository, with `.git`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Branch, tag, full ref or commit id. HEAD unless given.
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Commits of history of a whole repository; 0 is all.
    #[serde(default = "one")]
    pub depth: i32,
    /// Whether submodules are fetched too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recurse_submodules: Option<bool>,
    /// Secret with the credential: `username` and `password`, or `ssh-privatekey` and `known_hosts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalRef>,
    /// Whether and how a running agent follows new commits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync: Option<GitSync>,
    /// Whether the agent may push: the Secret of `secretRef` is then mounted in its pod, and the whole repository is set up to
    /// use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<bool>,
}

impl Default for GitContext {
    fn default() -> Self {
        Self {
            repository: None,
            repository_ref: None,
            path: None,
            reference: None,
            depth: one(),
            recurse_submodules: None,
            secret_ref: None,
            sync: None,
            push: None,
        }
    }
}

/// A Repository object that content is taken from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RepositoryRef {
    /// Name of the Repository, in the same namespace.
    pub name: String,
    /// What decides the commit: Sync, the revision that the Sync of this object applied, so that definition and content
    /// change together; or Branch, the newest of the Repository. Sync where a Sync of that Repository applied this
    /// object, else Branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Follow")]
    pub follow: Option<Follow>,
}

/// What decides the commit of referenced content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Follow {
    /// The revision that the object's Sync applied.
    Sync,
    /// The newest that the Repository has.
    Branch,
}

/// Whether and how a running agent follows new commits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitSync {
    /// Whether new commits are followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// How often the remote is asked. 5m unless given, and for 0s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<GoDuration>,
    /// How a new commit arrives: `HotReload` exchanges the files in place, Rollout replaces the pod, through the gate.
    #[serde(default)]
    pub policy: SyncPolicy,
}

/// How a new commit arrives in a running agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SyncPolicy {
    /// In place, without a restart.
    #[default]
    HotReload,
    /// By a new pod.
    Rollout,
}

/// Content fetched over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UrlContext {
    /// The URL.
    pub source: String,
    /// Headers of the request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Secret with `token`, or `username` and `password`; wins over a header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalRef>,
    /// Whether the server's certificate is not checked. A CA bundle is the better way.
    #[serde(rename = "insecureSkipTLSVerify", default, skip_serializing_if = "Option::is_none")]
    pub insecure_skip_tls_verify: Option<bool>,
    /// Seconds until the fetch is given up.
    #[serde(default = "thirty")]
    pub timeout: i32,
}

impl Default for UrlContext {
    fn default() -> Self {
        Self {
            source: String::new(),
            headers: BTreeMap::new(),
            secret_ref: None,
            insecure_skip_tls_verify: None,
            timeout: thirty(),
        }
    }
}

/// A collection of skills (folders with a SKILL.md).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = ("has(self.git)", "git source is required"))]
pub struct SkillSource {
    /// Name of the source: a DNS label, unique in the list.
    #[schemars(length(min = 1, max = 63), regex(pattern = form::LABEL.pattern))]
    pub name: String,
    /// Where the skills are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitSkillSource>,
}

/// Skills in a Git repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "has(self.repository) != has(self.repositoryRef)",
        "exactly one of repository or repositoryRef must be specified"
    ),
    validation = ("!(has(self.ref) && has(self.repositoryRef))", "ref cannot be set together with repositoryRef")
)]
pub struct GitSkillSource {
    /// URL of the repository: https, http or git@.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// A Repository object to take the skills from, instead of a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_ref: Option<RepositoryRef>,
    /// Branch, tag, full ref or commit id. HEAD unless given.
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Directory that holds the skills. The root unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Names of the skills to take. All unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "skill_names")]
    pub names: Option<Vec<String>>,
    /// Commits of history; 0 is all.
    #[serde(default = "one")]
    pub depth: i32,
    /// Whether submodules are fetched too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recurse_submodules: Option<bool>,
    /// Secret with the credential: `username` and `password`, or `ssh-privatekey` and `known_hosts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalRef>,
    /// Whether and how a running agent follows new commits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync: Option<GitSync>,
}

impl Default for GitSkillSource {
    fn default() -> Self {
        Self {
            repository: None,
            repository_ref: None,
            reference: None,
            path: None,
            names: None,
            depth: one(),
            recurse_submodules: None,
            secret_ref: None,
            sync: None,
        }
    }
}

/// A plugin of opencode, from npm.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PluginSpec {
    /// The npm specifier, for example @scope/name@1.2.3.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Which program loads it: server or tui.
    #[serde(default)]
    pub target: PluginTarget,
    /// Options handed to the plugin, in any form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any")]
    pub options: Option<Value>,
}

/// Which program loads a plugin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PluginTarget {
    /// The server.
    #[default]
    Server,
    /// The terminal interface.
    Tui,
}

fn one() -> i32 {
    1
}

fn thirty() -> i32 {
    30
}

fn skill_names(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "items": {
            "type": "string",
            "minLength": 1,
            "maxLength": 253,
            "pattern": form::SKILL.pattern,
        },
        "maxItems": 100,
        "x-kubernetes-list-type": "set",
    })
}
