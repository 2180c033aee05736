//! How what runs in the pod reaches hosts: proxies, and authorities of one's own.

use k8s_openapi::api::core::v1::{ConfigMapVolumeSource, EnvVar, KeyToPath, SecretVolumeSource, Volume, VolumeMount};
use serde_json::{Value, json};

use super::{Inputs, Plan, containers, env};
use crate::{
    agent::Invalid,
    api::{CaBundle, Proxy, names::reasons},
};

/// Volume of the authorities.
const VOLUME: &str = "custom-ca";
/// Where they are in the containers.
const FOLDER: &str = "/etc/ssl/certs/custom-ca";
const FILE: &str = "tls.crt";
const PATH: &str = "/etc/ssl/certs/custom-ca/tls.crt";
/// Never behind a proxy, beside the cluster's Services: the server's own pod.
const LOCAL: &str = "localhost,127.0.0.1,::1";

/// The agent's proxies, or the cluster's.
fn proxy<'a>(plan: &'a Plan<'_>) -> Option<&'a Proxy> {
    plan.inputs.spec.proxy.as_ref().or_else(|| plan.inputs.config?.proxy.as_ref()).filter(|proxy| proxy.is_some())
}

/// Certificates that do not exist are waited for.
pub(super) fn check(inputs: &Inputs<'_>) -> Result<(), Invalid> {
    let Some(place) = inputs.spec.ca_bundle.as_ref().and_then(CaBundle::place) else { return Ok(()) };
    let (kind, reason, has_key) = if place.is_secret {
        let keys = inputs.secrets.get(place.name);
        ("Secret", reasons::SECRET_NOT_FOUND, keys.is_some_and(|keys| keys.0.contains_key(place.key)))
    } else {
        let data = inputs.config_maps.get(place.name);
        ("ConfigMap", reasons::CONFIG_MAP_NOT_FOUND, data.is_some_and(|data| data.has(place.key)))
    };
    if has_key {
        return Ok(());
    }
    Err(Invalid::waiting(reason, format!("caBundle waits for key {:?} of {kind} {}", place.key, place.name)))
}

/// Variables of every container, in both spellings; the user's own come after and win.
pub(super) fn variables(plan: &Plan<'_>) -> Vec<EnvVar> {
    let mut variables = vec![];
    if let Some(proxy) = proxy(plan) {
        let direct = proxy.direct(plan.inputs.config.and_then(|config| config.cluster_domain.as_deref()));
        let all = [
            ("HTTP_PROXY", proxy.http_proxy.clone()),
            ("HTTPS_PROXY", proxy.https_proxy.clone()),
            ("NO_PROXY", Some(format!("{direct},{LOCAL}"))),
        ];
        for (name, value) in all {
            let Some(value) = value.filter(|value| !value.is_empty()) else { continue };
            variables.extend([env::var(name, value.clone()), env::var(&name.to_ascii_lowercase(), value)]);
        }
    }
    if has_bundle(plan) {
        // The second one is what the server's own runtime reads, beside the system's authorities.
        variables.extend([env::var("CUSTOM_CA_CERT_PATH", PATH), env::var("NODE_EXTRA_CA_CERTS", PATH)]);
    }
    variables
}

fn has_bundle(plan: &Plan<'_>) -> bool {
    volume(plan).is_some()
}

/// The mount of the authorities, where there are any.
pub(super) fn mount(plan: &Plan<'_>) -> Option<VolumeMount> {
    has_bundle(plan).then(|| containers::read_only(VOLUME, FOLDER))
}

/// Their volume.
pub(super) fn volume(plan: &Plan<'_>) -> Option<Volume> {
    let place = plan.inputs.spec.ca_bundle.as_ref()?.place()?;
    let items = Some(vec![KeyToPath { key: place.key.into(), path: FILE.into(), mode: None }]);
    let (name, default_mode) = (place.name.to_owned(), Some(0o444));
    let volume = Volume { name: VOLUME.into(), ..Volume::default() };
    Some(if place.is_secret {
        let source =
            SecretVolumeSource { secret_name: Some(name), items, default_mode, ..SecretVolumeSource::default() };
        Volume { secret: Some(source), ..volume }
    } else {
        let source = ConfigMapVolumeSource { name, items, default_mode, ..ConfigMapVolumeSource::default() };
        Volume { config_map: Some(source), ..volume }
    })
}

/// What of the pod template comes from here, by name; nothing where nothing is set.
pub(super) fn parts(plan: &Plan<'_>) -> Vec<(&'static str, Value)> {
    let domain = plan.inputs.config.and_then(|config| config.cluster_domain.as_deref());
    let proxy = proxy(plan).map(|proxy| ("proxy", json!([proxy, domain])));
    proxy.into_iter().chain(volume(plan).map(|volume| ("ca-bundle", json!(volume)))).collect()
}
