//! Pilothouse: GitOps for AI coding agents on Kubernetes.
//!
//! The crate is divided into *rooms*. Pure rooms know no I/O, clock, randomness or async and hold every decision;
//! effect rooms are thin and act on what was decided. `docs/DESIGN.md` has the reasons, `tests/it/architecture.rs`
//! enforces which room may import which.
//!
//! | room | kind | holds |
//! | --- | --- | --- |
//! | [`api`] | pure | custom resource types, names, condition reasons |
//! | [`object`] | pure | a generic Kubernetes object, YAML in and out |
//! | [`tree`] | pure | a read-only file tree with safe paths |
//! | [`render`] | pure | overlays, patches, generators, templates, import of other API groups |
//! | [`plan`] | pure | order, diff, inventory, prune |
//! | [`agent`] | pure | template merge, generated objects, rollout gate |
//! | [`task`] | pure | admission, phases, pods |
//! | [`status`] | pure | conditions, error classes, backoff, reports |
//! | [`git`] | effects | remotes; the only room that names gix |
//! | [`artifact`] | effects | content-addressed store |
//! | [`apply`] | effects | server-side apply, prune, health |
//! | [`controller`] | effects | wiring, leader election, one file a kind |
//! | [`server`] | effects | what the controller serves: health, metrics, the sidecars' connection |
//! | [`pod`] | effects | what runs inside agent and task pods |
//! | [`cli`] | effects | the commands |

pub mod agent;
pub mod api;
pub mod apply;
pub mod artifact;
pub mod cli;
pub mod controller;
pub mod git;
pub mod object;
pub mod plan;
pub mod pod;
pub mod render;
pub mod server;
pub mod status;
pub mod task;
pub mod tree;
