//! Renders of trees that strangers write. Templates in them are programs: they run in a process of their own
//! (`pilothouse render-templates`), which has bounds of its own and can be killed. All else is pure code with bounds and
//! runs on a thread here.
//!
//! A process is started for the first template of a render and ends with it; a render without templates costs none.

pub mod child;
mod places;
mod process;
mod wire;

use std::{
    cell::Cell,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use crate::{
    api::names::reasons,
    object::yaml::Budget,
    render::{self, Reason, RenderError, Rendered, Templates, Written},
    status::Failure,
    tree::{FileTree, RepoPath},
};
use places::{RENDERS, RESULTS, Share, Shares};
use process::Process;

/// Memory of a process for what its templates make, in bytes.
pub const MEMORY: usize = 96 << 20;
/// Stack of a process, in bytes.
pub const STACK: usize = 32 << 20;
/// Processor time of a process, in seconds.
pub const CPU_SECONDS: u64 = 5;
/// All of a process's time, for machines that are slow or busy.
pub const WALL: Duration = Duration::from_secs(30);
/// Processes at a time. With their memory they must fit into the memory of the controller's pod.
pub const PROCESSES: usize = 2;
/// No render may take longer, without its templates.
const DEADLINE: Duration = Duration::from_mins(1);
/// A render that has not ended by then after its deadline is not waited for; its place stays taken until it ends.
const GRACE: Duration = Duration::from_secs(5);
/// Longest wait for a place.
const QUEUE: Duration = Duration::from_secs(30);
/// For documents that nest as deep as they may.
const RENDER_STACK: usize = 16 << 20;

/// Renders, with templates at arm's length.
#[derive(Clone, Debug)]
pub struct Sandbox {
    program: PathBuf,
    slots: Arc<Semaphore>,
    places: Shares,
    results: Shares,
}

/// What was rendered. Keep it until nothing of it is in memory any more: others wait for its room.
#[derive(Debug, Default)]
pub struct Kept {
    /// The objects.
    pub rendered: Rendered,
    /// Its share of the memory for what was rendered.
    pub room: Room,
}

/// A place to render at; dropping it frees it.
#[derive(Debug)]
pub struct Place {
    share: Share,
}

/// A share of the memory for what was rendered; dropping it gives it back.
#[derive(Debug, Default)]
pub struct Room {
    _share: Share,
}

impl Default for Sandbox {
    fn default() -> Self {
        // The running program itself, even when its file was replaced.
        let own = PathBuf::from("/proc/self/exe");
        let program = if own.exists() { own } else { std::env::current_exe().unwrap_or(own) };
        Self::of_program(program)
    }
}

impl Sandbox {
    /// With templates rendered by `program render-templates`.
    pub fn of_program(program: PathBuf) -> Self {
        let slots = Arc::new(Semaphore::new(PROCESSES));
        Self { program, slots, places: Shares::new(RENDERS), results: Shares::new(RESULTS) }
    }

    /// Waits until few others render. What the render needs is best read after this: it is in memory only as often as there
    /// are places.
    pub async fn place(&self, namespace: &str) -> Result<Place, Failure> {
        timeout(QUEUE, self.places.take(namespace, 1)).await.map(|share| Place { share }).map_err(|_| busy())
    }

    /// Renders, at a place. When this is dropped, the render ends and its process is
    /// killed. What a render does is counted and bounded, so one that takes too long met a busy machine, and is tried
    /// again.
    pub async fn render(
        &self,
        place: Place,
        tree: Arc<FileTree>,
        path: RepoPath,
        context: render::Context,
    ) -> Result<Result<Kept, RenderError>, Failure> {
        let (seen, at) = (tree.clone(), path.clone());
        let work = move |templates: &Elsewhere, stopped: &dyn Fn() -> bool| {
            render::render_with(&seen, &at, templates, stopped)
        };
        self.supervise(place, &tree, path, &context, work).await
    }

    async fn supervise(
        &self,
        place: Place,
        tree: &FileTree,
        path: RepoPath,
        context: &render::Context,
        work: impl FnOnce(&Elsewhere, &dyn Fn() -> bool) -> Result<Rendered, RenderError> + Send + 'static,
    ) -> Result<Result<Kept, RenderError>, Failure> {
        let (asks, mut asked) = mpsc::channel(1);
        let (answer, mut answered) = oneshot::channel();
        let gone = StopOnDrop::default();
        let thread = on_thread(work, asks, gone.0.clone(), answer, place.share);
        std::thread::Builder::new().name("render".into()).stack_size(RENDER_STACK).spawn(thread).map_err(|e| {
            Failure::transient(reasons::INTERNAL_ERROR, format!("cannot start a thread for the render: {e}"))
        })?;
        let (mut process, mut overdue) = (None, tokio::time::Instant::now() + DEADLINE + GRACE);
        let panicked = || Failure::transient(reasons::INTERNAL_ERROR, "a bug in Pilothouse: the render panicked");
        loop {
            tokio::select! {
                done = &mut answered => {
                    let (done, place) = done.map_err(|_| panicked())?;
                    return self.keep(&context.sync.namespace, done, place).await;
                }
                Some(Ask { path, source, reply }) = asked.recv() => {
                    let asked_at = tokio::time::Instant::now();
                    if process.is_none() {
                        process = Some(self.start(context).await?);
                    }
                    if let Some(process) = &mut process {
                        // Nobody waits any more where this fails.
                        let _ = reply.send(process.render(tree, &path, &source).await);
                    }
                    overdue += asked_at.elapsed();
                }
                () = tokio::time::sleep_until(overdue) => return Ok(Err(RenderError::too_long(&path))),
            }
        }
    }

    /// Gives a render's place back when there is room for what it made.
    async fn keep(
        &self,
        namespace: &str,
        done: Result<Rendered, RenderError>,
        place: Share,
    ) -> Result<Result<Kept, RenderError>, Failure> {
        let rendered = match done {
            Ok(rendered) => rendered,
            Err(error) => return Ok(Err(error)),
        };
        let wanted = weight(&rendered);
        let share = timeout(QUEUE, self.results.take(namespace, wanted)).await.map_err(|_| busy())?;
        drop(place);
        Ok(Ok(Kept { rendered, room: Room { _share: share } }))
    }

    /// Waits until fewer than [`PROCESSES`] run.
    async fn start(&self, context: &render::Context) -> Result<Process, Failure> {
        let failed = |error: io::Error| {
            let message = format!("cannot start the process that renders templates: {error}");
            Failure::transient(reasons::INTERNAL_ERROR, message)
        };
        let slot = self.slots.clone().acquire_owned().await.map_err(io::Error::other).map_err(failed)?;
        Process::start(&self.program, context, slot).await.map_err(failed)
    }
}

fn busy() -> Failure {
    Failure::transient(reasons::TIMEOUT, "other Syncs render, as many as may at a time; it is tried again")
}

/// Memory of the objects, in MiB. Small ones weigh nothing: as many as there are reconciles at a time fit anyway.
fn weight(rendered: &Rendered) -> u32 {
    let bytes = rendered.objects.iter().map(|item| Budget::of(item.object.value())).fold(0, usize::saturating_add);
    u32::try_from(bytes >> 20).unwrap_or(u32::MAX)
}

type Done = (Result<Rendered, RenderError>, Share);

/// The part of a render that runs on a thread of its own. Its place is free when it really has ended, not before.
fn on_thread(
    work: impl FnOnce(&Elsewhere, &dyn Fn() -> bool) -> Result<Rendered, RenderError> + Send + 'static,
    asks: mpsc::Sender<Ask>,
    gone: Arc<AtomicBool>,
    answer: oneshot::Sender<Done>,
    place: Share,
) -> impl FnOnce() + Send + 'static {
    move || {
        let started = Instant::now();
        let templates = Elsewhere { asks, took: Cell::default() };
        let late = || started.elapsed().saturating_sub(templates.took.get()) > DEADLINE;
        let stopped = || gone.load(Ordering::Relaxed) || late();
        // Nobody waits any more where this fails.
        let _ = answer.send((work(&templates, &stopped), place));
    }
}

