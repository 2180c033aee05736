//! Everything that the objects of an agent are made from.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::Pieces;
use crate::api::{Agent, AgentSpec, PilothouseConfigSpec};

/// Content of a referenced ConfigMap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigMapData {
    /// Keys with text.
    pub text: BTreeMap<String, String>,
    /// Keys with other bytes.
    pub binary: BTreeMap<String, Vec<u8>>,
}

impl ConfigMapData {
    /// Whether the key exists, as text or as bytes.
    pub fn has(&self, key: &str) -> bool {
        self.text.contains_key(key) || self.binary.contains_key(key)
    }
}

/// Keys of a referenced Secret with keyed hashes of their values, see [`super::hash::keyed`]. The values themselves
/// never come here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretKeys(pub BTreeMap<String, String>);

impl SecretKeys {
    /// Hashes the values of a Secret with the agent's password as the key.
    pub fn new<'a>(password: &[u8], data: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        Self(data.into_iter().map(|(key, value)| (key.into(), super::hash::keyed(password, value))).collect())
    }
}

/// What [`build`](super::build()) is a function of.
#[derive(Clone)]
pub struct Inputs<'a> {
    /// The Agent: identity and annotations. Its spec is not read, [`spec`](Self::spec) is.
    pub agent: &'a Agent,
    /// The Agent's spec after [`merge`](super::merge()).
    pub spec: &'a AgentSpec,
    /// The cluster's settings, if there are any.
    pub config: Option<&'a PilothouseConfigSpec>,
    /// Image of the sidecar where the cluster's settings name none.
    pub system_image: Option<&'a str>,
    /// Layout of the pods: [`super::build::layout`].
    pub layout: u32,
    /// For which request to upgrade the pod template is made, if for any: [`super::upgrade`].
    pub upgrade: Option<&'a str>,
    /// Which request to upgrade is the newest, carried out or pointless.
    pub upgraded: Option<&'a str>,
    /// Seconds that pods have to end, where those of the applied template are kept; else from the spec.
    pub grace: Option<i64>,
    /// How sidecars reach the controller, `host:port`.
    pub voice_address: Option<&'a str>,
    /// Whether the agent is to have no pod.
    pub suspended: bool,
    /// What was decided for Git inputs; only those that have a commit.
    pub pieces: &'a Pieces,
    /// Ids of Git inputs that are followed and of which nobody has said anything yet, as after a start: what waits for them
    /// still waits.
    pub unread: &'a BTreeSet<String>,
    /// The referenced `ConfigMaps` that exist.
    pub config_maps: &'a BTreeMap<String, ConfigMapData>,
    /// The referenced Secrets that exist.
    pub secrets: &'a BTreeMap<String, SecretKeys>,
}

impl fmt::Debug for Inputs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inputs").field("agent", &self.agent.metadata.name).finish_non_exhaustive()
    }
}
