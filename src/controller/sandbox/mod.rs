//! Renders of trees that strangers write. Templates in them are programs: they run in a process of their own
//! (`pilothouse render-templates`), which has bounds of its own and can be killed. All else is pure code with bounds and
//! runs on a thread here.
//!
//! A process is started for the first template of a render and ends with it; a render without templates costs none.

pub mod child;
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

use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{
    api::names::reasons,
    render::{self, Reason, RenderError, Rendered, Templates, Written},
    status::Failure,
    tree::{FileTree, RepoPath},
};
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
/// For documents that nest as deep as they may.
const RENDER_STACK: usize = 16 << 20;

/// Renders, with templates at arm's length.
#[derive(Clone, Debug)]
pub struct Sandbox {
    program: PathBuf,
    slots: Arc<Semaphore>,
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
        Self { program, slots: Arc::new(Semaphore::new(PROCESSES)) }
    }

    /// Renders. When this is dropped, the render ends and its process is killed.
    pub async fn render(
        &self,
        tree: Arc<FileTree>,
        path: RepoPath,
        context: render::Context,
    ) -> Result<Result<Rendered, RenderError>, Failure> {
        let (asks, mut asked) = mpsc::channel(1);
        let (answer, mut answered) = oneshot::channel();
        let gone = StopOnDrop::default();
        let work = work(tree.clone(), path, asks, gone.0.clone(), answer);
        std::thread::Builder::new().name("render".into()).stack_size(RENDER_STACK).spawn(work).map_err(|e| {
            Failure::transient(reasons::INTERNAL_ERROR, format!("cannot start a thread for the render: {e}"))
        })?;
        let mut process = None;
        let panicked = || Failure::transient(reasons::INTERNAL_ERROR, "a bug in Pilothouse: the render panicked");
        loop {
            tokio::select! {
                done = &mut answered => return done.map_err(|_| panicked()),
                Some(Ask { path, source, reply }) = asked.recv() => {
                    if process.is_none() {
                        process = Some(self.start(&context).await?);
                    }
                    if let Some(process) = &mut process {
                        // Nobody waits any more where this fails.
                        let _ = reply.send(process.render(&tree, &path, &source).await);
                    }
                }
            }
        }
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

/// The part of a render that runs on a thread of its own.
fn work(
    tree: Arc<FileTree>,
    path: RepoPath,
    asks: mpsc::Sender<Ask>,
    gone: Arc<AtomicBool>,
    answer: oneshot::Sender<Result<Rendered, RenderError>>,
) -> impl FnOnce() {
    move || {
        let started = Instant::now();
        let templates = Elsewhere { asks, took: Cell::default() };
        let late = || started.elapsed().saturating_sub(templates.took.get()) > DEADLINE;
        let stopped = || gone.load(Ordering::Relaxed) || late();
        // Nobody waits any more where this fails.
        let _ = answer.send(render::render_with(&tree, &path, &templates, &stopped));
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
