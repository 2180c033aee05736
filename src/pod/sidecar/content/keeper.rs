//! Keeps in place what the manifests say: at the start before the server runs, later when it is idle.

use std::{fs::File, io, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rand::Rng as _;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    area,
    folder::Folder,
    ground::{self, Ground},
    manifests::{self, Manifests},
    server::{Known, NotLoaded},
};
use crate::{
    api::content::{Load, Piece, Report},
    artifact::{Digest, Fetcher},
    pod::sidecar::work::{Held, Work},
};

const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Between two tries to find the agent idle, where it is idle for moments only.
const BETWEEN: Duration = Duration::from_secs(1);
/// A server that says nothing to so many reloads in a row does not take what is wanted: each holds prompts for as long as
/// it waits.
const MOST_SILENT: u32 = 5;
/// Why nothing is tried while nobody listens.
const AWAY: &str = "waits for the agent's server, which does not answer";
/// Skills that are named to the controller.
const MOST_NAMES: usize = 2000;
/// The mounted manifest may be older than the pod for a moment. After this long it is that of another template.
const PATIENCE: Duration = Duration::from_mins(1);
/// Kept trees are looked at this often, at least while there are some.
const TIDY: Duration = Duration::from_mins(5);

/// Where manifests are mounted.
#[derive(Clone, Debug, Default)]
pub(super) struct Mounted {
    pub(super) fixed: Option<std::path::PathBuf>,
    pub(super) live: Option<std::path::PathBuf>,
}

/// All that it takes.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) workspace: std::path::PathBuf,
    pub(super) mounted: Mounted,
    pub(super) ground: Arc<Mutex<Ground>>,
    /// `None` without a controller.
    pub(super) fetcher: Option<Fetcher>,
    pub(super) work: Work,
    pub(super) server: Known,
    pub(super) orders: watch::Receiver<Option<Load>>,
    pub(super) report: watch::Sender<Report>,
    pub(super) begun: Instant,
    /// As they were mounted at the start.
    pub(super) manifests: Manifests,
    /// Tries to start.
    pub(super) starts: u32,
    /// Hash of the manifest that is in place.
    pub(super) loaded: String,
    /// Whether the server knows what is in place.
    pub(super) fresh: bool,
    /// Pieces that could not be brought forward, and why.
    pub(super) held_back: Vec<String>,
    /// What was tried of the last order.
    pub(super) tries: Tries,
}

/// What was tried of an order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tries {
    /// Hash of what was ordered; `None` without an order.
    of: Option<String>,
    /// Reloads in a row to which the server said nothing.
    silent: u32,
    /// Force is good for one reload. What began since then is waited for.
    cut: bool,
}

impl Tries {
    /// Begins anew with another order; the same one with more force goes on.
    fn begin(&mut self, order: Option<&Load>) -> bool {
        let of = order.map(|load| load.manifest.hash());
        let new = self.of != of;
        if new {
            *self = Self { of, ..Self::default() };
        }
        new
    }

    /// Whether an order waits for nothing.
    fn may_cut(&self, load: &Load) -> bool {
        load.force && !self.cut
    }

    /// The server said nothing to a reload. Whether there is another try.
    fn again(&mut self, order: Option<&Load>) -> bool {
        self.cut |= order.is_some_and(|load| load.force);
        self.silent += 1;
        self.silent <= MOST_SILENT
    }
}

/// What became of an order.
enum End {
    /// It is in place, or never will be.
    Done,
    /// It may go well later.
    Again(String),
}

