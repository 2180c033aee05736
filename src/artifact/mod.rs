//! A content-addressed store of file trees (effects).
//!
//! An artifact is a tree as a reproducible tar archive, named by the SHA-256 of its bytes: the same files make the same
//! digest wherever and whenever they are packed. [`Store`] keeps archives in a local folder; [`fetch`] brings them from
//! another machine; [`archive`] and [`ignore`] know neither.

pub mod archive;
mod digest;
pub mod fetch;
mod hashing;
pub mod ignore;
mod recent;
mod room;
mod store;
mod verified;

pub use digest::Digest;
pub use fetch::{FetchError, Fetcher};
pub use ignore::{IgnoreError, filter};
pub use store::{Collected, Opened, Store, StoreError, Stored, digest_of};

#[cfg(test)]
mod tests;
