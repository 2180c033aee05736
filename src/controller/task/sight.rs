//! Whether the caches show the Task pods that there were when this process began to lead. Until then nobody can be given
//! a place: the leader before may have filled it a moment ago.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{Api, ResourceExt, api::ListParams};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Tasks, places::failed};
use crate::{
    api::{
        Task,
        names::{label, value},
    },
    controller::request::limited,
    status::{Backoff, Failure},
};

/// Delays between two looks at the pods of a namespace.
const LOOKS: Backoff = Backoff { base: Duration::from_millis(300), cap: Duration::from_secs(5) };
/// So many looks are nothing to talk about: caches lag for a moment.
const QUIET: u32 = 3;

/// What is known of each namespace.
#[derive(Default)]
pub(super) struct Sight(Mutex<HashMap<String, Known>>);

#[derive(Default)]
struct Known {
    /// The caches show all that there was.
    whole: bool,
    /// How often it was looked in vain, and when that is done again.
    looks: u32,
    again: Option<Instant>,
    /// The first pod that is not shown.
    lacks: String,
    /// Pods, by uid, of Tasks that are gone.
    orphans: HashSet<String>,
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lag {
    /// Name of a pod that the caches do not show.
    pub(super) pod: String,
    /// When it is worth another look.
    pub(super) wait: Duration,
    /// Whether it has lasted so long that somebody may wonder.
    pub(super) tell: bool,
}

impl Sight {
    /// What is known without a look; `Some(None)`: the caches show everything.
    #[allow(clippy::option_option, reason = "not known is not the same as known to lack nothing")]
    fn known(&self, namespace: &str, now: Instant) -> Option<Option<Lag>> {
        let all = self.0.lock();
        let known = all.get(namespace)?;
        if known.whole {
            return Some(None);
        }
        let wait = known.again?.checked_duration_since(now).filter(|wait| !wait.is_zero())?;
        Some(Some(Lag { pod: known.lacks.clone(), wait, tell: known.looks >= QUIET }))
    }

    fn is_orphan(&self, namespace: &str, pod: &str) -> bool {
        self.0.lock().get(namespace).is_some_and(|known| known.orphans.contains(pod))
    }

    fn orphan(&self, namespace: &str, pod: String) {
        self.0.lock().entry(namespace.to_owned()).or_default().orphans.insert(pod);
    }

    /// Takes in what a look found; `share` is drawn from `0.0..1.0`.
    fn looked(&self, namespace: &str, lacks: Option<String>, now: Instant, share: f64) -> Option<Lag> {
        let mut all = self.0.lock();
        let known = all.entry(namespace.to_owned()).or_default();
        let Some(pod) = lacks.filter(|_| !known.whole) else {
            *known = Known { whole: true, ..Known::default() };
            return None;
        };
        known.looks = known.looks.saturating_add(1);
        let wait = LOOKS.delay(known.looks, share);
        (known.again, known.lacks) = (Some(now + wait), pod.clone());
        Some(Lag { pod, wait, tell: known.looks >= QUIET })
    }
}

impl Tasks {
    /// What the caches lack of the pods that a namespace had when this process began to lead; nothing once they have
    /// shown all.
    pub(super) async fn lag(&self, namespace: &str) -> Result<Option<Lag>, Failure> {
        if let Some(known) = self.sight.known(namespace, Instant::now()) {
            return Ok(known);
        }
        let pods: Api<Pod> = Api::namespaced(self.context.client.clone(), namespace);
        let ours = format!("{}={},{}", label::MANAGED_BY, value::MANAGED_BY, label::TASK);
        let read = limited("listing the pods of Tasks", pods.list(&ListParams::default().labels(&ours))).await?;
        let list = read.map_err(|e| failed("cannot list the pods of Tasks", &e))?;
        let mut lacks = None;
        for pod in list {
            if !self.shows(namespace, &pod).await? {
                lacks = Some(pod.name_any());
                break;
            }
        }
        Ok(self.sight.looked(namespace, lacks, Instant::now(), rand::random()))
    }

    /// Whether the caches have a pod and its Task, or do not need them: one that has ended has no place, nor has a Task
    /// that is gone.
    async fn shows(&self, namespace: &str, pod: &Pod) -> Result<bool, Failure> {
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        if phase.is_some_and(|p| p == "Succeeded" || p == "Failed") {
            return Ok(true);
        }
        let uid = pod.uid().unwrap_or_default();
        if let Some(owner) = pod.owner_references().iter().find(|o| o.kind == "Task" && !self.has_task(namespace, o)) {
            // It may be one that the cache does not show yet, or one that was deleted: its pod has a grace, and on a node
            // that is gone it stays for long.
            let gone = self.sight.is_orphan(namespace, &uid) || !self.is_there(namespace, owner).await?;
            if gone {
                self.sight.orphan(namespace, uid);
            }
            return Ok(gone);
        }
        Ok(self.context.caches.task_pods.get(namespace, &pod.name_any()).is_some_and(|c| c.uid() == pod.uid()))
    }

    fn has_task(&self, namespace: &str, owner: &OwnerReference) -> bool {
        let cached = self.context.caches.tasks.get(namespace, &owner.name);
        cached.is_some_and(|task| task.uid().as_ref() == Some(&owner.uid))
    }

    /// Whether the API server has the Task that a pod names as its own.
    async fn is_there(&self, namespace: &str, owner: &OwnerReference) -> Result<bool, Failure> {
        let tasks: Api<Task> = Api::namespaced(self.context.client.clone(), namespace);
        let read = limited("reading the Task of a pod", tasks.get_metadata_opt(&owner.name)).await?;
        let found = read.map_err(|e| failed("cannot read the Task of a pod", &e))?;
        Ok(found.is_some_and(|task| task.uid().as_ref() == Some(&owner.uid)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_get_rarer_are_shared_and_are_told_of_when_they_last() {
        let (sight, start) = (Sight::default(), Instant::now());
        assert_eq!(sight.known("ns", start), None, "nobody has looked");
        let lacks = || Some("t-pod".to_owned());
        let mut now = start;
        for (ms, tell) in [(300, false), (600, false), (1200, true), (2400, true), (4800, true), (5000, true)] {
            let lag = sight.looked("ns", lacks(), now, 1.0).unwrap();
            assert_eq!((lag.wait, lag.tell), (Duration::from_millis(ms), tell));
            let half = sight.known("ns", now + lag.wait / 2).unwrap().unwrap();
            assert_eq!((half.wait, half.pod.as_str(), half.tell), (lag.wait / 2, "t-pod", tell), "no second look");
            now += lag.wait;
            assert_eq!(sight.known("ns", now), None);
        }
        assert_eq!(sight.known("other", now), None);
        sight.orphan("ns", "1".into());
        assert!(sight.is_orphan("ns", "1") && !sight.is_orphan("ns", "2") && !sight.is_orphan("other", "1"));
        assert_eq!(sight.looked("ns", None, now, 1.0), None);
        assert_eq!(sight.known("ns", now), Some(None));
        // A slower look that began before.
        assert_eq!(sight.looked("ns", lacks(), now, 1.0), None, "what was shown once is not waited for again");
    }
}
