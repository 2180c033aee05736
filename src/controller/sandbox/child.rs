//! The process that renders: it bounds itself first, then does one job after the other until nobody asks any more.

use std::{
    io::{self, Stdin, Stdout},
    process::ExitCode,
    sync::Arc,
};

use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit, getrlimit, nice, setrlimit};

use super::{
    CPU_SECONDS, MEMORY, STACK,
    wire::{self, Job, Refusal, Tag, read, write},
};
use crate::{
    render::{Context, Engine, Templates as _, template::MAX_SOURCE},
    tree::RepoPath,
};

/// Addresses beyond what is used, which an allocator reserves and never touches.
const RESERVED: u64 = 192 << 20;
/// Yields to the controller.
const NICENESS: i32 = 10;

/// `pilothouse render-templates`: jobs on stdin, answers on stdout.
pub fn main() -> ExitCode {
    let done = bound().and_then(|()| {
        // The stack is the one that the bounds count with.
        let thread = std::thread::Builder::new().name("templates".into()).stack_size(STACK).spawn(serve)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the renderer panicked")))
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// No more memory, time and files than templates need; no file of more than nothing, no dump of what templates saw.
fn bound() -> io::Result<()> {
    let (addresses, data) = used()?;
    let more = (MEMORY + STACK) as u64;
    limit(Resource::As, addresses + more + RESERVED, 0)?;
    limit(Resource::Data, data + more, 0)?;
    // The first of the two ends it with a signal that tells why.
    limit(Resource::Cpu, CPU_SECONDS, 1)?;
    limit(Resource::Core, 0, 0)?;
    limit(Resource::Fsize, 0, 0)?;
    limit(Resource::Nofile, 16, 0)?;
    // When memory is short in spite of all, this process goes first; and it takes no time from the controller. Both are
    // only kind.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let _ = nice(NICENESS);
    Ok(())
}

/// Nobody may raise a limit that is lower already.
fn limit(resource: Resource, most: u64, grace: u64) -> io::Result<()> {
    let allowed = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let (current, maximum) = (most.min(allowed), (most + grace).min(allowed));
    Ok(setrlimit(resource, Rlimit { current: Some(current), maximum: Some(maximum) })?)
}

/// Bytes of addresses and of data that the program has before it does anything.
fn used() -> io::Result<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
    };
    let unread = || io::Error::other("/proc/self/status does not tell the memory in use");
    Ok((bytes("VmSize:").ok_or_else(unread)?, bytes("VmData:").ok_or_else(unread)?))
}

struct Pipes(Stdin, Stdout);

impl Pipes {
    fn read(&mut self) -> io::Result<Option<(Tag, Vec<u8>)>> {
        read(&mut self.0.lock())
    }

    fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        write(&mut self.1.lock(), frame)
    }

    /// Asks for a file. Where nobody answers, nobody reads what follows either.
    fn want(&mut self, path: &RepoPath) -> Option<Arc<[u8]>> {
        self.write(&wire::frame(Tag::Want, path.as_str().as_bytes()).ok()?).ok()?;
        let (tag, bytes) = self.read().ok()??;
        (tag == Tag::File).then(|| bytes.into())
    }
}

fn serve() -> io::Result<()> {
    let pipes = Arc::new(Mutex::new(Pipes(io::stdin(), io::stdout())));
    pipes.lock().write(&wire::frame(Tag::Ready, b"")?)?;
    let Some((Tag::Context, context)) = pipes.lock().read()? else { return Err(wire::broken()) };
    let context: Context = serde_json::from_slice(&context)?;
    let asking = pipes.clone();
    let engine = Engine::new(&context, move |path| asking.lock().want(path));
    loop {
        // The lock must be free while a template is rendered.
        let asked = pipes.lock().read()?;
        match asked {
            None => return Ok(()),
            Some((Tag::Job, job)) => {
                let answer = answer(&engine, &serde_json::from_slice(&job)?)?;
                pipes.lock().write(&answer)?;
            }
            Some(_) => return Err(wire::broken()),
        }
    }
}

fn answer(engine: &Engine, job: &Job) -> io::Result<Vec<u8>> {
    debug_assert!(job.source.len() <= MAX_SOURCE);
    let path = RepoPath::parse(&job.path).map_err(io::Error::other)?;
    match engine.render(&path, &job.source) {
        Ok(written) => wire::frame(Tag::Text, written.text.as_bytes()),
        Err(error) => wire::json(Tag::Refusal, &Refusal::from(error)),
    }
}
