//! Cron schedules, and what becomes of a `CronTask` (pure).
//!
//! * [`cron`]: five cron fields, and the times that they name in a time zone.
//! * [`decide()`]: one decision from a `CronTask`, its Tasks and the time.
//! * [`child`]: its Tasks: what they are called, how they are made and read.

pub mod child;
pub mod cron;
pub mod decide;
mod report;

pub use child::Child;
pub use cron::{Invalid, Schedule, zone};
pub use decide::{Act, Decision, World, creation_failed, decide, due_after, is_owed, is_suspended};
