//! Remotes: addresses, credentials, listings and shallow fetches (effects). The only room that names gix.
//!
//! [`url`], [`refs`], [`credential`], [`error`] and [`address`] are pure. [`GitRemote`] is the seam to the network;
//! [`GixRemote`] implements it for http(s), ssh and `file:`. Nothing here runs a hook, reads a user's or the machine's
//! Git configuration, asks a credential helper, or checks files out: a commit becomes a tree in memory.

pub mod address;
mod budget;
mod cache;
mod checkout;
mod child;
pub mod credential;
mod disk;
pub mod error;
mod http;
mod objects;
pub mod proxies;
pub mod refs;
pub mod remote;
mod session;
pub mod sources;
mod submodules;
pub mod url;
mod walk;

pub use address::{Network, Policy};
pub use cache::GixRemote;
pub use checkout::Whole;
pub use credential::Credential;
pub use error::{GitError, Reason};
pub use proxies::Proxies;
pub use refs::{CommitId, Reference, RemoteRef, Resolved};
pub use remote::{Access, Fetched, GitRemote, Limits, Skipped, Stop};
pub use sources::{Demand, RemoteKey, RemoteSpec, RemoteState, Sources, Subscriber};
pub use url::RemoteUrl;
