//! Content of referenced `ConfigMaps`, and keyed hashes of referenced Secrets, read once a version.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Client, ResourceExt};
use parking_lot::Mutex;

use super::{index::Referrers, write};
use crate::{
    agent::{ConfigMapData, References, SecretKeys},
    api::names::{self, reasons},
    controller::caches::Caches,
    status::Failure,
};

type Key = (String, String);
/// A version and what was in it.
type Maps = HashMap<Key, (String, Arc<ConfigMapData>)>;
/// By name of the Secret: its version, the password's version, hashes.
type Hashed = BTreeMap<String, (String, String, SecretKeys)>;

/// Bytes of all `ConfigMaps` that one agent refers to: more than its contexts may come to by far.
const MOST: usize = 8 << 20;
/// Bytes of `ConfigMaps` that are kept for the next look, of all agents; more is read again.
const KEPT: usize = 64 << 20;

/// The password of an agent's door. Never shown.
#[derive(Clone)]
pub(super) struct Password {
    bytes: Arc<[u8]>,
    version: String,
}

impl Password {
    /// From a Secret that was just written or read.
    pub(super) fn of(secret: &Secret) -> Option<Self> {
        let bytes = &secret.data.as_ref()?.get("password")?.0;
        Some(Self { bytes: bytes.clone().into(), version: secret.resource_version().unwrap_or_default() })
    }
}

/// What was read, by version of the object.
pub(super) struct Contents {
    client: Client,
    caches: Caches,
    maps: Arc<Mutex<Maps>>,
    /// Who reads which `ConfigMaps`: what nobody reads is not kept.
    readers: Referrers,
    passwords: Arc<Mutex<HashMap<Key, Password>>>,
    /// By namespace and agent.
    secrets: Mutex<HashMap<Key, Hashed>>,
}

/// Everything an agent refers to that exists.
#[derive(Default)]
pub(super) struct Content {
    pub config_maps: BTreeMap<String, ConfigMapData>,
    pub secrets: BTreeMap<String, SecretKeys>,
}

impl Contents {
    pub(super) fn new(client: Client, caches: Caches) -> Self {
        let contents = Self {
            client,
            caches,
            maps: Arc::default(),
            readers: Referrers::default(),
            passwords: Arc::default(),
            secrets: Mutex::default(),
        };
        let maps = contents.maps.clone();
        contents.caches.config_maps.on_change(move |change| {
            if change.deleted {
                maps.lock().remove(&(change.object.namespace().unwrap_or_default(), change.object.name_any()));
            }
        });
        contents
    }

    /// The agent is gone.
    pub(super) fn forget(&self, namespace: &str, agent: &str) {
        let key = (namespace.to_string(), agent.to_string());
        self.secrets.lock().remove(&key);
        self.passwords.lock().remove(&key);
        self.drop_maps(namespace, self.readers.forget(namespace, agent));
    }

    fn drop_maps(&self, namespace: &str, names: Vec<String>) {
        let mut maps = self.maps.lock();
        for name in names {
            maps.remove(&(namespace.to_string(), name));
        }
    }

    /// The password of an existing Secret `{agent}-server-auth`.
    pub(super) async fn password(&self, namespace: &str, agent: &str) -> Result<Option<Password>, Failure> {
        let name = names::agent::auth(agent);
        let Some(seen) = self.caches.secrets.get(namespace, &name) else { return Ok(None) };
        let key = (namespace.to_string(), agent.to_string());
        let known = self.passwords.lock().get(&key).cloned();
        if let Some(known) = known.filter(|k| Some(&k.version) == seen.metadata.resource_version.as_ref()) {
            return Ok(Some(known));
        }
        let Some(secret) = write::get::<Secret>(&self.client, namespace, &name).await? else { return Ok(None) };
        let password = Password::of(&secret).ok_or_else(|| {
            let message = format!("Secret {name:?} has no key \"password\": delete it, it is made anew");
            Failure::waiting(reasons::SECRET_INVALID, message)
        })?;
        self.passwords.lock().insert(key, password.clone());
        Ok(Some(password))
    }

