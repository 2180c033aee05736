//! The controller's end of the process that renders its templates.

use std::{
    collections::BTreeSet,
    io,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout},
};

use super::{
    CPU_SECONDS, MEMORY, STACK, WALL,
    wire::{self, HEADER, Job, Refusal, Tag},
};
use crate::{
    render::{
        self, Reason, RenderError, Written,
        template::{MAX_SOURCE, is_template},
    },
    tree::{FileTree, RepoPath},
};

/// How long an ended process may take until it is gone.
const REAPING: Duration = Duration::from_secs(5);
/// Bytes of its last words that are read.
const LAST_WORDS: u64 = 4096;

/// A running process. Dropping it kills it.
pub(super) struct Process {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    errors: ChildStderr,
    /// Time that is left for all templates together.
    left: Duration,
    _slot: OwnedSemaphorePermit,
}

/// How a process came to its end, as far as a template is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Time,
    Memory,
    Depth,
    /// It waited more than it worked.
    Slow,
    /// Somebody has killed it: the kernel, when the memory of the machine or of the pod is short.
    Killed,
    Other,
}

impl Process {
    /// Starts one: nothing of the environment, no folder of ours.
    pub(super) async fn start(
        program: &Path,
        context: &render::Context,
        slot: OwnedSemaphorePermit,
    ) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg0("pilothouse").arg("render-templates").env_clear().current_dir("/").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(errors)) = pipes else { return Err(wire::broken()) };
        let mut this = Self { child, input, output, errors, left: WALL, _slot: slot };
        let context = wire::json(Tag::Context, context)?;
        match timeout(WALL, this.greet(&context)).await {
            Ok(Ok(())) => Ok(this),
            Ok(Err(error)) => Err(io::Error::other(format!("{error}; it says {:?}", this.last_words().await))),
            Err(late) => Err(late.into()),
        }
    }

    async fn greet(&mut self, context: &[u8]) -> io::Result<()> {
        let (tag, _) = self.next().await?;
        if tag != Tag::Ready {
            return Err(wire::broken());
        }
        self.input.write_all(context).await
    }

    /// Renders one template of the tree. After an error that is none of the template's own the process is gone.
    pub(super) async fn render(
        &mut self,
        tree: &FileTree,
        path: &RepoPath,
        source: &str,
    ) -> Result<Written, RenderError> {
        let started = Instant::now();
        let answer = timeout(self.left, self.converse(tree, path, source)).await;
        self.left = self.left.saturating_sub(started.elapsed());
        let end = match answer {
            Ok(Ok(answer)) => return answer,
            Ok(Err(_)) => self.end().await,
            Err(_) => End::Slow,
        };
        // Only its own end makes a process stop to talk; where it did not end, it must.
        let _ = self.child.start_kill();
        Err(ended(path, end))
    }

    async fn converse(
        &mut self,
        tree: &FileTree,
        path: &RepoPath,
        source: &str,
    ) -> io::Result<Result<Written, RenderError>> {
        let mut read = BTreeSet::new();
        let job = Job { path: path.to_string(), source: source.to_owned() };
        self.input.write_all(&wire::json(Tag::Job, &job)?).await?;
        loop {
            let (tag, content) = self.next().await?;
            match tag {
                Tag::Want => {
                    let answer = wanted(tree, &content, &mut read)?;
                    self.input.write_all(&answer).await?;
                }
                Tag::Text => {
                    let text = String::from_utf8(content).map_err(|_| wire::broken())?;
                    return Ok(Ok(Written { text, read }));
                }
                Tag::Refusal => return Ok(Err(serde_json::from_slice::<Refusal>(&content)?.into_error(path))),
                Tag::Ready | Tag::Context | Tag::Job | Tag::File | Tag::NoFile => return Err(wire::broken()),
            }
        }
    }

    async fn next(&mut self) -> io::Result<(Tag, Vec<u8>)> {
        let mut start = [0; HEADER];
        self.output.read_exact(&mut start).await?;
        let (tag, length) = wire::header(start)?;
        let mut content = vec![0; length];
        self.output.read_exact(&mut content).await?;
        Ok((tag, content))
    }

    /// Why the process has ended.
    async fn end(&mut self) -> End {
        let words = self.last_words().await;
        match timeout(REAPING, self.child.wait()).await {
            Ok(Ok(status)) => cause(status, &words),
            _ => End::Other,
        }
    }

    async fn last_words(&mut self) -> String {
        let mut words = vec![];
        let mut errors = (&mut self.errors).take(LAST_WORDS);
        let _ = timeout(REAPING, errors.read_to_end(&mut words)).await;
        String::from_utf8_lossy(&words).trim().to_owned()
    }
}

