//! How changes reach a running agent.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::GoDuration;

/// How changes reach a running agent, and what they wait for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// Work that a rollout waits for: `TasksAndSessions` (also people's sessions), Tasks, or None.
    #[serde(default)]
    pub protect: Protect,
    /// How long a rollout waits for work to end.
    #[serde(default = "one_hour")]
    pub timeout: GoDuration,
    /// What happens then: Force goes on and ends the work, Wait goes on waiting.
    #[serde(default)]
    pub on_timeout: OnTimeout,
    /// Whether new Tasks are queued while a rollout waits, so that a busy agent does roll.
    #[serde(default)]
    pub drain: bool,
    /// When changes that need no new pod arrive: `WhenIdle` (after `timeout` at the latest) or Immediately.
    #[serde(default)]
    pub live: Live,
    /// How pods are replaced: `RollingUpdate`, `SideBySide` or Recreate. `RollingUpdate` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Strategy")]
    pub strategy: Option<Strategy>,
    /// A Task that a new revision must pass before it takes work. One that fails it takes none: the old one serves on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<RolloutVerify>,
    /// How long the pods of a new revision may take to get ready; 10m unless given. Whole seconds count, one at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_deadline: Option<GoDuration>,
    /// Whether the last good revision comes back where a new one does not get ready within `progressDeadline`. What failed is
    /// tried again when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_rollback: Option<bool>,
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            protect: Protect::default(),
            timeout: one_hour(),
            on_timeout: OnTimeout::default(),
            drain: false,
            live: Live::default(),
            strategy: None,
            verify: None,
            progress_deadline: None,
            auto_rollback: None,
        }
    }
}

/// Work that a rollout waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Protect {
    /// Running Tasks and busy sessions of people.
    #[default]
    TasksAndSessions,
    /// Running Tasks.
    Tasks,
    /// Nothing.
    None,
}

/// What happens when the work does not end in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnTimeout {
    /// The change goes out and ends the work.
    #[default]
    Force,
    /// The change goes on waiting.
    Wait,
}

/// When changes that need no new pod arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Live {
    /// When no prompt is in flight.
    #[default]
    WhenIdle,
    /// At once.
    Immediately,
}

/// How pods are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Strategy {
    /// The new pod gets ready before the old one goes.
    RollingUpdate,
    /// The new pod starts at once beside the old one and takes new work; the old one ends what it has begun, within
    /// `timeout`, and goes. Not for agents with a claim that their pods write.
    SideBySide,
    /// The old pod goes first.
    Recreate,
}

/// A Task that a new revision must pass before it takes work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutVerify {
    /// What the Task does.
    #[schemars(length(min = 1))]
    pub description: String,
    /// How long it may take. 5m unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<GoDuration>,
}

/// Which pod template runs, and which one waits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// Hash of the pod template that was applied last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<String>,
    /// Hash of the pod template that waits. Absent where nothing waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<String>,
    /// Hash of the pod template that is wanted now: what waits, what is applied, or what failed and was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_revision: Option<String>,
    /// Id of all that is wanted now: pod template, gathered text and content from Git.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
    /// Hash of the newest pod template whose pods got ready. The rollout is over when it is `desiredRevision`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_out_revision: Option<String>,
    /// Pods of older revisions that end what they have begun beside the newest one, sorted. Only where `strategy` is
    /// `SideBySide`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub finishing: Vec<String>,
    /// The Task that the newest revision has to pass, while that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verifying: Option<Verifying>,
    /// Since when it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Until when it waits at most, where it is forced then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
    /// What changed, sorted, for example config, env, image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub causes: Vec<String>,
}

/// A revision that is verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verifying {
    /// Name of the Task.
    pub task: String,
    /// Address of the pod that it is for.
    pub url: String,
    /// Uid of that pod: what answers at the address has to prove that it is this one before it gets the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}

fn one_hour() -> GoDuration {
    "1h".into()
}
