//! What Repositories need beyond what their statuses name.

use std::{collections::BTreeSet, time::Duration};

use super::Repositories;
use crate::{artifact::Digest, controller::artifacts::Kept};

/// For one that its Repository has replaced twice since: enough for a reader that had its digest already.
const MIN_AGE_REPLACED: Duration = Duration::from_mins(2);

/// The last two artifacts of each Repository stay.
impl Kept for Repositories {
    fn kept(&self) -> BTreeSet<Digest> {
        self.memories.lock().kept().collect()
    }

    fn replaced(&self) -> (BTreeSet<Digest>, Duration) {
        (self.memories.lock().replaced(), MIN_AGE_REPLACED)
    }

    fn forget_replaced(&self, gone: &dyn Fn(&Digest) -> bool) {
        self.memories.lock().forget_replaced(gone);
    }
}