/// The file that a template includes. Only templates of the tree can be had.
fn wanted(tree: &FileTree, path: &[u8], read: &mut BTreeSet<RepoPath>) -> io::Result<Vec<u8>> {
    let path = std::str::from_utf8(path).ok().and_then(|path| RepoPath::parse(path).ok()).filter(is_template);
    match path.as_ref().and_then(|path| tree.get(path)) {
        Some(entry) => {
            read.extend(path);
            // One byte more than allowed is enough to be refused.
            wire::frame(Tag::File, entry.bytes.get(..=MAX_SOURCE).unwrap_or(&entry.bytes))
        }
        None => wire::frame(Tag::NoFile, b""),
    }
}

/// Reads it from the signal, and from the words that Rust's runtime has for it: it aborts in both cases.
fn cause(status: ExitStatus, words: &str) -> End {
    let is = |signal: Signal| status.signal() == Some(signal.as_raw());
    if is(Signal::XCPU) {
        End::Time
    } else if is(Signal::KILL) {
        End::Killed
    } else if words.contains("memory allocation") {
        End::Memory
    } else if is(Signal::SEGV) || words.contains("overflowed its stack") {
        End::Depth
    } else {
        End::Other
    }
}

fn ended(path: &RepoPath, end: End) -> RenderError {
    let (reason, message) = match end {
        End::Time => (
            Reason::TooLarge,
            format!("the template takes too long; all templates of a Sync have {CPU_SECONDS} s of processor time"),
        ),
        End::Memory => (
            Reason::TooLarge,
            format!(
                "the template takes more than {} MiB of memory, the limit for all templates of a Sync",
                MEMORY >> 20
            ),
        ),
        End::Depth => (
            Reason::TooLarge,
            format!("the template nests deeper than the {} MiB of stack that it has; nest less", STACK >> 20),
        ),
        End::Slow => (
            Reason::Interrupted,
            format!(
                "the templates of the Sync were not rendered within {} s, the machine is slow or busy; it is tried again",
                WALL.as_secs()
            ),
        ),
        End::Killed => (
            Reason::Interrupted,
            "the process that renders the template was killed, the memory of the controller may be short; it is tried \
             again"
                .into(),
        ),
        End::Other => (
            Reason::Interrupted,
            "the process that renders the template ended; this is a bug in Pilothouse, it is tried again".into(),
        ),
    };
    RenderError { file: path.clone(), line: 0, reason, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Class, Failure};

    #[test]
    fn ends_have_causes() {
        for (raw, words, want) in [
            (Signal::XCPU.as_raw(), "", End::Time),
            (Signal::KILL.as_raw(), "", End::Killed),
            (Signal::ABORT.as_raw(), "memory allocation of 12 bytes failed\n", End::Memory),
            (Signal::ABORT.as_raw(), "\nthread 'templates' has overflowed its stack\n", End::Depth),
            (Signal::SEGV.as_raw(), "", End::Depth),
            (Signal::ABORT.as_raw(), "", End::Other),
            (1 << 8, "error: the renderer panicked", End::Other),
        ] {
            assert_eq!(cause(ExitStatus::from_raw(raw), words), want, "{raw} {words}");
        }
    }

    #[test]
    fn what_the_machine_did_is_tried_again() {
        let class = |end| Failure::from(ended(&RepoPath::parse("a.yaml.j2").unwrap(), end)).class;
        assert_eq!([End::Slow, End::Killed, End::Other].map(class), [Class::Transient; 3]);
        assert_eq!([End::Time, End::Memory, End::Depth].map(class), [Class::Stalled; 3]);
    }

    #[test]
    fn a_template_gets_templates_of_its_tree_alone() {
        let big = "x".repeat(MAX_SOURCE + 9);
        let tree: FileTree = [("a.j2", "text"), ("secret.yaml", "no"), ("big.j2", &big)].into_iter().collect();
        let mut read = BTreeSet::new();
        let none = wire::frame(Tag::NoFile, b"").unwrap();
        for path in ["b.j2", "secret.yaml", "../a.j2", "/a.j2", ""] {
            assert_eq!(wanted(&tree, path.as_bytes(), &mut read).unwrap(), none, "{path}");
        }
        assert!(read.is_empty());
        assert_eq!(wanted(&tree, b"a.j2", &mut read).unwrap(), wire::frame(Tag::File, b"text").unwrap());
        assert_eq!(wanted(&tree, b"big.j2", &mut read).unwrap().len(), HEADER + MAX_SOURCE + 1);
        assert_eq!(read.len(), 2);
    }
}
