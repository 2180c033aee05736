//! Renders for a Sync, on a thread of their own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    api::names::reasons,
    render::{self, RenderError, Rendered},
    status::Failure,
    tree::{FileTree, RepoPath},
};

/// No render may take longer.
const DEADLINE: Duration = Duration::from_mins(1);
/// For expressions as deep as the largest template can nest them; memory is taken only for what is used.
const STACK: usize = 512 << 20;

/// Renders. A reconcile that is given up ends its render.
pub(super) async fn render(
    tree: Arc<FileTree>,
    path: RepoPath,
    context: render::Context,
) -> Result<Result<Rendered, RenderError>, Failure> {
    let stop = StopOnDrop::default();
    let (stopped, deadline) = (stop.0.clone(), Instant::now() + DEADLINE);
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let work = move || {
        let stopped = || stopped.load(Ordering::Relaxed) || Instant::now() > deadline;
        // Nobody waits any more where this fails.
        let _ = sender.send(render::render_until(&tree, &path, &context, &stopped));
    };
    std::thread::Builder::new().name("render".into()).stack_size(STACK).spawn(work).map_err(|e| {
        Failure::transient(reasons::INTERNAL_ERROR, format!("cannot start a thread for the render: {e}"))
    })?;
    receiver.await.map_err(|_| Failure::transient(reasons::INTERNAL_ERROR, "a bug in Pilothouse: the render panicked"))
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

    /// On a thread of 2 MiB they end the process.
    #[tokio::test]
    async fn a_deep_expression_is_an_error_or_a_result() {
        for text in [format!("{{{{ 1{} }}}}", "+1".repeat(32_000)), format!("{{{{ {}1 }}}}", "(".repeat(60_000))] {
            let tree: FileTree = [("a.yaml.j2", text.as_str())].into_iter().collect();
            let rendered = render(Arc::new(tree), RepoPath::root(), render::Context::default()).await.unwrap();
            assert!(rendered.is_err());
        }
    }
}