    /// Remembers the password of a Secret that was just made.
    pub(super) fn made(&self, namespace: &str, agent: &str, password: Password) {
        self.passwords.lock().insert((namespace.into(), agent.into()), password);
    }

    /// Reads what is not known in its present version.
    pub(super) async fn read(
        &self,
        namespace: &str,
        agent: &str,
        references: &References,
        password: &Password,
    ) -> Result<Content, Failure> {
        let (mut content, mut bytes) = (Content::default(), 0);
        self.drop_maps(namespace, self.readers.set(namespace, agent, None, references));
        for name in &references.config_maps {
            if let Some(data) = self.config_map(namespace, name).await? {
                bytes += size(&data);
                if bytes > MOST {
                    return Err(too_much());
                }
                content.config_maps.insert(name.clone(), (*data).clone());
            }
        }
        for name in &references.secrets {
            if let Some(keys) = self.secret(namespace, agent, name, password).await? {
                content.secrets.insert(name.clone(), keys);
            }
        }
        let key = (namespace.to_string(), agent.to_string());
        if let Some(known) = self.secrets.lock().get_mut(&key) {
            known.retain(|name, _| references.secrets.contains(name));
        }
        Ok(content)
    }

    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Arc<ConfigMapData>>, Failure> {
        let Some(seen) = self.caches.config_maps.get(namespace, name) else { return Ok(None) };
        let key = (namespace.to_string(), name.to_string());
        let known = self.maps.lock().get(&key).cloned();
        if let Some((_, data)) = known.filter(|(v, _)| Some(v) == seen.metadata.resource_version.as_ref()) {
            return Ok(Some(data));
        }
        let Some(map) = write::get::<ConfigMap>(&self.client, namespace, name).await? else { return Ok(None) };
        let version = map.resource_version().unwrap_or_default();
        let data = Arc::new(data(map));
        let mut maps = self.maps.lock();
        maps.remove(&key);
        if maps.values().map(|(_, kept)| size(kept)).sum::<usize>() + size(&data) <= KEPT {
            maps.insert(key, (version, data.clone()));
        }
        Ok(Some(data))
    }

    async fn secret(
        &self,
        namespace: &str,
        agent: &str,
        name: &str,
        password: &Password,
    ) -> Result<Option<SecretKeys>, Failure> {
        let Some(seen) = self.caches.secrets.get(namespace, name) else { return Ok(None) };
        let version = seen.metadata.resource_version.clone().unwrap_or_default();
        let key = (namespace.to_string(), agent.to_string());
        let known = self.secrets.lock().get(&key).and_then(|s| s.get(name)).cloned();
        if let Some((_, _, keys)) = known.filter(|(v, p, _)| *v == version && *p == password.version) {
            return Ok(Some(keys));
        }
        let Some(secret) = write::get::<Secret>(&self.client, namespace, name).await? else { return Ok(None) };
        let version = secret.resource_version().unwrap_or_default();
        let values = secret.data.unwrap_or_default();
        let keys = SecretKeys::new(&password.bytes, values.iter().map(|(k, v)| (k.as_str(), v.0.as_slice())));
        let entry = (version, password.version.clone(), keys.clone());
        self.secrets.lock().entry(key).or_default().insert(name.into(), entry);
        Ok(Some(keys))
    }
}

fn too_much() -> Failure {
    let message = format!(
        "the ConfigMaps that it refers to hold more than {} MiB together, also where one key of them is meant; refer to smaller ones",
        MOST >> 20
    );
    Failure::stalled(reasons::CONTEXT_TOO_LARGE, message)
}

fn size(data: &ConfigMapData) -> usize {
    let text = data.text.iter().map(|(key, text)| key.len() + text.len());
    text.chain(data.binary.iter().map(|(key, bytes)| key.len() + bytes.len())).sum()
}

fn data(map: ConfigMap) -> ConfigMapData {
    ConfigMapData {
        text: map.data.unwrap_or_default(),
        binary: map.binary_data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect(),
    }
}
