//! A Task that a new revision must pass before it takes work (pure).
//!
//! The pods of such a revision have a readiness gate: until the controller opens it they are not ready, whatever their
//! containers say, so the Service does not lead to them and the old pod stays. The Task talks to the new pod itself. What
//! came of it is an annotation of the Deployment, so no revision is verified twice.

use serde::{Deserialize, Serialize};

use super::state::Annotations;
use crate::{
    api::{
        AgentSpec, GoDuration, Task, TaskPhase,
        names::{annotation, condition},
        rollout::RolloutVerify,
    },
    status::condition::{is_true, truncate},
};

/// Type of the pods' readiness gate, and of the condition that opens it.
pub const GATE: &str = "pilothouse.dev/verified";
/// How long the Task may take unless the spec says.
const TIMEOUT: &str = "5m";
/// So many revisions that passed are remembered: what may come back.
const REMEMBERED: usize = 4;
/// Longest result that is repeated, in bytes.
const WHY: usize = 500;
/// Begins the reason of a revision that failed because of this.
const BEGINS: &str = "it did not pass its verification";

/// What the spec asks for, if it asks for something.
pub fn wanted(spec: &AgentSpec) -> Option<&RolloutVerify> {
    spec.rollout.as_ref()?.verify.as_ref()
}

/// How long the Task may take, as a Task's `spec.timeout`.
pub fn timeout(verify: &RolloutVerify) -> GoDuration {
    verify.timeout.clone().unwrap_or_else(|| TIMEOUT.into())
}

/// Which try of which revision: its hash, and since which generation of the Deployment its pod template is there. What is
/// tried again, because somebody asks, is another try.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Try {
    /// Hash of the pod template.
    pub hash: String,
    /// Generation.
    pub generation: String,
}

impl Try {
    /// Name of its Task.
    pub fn task(&self, agent: &str) -> String {
        format!("{agent}-verify-{}-{}", self.hash.chars().take(8).collect::<String>(), self.generation)
    }
}

/// What a Deployment remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Hashes of revisions that passed, the newest last.
    #[serde(default)]
    passed: Vec<String>,
    /// The try that failed last, and why.
    #[serde(default)]
    failed: Option<(Try, String)>,
}

impl Memory {
    /// What the annotations say; nothing where they cannot be read.
    pub fn of(marks: &Annotations) -> Self {
        marks.get(annotation::VERIFICATION).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// As annotations.
    pub fn annotations(&self) -> Annotations {
        let text = serde_json::to_string(self).unwrap_or_default();
        Annotations::from([(annotation::VERIFICATION.into(), text)])
    }

    /// Whether this revision has passed, at any time.
    pub fn has_passed(&self, it: &Try) -> bool {
        self.passed.contains(&it.hash)
    }

    /// Why this try failed, if it did.
    pub fn failed(&self, it: &Try) -> Option<&str> {
        self.failed.as_ref().filter(|(failed, _)| failed == it).map(|(_, why)| why.as_str())
    }

    fn with(&self, it: &Try, result: &Result<(), String>) -> Self {
        let mut memory = self.clone();
        match result {
            Ok(()) => {
                memory.passed.retain(|hash| *hash != it.hash);
                memory.passed.push(it.hash.clone());
                let surplus = memory.passed.len().saturating_sub(REMEMBERED);
                memory.passed.drain(..surplus);
            }
            Err(why) => memory.failed = Some((it.clone(), why.clone())),
        }
        memory
    }
}

/// What an apply keeps of what a Deployment remembers.
pub fn kept(marks: &Annotations) -> Option<(String, String)> {
    marks.get(annotation::VERIFICATION).map(|text| (annotation::VERIFICATION.to_string(), text.clone()))
}

/// Whether a revision failed because of this, from why it did.
pub fn is_reason(why: &str) -> bool {
    why.starts_with(BEGINS)
}

/// What there is of the Task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is not there.
    Absent,
    /// It is not over.
    Open,
    /// It is over: passed, or why not.
    Over(Result<(), String>),
}

/// What there is of a Task. One that was stopped, or took too long, has not passed.
pub fn seen(found: Option<&Task>) -> Seen {
    let Some(found) = found else { return Seen::Absent };
    let phase = found.status.as_ref().and_then(|s| s.phase);
    if !phase.is_some_and(TaskPhase::is_terminal) {
        return Seen::Open;
    }
    let conditions = found.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    if phase == Some(TaskPhase::Completed) && !is_true(conditions, condition::STOPPED) {
        return Seen::Over(Ok(()));
    }
    let kind = if is_true(conditions, condition::STOPPED) { condition::STOPPED } else { condition::READY };
    let said = conditions.iter().find(|c| c.type_ == kind);
    let said = said.map(|c| format!(" ({}: {})", c.reason, truncate(&c.message, WHY))).unwrap_or_default();
    let name = found.metadata.name.as_deref().unwrap_or_default();
    Seen::Over(Err(format!("{BEGINS}: Task {name} failed{said}")))
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, or wait.
    Nothing,
    /// The Task is made.
    Begin,
    /// This is remembered.
    Remember(Memory),
    /// The pods' gates are opened.
    Admit,
}

/// The next step. `up`: a pod of the revision runs, but for its gate.
pub fn step(it: &Try, memory: &Memory, task: &Seen, up: bool) -> Step {
    if memory.has_passed(it) {
        return Step::Admit;
    }
    if memory.failed(it).is_some() {
        return Step::Nothing;
    }
    match task {
        Seen::Over(result) => Step::Remember(memory.with(it, result)),
        Seen::Absent if up => Step::Begin,
        Seen::Absent | Seen::Open => Step::Nothing,
    }
}

#[cfg(test)]
mod tests;
