//! All integration tests, in one program.

mod architecture;
mod yaml_reference;
