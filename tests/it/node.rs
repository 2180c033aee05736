//! Tests with real pods. `tests/run` runs them in namespaces of their own: see `common::node`.

mod images;
mod opencode;
mod pauses;
mod texts;
mod world;
