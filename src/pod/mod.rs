//! What runs inside agent and task pods: the sidecar and task-run.

pub mod opencode;
pub mod sidecar;
