//! Which `ConfigMaps` and Secrets an agent reads.

use std::collections::BTreeSet;

use crate::api::{AgentSpec, ContextType, KeyRef};

/// Names of objects in the agent's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// `ConfigMaps` of contexts, and of authorities.
    pub config_maps: BTreeSet<String>,
    /// Secrets of credentials, and of authorities.
    pub secrets: BTreeSet<String>,
}

/// The references of a merged spec. A change of one of these objects can change the agent's objects.
pub fn references(spec: &AgentSpec) -> References {
    let contexts = spec.contexts.iter().flatten().filter(|c| c.kind == ContextType::ConfigMap);
    let bundle = spec.ca_bundle.as_ref();
    let of_bundle = |reference: Option<&KeyRef>| reference.map(|reference| reference.name.clone());
    let config_maps = contexts.filter_map(|c| c.config_map.as_ref()).map(|c| c.name.clone());
    let secrets = spec.credentials.iter().flatten().map(|c| c.secret_ref.name.clone());
    References {
        config_maps: config_maps.chain(of_bundle(bundle.and_then(|b| b.config_map_ref.as_ref()))).collect(),
        secrets: secrets.chain(of_bundle(bundle.and_then(|b| b.secret_ref.as_ref()))).collect(),
    }
}
