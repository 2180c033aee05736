//! What the tests share: real clusters, Git servers and a scripted model. Nothing here is a mock.
#![allow(dead_code, reason = "a helper of a group of tests is unused where that group is not compiled")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on ends by a panic, and says why"
)]

pub(crate) mod agent_server;
pub(crate) mod audit;
pub(crate) mod between;
pub(crate) mod cluster;
pub(crate) mod controller;
pub(crate) mod door;
pub(crate) mod git_server;
pub(crate) mod model;
pub(crate) mod node;
pub(crate) mod opencode;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod published;
pub(crate) mod wait;
