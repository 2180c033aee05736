//! The demo's cluster with real pods, measured.
#![allow(dead_code, reason = "the demo tells more")]

#[path = "../demo/embedded.rs"]
pub(crate) mod embedded;
#[path = "../demo/live.rs"]
mod live;
#[path = "../demo/screen.rs"]
mod screen;
#[path = "../demo/serve.rs"]
mod serve;
#[path = "../demo/shell.rs"]
pub(crate) mod shell;
#[path = "../demo/world.rs"]
pub(crate) mod world;
