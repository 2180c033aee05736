//! The hash of the gathered text in its volume, as it changes.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{activity::Activity, content::TEXT, work::Work};

/// Between looks at the link that the kubelet exchanges.
const CALM: Duration = Duration::from_millis(250);
/// The same after the controller said that the text was written.
const ALERT: Duration = Duration::from_millis(25);
const ALERT_FOR: Duration = Duration::from_secs(10);

/// What changes when the kubelet exchanges the volume's content.
type Mark = (Option<PathBuf>, Option<(SystemTime, u64)>);

/// Follows the text. Never returns.
pub(super) async fn follow(dir: PathBuf, hash: watch::Sender<String>, hurry: Arc<Notify>, work: Work) {
    let (mut last, mut alert_until) = (None, Instant::now());
    loop {
        let now = mark(&dir);
        if last.as_ref() != Some(&now) {
            let new = hash_of(&dir.join(TEXT));
            if hash.send_if_modified(|old| std::mem::replace(old, new.clone()) != new) {
                work.update(Activity::note);
            }
            last = Some(now);
        }
        let pause = if Instant::now() < alert_until { ALERT } else { CALM };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = hurry.notified() => alert_until = Instant::now() + ALERT_FOR,
        }
    }
}

fn mark(dir: &Path) -> Mark {
    let file = std::fs::metadata(dir.join(TEXT)).ok();
    let file = file.and_then(|meta| Some((meta.modified().ok()?, meta.len())));
    (std::fs::read_link(dir.join("..data")).ok(), file)
}

/// SHA-256 of a file in hex; empty if it cannot be read. A `ConfigMap` holds 1 MiB at most.
pub(super) fn hash_of(file: &Path) -> String {
    std::fs::read(file).map(|bytes| hex(&Sha256::digest(bytes))).unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kubelet writes a new folder and exchanges the link to it.
    fn publish(dir: &Path, name: &str, text: &str) {
        std::fs::create_dir(dir.join(name)).unwrap();
        std::fs::write(dir.join(name).join(TEXT), text).unwrap();
        std::os::unix::fs::symlink(name, dir.join("..tmp")).unwrap();
        std::fs::rename(dir.join("..tmp"), dir.join("..data")).unwrap();
        if !dir.join(TEXT).exists() {
            std::os::unix::fs::symlink(format!("..data/{TEXT}"), dir.join(TEXT)).unwrap();
        }
    }

    #[tokio::test]
    async fn an_exchange_of_the_volume_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        publish(dir.path(), "..1", "one");
        let (sender, mut hash) = watch::channel(String::new());
        let (work, hurry) = (Work::default(), Arc::new(Notify::new()));
        let task = tokio::spawn(follow(dir.path().to_owned(), sender, hurry.clone(), work.clone()));
        hash.wait_for(|now| *now == hex(&Sha256::digest("one"))).await.unwrap();
        let before = work.snapshot().sequence;
        publish(dir.path(), "..2", "two");
        hurry.notify_one();
        hash.wait_for(|now| *now == hex(&Sha256::digest("two"))).await.unwrap();
        assert!(work.snapshot().sequence >= before);
        task.abort();
    }
}
