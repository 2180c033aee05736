//! Says so when a pod's time to end runs out while it works.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::ResourceExt;
use parking_lot::Mutex;
use serde_json::json;

use super::{Agents, act::Acted};
use crate::{
    agent::{
        beside,
        leaving::{Leaving, Look, look},
        report, trouble,
    },
    api::Agent,
};

/// Uids of pods of which it was said, by namespace and name of the agent.
pub(super) type Told = Mutex<HashMap<(String, String), HashSet<String>>>;

impl Agents {
    /// Side by side: names of the pods that end their work, as their sidecars say; sorted.
    pub(super) fn finishing(&self, agent: &Agent, deployment: Option<&Deployment>) -> Vec<String> {
        let mut pods: Vec<_> = self.pods(agent).iter().filter(|p| is_told(p)).map(|p| p.name_any()).collect();
        if pods.is_empty() || !deployment.is_some_and(|d| beside::is_made_for(&json!(d))) {
            return vec![];
        }
        let said = self.voice.leaving(&agent.namespace().unwrap_or_default(), &agent.name_any());
        let works = |pod: &String| said.iter().any(|(name, a)| name == pod && (a.works_on() > 0 || a.attached > 0));
        pods.retain(works);
        pods.sort_unstable();
        pods
    }

    /// Side by side: whether, until a newer pod is ready, an older one takes new work, which it then ends by itself.
    pub(super) fn serves_on(&self, agent: &Agent, deployment: Option<&Deployment>) -> bool {
        let Some(live) = deployment.filter(|d| report::server(Some(*d)) == report::Server::Rolling) else {
            return false;
        };
        let live = json!(live);
        let pods = self.pods(agent);
        let mut serve = pods.iter().filter(|pod| !is_told(pod) && trouble::is_ready(pod));
        serve.any(|pod| beside::ends_what_it_begins(&json!(&**pod), &live))
    }

    /// Looks at the agent's pods that were told to end.
    pub(super) fn leaving(&self, agent: &Agent, acted: &mut Acted) {
        let key = (agent.namespace().unwrap_or_default(), agent.name_any());
        let pods: Vec<_> = self.pods(agent).into_iter().filter(|p| is_told(p)).collect();
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

/// Whether a pod was told to end.
pub(super) fn is_told(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn leaving(pod: &Pod, work: usize) -> Option<Leaving> {
    let ends = pod.metadata.deletion_timestamp.as_ref()?.0;
    let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or_default();
    Some(Leaving { pod: pod.name_any(), ends, grace, work })
}
