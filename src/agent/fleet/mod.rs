//! The pace of the fleet: which agents may change now (pure).
//!
//! The gate ([`super::gate`]) asks whether a change would cut an agent's work. Where it opens, this is asked whether the
//! agent may go: `spec.fleet` of the cluster's settings ([`Pace`]) limits how many agents are in the middle of a change,
//! lets them go wave by wave, and only at certain times. It holds for new pods, gathered text and exchanged content alike.
//!
//! *The same change* at two agents is the same part that gets the same value: a [`Steps`] is a set of `part=value`. So a
//! wave waits for an earlier one, and is stopped by a failure, only where both have something of their change in common.
//!
//! * [`steps`]: what a change consists of, and what is remembered of it in annotations and in the status.
//! * [`book`]: who waits, who is in the middle of a change, who has failed; from that, who may go.
//! * [`postpone`]: a decision to apply, turned into a wait.
//! * [`outlook`]: when changes would go out that are not applied yet.

pub mod book;
mod outlook;
mod pace;
mod postpone;
pub mod steps;
mod words;

pub use book::{Book, Failed, Key, Member, Now, Of, Refusal, Waiting};
pub use outlook::{Outlook, Planned, outlook};
pub use pace::{Door, Glance, Labels, Pace};
pub use postpone::{Postponed, postpone};
pub use steps::Steps;

/// As the reason of a wait: the fleet was asked and has not answered yet. Nothing is to be written or told for it.
pub const UNDECIDED: &str = "";
