//! Types that several kinds use.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names::annotation::SUSPEND_OVERRIDE;

/// Whether an object that can be suspended is: its annotation wins over `spec.suspend`, because no Sync owns it.
pub fn is_suspended(metadata: &ObjectMeta, spec: Option<bool>) -> bool {
    match metadata.annotations.as_ref().and_then(|a| a.get(SUSPEND_OVERRIDE)).map(String::as_str) {
        Some("true") => true,
        Some("false") => false,
        _ => spec == Some(true),
    }
}

/// The name of an object in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct LocalRef {
    /// Name of the object, in the same namespace.
    pub name: String,
}

impl From<&str> for LocalRef {
    fn from(name: &str) -> Self {
        Self { name: name.into() }
    }
}

/// A ConfigMap or Secret of the same namespace, and one of its keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyRef {
    /// Name of the object, in the same namespace.
    pub name: String,
    /// Key in its data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// A Secret that holds the credential of an image registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImagePullSecret {
    /// Name of a Secret of type kubernetes.io/dockerconfigjson in the same namespace.
    #[serde(default)]
    pub name: String,
}

/// Where certificates of own authorities come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("has(self.configMapRef) || has(self.secretRef)", "either configMapRef or secretRef must be specified"),
    validation = (
        "!(has(self.configMapRef) && has(self.secretRef))",
        "only one of configMapRef or secretRef can be specified"
    )
)]
pub struct CaBundle {
    /// A ConfigMap with PEM certificates; the key is ca-bundle.crt unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<KeyRef>,
    /// A Secret with PEM certificates; the key is ca.crt unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<KeyRef>,
}

/// Where certificates are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BundlePlace<'a> {
    /// Whether in a Secret; else in a ConfigMap.
    pub is_secret: bool,
    /// The object's name.
    pub name: &'a str,
    /// The key of its data.
    pub key: &'a str,
}

impl CaBundle {
    /// Where the certificates are; `None` where no object is named.
    pub fn place(&self) -> Option<BundlePlace<'_>> {
        let (is_secret, reference, key) = match (&self.config_map_ref, &self.secret_ref) {
            (Some(map), _) => (false, map, "ca-bundle.crt"),
            (None, Some(secret)) => (true, secret, "ca.crt"),
            (None, None) => return None,
        };
        let key = reference.key.as_deref().filter(|key| !key.is_empty()).unwrap_or(key);
        (!reference.name.is_empty()).then_some(BundlePlace { is_secret, name: &reference.name, key })
    }
}

/// HTTP proxies for everything that runs in the pods, and for the agent's own Git inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Proxy {
    /// Proxy for http URLs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_proxy: Option<String>,
    /// Proxy for https URLs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub https_proxy: Option<String>,
    /// Hosts that are reached directly, separated by commas; the cluster's own names are always added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_proxy: Option<String>,
}

impl Proxy {
    /// Whether there is a proxy at all.
    pub fn is_some(&self) -> bool {
        [&self.http_proxy, &self.https_proxy].into_iter().flatten().any(|text| !text.trim().is_empty())
    }

    /// [`no_proxy`](Self::no_proxy), and the cluster's own names.
    pub fn direct(&self, cluster_domain: Option<&str>) -> String {
        let domain = cluster_domain.filter(|domain| !domain.is_empty()).unwrap_or("cluster.local");
        let own = self.no_proxy.as_deref().map(str::trim).filter(|text| !text.is_empty());
        own.map_or_else(String::new, |own| format!("{own},")) + &format!(".svc,.{domain}")
    }
}

/// A published tree of files, in the shape of Flux's `ExternalArtifact`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Artifact {
    /// What was fetched: <ref>@sha1:<commit>, for example main@sha1:<40 hex digits>.
    pub revision: String,
    /// Content digest of the archive: sha256:<hex>.
    pub digest: String,
    /// Size of the archive in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    /// When this artifact was published first.
    pub last_update_time: Time,
    /// That the controller published it for this Repository. Without it, or with another one, the artifact does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<String>,
    /// Where it is served. Only the pods of agents and Tasks that use it may fetch it, with a token of theirs for the audience pilothouse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// How often an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    /// For every new container.
    Always,
    /// Never.
    Never,
    /// Where the node does not have it.
    IfNotPresent,
}
