//! Credentials in their four forms: one key as a variable, all keys as variables, one key as a file, all as a folder.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    EnvFromSource, EnvVar, EnvVarSource, KeyToPath, SecretEnvSource, SecretKeySelector, SecretVolumeSource, Volume,
    VolumeMount,
};

use super::Inputs;
use crate::{
    agent::{Invalid, SecretKeys, content::paths, hash},
    api::{Credential, names::reasons},
};

/// Permissions of a file unless the credential names others: 0600. With an fsGroup the kubelet adds the group's read.
const DEFAULT_MODE: i32 = 0o600;

/// What the credentials add to the executor container and the pod.
#[derive(Default)]
pub(super) struct Credentials {
    pub env: Vec<EnvVar>,
    pub env_from: Vec<EnvFromSource>,
    pub mounts: Vec<VolumeMount>,
    pub volumes: Vec<Volume>,
    /// Name of each credential with a keyed hash of what it brings: a new value needs a new pod.
    pub hashes: BTreeMap<String, String>,
}

/// Reads every credential; those whose Secret or key does not exist are waited for.
pub(super) fn credentials(inputs: &Inputs<'_>, workspace: &str) -> Result<Credentials, Invalid> {
    let mut out = Credentials::default();
    for (index, credential) in inputs.spec.credentials.iter().flatten().enumerate() {
        if out.hashes.contains_key(&credential.name) {
            let message = format!("credentials: the name {:?} is there twice", credential.name);
            return Err(Invalid::stalled(reasons::INVALID_SPEC, message));
        }
        let hash = hash_of(credential, inputs.secrets)?;
        out.hashes.insert(credential.name.clone(), hash);
        out.add(index, credential, workspace)?;
    }
    Ok(out)
}

fn hash_of(credential: &Credential, secrets: &BTreeMap<String, SecretKeys>) -> Result<String, Invalid> {
    let (name, secret) = (&credential.name, &credential.secret_ref.name);
    let keys = secrets.get(secret).ok_or_else(|| {
        Invalid::waiting(reasons::SECRET_NOT_FOUND, format!("credential {name:?} waits for Secret {secret:?}"))
    })?;
    match &credential.secret_ref.key {
        None => Ok(hash::short(&serde_json::json!(keys.0))),
        Some(key) => keys.0.get(key).cloned().ok_or_else(|| {
            let message = format!("credential {name:?} waits for key {key:?} in Secret {secret:?}");
            Invalid::waiting(reasons::SECRET_INVALID, message)
        }),
    }
}

impl Credentials {
    fn add(&mut self, index: usize, credential: &Credential, workspace: &str) -> Result<(), Invalid> {
        let secret = &credential.secret_ref;
        let path = credential.mount_path.as_deref().filter(|p| !p.is_empty());
        let env = credential.env.as_deref().filter(|e| !e.is_empty());
        match (&secret.key, env, path) {
            (None, Some(_), _) => {
                return Err(invalid(credential, "env can only be set when secretRef.key is specified"));
            }
            (Some(_), None, None) => return Err(invalid(credential, "names a key: set env or mountPath as well")),
            (None, None, None) => self.env_from.push(all_keys(&secret.name)),
            _ => {}
        }
        if let (Some(key), Some(env)) = (&secret.key, env) {
            self.env.push(one_key(env, &secret.name, key));
        }
        if let Some(path) = path {
            let path = paths::resolve(workspace, path, &credential.name)?;
            self.mount(index, credential, &path);
        }
        Ok(())
    }

    fn mount(&mut self, index: usize, credential: &Credential, path: &str) {
        let volume = format!("credential-{index}");
        let mode = credential.file_mode.unwrap_or(DEFAULT_MODE) & 0o7777;
        // A single file is a subPath of its volume; its name inside does not matter.
        let file = credential.secret_ref.key.as_ref().map(|key| KeyToPath {
            key: key.clone(),
            path: "value".into(),
            mode: Some(mode),
        });
        self.mounts.push(VolumeMount {
            name: volume.clone(),
            mount_path: path.into(),
            sub_path: file.as_ref().map(|item| item.path.clone()),
            read_only: Some(true),
            ..VolumeMount::default()
        });
        let secret = SecretVolumeSource {
            secret_name: Some(credential.secret_ref.name.clone()),
            default_mode: Some(mode),
            items: file.map(|item| vec![item]),
            optional: None,
        };
        self.volumes.push(Volume { name: volume, secret: Some(secret), ..Volume::default() });
    }
}

fn all_keys(secret: &str) -> EnvFromSource {
    let secret_ref = SecretEnvSource { name: secret.into(), optional: None };
    EnvFromSource { secret_ref: Some(secret_ref), ..EnvFromSource::default() }
}

fn one_key(env: &str, secret: &str, key: &str) -> EnvVar {
    let selector = SecretKeySelector { name: secret.into(), key: key.into(), optional: None };
    let source = EnvVarSource { secret_key_ref: Some(selector), ..EnvVarSource::default() };
    EnvVar { name: env.into(), value: None, value_from: Some(source) }
}

fn invalid(credential: &Credential, problem: &str) -> Invalid {
    Invalid::stalled(reasons::INVALID_SPEC, format!("credential {:?}: {problem}", credential.name))
}
