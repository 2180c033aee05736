//! Server-side apply, prune and health.
//!
//! * [`Account`]: requests under one account.
//! * [`Kinds`]: what the cluster has.
//! * [`prepare`]: rendered objects get their namespaces and labels.
//! * [`contest`]: asks whether an object may be applied, and whose it is.
//! * [`execute`]: takes the steps of a plan.
//! * [`preview`]: what the steps would change.

mod account;
mod contest;
mod error;
mod execute;
mod kinds;
mod prepare;
mod preview;
mod prune;

pub use account::{Account, Mode, REQUEST_LIMIT};
pub use contest::{Answer, Question, contest, taken};
pub use error::{ApiError, Problem, failure};
pub use execute::{Changes, Job, Memory, Observed, Report, execute, look_at, observe_tasks};
pub use kinds::{Kinds, Resource};
pub use prepare::{Owner, prepare};
pub use preview::{Difference, preview};
pub use prune::{Pruned, prune};
