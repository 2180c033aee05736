//! Artifacts beyond the Repository that made them: who may read them, the copies of followers, and what is kept.
//!
//! What an agent's pods need is named by annotations of its `ConfigMaps`, which every replica has in a cache. So each
//! replica can answer its readers, knows what it lacks, and knows what nobody needs any more. Annotations count for
//! readers when they carry the controller's seal.

mod collect;
mod mirror;
mod named;
mod readers;
mod seal;

use std::sync::Arc;

pub(super) use collect::{Kept, collect_garbage};
pub(super) use mirror::{Copies, Source, start as mirror};
pub use named::Named;
pub use seal::{Purpose, Seal};

use super::{Settings, caches::Caches};
use crate::{artifact::Store, server::voice::artifacts::Shelf};
use readers::Readers;

/// Who is served from `store`.
pub(super) fn shelf(store: Arc<Store>, named: &Named, caches: &Caches, settings: &Settings) -> Shelf {
    Shelf::new(store, Readers::new(named.clone(), caches.clone(), settings))
}
