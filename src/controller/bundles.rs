//! Certificates of agents' own authorities, read once a version.

use std::{collections::HashMap, sync::Arc};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;

use super::{
    caches::Caches,
    credentials::{self, READ_TIMEOUT},
};
use crate::{
    api::{CaBundle, common::BundlePlace, names::reasons},
    git::credential::has_certificate,
    status::Failure,
};

/// More of them are no bundle.
const MAX_BYTES: usize = 1 << 20;

/// Namespace, whether a Secret, name, key.
type Key = (String, bool, String, String);
type Verdict = Result<Arc<[u8]>, Failure>;

/// A version, and what was read at it.
type Held = (String, Arc<[u8]>);

/// Reads `ConfigMaps` and Secrets with certificates.
pub(super) struct Bundles {
    client: Client,
    caches: Caches,
    /// With the version that it was read at.
    held: Mutex<HashMap<Key, Held>>,
}

impl Bundles {
    pub(super) fn new(client: Client, caches: Caches) -> Self {
        Self { client, caches, held: Mutex::default() }
    }

    /// The certificates; the inner failure is what is wrong with the object. The outer one is the API server's.
    pub(super) async fn read(&self, namespace: &str, bundle: &CaBundle) -> Result<Verdict, Failure> {
        let Some(place) = bundle.place() else {
            let message = "caBundle: either configMapRef or secretRef must be specified";
            return Ok(Err(Failure::stalled(reasons::INVALID_SPEC, message)));
        };
        let key = (namespace.to_owned(), place.is_secret, place.name.to_owned(), place.key.to_owned());
        let seen = if place.is_secret {
            self.caches.secrets.get(namespace, place.name).and_then(|meta| meta.resource_version())
        } else {
            self.caches.config_maps.get(namespace, place.name).and_then(|meta| meta.resource_version())
        };
        let Some(seen) = seen else {
            self.held.lock().remove(&key);
            return Ok(Err(missing(place)));
        };
        if let Some((version, bytes)) = self.held.lock().get(&key)
            && *version == seen
        {
            return Ok(Ok(bytes.clone()));
        }
        let Some((version, bytes)) = self.fetch(namespace, place).await? else { return Ok(Err(missing(place))) };
        Ok(match bytes.filter(|bytes| bytes.len() <= MAX_BYTES && has_certificate(bytes)) {
            Some(bytes) => {
                let bytes: Arc<[u8]> = bytes.into();
                self.held.lock().insert(key, (version, bytes.clone()));
                Ok(bytes)
            }
            None => Err(unusable(place)),
        })
    }

    async fn fetch(
        &self,
        namespace: &str,
        place: BundlePlace<'_>,
    ) -> Result<Option<(String, Option<Vec<u8>>)>, Failure> {
        if place.is_secret {
            let found = credentials::read(&self.client, namespace, place.name).await?;
            return Ok(found.map(|secret| {
                let bytes = secret.data.as_ref().and_then(|data| data.get(place.key)).map(|bytes| bytes.0.clone());
                (secret.resource_version().unwrap_or_default(), bytes)
            }));
        }
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let failed = |why: String| {
            Failure::transient(reasons::CLUSTER_UNAVAILABLE, format!("cannot read ConfigMap {}: {why}", place.name))
        };
        let found = match tokio::time::timeout(READ_TIMEOUT, api.get_opt(place.name)).await {
            Ok(found) => found.map_err(|error| failed(error.to_string()))?,
            Err(_) => return Err(failed("the API server did not answer".into())),
        };
        Ok(found.map(|map| {
            let text = map.data.as_ref().and_then(|data| data.get(place.key)).map(|text| text.clone().into_bytes());
            let binary = || map.binary_data.as_ref()?.get(place.key).map(|bytes| bytes.0.clone());
            (map.resource_version().unwrap_or_default(), text.or_else(binary))
        }))
    }
}

fn kind(place: BundlePlace<'_>) -> (&'static str, &'static str) {
    if place.is_secret { ("Secret", reasons::SECRET_NOT_FOUND) } else { ("ConfigMap", reasons::CONFIG_MAP_NOT_FOUND) }
}

fn missing(place: BundlePlace<'_>) -> Failure {
    let (kind, reason) = kind(place);
    Failure::waiting(reason, format!("caBundle: there is no {kind} {} in this namespace; create it", place.name))
}

fn unusable(place: BundlePlace<'_>) -> Failure {
    let (kind, reason) = kind(place);
    let message = format!(
        "caBundle: key {:?} of {kind} {} must hold PEM certificates, at most {} MiB of them",
        place.key,
        place.name,
        MAX_BYTES >> 20
    );
    Failure::waiting(reason, message)
}
