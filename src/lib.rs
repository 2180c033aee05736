//! Pilothouse: GitOps for AI coding agents on Kubernetes.
//!
//! The crate is divided into *rooms*, one for each module below. Pure rooms know no I/O, clock, randomness or async
//! and hold every decision; effect rooms are thin and act on what was decided. `docs/DESIGN.md` has the table: what
//! each holds, which others it may import, and why. `tests/it/architecture.rs` enforces it.

#[cfg(not(panic = "unwind"))]
compile_error!("profiles need panic = \"unwind\": the panic of one object must stop no other (controller::runtime)");

pub mod agent;
pub mod api;
pub mod apply;
pub mod artifact;
pub mod cli;
pub mod controller;
pub mod git;
pub mod net;
pub mod object;
pub mod plan;
pub mod pod;
pub mod render;
pub mod schedule;
pub mod server;
pub mod status;
pub mod store;
pub mod task;
pub mod tree;