impl Keeper {
    /// Puts in place what the pod starts with.
    ///
    /// # Errors
    /// Why it is not in place, and what to do. Trying again may help.
    pub(super) async fn start(&mut self) -> Result<(), String> {
        let mounted = self.mounted.clone();
        let read = blocking(move || manifests::read(mounted.fixed.as_deref(), mounted.live.as_deref()));
        self.manifests = read.await.map_err(|error| error.to_string())?;
        // Either of the two may be the older one, and what it names gone: they take turns until all can be fetched.
        self.starts = self.starts.wrapping_add(1);
        let ordered = self.orders.borrow().as_ref().map(|load| load.manifest.clone());
        if let Some(ordered) = ordered.filter(|_| self.starts.is_multiple_of(2)) {
            self.manifests.order(ordered);
        }
        let missing = &self.manifests.missing;
        if !missing.is_empty() && self.begun.elapsed() < PATIENCE {
            let missing = missing.join(", ");
            return Err(format!("{missing} is not decided yet: the controller does it, see the Agent's conditions"));
        }
        let mut live = self.manifests.own(&self.manifests.live);
        self.loaded = self.manifests.live.hash();
        let restarted = self.on_ground(|ground| Ok(ground.is_of_this_pod().then(|| (ground.live(), ground.loaded()))));
        // The server runs already, and what it has was decided later than what is mounted, or at the same time: a change
        // of that is the controller's to order.
        if let Some((placed, loaded)) = restarted.await.map_err(|error| error.to_string())? {
            live.retain(|piece| placed.iter().all(|other| other.id != piece.id));
            live.extend(placed);
            live.sort_by(|a, b| a.id.cmp(&b.id));
            (self.fresh, self.loaded) = (false, loaded);
        }
        let fixed = self.manifests.fixed.pieces.clone();
        ground::check(&fixed, &live)?;
        let all: Vec<Piece> = fixed.iter().chain(&live).cloned().collect();
        self.fetch(&all).await?;
        let (pinned, moving, loaded) = (fixed, live, self.loaded.clone());
        let placed = self.on_ground(move |ground| {
            let stays = |id: &str| pinned.iter().chain(&moving).any(|piece| piece.id == id);
            // What of a work tree cannot be brought forward is told in its note: the pod starts with what is there.
            ground.apply(&pinned, false, |piece, _| !stays(&piece.id))?;
            ground.apply(&moving, true, |_, live| live)?;
            ground.set_loaded(&loaded)?;
            ground.tidy();
            Ok(())
        });
        placed.await.map_err(|error| error.to_string())?;
        self.exclude().await;
        self.tell(|_| {}).await;
        Ok(())
    }

    /// Never returns: carries out orders, the newest one only.
    pub(super) async fn follow(mut self) {
        let mut failures = 0u32;
        let mut changes = self.work.changes();
        loop {
            let order = self.orders.borrow_and_update().clone().filter(|load| !load.withdrawn);
            if self.tries.begin(order.as_ref()) {
                failures = 0;
            }
            let orders = self.orders.clone();
            let turn = tokio::select! {
                turn = self.turn(order.as_ref()) => turn,
                () = another(orders) => { failures = 0; continue }
            };
            let end = match turn {
                Ok(Some(held)) => self.exchange(order.as_ref(), held).await,
                Ok(None) => End::Done,
                Err(why) => End::Again(why),
            };
            let rest = match end {
                End::Done => {
                    failures = 0;
                    (self.tidy().await, false)
                }
                End::Again(why) => {
                    tracing::warn!(%why, "the content that is wanted is not in place");
                    self.tell(|report| report.why = why).await;
                    failures = failures.saturating_add(1);
                    (jittered(FIRST_RETRY * 2u32.saturating_pow(failures.min(8))), true)
                }
            };
            self.rest(rest, &mut changes).await;
        }
    }

    /// Returns when there may be something to do: an order, a server that is back, or the time is over. What failed with a
    /// server that answers has its pause.
    async fn rest(&mut self, (pause, failed): (Duration, bool), changes: &mut watch::Receiver<u64>) {
        let until = Instant::now() + pause;
        let mut known = self.work.snapshot().known;
        let mut due = !(failed && known);
        loop {
            tokio::select! {
                () = another(self.orders.clone()) => return,
                () = tokio::time::sleep_until(until) => return,
                Ok(()) = changes.changed() => {}
            }
            let now = self.work.snapshot().known;
            if known && !now {
                // Another process may answer next, which has read everything anew.
                self.server.forget();
            }
            (known, due) = (now, due || !now);
            if now && due && self.server.is_asked_for() {
                return;
            }
        }
    }

