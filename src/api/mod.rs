//! Custom resource types, names and condition reasons (pure).

// `KubeSchema` declares each struct again inside a function, where `pub` reaches nobody.
#![allow(unreachable_pub)]
// Columns of `kubectl get` are attributes, and look alike.
#![allow(clippy::duplicated_attributes)]

pub mod agent;
pub mod common;
pub mod config;
pub mod content;
pub mod context;
pub mod crd;
pub mod crontask;
pub mod duration;
pub mod form;
pub mod money;
pub mod names;
pub mod not_yet;
pub mod pod;
pub mod reference;
pub mod repository;
pub mod rollout;
mod schema;
pub mod sync;
pub mod task;
pub mod template;
pub mod troubleshooting;
pub mod voice;
pub mod webhook;

pub use agent::{Agent, AgentSpec, AgentState, AgentStatus};
pub use common::{Artifact, CaBundle, ImagePullSecret, KeyRef, LocalRef, Proxy, PullPolicy, is_suspended};
pub use config::{PilothouseConfig, PilothouseConfigSpec, PilothouseConfigStatus};
pub use context::{ContextItem, ContextType, GitContext, GitSkillSource, PluginSpec, SkillSource};
pub use crd::{Crd, CrdError, crds};
pub use crontask::{ConcurrencyPolicy, CronTask, CronTaskSpec, CronTaskStatus, Skip, TaskRef, TaskTemplate};
pub use duration::GoDuration;
pub use pod::{AgentPodSpec, Credential, ExtraPort, Persistence, Quota, Standby, SystemImage};
pub use repository::{Forge, GitReference, Repository, RepositorySpec, RepositoryStatus, Webhook};
pub use rollout::{Live, OnTimeout, Protect, Rollout, RolloutStatus, Strategy, Verifying};
pub use sync::{DeletionPolicy, HistoryEntry, Inventory, InventoryEntry, Sync, SyncSpec, SyncStatus};
pub use task::{SessionSummary, Task, TaskInput, TaskPhase, TaskSession, TaskSpec, TaskStatus, TaskTry, TokenUsage};
pub use template::{AgentTemplate, AgentTemplateSpec, AgentTemplateStatus};

/// API group of all kinds.
pub const GROUP: &str = "pilothouse.dev";
/// API version of all kinds.
pub const VERSION: &str = "v1alpha1";
/// Group and version as manifests write them.
pub const API_VERSION: &str = "pilothouse.dev/v1alpha1";
