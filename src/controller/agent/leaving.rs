//! Says so when a pod's time to end runs out while it works.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use parking_lot::Mutex;

use super::{Agents, act::Acted};
use crate::{
    agent::leaving::{Leaving, Look, look},
    api::Agent,
};

/// Uids of pods of which it was said, by namespace and name of the agent.
pub(super) type Told = Mutex<HashMap<(String, String), HashSet<String>>>;

impl Agents {
    /// Looks at the agent's pods that were told to end.
    pub(super) fn leaving(&self, agent: &Agent, acted: &mut Acted) {
        let key = (agent.namespace().unwrap_or_default(), agent.name_any());
        let pods: Vec<_> = self.pods(agent).into_iter().filter(|p| p.metadata.deletion_timestamp.is_some()).collect();
        if pods.is_empty() {
            self.told.lock().remove(&key);
            return;
        }
        let said = self.voice.leaving(&key.0, &key.1);
        let mut told = self.told.lock();
        let told = told.entry(key).or_default();
        for pod in &pods {
            let work = said.iter().find(|(name, _)| *name == pod.name_any()).map_or(0, |(_, a)| a.works_on());
            let Some(leaving) = leaving(pod, work) else { continue };
            match look(&leaving, self.context.now()) {
                Look::Cut(note) if told.insert(pod.uid().unwrap_or_default()) => acted.notes.push(note),
                Look::Works(left) => acted.after(left),
                Look::Cut(_) | Look::Idle => {}
            }
        }
        told.retain(|uid| pods.iter().any(|pod| pod.uid().as_ref() == Some(uid)));
    }
}

fn leaving(pod: &Pod, work: usize) -> Option<Leaving> {
    let ends = pod.metadata.deletion_timestamp.as_ref()?.0;
    let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or_default();
    Some(Leaving { pod: pod.name_any(), ends, grace, work })
}