    /// Prepares what is wanted, and waits until it may be exchanged. `None`: nothing is to be done.
    async fn turn(&mut self, order: Option<&Load>) -> Result<Option<Held>, String> {
        if self.server.is_asked_for() && self.work.snapshot().known {
            self.ask().await?;
        }
        let Some(load) = order else {
            if !self.report.borrow().wanted.is_empty() {
                // It was withdrawn.
                self.tell(|report| (report.wanted, report.why, report.failed) = Default::default()).await;
            }
            return if self.fresh || !self.work.snapshot().known { Ok(None) } else { Ok(Some(self.idle().await)) };
        };
        let hash = load.manifest.hash();
        if self.is_settled(load, &hash).await? {
            return Ok(None);
        }
        self.tell(|report| (report.wanted, report.why, report.failed) = (hash.clone(), "being fetched".into(), false))
            .await;
        let wanted = self.manifests.own(&load.manifest);
        ground::check(&self.manifests.fixed.pieces, &wanted)?;
        self.fetch(&wanted).await?;
        let reloads = !self.fresh || wanted.iter().any(Piece::is_cached_by_server);
        let immediately = load.immediately || load.force;
        let cached = self.on_ground(move |ground| {
            if immediately {
                let contexts: Vec<Piece> = wanted.iter().filter(|p| !p.waits_for_idleness()).cloned().collect();
                ground.apply(&contexts, true, |piece, live| live && !piece.waits_for_idleness())?;
            }
            ground.differs(&wanted, |piece| !immediately || piece.waits_for_idleness())
        });
        let waits = cached.await.map_err(|error| error.to_string())?;
        if self.tries.may_cut(load) && reloads && !self.work.snapshot().known {
            return Err(AWAY.into());
        }
        if self.tries.may_cut(load) || !waits && self.fresh {
            return Ok(Some(self.work.seize_anyway()));
        }
        self.tell(|report| report.why = "waits until the agent is idle".into()).await;
        Ok(Some(self.idle().await))
    }

    /// Whether this was refused, or is in place and known.
    async fn is_settled(&mut self, load: &Load, hash: &str) -> Result<bool, String> {
        let (wanted, own) = (self.manifests.own(&load.manifest), hash.to_owned());
        let looked = self.on_ground(move |ground| {
            let refused = ground.refused().filter(|(hash, _)| *hash == own).map(|(_, why)| why);
            let placed = !ground.differs(&wanted, |_| true)? && ground.live() == wanted;
            Ok((refused, placed))
        });
        let (refused, placed) = looked.await.map_err(|error| error.to_string())?;
        if let Some(why) = refused {
            self.tell(|report| (report.wanted, report.why, report.failed) = (hash.into(), why, true)).await;
            return Ok(true);
        }
        if !placed || !self.fresh {
            return Ok(false);
        }
        let told = match self.verdict(&self.manifests.own(&load.manifest)) {
            Some(Ok(())) => {
                self.set_loaded(hash).await;
                (String::new(), String::new(), false)
            }
            Some(Err(why)) => (hash.into(), why, true),
            None => (hash.into(), "waits for the agent's server".into(), false),
        };
        self.tell(|report| (report.wanted, report.why, report.failed) = told).await;
        Ok(true)
    }

    /// Waits until nothing is at work, and holds prompts from then on.
    async fn idle(&self) -> Held {
        let mut changes = self.work.changes();
        loop {
            changes.mark_unchanged();
            if self.work.snapshot().without_work() {
                if let Some(held) = self.work.seize().await {
                    // Work that came past the door is found too.
                    let quiet = held.during(async {
                        self.server.confirm().await;
                        self.work.snapshot().without_work()
                    });
                    if quiet.await {
                        return held;
                    }
                }
                // Idle for moments only: nobody shall wait at the door again and again.
                sleep(BETWEEN).await;
            } else {
                let _ = changes.changed().await;
            }
        }
    }

