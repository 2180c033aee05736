//! What must be in place before the server starts, and what is exchanged while it runs.
//!
//! Gathered text is linked and files of contexts are copied once. Pieces from Git are the [`keeper`]'s: it fetches and
//! unpacks them beside their targets ([`area`]), and exchanges them in one step; what the server has cached
//! ([`skills`]) it is made to read again ([`server`]).

mod area;
mod files;
mod folder;
mod ground;
mod index;
mod keeper;
mod manifests;
mod mount;
mod overlay;
mod server;
mod skills;
mod state;
mod text_link;
mod unpack;
mod whole;

#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use self::{
    ground::Ground,
    keeper::{Keeper, Mounted, Tries},
    manifests::Manifests,
    server::Known,
};
use super::{watch::Server, work::Work};
use crate::{
    api::content::{Load, Report},
    artifact::Fetcher,
};

/// Folder of ours in the workspace and beside the skills.
const CONTROL: &str = ".pilothouse";
/// Name of the gathered text in its volume and in the workspace's `.kubeopencode`.
pub(super) const TEXT: &str = "context.md";
const RETRY: Duration = Duration::from_secs(1);

/// From where to where.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) workspace: PathBuf,
    pub(super) context: Option<PathBuf>,
    pub(super) files: Option<PathBuf>,
    /// Folder of the manifest of what is exchanged in the running pod.
    pub(super) content: Option<PathBuf>,
    pub(super) skills: PathBuf,
    /// Uid of the pod.
    pub(super) pod: String,
}

/// What the content needs of the other parts.
#[derive(Debug)]
pub(super) struct Parts {
    /// `None` without a controller.
    pub(super) fetcher: Option<Fetcher>,
    pub(super) work: Work,
    pub(super) server: Server,
    pub(super) orders: watch::Receiver<Option<Load>>,
    pub(super) report: watch::Sender<Report>,
}

impl Places {
    fn put(&self) -> io::Result<()> {
        text_link::link(&self.workspace, self.context.as_deref())?;
        self.files.as_deref().map_or(Ok(()), |files| files::put(files, &self.workspace))
    }

    fn keeper(&self, ground: Ground, parts: Parts) -> Keeper {
        Keeper {
            workspace: self.workspace.clone(),
            mounted: Mounted { fixed: self.files.clone(), live: self.content.clone() },
            ground: Arc::new(Mutex::new(ground)),
            fetcher: parts.fetcher,
            work: parts.work,
            server: Known::new(parts.server, &self.skills),
            orders: parts.orders,
            report: parts.report,
            begun: tokio::time::Instant::now(),
            manifests: Manifests::default(),
            starts: 0,
            loaded: String::new(),
            fresh: true,
            held_back: vec![],
            tries: Tries::default(),
        }
    }
}

/// Puts everything in place, tries again where it fails, and says so through `verdict`; then carries out orders. Never
/// returns.
pub(super) async fn place(places: Places, parts: Parts, verdict: watch::Sender<Result<(), Arc<str>>>) {
    let (mut parts, mut keeper, mut pause) = (Some(parts), None, RETRY);
    loop {
        let done = begin(&places, &mut parts, &mut keeper).await;
        let _ = verdict.send_replace(done.clone().map_err(Arc::from));
        match (done, keeper.take()) {
            (Ok(()), Some(keeper)) => return keeper.follow().await,
            (Ok(()), None) => return,
            (Err(why), old) => {
                tracing::warn!(%why, "the content is not in place");
                keeper = old;
                tokio::time::sleep(keeper::jittered(pause)).await;
                pause *= 2;
            }
        }
    }
}

async fn begin(places: &Places, parts: &mut Option<Parts>, keeper: &mut Option<Keeper>) -> Result<(), String> {
    let these = places.clone();
    let put = tokio::task::spawn_blocking(move || these.put()).await;
    put.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(|error| error.to_string())?;
    if parts.is_some() {
        let ground = Ground::open(&places.workspace, &places.skills, &places.pod).map_err(|error| error.to_string())?;
        *keeper = parts.take().map(|parts| places.keeper(ground, parts));
    }
    match keeper {
        Some(keeper) => keeper.start().await,
        None => Ok(()),
    }
}

/// An error that names the file it is about.
fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
