//! Which `ConfigMaps` and Secrets an agent reads.

use std::collections::BTreeSet;

use crate::api::{AgentSpec, ContextType};

/// Names of objects in the agent's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// `ConfigMaps` of contexts.
    pub config_maps: BTreeSet<String>,
    /// Secrets of credentials.
    pub secrets: BTreeSet<String>,
}

/// The references of a merged spec. A change of one of these objects can change the agent's objects.
pub fn references(spec: &AgentSpec) -> References {
    let contexts = spec.contexts.iter().flatten().filter(|c| c.kind == ContextType::ConfigMap);
    References {
        config_maps: contexts.filter_map(|c| c.config_map.as_ref()).map(|c| c.name.clone()).collect(),
        secrets: spec.credentials.iter().flatten().map(|c| c.secret_ref.name.clone()).collect(),
    }
}
