//! Tasks: who may start, which phase follows, which pod does the work (pure).
//!
//! * [`queue`]: the queue of an agent, its places, and who is next.
//! * [`quota`]: how often Tasks may start.
//! * [`starts`]: Tasks that start and rollouts that are decided.
//! * [`retry`]: tries after a failure.
//! * [`seen`]: what a pod's status says.
//! * [`step()`]: one decision from a Task and what is known about the world.
//! * [`budget`]: what a Task may cost.
//! * [`build`]: the pod and its prompt.
//! * [`contexts`]: what goes to the session with the prompt.

pub mod budget;
pub mod build;
pub mod contexts;
pub mod queue;
pub mod quota;
mod report;
pub mod retry;
pub mod seen;
pub mod starts;
pub mod step;

pub use build::{Settings, Start};
pub use queue::{Ledger, Limits, Place, Rank, Ticket};
pub use quota::Quota;
pub use seen::{Ending, PodState, PodView};
pub use starts::Starts;
pub use step::step;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PodSecurityContext;

use crate::{
    agent::build::Alone,
    api::{ImagePullSecret, Task, TaskInput, TaskPhase, TaskStatus, Verifying, names, pod::Scheduling},
    status::{Failure, Next, Note},
};

/// Seconds that a pod has to abort its session.
pub const GRACE_SECONDS: i64 = 30;

/// How long after its grace a pod may stay before it counts as gone: its node does not answer.
const LOST_AFTER: SignedDuration = SignedDuration::from_secs(60);

/// Everything besides the Task that a decision depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    /// The Agent that `agentRef` names.
    pub agent: Option<AgentView>,
    /// The template that `templateRef` names, or why it cannot be used now.
    pub template: Result<Option<Box<Template>>, Failure>,
    /// Whether the agent has a place for this Task now.
    pub place: Place,
    /// The text of its contexts, or what of them is missing.
    pub contexts: Result<String, String>,
    /// Where it stands in the agent's queue, while it waits.
    pub rank: Option<Rank>,
    /// The pod with the Task's pod name.
    pub pod: PodState,
    /// Settings of the cluster.
    pub settings: Settings,
    /// What becomes of the Task when it is finished.
    pub cleanup: Cleanup,
}

/// When a finished Task is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleanup {
    /// Seconds after its end, where limited.
    pub ttl_seconds: Option<u32>,
    /// Whether the namespace keeps as many Tasks that finished later as it may.
    pub surplus: bool,
    /// Until when it is kept for the history, which has not taken it yet.
    pub unrecorded: Option<Timestamp>,
}

/// What matters about an Agent, its template merged in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentView {
    /// Name of the Agent.
    pub name: String,
    /// Whether its server takes work.
    pub ready: bool,
    /// Whether it is suspended, or about to be.
    pub suspended: bool,
    /// What new Tasks wait for before a rollout, if they do.
    pub draining: Option<String>,
    /// The Task that a new revision has to pass, and where that revision is.
    pub verifying: Option<Verifying>,
    /// Address of the server.
    pub url: Option<String>,
    /// Revision of its definition, short.
    pub revision: Option<String>,
    /// Commits of its contexts and skills from Git, as far as they are known, sorted by id.
    pub inputs: Vec<TaskInput>,
    /// How many Tasks may run at the same time; none: no limit.
    pub max_running: Option<usize>,
    /// How often Tasks may start; none: no limit.
    pub quota: Option<Quota>,
    /// Secrets for the registry of the image.
    pub image_pull_secrets: Vec<ImagePullSecret>,
    /// Which nodes may run its pods, and so the Task's.
    pub scheduling: Option<Scheduling>,
    /// Further labels of its pods.
    pub labels: BTreeMap<String, String>,
    /// Replaces the pod's security context.
    pub pod_security_context: Option<PodSecurityContext>,
}

impl AgentView {
    /// Where the revision is that this Task verifies, if it is such a one: nothing that keeps other Tasks waiting keeps it.
    /// An address without its pod is none: whoever has it now would get the password.
    pub fn verified_by(&self, task: &Task) -> Option<Server<'_>> {
        let verifying = self.verifying.as_ref()?;
        let pod = Some(verifying.pod.as_deref()?);
        (task.metadata.name.as_deref() == Some(&verifying.task)).then_some(Server { url: &verifying.url, pod })
    }
}

