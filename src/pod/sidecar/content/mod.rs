//! What must be in place before the server starts.

mod files;
mod text_link;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;

/// Name of the gathered text in its volume and in the workspace's `.kubeopencode`.
pub(super) const TEXT: &str = "context.md";
const RETRY: Duration = Duration::from_secs(1);

/// From where to where.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) workspace: PathBuf,
    pub(super) context: Option<PathBuf>,
    pub(super) files: Option<PathBuf>,
}

impl Places {
    fn put(&self) -> io::Result<()> {
        text_link::link(&self.workspace, self.context.as_deref())?;
        self.files.as_deref().map_or(Ok(()), |files| files::put(files, &self.workspace))
    }
}

/// Puts everything in place, tries again where it fails, and says so through `verdict`.
pub(super) async fn place(places: Places, verdict: watch::Sender<Result<(), Arc<str>>>) {
    loop {
        let these = places.clone();
        let done = tokio::task::spawn_blocking(move || these.put()).await;
        match done.unwrap_or_else(|e| Err(io::Error::other(e))) {
            Ok(()) => {
                let _ = verdict.send_replace(Ok(()));
                // The receivers stay; nothing else changes until the pod does.
                return verdict.closed().await;
            }
            Err(error) => {
                tracing::warn!(%error, "the content is not in place");
                let _ = verdict.send_replace(Err(error.to_string().into()));
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// An error that names the file it is about.
fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
