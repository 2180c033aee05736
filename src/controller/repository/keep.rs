//! Removes artifacts that nobody names any more.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Repositories;
use crate::artifact::Digest;

const EVERY: Duration = Duration::from_mins(1);
/// Younger ones may be about to be named, or still be read.
const MIN_AGE: Duration = Duration::from_hours(1);
/// For one that its Repository has replaced twice since: enough for a reader that had its digest already.
const MIN_AGE_REPLACED: Duration = Duration::from_mins(2);

/// Runs until `stop`. What any status names stays, and the last two artifacts of each Repository.
pub(super) async fn collect_garbage(repositories: Arc<Repositories>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let (keep, replaced) = (named(&repositories), repositories.memories.lock().replaced());
        let store = repositories.context.artifacts.clone();
        let done = tokio::task::spawn_blocking(move || {
            let age = |digest: &Digest| if replaced.contains(digest) { MIN_AGE_REPLACED } else { MIN_AGE };
            store.collect(&keep, age)
        });
        let done = done.await;
        let store = &repositories.context.artifacts;
        repositories.memories.lock().forget_replaced(|digest| !store.contains(digest));
        match done {
            Ok(Ok(done)) if done.archives > 0 => {
                info!(archives = done.archives, bytes = done.bytes, "collected artifacts");
            }
            Ok(Err(error)) => warn!("artifacts cannot be collected: {error}"),
            Ok(Ok(_)) | Err(_) => {}
        }
    }
}

fn named(repositories: &Repositories) -> BTreeSet<Digest> {
    let all = repositories.context.caches.repositories.all();
    let in_status = all.iter().filter_map(|r| Digest::parse(&r.status.as_ref()?.artifact.as_ref()?.digest));
    in_status.chain(repositories.memories.lock().kept()).collect()
}
