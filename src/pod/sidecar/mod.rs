//! `pilothouse sidecar`: the companion of an agent's server in its pod.

pub mod activity;
pub mod auth;
pub mod door;
pub mod probes;
pub mod route;
pub mod work;
