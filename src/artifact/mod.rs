//! A content-addressed store of file trees (effects).
//!
//! An artifact is a tree as a reproducible tar archive, named by the SHA-256 of its bytes: the same files make the same
//! digest wherever and whenever they are packed. [`Store`] keeps archives in a local folder; [`archive`] and [`ignore`]
//! are pure.

pub mod archive;
mod digest;
pub mod ignore;
mod recent;
mod store;

pub use digest::Digest;
pub use ignore::{IgnoreError, filter};
pub use store::{Collected, Store, StoreError, Stored};

#[cfg(test)]
mod tests;