    /// Exchanges, makes the server read it, or takes everything back.
    async fn exchange(&mut self, order: Option<&Load>, held: Held) -> End {
        let exchanged = held.during(self.exchange_held(order)).await;
        drop(held);
        if exchanged.is_ok() {
            self.tries.silent = 0;
        }
        match exchanged {
            Ok(()) if !self.held_back.is_empty() => {
                self.fresh = true;
                End::Again(self.held_back.join("; "))
            }
            Ok(()) => {
                self.fresh = true;
                if let Some(load) = order {
                    self.set_loaded(&load.manifest.hash()).await;
                }
                self.tell(|report| (report.wanted, report.why, report.failed) = (String::new(), String::new(), false))
                    .await;
                End::Done
            }
            Err(Trouble::Later(why)) => End::Again(why),
            Err(Trouble::Refused(why)) => {
                tracing::warn!(%why, "the server does not take what is wanted: what was there before is back");
                self.fresh = true; // as fresh as it gets
                let Some(hash) = order.map(|load| load.manifest.hash()) else { return End::Done };
                let (refused, text) = (hash.clone(), why.clone());
                let _ = self.on_ground(move |ground| ground.refuse(&refused, &text)).await;
                self.tell(|report| (report.wanted, report.why, report.failed) = (hash, why, true)).await;
                End::Done
            }
        }
    }

    async fn exchange_held(&mut self, order: Option<&Load>) -> Result<(), Trouble> {
        let wanted = order.map(|load| self.manifests.own(&load.manifest));
        let stale = !self.fresh;
        let (undo, before, after, held_back) = self
            .on_ground(move |ground| {
                let before = ground.skills()?;
                let undo = match wanted {
                    Some(wanted) => ground.apply(&wanted, true, |_, live| live)?,
                    None => ground::Undo::new(),
                };
                let held_back = undo.iter().filter_map(|(_, done)| done.held()).collect();
                Ok((undo, before, ground.skills()?, held_back))
            })
            .await
            .map_err(|error| Trouble::Later(error.to_string()))?;
        self.held_back = held_back;
        if before == after && !stale {
            return Ok(());
        }
        let Err(failed) = self.server.reload(after.as_deref().unwrap_or_default()).await else { return Ok(()) };
        let undone = self.on_ground(|ground| ground.undo(undo)).await;
        let (NotLoaded::Different(why) | NotLoaded::Silent(why) | NotLoaded::Away(why)) = &failed;
        undone.map_err(|error| Trouble::Refused(format!("{why}; {error}")))?;
        let (why, again) = match failed {
            NotLoaded::Different(why) => (why, false),
            NotLoaded::Silent(why) => (why, self.tries.again(order)),
            NotLoaded::Away(why) => (why, true),
        };
        if again {
            // It may have read what was there for a moment.
            self.fresh = false;
            self.server.forget();
            return Err(Trouble::Later(why));
        }
        if let Err(again) = self.server.reload(before.as_deref().unwrap_or_default()).await {
            tracing::warn!(why = ?again, "the server does not list the skills of before either");
        }
        Err(Trouble::Refused(why))
    }

    /// What the server lists now.
    async fn ask(&mut self) -> Result<(), String> {
        let wanted = self.on_ground(|ground| ground.skills()).await.map_err(|error| error.to_string())?;
        let Some(wanted) = wanted else {
            self.server.nothing_to_ask();
            self.fresh = true;
            return Ok(());
        };
        // A server that has just begun has read what is there; one that ran before this process may know older skills.
        self.fresh |= self.server.ask(&wanted).await?.is_ok();
        self.tell(|_| {}).await;
        Ok(())
    }

    async fn fetch(&mut self, pieces: &[Piece]) -> Result<(), String> {
        let wanted = pieces.to_vec();
        let forgotten = self.on_ground(move |ground| {
            ground.forget_but(&wanted);
            Ok(())
        });
        forgotten.await.map_err(|error| error.to_string())?;
        loop {
            let wanted = pieces.to_vec();
            let lacks = self.on_ground(move |ground| ground.lacks(&wanted)).await;
            let Some(piece) = lacks.map_err(|error| error.to_string())? else { return Ok(()) };
            self.fetch_one(&piece).await.map_err(|why| format!("{} ({}): {why}", piece.id, piece.revision))?;
        }
    }

