//! Places and starts: who may go on now.

use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::Tasks;
use crate::{
    api::{
        Agent, Task,
        agent::TaskStart,
        names::{self, manager, reasons},
    },
    controller::request::limited,
    status::Failure,
    task::{self, AgentView, Limits, Place, PodState, Rank, Ticket, quota, seen},
};

/// How often the list of starts is counted anew because the Agent was written meanwhile.
const TRIES: usize = 20;

impl Tasks {
    /// What an agent allows now.
    pub(super) fn limits(&self, namespace: &str, name: &str) -> Limits {
        let view = self.agent(namespace, name);
        let quota = view.as_ref().and_then(|a| a.quota);
        let shown = quota.and_then(|_| self.context.caches.agents.get(namespace, name)?.status.clone());
        Limits {
            places: view.and_then(|a| a.max_running),
            quota,
            history: shown.map(|s| s.task_start_history).unwrap_or_default(),
            now: self.context.now(),
        }
    }

    /// The queue of an agent. A Task whose pod is there runs, even if its status does not say so yet.
    pub(super) fn tickets(&self, namespace: &str, agent: &str) -> Vec<Ticket> {
        let mut tickets = self.index.queue(namespace, agent);
        for ticket in tickets.iter_mut().filter(|t| !t.running) {
            let pod = self.context.caches.task_pods.get(namespace, &names::task::pod(&ticket.name));
            let state = seen::read(pod.as_deref(), &ticket.uid);
            ticket.running = matches!(state, PodState::Ours(pod) if pod.attempt >= ticket.tries);
        }
        tickets
    }

    /// Where a Task stands in the queue, if it waits there.
    pub(super) fn rank(&self, task: &Task) -> Option<Rank> {
        if task::phase(task).is_some_and(|p| p == crate::api::TaskPhase::Running || p.is_terminal()) {
            return None;
        }
        let (namespace, agent) = (task.namespace().unwrap_or_default(), task::agent_of(task)?);
        self.ledger.lock().rank(&task.uid().unwrap_or_default(), &self.tickets(&namespace, agent))
    }

    /// A place and a start for a Task that has all else it needs.
    pub(super) fn place(&self, task: &Task, start: &TaskStart) -> Place {
        let (namespace, agent) = (task.namespace().unwrap_or_default(), task::agent_of(task).unwrap_or_default());
        // Counted under the lock: what the caches show by then is taken out of the ledger.
        let mut ledger = self.ledger.lock();
        let (limits, tickets) = (self.limits(&namespace, agent), self.tickets(&namespace, agent));
        ledger.admit((&namespace, agent), start, &limits, &tickets)
    }

    /// Looks at the Tasks of a queue that could go on now, or have to tell another rank.
    pub(super) fn wake(&self, namespace: &str, agent: &str) {
        let ledger = self.ledger.lock();
        let (limits, tickets) = (self.limits(namespace, agent), self.tickets(namespace, agent));
        let due: Vec<_> = ledger.due((namespace, agent), &limits, &tickets).into_iter().map(|t| &t.name).collect();
        drop(ledger);
        for name in due {
            self.triggers.now(namespace, name);
        }
    }

    /// Writes a start into the window of its agent, over exactly the list that was counted. Whether there was room.
    pub(super) async fn record(&self, task: &Task, agent: &AgentView, start: &TaskStart) -> Result<bool, Failure> {
        let Some(quota) = agent.quota else { return Ok(true) };
        let (namespace, api) = (task.namespace().unwrap_or_default(), self.api::<Agent>(task));
        for _ in 0..TRIES {
            let read = limited("reading the Agent", api.get(&agent.name)).await?;
            let live = read.map_err(|e| failed("cannot read the Agent", &e))?;
            let now = self.context.now();
            let shown = live.status.as_ref().map(|s| s.task_start_history.clone()).unwrap_or_default();
            let mut starts = quota.within(&shown, now);
            if starts.iter().any(|s| quota::same(s, start)) {
                return Ok(true);
            }
            if quota.left(&starts, now) == 0 {
                let mut ledger = self.ledger.lock();
                ledger.take_back((&namespace, &agent.name), start);
                ledger.saw((&namespace, &agent.name), quota, &starts, now);
                return Ok(false);
            }
            starts.push(start.clone());
            if self.write_starts(&api, &live, &starts).await? {
                self.ledger.lock().saw((&namespace, &agent.name), quota, &starts, now);
                return Ok(true);
            }
        }
        Err(Failure::transient(reasons::STATUS_WRITE_FAILED, format!("Agent {} is written all the time", agent.name)))
    }

    /// Whether the list was written: not where the Agent has changed meanwhile.
    async fn write_starts(&self, api: &Api<Agent>, live: &Agent, starts: &[TaskStart]) -> Result<bool, Failure> {
        let patch = json!({
            "metadata": { "resourceVersion": live.metadata.resource_version, "uid": live.metadata.uid },
            "status": { "taskStartHistory": starts },
        });
        // Not an apply of the status' manager: it would own the list, and take it away with its next one.
        let params = PatchParams { field_manager: Some(manager::TASK.into()), ..PatchParams::default() };
        let (name, patch) = (live.name_any(), Patch::Merge(patch));
        match limited("writing the start of the Task", api.patch_status(&name, &params, &patch)).await? {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(s)) if s.is_conflict() => Ok(false),
            Err(error) => Err(failed("cannot write the start of the Task", &error)),
        }
    }
}

pub(super) fn failed(what: &str, error: &kube::Error) -> Failure {
    Failure::transient(reasons::POD_CREATION_FAILED, format!("{what}: {error}"))
}
