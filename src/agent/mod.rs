//! Agents: template merge, generated objects, effect classes, rollout gate (pure).
//!
//! * [`merge`](merge::merge): what an Agent is once its template has filled the gaps.
//! * [`references`](references::references): which other objects that reads.
//! * [`pieces`]: which Git inputs it has; [`skills`]: which of them the server can load.
//! * [`build`](build::build): every object of an agent, as a function of [`Inputs`].
//! * [`beside`]: a new revision beside the old one, which ends its work.
//! * [`effect`]: what changed between two versions of it, and how mildly it can arrive.
//! * [`leaving`]: whether the time of a pod that ends suffices for its work.
//! * [`once`]: what a Task with a pod of its own has in the place of an agent.
//! * [`preview`](preview::preview): the same for who sees manifests alone.
//! * [`forecast`]: when a change would reach an agent that runs.
//! * [`gate`]: whether a new pod template may replace the running one now.
//! * [`rollback`]: the last good revision in the place of one that does not get ready, and [`trouble`]: why it does not.
//! * [`history`]: revisions that were in use, and one of them in the place of what is wanted.
//! * [`fleet`]: whether it may do so among all agents.
//! * [`drain`]: whether new Tasks wait for a rollout.
//! * [`upgrade`]: whether a newer release of Pilothouse makes new pods.
//! * [`verify`]: a Task that a new revision must pass.
//! * [`state`]: what the annotations of the generated objects remember.

pub mod beside;
pub mod build;
pub mod compare;
pub mod config;
pub mod content;
pub mod decide;
pub mod drain;
pub mod effect;
pub mod fleet;
pub mod forecast;
pub mod gate;
pub mod hash;
pub mod history;
pub mod inputs;
pub mod leaving;
pub mod merge;
pub mod once;
pub mod own;
pub mod pieces;
pub mod preview;
pub mod references;
pub mod report;
pub mod rollback;
pub mod skills;
pub mod state;
pub mod suspend;
pub mod trouble;
pub mod upgrade;
pub mod verify;

pub use build::{Desired, build};
pub use inputs::{ConfigMapData, Inputs, SecretKeys};
pub use merge::{limit, merge};
pub use own::refuse_own;
pub use pieces::{PieceState, Pieces, Resolved, Wanted, wanted};
pub use preview::{Side, preview, preview_steps};
pub use references::{References, references};
pub use suspend::wants_suspension;

use crate::status::Failure;

/// Why no objects can be made: `Stalled` where only a change of the spec helps, `Waiting` where a reference is missing.
pub type Invalid = Failure;
