//! What the last try of a Task left behind: a session that is at work in a pod of the agent, where the next try does not
//! look for it, or does not want it. It is stopped before the next one begins, or both would do the same work.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use kube::ResourceExt;
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::warn;

use super::Tasks;
use crate::{
    api::{
        Task,
        names::{self, label},
        voice::Activity,
    },
    task::{
        self,
        retry::{Before, before},
    },
};

/// Between two tries to stop it.
pub(super) const AGAIN: Duration = Duration::from_secs(1);
/// A pod that does not answer for longer does not keep the Task from its next try.
const PATIENCE: Duration = Duration::from_secs(15);

/// Since when Tasks wait, by uid.
#[derive(Default)]
pub(super) struct Left(Mutex<HashMap<String, Instant>>);

impl Left {
    /// Whether it has waited long enough; it waits from the first question on.
    fn is_late(&self, uid: &str, now: Instant) -> bool {
        let since = *self.0.lock().entry(uid.to_owned()).or_insert(now);
        now.duration_since(since) >= PATIENCE
    }

    pub(super) fn forget(&self, uid: &str) {
        self.0.lock().remove(uid);
    }
}

impl Tasks {
    /// Whether nothing of the last try goes on beside the next one, as far as can be found out in time.
    pub(super) async fn is_alone(&self, task: &Task) -> bool {
        let uid = task.uid().unwrap_or_default();
        let is_over = self.stop_sessions(task, before(task)).await;
        if !is_over && !self.left.is_late(&uid, Instant::now()) {
            return false;
        }
        if !is_over {
            let (namespace, name) = (task.namespace(), task.name_any());
            warn!(
                namespace,
                name, "pods of the agent do not answer: a session of the last try may go on in one of them"
            );
        }
        self.left.forget(&uid);
        true
    }

    /// Stops what a try has left behind. Whether all that may have it did so.
    pub(super) async fn stop_sessions(&self, task: &Task, before: Before) -> bool {
        let (namespace, Some(agent)) = (task.namespace().unwrap_or_default(), task::agent_of(task)) else {
            return true;
        };
        if before == Before::Nothing {
            return true;
        }
        let title = names::task::session_title(&namespace, &task.name_any(), &task.uid().unwrap_or_default());
        let ending = self.ending_pods(&namespace, agent);
        let everywhere = before == Before::Everywhere;
        let whom = |pod: &str, activity: &Activity| everywhere || activity.draining || ending.contains(pod);
        let told = self.voices.stop_sessions(&namespace, agent, &title, whom).await;
        let all = told.values().all(|done| *done) && ending.iter().all(|pod| told.contains_key(pod));
        all && !(everywhere && told.is_empty())
    }

    /// Names of the agent's pods that are being deleted, and run.
    fn ending_pods(&self, namespace: &str, agent: &str) -> BTreeSet<String> {
        let pods = self.context.caches.agent_pods.filter(|pod| {
            let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
            pod.metadata.deletion_timestamp.is_some()
                && phase == Some("Running")
                && pod.namespace().as_deref() == Some(namespace)
                && pod.labels().get(label::AGENT).map(String::as_str) == Some(agent)
        });
        pods.iter().map(|pod| pod.name_any()).collect()
    }
}
