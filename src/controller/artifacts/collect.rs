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
/// That takes seconds, so where somebody lacks room nothing is kept for longer.
const MIN_AGE_PRESSED: Duration = Duration::from_mins(2);
/// However many lack room, and however often they try.
const PRESSED_EVERY: Duration = Duration::from_secs(5);

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
/// is not about to be named. What is there counts as whose names it.
pub(in crate::controller) async fn collect_garbage(
    store: Arc<Store>,
    named: Named,
    kept: Arc<dyn Kept>,
    leadership: watch::Receiver<Leadership>,
    stop: CancellationToken,
) {
    store.belong(&named.owners());
    loop {
        let most = tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => MIN_AGE,
            () = pressed(&store) => MIN_AGE_PRESSED,
        };
        let (mut keep, past) = named.lately(tokio::time::Instant::now());
        let leads = *leadership.borrow() == Leadership::Leader;
        let (early, early_age) = if leads { kept.replaced() } else { (past, Duration::ZERO) };
        keep.extend(kept.kept());
        let (files, owners) = (store.clone(), named.owners());
        let done = tokio::task::spawn_blocking(move || {
            files.belong(&owners);
            files.collect(&keep, |digest| if early.contains(digest) { early_age.min(most) } else { most })
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

async fn pressed(store: &Store) {
    tokio::time::sleep(PRESSED_EVERY).await;
    store.pressed().await;
}

#[cfg(test)]
mod tests {
    use super::{super::named::tests::named, *};
    use crate::tree::FileTree;

    /// The leader holds one back.
    struct One(Digest);

    impl Kept for One {
        fn kept(&self) -> BTreeSet<Digest> {
            BTreeSet::from([self.0])
        }

        fn replaced(&self) -> (BTreeSet<Digest>, Duration) {
            (BTreeSet::new(), Duration::ZERO)
        }

        fn forget_replaced(&self, _: &dyn Fn(&Digest) -> bool) {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_lets_go_of_what_a_leader_still_holds() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::new(folder.path(), 0).unwrap());
        let put = |text: &str| store.put(&[("a", text)].into_iter().collect::<FileTree>()).unwrap().digest;
        let (stays, goes, never, kept) = (put("stays"), put("goes"), put("never named"), put("kept"));
        let (named, stop) = (named(), CancellationToken::new());
        let (leads, leadership) = watch::channel(Leadership::Leader);
        let collecting = collect_garbage(store.clone(), named.clone(), Arc::new(One(kept)), leadership, stop.clone());
        let collecting = tokio::spawn(collecting);
        let there = || [stays, goes, never, kept].map(|digest| store.contains(&digest));

        named.name_only(&[stays, goes, kept]);
        tokio::time::sleep(EVERY * 2).await;
        named.name_only(&[stays]);
        tokio::time::sleep(EVERY * 15).await;
        assert_eq!(there(), [true; 4], "a leader may be about to name what is young");
        leads.send_replace(Leadership::Follower("elsewhere:1".into()));
        tokio::time::sleep(EVERY * 2).await;
        assert_eq!(there(), [true, false, true, true]);

        // Named again, it comes again, and stays for a while after.
        put("goes");
        named.name_only(&[stays, goes]);
        tokio::time::sleep(EVERY * 2).await;
        named.name_only(&[stays]);
        tokio::time::sleep(EVERY * 5).await;
        assert_eq!(there(), [true; 4]);
        tokio::time::sleep(EVERY * 10).await;
        assert_eq!(there(), [true, false, true, true]);
        stop.cancel();
        collecting.await.unwrap();
    }
    /// Archives get as old as the test wants them: their times are those of the files.
    fn grow_old(store: &Store, digest: &Digest, age: Duration) {
        let file = std::fs::File::options().append(true).open(store.path(digest)).unwrap();
        file.set_modified(std::time::SystemTime::now() - age).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_lacks_room_gets_what_nobody_names_and_never_what_somebody_does() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::new(folder.path(), 0).unwrap().within(7000).unwrap());
        let (named, stop) = (named(), CancellationToken::new());
        let (_leads, leadership) = watch::channel(Leadership::Leader);
        let kept = Arc::new(One(Digest::of(b"none")));
        tokio::spawn(collect_garbage(store.clone(), named.clone(), kept, leadership, stop.clone()));
        let own = BTreeSet::from(["ns".to_owned()]);
        // 2 KiB each: a head, a block, and the end of the archive.
        let put = |text: &str| store.put_for(&[("a", text)].into_iter().collect::<FileTree>(), &own);
        let stays = put("stays").unwrap().digest;
        let goes = store.put(&[("a", "goes")].into_iter().collect()).unwrap().digest;
        named.name_only(&[stays]);
        for digest in [&stays, &goes] {
            grow_old(&store, digest, MIN_AGE / 2);
        }
        tokio::time::sleep(EVERY * 2).await;
        let there = || [stays, goes].map(|digest| store.contains(&digest));
        assert_eq!(there(), [true; 2], "nobody lacks room");
        let refused = put("more").unwrap_err();
        assert!(refused.to_string().contains("no room for an artifact of 1 MiB"), "{refused}");
        tokio::time::sleep(PRESSED_EVERY * 2).await;
        assert_eq!(there(), [true, false]);
        assert_eq!(put("stays").unwrap().digest, stays, "what is there needs no room");
        assert!(put("more").is_err(), "it would have more than it leaves free");
        store.put_for(&[("a", "more")].into_iter().collect(), &BTreeSet::from(["other".to_owned()])).unwrap();
        assert!(put("more").is_ok(), "what another namespace has put is there");
        stop.cancel();
    }
}
