//! Secrets to credentials for remotes, each read once a version.

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt, core::PartialObjectMeta};
use parking_lot::Mutex;

use super::runtime::Cache;
use crate::{
    api::names::reasons,
    git::{
        Credential, RemoteUrl,
        credential::{CredentialError, Proxy},
        url::Scheme,
    },
    status::Failure,
};

/// Why there is no credential; the message is for a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// The Secret does not exist.
    Missing(String),
    /// It lacks what the URL needs, or holds what makes no sense.
    Invalid(String),
}

type Verdict = Result<Arc<Credential>, Unusable>;

/// Namespace and name, and the scheme that decides which keys are wanted.
type Key = (String, String, Scheme);

/// What was read, by the version that it was read at.
type Held = HashMap<Key, (String, Verdict)>;

fn forget(held: &mut Held, namespace: &str, name: &str) {
    held.retain(|(in_namespace, named, _), _| in_namespace != namespace || named != name);
}

/// Reads Secrets. Only metadata is watched; content is read when its version changes.
pub(super) struct Credentials {
    client: Client,
    secrets: Cache<PartialObjectMeta<Secret>>,
    held: Mutex<Held>,
}

pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(10);

impl Credentials {
    pub(super) fn new(client: Client, secrets: Cache<PartialObjectMeta<Secret>>) -> Self {
        Self { client, secrets, held: Mutex::default() }
    }

    /// The same through the proxy that a Secret names, where one does.
    pub(super) async fn through(
        &self,
        namespace: &str,
        secret: Option<&str>,
        proxy: Option<&str>,
        url: &RemoteUrl,
    ) -> Result<Verdict, Failure> {
        let verdict = self.of(namespace, secret, url).await?;
        let (Ok(credential), Some(name)) = (&verdict, proxy) else { return Ok(verdict) };
        // Not remembered: it is read where a Repository is looked at, and few have one.
        let Some(found) = read(&self.client, namespace, name).await? else {
            return Ok(Err(Unusable::Missing(format!("there is no Secret {name} in this namespace; create it"))));
        };
        let data = found.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0)).collect();
        let whole = Proxy::from_secret(&data).and_then(|proxy| (**credential).clone().through(proxy, url));
        let invalid = |error: CredentialError| Unusable::Invalid(format!("Secret {name} of proxySecretRef: {error}"));
        Ok(whole.map(Arc::new).map_err(invalid))
    }

    /// The credential for a remote: what the Secret holds, or none. The outer error is the API server's.
    pub(super) async fn of(&self, namespace: &str, secret: Option<&str>, url: &RemoteUrl) -> Result<Verdict, Failure> {
        let Some(name) = secret else {
            let anonymous = Credential::anonymous(url).map(Arc::new);
            return Ok(anonymous.map_err(|error| Unusable::Invalid(error.to_string())));
        };
        let missing = || Err(Unusable::Missing(format!("there is no Secret {name} in this namespace; create it")));
        let key = (namespace.to_owned(), name.to_owned(), url.scheme());
        let Some(meta) = self.secrets.get(namespace, name) else {
            self.drop_secret(namespace, name);
            return Ok(missing());
        };
        let version = meta.resource_version().unwrap_or_default();
        if let Some((held, verdict)) = self.held.lock().get(&key)
            && *held == version
        {
            return Ok(verdict.clone());
        }
        let Some(secret) = read(&self.client, namespace, name).await? else {
            self.drop_secret(namespace, name);
            return Ok(missing());
        };
        let version = secret.resource_version().unwrap_or_default();
        let data = secret.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0)).collect();
        let verdict = Credential::from_secret(&data, url)
            .map(Arc::new)
            .map_err(|error| Unusable::Invalid(format!("Secret {name}: {error}")));
        self.held.lock().insert(key, (version, verdict.clone()));
        Ok(verdict)
    }

    /// Forgets what was read of a Secret: it is gone, or nobody reads it any more.
    pub(super) fn drop_secret(&self, namespace: &str, name: &str) {
        forget(&mut self.held.lock(), namespace, name);
    }
}

/// Reads a Secret; `None` where there is none.
pub(super) async fn read(client: &Client, namespace: &str, name: &str) -> Result<Option<Secret>, Failure> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let failed =
        |why: String| Failure::transient(reasons::CLUSTER_UNAVAILABLE, format!("cannot read Secret {name}: {why}"));
    match tokio::time::timeout(READ_TIMEOUT, api.get_opt(name)).await {
        Ok(Ok(secret)) => Ok(secret),
        Ok(Err(kube::Error::Api(status))) if status.is_forbidden() => {
            Err(failed("the controller may not read Secrets in this namespace; see the chart's agentNamespaces".into()))
        }
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed("the API server did not answer".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_forgotten_for_all_schemes_and_no_other_one_is() {
        let verdict = || (String::from("1"), Ok(Arc::new(Credential::default())));
        let key = |namespace: &str, name: &str, scheme| (namespace.to_owned(), name.to_owned(), scheme);
        let kept = [key("ns", "other", Scheme::Ssh), key("elsewhere", "git", Scheme::Ssh)];
        let gone = [key("ns", "git", Scheme::Ssh), key("ns", "git", Scheme::Https)];
        let mut held: Held = kept.iter().chain(&gone).map(|key| (key.clone(), verdict())).collect();
        forget(&mut held, "ns", "git");
        assert_eq!(held.len(), 2);
        assert!(kept.iter().all(|key| held.contains_key(key)));
    }
}