    async fn fetch_one(&self, piece: &Piece) -> Result<(), String> {
        let fetcher = self.fetcher.as_ref().ok_or("there is no controller to fetch it from")?;
        let digest = Digest::parse(&piece.digest).ok_or("its digest is malformed")?;
        let begun = Instant::now();
        // Not in the volume: whoever owns that could exchange the file before it is read again.
        let download = fetcher.download(&digest, Some(piece.size), &std::env::temp_dir(), None).await;
        let archive: File = download.map_err(|error| error.to_string())?.into_file();
        let unpacked = piece.clone();
        let staged = self.on_ground(move |ground| {
            let mut archive = archive;
            io::Seek::rewind(&mut archive)?;
            ground.stage(&unpacked, archive)
        });
        staged.await.map_err(|error| error.to_string())?;
        tracing::info!(piece = piece.id, revision = piece.revision, took = ?begun.elapsed(), "fetched");
        Ok(())
    }

    /// Keeps our folder out of Git's sight, beside the file in it that says the same.
    async fn exclude(&self) {
        let workspace = self.workspace.clone();
        let excluded = blocking(move || {
            let ours = Folder::open(&workspace)?.kind(super::CONTROL)?.is_some();
            if ours { super::text_link::exclude(&workspace, super::CONTROL) } else { Ok(()) }
        });
        if let Err(error) = excluded.await {
            tracing::warn!(%error, "cannot exclude {} from Git", super::CONTROL);
        }
    }

    /// Brings to disk what is in place: beside all else, since it may take as long as the machine's disk is busy.
    fn sync(&self) {
        let ground = self.ground.clone();
        tokio::task::spawn_blocking(move || {
            let unsynced = ground.lock().unsynced();
            for (at, root, what) in unsynced {
                let synced = Folder::open(&root).and_then(|root| root.sync_all());
                if let Err(error) = synced.and_then(|()| ground.lock().synced(at, &what)) {
                    tracing::warn!(volume = %root.display(), %error, "cannot bring the content to disk");
                }
            }
        });
    }

    async fn tidy(&mut self) -> Duration {
        self.sync();
        let due = self.on_ground(|ground| Ok(ground.tidy())).await.ok().flatten();
        self.tell(|_| {}).await;
        due.map_or(Duration::from_hours(1), |due| Duration::from_secs(due.saturating_sub(area::now()).max(1)).min(TIDY))
    }

    async fn set_loaded(&mut self, hash: &str) {
        hash.clone_into(&mut self.loaded);
        let hash = hash.to_owned();
        if let Err(error) = self.on_ground(move |ground| ground.set_loaded(&hash)).await {
            tracing::warn!(%error, "cannot remember what is in place");
        }
    }

    /// What the server said of the skills among these pieces; nothing is wrong with none.
    fn verdict(&self, pieces: &[Piece]) -> Option<Result<(), String>> {
        let any = pieces.iter().any(Piece::is_cached_by_server);
        if any { self.server.verdict().cloned() } else { Some(Ok(())) }
    }

    /// Says what is in place, with these changes.
    async fn tell(&mut self, change: impl FnOnce(&mut Report)) {
        let Ok((pieces, live)) = self.on_ground(|ground| Ok((ground.placed(), ground.live()))).await else { return };
        let known = self.fresh && self.verdict(&live) == Some(Ok(()));
        let loaded = if known { self.loaded.clone() } else { String::new() };
        let mut skills = self.server.names();
        if let Some(names) = &mut skills {
            names.truncate(MOST_NAMES);
        }
        self.report.send_if_modified(|report| {
            let before = report.clone();
            change(report);
            (report.pieces, report.loaded, report.skills) = (pieces, loaded, skills);
            *report != before
        });
    }

    async fn on_ground<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Ground) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let ground = self.ground.clone();
        blocking(move || act(&mut ground.lock())).await
    }
}

/// Why an exchange did not happen.
enum Trouble {
    /// The disk, or what is in the way.
    Later(String),
    /// The server does not take it.
    Refused(String),
}

async fn blocking<T: Send + 'static>(act: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(act).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Resolves when there is another order. Where nobody can give one any more, as in a pod of a Task's own, it never does.
pub(super) async fn another<T>(mut orders: watch::Receiver<T>) {
    if orders.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Between half of it and all, so that a fleet does not ask at one moment.
pub(super) fn jittered(ceiling: Duration) -> Duration {
    let ceiling = ceiling.min(LAST_RETRY);
    rand::rng().random_range(ceiling / 2..=ceiling)
}
