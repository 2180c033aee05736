//! Removes artifacts that nobody names any more, on every replica.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Named;
use crate::{
    artifact::{Digest, Store},
    server::voice::Leadership,
};

const EVERY: Duration = Duration::from_mins(1);
/// Younger ones may be about to be named, or still be read.
const MIN_AGE: Duration = Duration::from_hours(1);

/// What the replica that leads knows beyond names.
pub(in crate::controller) trait Kept: Send + Sync {
    /// What is needed although nothing names it.
    fn kept(&self) -> BTreeSet<Digest>;

    /// What may go when it is older than this although it is young.
    fn replaced(&self) -> (BTreeSet<Digest>, Duration);

    /// These are not asked for again.
    fn forget_replaced(&self, gone: &dyn Fn(&Digest) -> bool);
}

/// Runs until `stop`. What any annotation or status names stays, and what was named a moment ago. The replica that leads
/// keeps what `kept` says too, and whatever is young; a follower makes nothing itself, so what was named and is not any more
/// is not about to be named.
pub(in crate::controller) async fn collect_garbage(
    store: Arc<Store>,
    named: Named,
    kept: Arc<dyn Kept>,
    leadership: watch::Receiver<Leadership>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let (mut keep, past) = named.lately(tokio::time::Instant::now());
        let leads = *leadership.borrow() == Leadership::Leader;
        let (early, early_age) = if leads { kept.replaced() } else { (past, Duration::ZERO) };
        keep.extend(kept.kept());
        let files = store.clone();
        let done = tokio::task::spawn_blocking(move || {
            files.collect(&keep, |digest| if early.contains(digest) { early_age } else { MIN_AGE })
        });
        let done = done.await;
        named.forget(|digest| !store.contains(digest));
        kept.forget_replaced(&|digest| !store.contains(digest));
        match done {
            Ok(Ok(done)) if done.archives > 0 => {
                info!(archives = done.archives, bytes = done.bytes, "collected artifacts");
            }
            Ok(Err(error)) => warn!("artifacts cannot be collected: {error}"),
            Ok(Ok(_)) | Err(_) => {}
        }
    }
}
