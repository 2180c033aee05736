//! All integration tests, in one program.

mod architecture;
mod clusters;
mod common;
mod yaml_reference;