/// A template to be rendered, and where to say what it wrote.
struct Ask {
    path: RepoPath,
    source: String,
    reply: SyncSender<Result<Written, RenderError>>,
}

/// Templates as the thread sees them.
struct Elsewhere {
    asks: mpsc::Sender<Ask>,
    /// Time that went by with waiting for them, of which this render is not guilty.
    took: Cell<Duration>,
}

impl Templates for Elsewhere {
    fn render(&self, path: &RepoPath, source: &str) -> Result<Written, RenderError> {
        let started = Instant::now();
        let (reply, answer) = sync_channel(1);
        let ask = Ask { path: path.clone(), source: source.to_owned(), reply };
        let answer = self.asks.blocking_send(ask).ok().and_then(|()| answer.recv().ok());
        self.took.set(self.took.get() + started.elapsed());
        answer.unwrap_or_else(|| {
            let message = "the render was given up".into();
            Err(RenderError { file: path.clone(), line: 0, reason: Reason::TemplateFailed, message })
        })
    }
}

#[derive(Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The place of a render that does not end stays taken, and nobody waits for it.
    #[tokio::test(start_paused = true)]
    async fn a_render_that_does_not_stop_is_tried_again_and_keeps_its_place() {
        let sandbox = Sandbox::of_program("/nowhere".into());
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let stuck = move |_: &Elsewhere, _: &dyn Fn() -> bool| {
            let _ = ended.recv();
            Ok(Rendered::default())
        };
        let (tree, context) = (FileTree::default(), render::Context::default());
        let place = sandbox.place("ns").await.unwrap();
        let failed = sandbox.supervise(place, &tree, RepoPath::root(), &context, stuck).await.unwrap().unwrap_err();
        assert_eq!(failed.reason, Reason::Interrupted);
        assert_eq!(Failure::from(failed).class, crate::status::Class::Transient);
        assert_eq!(sandbox.places.free() + 1, free(RENDERS));
        drop(end);
        while sandbox.places.free() < free(RENDERS) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn free(all: u32) -> usize {
        usize::try_from(all).unwrap()
    }

    /// What was rendered has room until it is applied: who renders much waits with its place taken.
    #[tokio::test(start_paused = true)]
    async fn what_is_rendered_keeps_its_room() {
        let sandbox = Sandbox::of_program("/nowhere".into());
        let keep = async || {
            let place = sandbox.places.take("ns", 1).await;
            sandbox.keep("ns", Ok(large(u64::from(RESULTS))), place).await
        };
        let kept = keep().await.unwrap().unwrap();
        assert_eq!(sandbox.places.free(), free(RENDERS));
        assert!(sandbox.results.free() < free(RESULTS));
        assert_eq!(keep().await.unwrap_err().class, crate::status::Class::Transient);
        assert_eq!(sandbox.places.free(), free(RENDERS));
        drop(kept);
        assert_eq!(sandbox.results.free(), free(RESULTS));
        assert!(keep().await.unwrap().is_ok());
    }

    fn large(mib: u64) -> Rendered {
        let text = "x".repeat(usize::try_from(mib << 20).unwrap());
        let value = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": text}});
        let object = crate::object::Object::new(value).unwrap();
        Rendered { objects: vec![render::Item { object, file: RepoPath::root(), line: 1 }], ..Rendered::default() }
    }

    /// Who finds no place is told to come again: it is none of its own faults.
    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_comes_again() {
        let sandbox = Sandbox::of_program("/nowhere".into());
        let mut taken = vec![];
        for n in 0..RENDERS {
            taken.push(sandbox.places.take(&format!("ns-{n}"), 1).await);
        }
        assert_eq!(sandbox.place("ns").await.unwrap_err().class, crate::status::Class::Transient);
    }
}
