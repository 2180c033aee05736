//! Side by side: the agent's pods are made known to each other.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use parking_lot::Mutex;
use serde_json::json;

use super::{Agents, act::Who};
use crate::{
    agent::{beside, build::layout::DOOR_PORT},
    api::voice::Peer,
};

/// What was told last, and to whom, by namespace and agent.
pub(super) type Introduced = Mutex<HashMap<(String, String), (Vec<Peer>, Vec<String>)>>;

impl Agents {
    /// Says to the agent's pods which pods there are, whenever that is news to one of them.
    pub(super) fn introduce(&self, who: &Who<'_>) {
        let key = (who.namespace.clone(), who.name.clone());
        let mut peers: Vec<Peer> = self.pods(who.agent).iter().filter_map(|pod| peer(pod)).collect();
        peers.sort_unstable();
        if peers.len() < 2 {
            // Whoever is left forgets the others.
            if self.introduced.lock().remove(&key).is_some() {
                self.voice.introduce(&who.namespace, &who.name, peers);
            }
            return;
        }
        if !self.own_deployment(who.agent).is_some_and(|d| beside::is_made_for(&json!(&*d))) {
            return;
        }
        let now = (peers, self.voice.connected(&who.namespace, &who.name));
        if self.introduced.lock().insert(key, now.clone()).as_ref() != Some(&now) {
            self.voice.introduce(&who.namespace, &who.name, now.0);
        }
    }
}

/// A pod that has an address and has not ended.
fn peer(pod: &Pod) -> Option<Peer> {
    let status = pod.status.as_ref()?;
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let address: IpAddr = status.pod_ip.as_ref()?.parse().ok()?;
    let door = SocketAddr::new(address, u16::try_from(DOOR_PORT).ok()?).to_string();
    Some(Peer { pod: pod.uid()?, door })
}
