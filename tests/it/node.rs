//! Tests with real pods. `tests/run` runs them in namespaces of their own: see `common::node`.

mod alone;
mod beside;
mod content;
mod drains;
mod files;
mod images;
mod install;
mod jobs;
mod opencode;
mod orders;
mod pauses;
mod sessions;
mod texts;
mod verify;
mod wholes;
mod world;