/// Where a Task goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server<'a> {
    /// Address of the server.
    pub url: &'a str,
    /// Uid of the pod that must answer there, where it is the address of a pod and not of a Service.
    pub pod: Option<&'a str>,
}

/// A template, made into a pod for one Task.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// Its name.
    pub name: String,
    /// Revision of its definition, short.
    pub revision: Option<String>,
    /// The pod.
    pub alone: Alone,
}

impl Template {
    /// Commits of contexts and skills from Git, sorted by id.
    pub fn inputs(&self) -> Vec<TaskInput> {
        let input = |(id, resolved): (&String, &crate::agent::Resolved)| TaskInput {
            id: id.clone(),
            commit: resolved.revision.rsplit([':', '@']).next().unwrap_or_default().to_owned(),
        };
        self.alone.pieces.iter().map(input).collect()
    }
}

/// Whether a Task is there to verify a revision: no other one's answer counts, so it runs nowhere else.
pub fn verifies(task: &Task) -> bool {
    task.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(names::label::VERIFIES))
}

/// What is done to the world.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Nothing.
    Nothing,
    /// The pod and what it reads are created; then the Task is looked at again.
    Start(Box<Start>),
    /// The pod is deleted, with grace.
    Stop {
        /// Uid of the pod.
        uid: String,
    },
    /// The pod is deleted without waiting for its node, which does not answer.
    Remove {
        /// Uid of the pod.
        uid: String,
    },
    /// The Task waits for a time of its own: others go first until it is looked at again.
    StandAside,
    /// The Task is deleted.
    Delete,
}

/// One decision: what is done, what the status becomes, what is said, when it is looked at again.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What is done, before the status is written.
    pub act: Act,
    /// The status, whole.
    pub status: TaskStatus,
    /// Events.
    pub notes: Vec<Note>,
    /// When the Task is looked at again if nothing changes.
    pub next: Next,
}

/// Whether the user asked to stop this Task.
pub fn stop_asked(task: &Task) -> bool {
    task.metadata.annotations.as_ref().and_then(|a| a.get(names::annotation::STOP)).is_some_and(|v| v == "true")
}

/// Name of the Agent of this Task. Once it has started, the spec's changes do not move it.
pub fn agent_of(task: &Task) -> Option<&str> {
    let started = task.status.as_ref().filter(|s| s.start_time.is_some()).and_then(|s| s.agent_ref.as_ref());
    let named = started.or(task.spec.agent_ref.as_ref()).map(|agent| agent.name.as_str());
    named.filter(|_| template_of(task).is_none())
}

/// Name of the template of this Task, where it has a pod of its own. Once it has started, the spec's changes do not move it.
pub fn template_of(task: &Task) -> Option<&str> {
    let started = task.status.as_ref().filter(|s| s.start_time.is_some());
    let named = match started {
        Some(status) => status.template_ref.as_ref(),
        None => task.spec.template_ref.as_ref(),
    };
    named.map(|template| template.name.as_str())
}

/// Phase of the Task.
pub fn phase(task: &Task) -> Option<TaskPhase> {
    task.status.as_ref()?.phase
}

/// Whether the Task is finished.
pub fn is_finished(task: &Task) -> bool {
    phase(task).is_some_and(TaskPhase::is_terminal)
}

/// How many tries of the Task have ended, and were followed by another one.
pub fn tries(task: &Task) -> usize {
    task.status.as_ref().map_or(0, |s| s.tries.len())
}

/// When the Task ended; when it was created, where that is not known.
pub fn ended(task: &Task) -> Timestamp {
    let ended = task.status.as_ref().and_then(|s| s.completion_time.as_ref());
    ended.map_or_else(|| created(task), |t| t.0)
}

/// When the Task was created; the epoch for one that was not.
pub fn created(task: &Task) -> Timestamp {
    task.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0)
}
