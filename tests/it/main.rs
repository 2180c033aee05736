//! All integration tests, in one program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests stop at the first surprise")]

mod agents;
mod architecture;
mod artifacts;
mod bench;
mod chaos;
mod chart;
mod checkouts;
mod clusters;
mod commands;
mod common;
mod controller;
mod crds;
mod crontasks;
mod demo;
mod documents;
mod examples;
mod exchange;
mod fleet;
mod git_inputs;
mod git_remote;
mod import;
mod interleavings;
mod lint;
mod node;
mod pod;
mod receiver;
mod render_golden;
mod repository;
mod rollouts;
mod store;
mod submodules;
mod syncs;
mod tasks;
mod templates;
mod theirs;
mod yaml_reference;
