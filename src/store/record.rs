//! What is kept of a Task and of a Sync (no I/O).

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::{Deserialize, Serialize};

use crate::api::{
    API_VERSION, HistoryEntry, Sync, Task, TaskPhase, TaskSession,
    money::{MICROS, dollars, micros},
    names::condition,
    task::TaskTry,
};

/// Most that one Task is believed to have cost (a million dollars), and tokens to have taken: a sum of what pods say must
/// stay a number.
const BELIEVED: i64 = 1_000_000 * MICROS;

/// A Task that has ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskRecord {
    /// Uid of the Task, by which it is kept once.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name; a later Task may have the same.
    pub name: String,
    /// The agent that did it; empty for one in a pod of its own.
    pub agent: String,
    /// The `CronTask` that made it; empty for others.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub crontask: String,
    /// Completed or Failed.
    pub phase: String,
    /// How it ended, in one word.
    pub reason: String,
    /// When it began, if it did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub started: Option<Timestamp>,
    /// When it ended.
    pub ended: Timestamp,
    /// What it cost, all tries together, in US dollars with six decimals.
    pub cost: String,
    /// Tokens of all kinds that it took, all tries together.
    pub tokens: i64,
    /// The rest.
    #[serde(flatten)]
    pub detail: Detail,
}

/// What is kept of a Task and not searched or summed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Detail {
    /// How it ended, in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The `AgentTemplate` of one in a pod of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The session of the last try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<TaskSession>,
    /// The agent's answer, its beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// The end of the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_tail: Option<String>,
    /// Revisions of the agent's definition that it ran with, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub revisions: Vec<String>,
    /// Commits of the contexts and skills from Git that the last try was started with, by their ids: contexts/NAME or
    /// skills/NAME.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub content: BTreeMap<String, String>,
    /// Tries that were followed by another one, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tries: Vec<TaskTry>,
}

/// A revision that a Sync tried, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncRecord {
    /// Uid of the Sync.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Revision.
    pub revision: String,
    /// How it ended, in one word: Applied, or why not.
    pub result: String,
    /// When.
    pub applied: Timestamp,
    /// Digest of the rendered objects.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<String>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message: Option<String>,
}

impl TaskRecord {
    /// What is kept of this Task; `None` where it has not ended.
    pub fn of(task: &Task) -> Option<Self> {
        let status = task.status.as_ref()?;
        let phase = status.phase.filter(|phase| phase.is_terminal())?;
        let meta = &task.metadata;
        let created = meta.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
        let (reason, message) = ending(phase, &status.conditions);
        let sessions = status.tries.iter().map(|t| t.session.as_ref()).chain([status.session.as_ref()]);
        let (cost, tokens) = spent(sessions.flatten());
        let first = status.tries.iter().find_map(|t| t.start_time.as_ref()).or(status.start_time.as_ref());
        let started = first.map(|t| t.0);
        Some(Self {
            uid: meta.uid.clone().unwrap_or_default(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            agent: status.agent_ref.as_ref().map(|a| a.name.clone()).unwrap_or_default(),
            crontask: crontask(task),
            phase: format!("{phase:?}"),
            reason,
            started,
            ended: status.completion_time.as_ref().map_or(created, |t| t.0),
            cost: dollars(cost.min(BELIEVED)),
            tokens: tokens.min(BELIEVED),
            detail: Detail {
                message,
                template: status.template_ref.as_ref().map(|t| t.name.clone()),
                session: status.session.clone(),
                result: status.result.clone(),
                log_tail: status.log_tail.clone(),
                revisions: status.revisions.iter().map(|r| r.revision.clone()).collect(),
                content: status.inputs.iter().map(|i| (i.id.clone(), i.commit.clone())).collect(),
                tries: status.tries.clone(),
            },
        })
    }

    /// What it cost, in millionths of a dollar. A text that is no money is nothing.
    pub fn micros(&self) -> i64 {
        micros(&self.cost).unwrap_or_default()
    }
}

/// The reason of the condition that says most, and its message.
fn ending(phase: TaskPhase, conditions: &[Condition]) -> (String, String) {
    let kinds = [condition::STOPPED, condition::STALLED, condition::READY];
    let said = kinds.iter().find_map(|kind| {
        let is_said = |c: &&Condition| c.type_ == *kind && (c.status == "True" || *kind == condition::READY);
        conditions.iter().find(is_said)
    });
    said.map_or_else(|| (format!("{phase:?}"), String::new()), |c| (c.reason.clone(), c.message.clone()))
}

/// The `CronTask` that owns it.
fn crontask(task: &Task) -> String {
    let mut owners = task.metadata.owner_references.iter().flatten();
    let ours = owners.find(|o| o.kind == "CronTask" && o.controller == Some(true) && o.api_version == API_VERSION);
    ours.map(|o| o.name.clone()).unwrap_or_default()
}

/// Cost in millionths of a dollar, and tokens, of these sessions. One that two tries share counts once.
pub fn spent<'a>(sessions: impl Iterator<Item = &'a TaskSession>) -> (i64, i64) {
    let mut latest = BTreeMap::<String, &TaskSession>::new();
    for (at, session) in sessions.enumerate() {
        latest.insert(session.id.clone().unwrap_or_else(|| format!(" {at}")), session);
    }
    let mut sum = (0_i64, 0_i64);
    for summary in latest.values().filter_map(|s| s.summary.as_ref()) {
        let used = summary.token_usage.clone().unwrap_or_default();
        let tokens = [used.input, used.output, used.reasoning, used.cache].into_iter().flatten().filter(|n| *n > 0);
        sum.0 = sum.0.saturating_add(summary.cost.as_deref().and_then(micros).unwrap_or_default());
        sum.1 = tokens.fold(sum.1, i64::saturating_add);
    }
    sum
}

impl SyncRecord {
    /// What is kept of this Sync.
    pub fn of(sync: &Sync) -> Vec<Self> {
        let meta = &sync.metadata;
        let record = |entry: &HistoryEntry| Self {
            uid: meta.uid.clone().unwrap_or_default(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            revision: entry.revision.clone(),
            result: entry.result.clone(),
            applied: entry.applied_at.0,
            digest: entry.digest.clone(),
            message: entry.message.clone(),
        };
        sync.status.iter().flat_map(|s| &s.history).map(record).collect()
    }
}

#[cfg(test)]
mod tests;
