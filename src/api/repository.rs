//! Repository: a Git source.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    GoDuration,
    common::{Artifact, LocalRef},
    form, schema,
};

/// Where the repository is, which commit of it is wanted, and how often it is asked.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "pilothouse.dev",
    version = "v1alpha1",
    kind = "Repository",
    plural = "repositories",
    namespaced,
    shortname = "repo",
    category = "pilothouse",
    status = "RepositoryStatus",
    derive = "PartialEq",
    doc = "A Git source: publishes an artifact that Syncs and Agents use.",
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.url"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.artifact.revision"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "!self.url.matches('^[a-z]+://[^/@]*:[^/@]*@')",
        "url cannot hold a password; put it into a Secret and name it in secretRef"
    )
)]
pub struct RepositorySpec {
    /// URL of the repository: https, http, ssh, or user@host:path.
    #[schemars(
        length(min = 1, max = 2048),
        regex(pattern = form::GIT_URL.pattern)
    )]
    pub url: String,
    /// What to fetch. The remote's HEAD unless given.
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<GitReference>,
    /// How often the remote is asked. A webhook makes it sooner.
    #[serde(default = "one_minute")]
    pub interval: GoDuration,
    /// How long one exchange with the remote may take.
    #[serde(default = "sixty_seconds")]
    pub timeout: GoDuration,
    /// Secret with the credential: `username` and `password`; `bearerToken`; `identity` (or `ssh-privatekey`) and
    /// `known_hosts`; `ca.crt`; `tls.crt` and `tls.key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalRef>,
    /// Secret with the proxy to use: `address`, and maybe `username` and `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_secret_ref: Option<LocalRef>,
    /// Signatures that are required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// Files to leave out, in the syntax of .gitignore; a .sourceignore file in the tree counts too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore: Option<String>,
    /// Whether submodules are fetched too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recurse_submodules: Option<bool>,
    /// Whether the remote is left alone; the last artifact stays in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// A webhook of the forge, which asks for a look at the remote at once. Its path is in status.webhookPath; the
    /// receiver must be installed. None: the remote is asked once an interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
}

impl Default for RepositorySpec {
    fn default() -> Self {
        Self {
            url: String::new(),
            reference: None,
            interval: one_minute(),
            timeout: sixty_seconds(),
            secret_ref: None,
            proxy_secret_ref: None,
            verify: None,
            ignore: None,
            recurse_submodules: None,
            suspend: None,
            webhook: None,
        }
    }
}

/// What to fetch: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = (
        "[has(self.branch), has(self.tag), has(self.semver), has(self.commit), has(self.name)].filter(x, x).size() == 1",
        "exactly one of branch, tag, semver, commit or name must be specified"
    )
)]
pub struct GitReference {
    /// A branch, without refs/heads/.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub branch: Option<String>,
    /// A tag, without refs/tags/. An annotated tag stands for its commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub tag: Option<String>,
    /// A range of versions; the highest tag in it is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub semver: Option<String>,
    /// A full commit id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = form::COMMIT.pattern))]
    pub commit: Option<String>,
    /// A full ref name, for example refs/pull/7/head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), regex(pattern = form::FULL_REF.pattern))]
    pub name: Option<String>,
}

/// Signatures that are required.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verify {
    /// What must be signed: HEAD (the commit), Tag, or `TagAndHEAD`.
    #[serde(default)]
    pub mode: VerifyMode,
    /// Secret with the public keys that are trusted.
    pub secret_ref: LocalRef,
}

/// What must be signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VerifyMode {
    /// The commit.
    #[default]
    #[serde(rename = "HEAD")]
    Head,
    /// The tag.
    Tag,
    /// Both.
    #[serde(rename = "TagAndHEAD")]
    TagAndHead,
}

/// A webhook of the forge. What it sends never becomes part of anything: it only asks for a look at the remote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("self.secretRef.name != ''", "secretRef.name must name a Secret with the key token"),
    validation = (
        "self.type != 'Generic' || !has(self.events) || self.events.size() == 0",
        "events has no meaning with type Generic, whose deliveries name no event"
    )
)]
pub struct Webhook {
    /// Who calls, and so how a call is signed: GitHub, GitLab, Gitea, Forgejo, Bitbucket (Cloud and Data Center), or
    /// Generic (any program that signs as the Standard Webhooks specification says).
    #[serde(rename = "type")]
    pub forge: Forge,
    /// Secret with the key that the forge signs with, under token: 16 to 1024 bytes. Another token gives another path.
    pub secret_ref: LocalRef,
    /// Events that ask for a look, as the forge writes them in its header, for example push or Push Hook. Those that
    /// move branches, tags and pull requests unless given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 100)))]
    pub events: Vec<String>,
}

/// Who calls a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Forge {
    /// github.com and GitHub Enterprise: X-Hub-Signature-256.
    GitHub,
    /// GitLab: webhook-signature where the token begins with `whsec_`, else X-Gitlab-Token.
    GitLab,
    /// Gitea: X-Gitea-Signature.
    Gitea,
    /// Forgejo: X-Forgejo-Signature.
    Forgejo,
    /// Bitbucket Cloud and Data Center: X-Hub-Signature.
    Bitbucket,
    /// Standard Webhooks: webhook-id, webhook-timestamp, webhook-signature.
    Generic,
}

/// What is known about a Repository.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Value of the annotation pilothouse.dev/reconcile-at that was handled last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,
    /// Ready, Reconciling, Stalled; `WebhookReady` where there is a webhook.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// The last good artifact. Stays in use while the remote fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<Artifact>,
    /// Path of the receiver that the forge is to call, unguessable: /hooks/<64 hex digits>.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_path: Option<String>,
}

fn one_minute() -> GoDuration {
    "1m".into()
}

fn sixty_seconds() -> GoDuration {
    "60s".into()
}
