//! The end of a pod, told by the kubelet.
//!
//! When a pod ends, the kubelet runs two hooks side by side. `pilothouse drain` in the sidecar's container sends a
//! signal to the sidecar: the door refuses new prompts from then on. The server's hook asks the door's `/drained`, which
//! answers when all work has ended; the server is stopped after that. Only who may run commands in the sidecar's
//! container can make it drain: not another pod, and not the agent itself.

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};

use super::work::Work;

/// Flags of `pilothouse drain`.
#[derive(Args, Clone, Debug)]
pub struct DrainArgs {
    /// Process of the sidecar; in its container it is the first one
    #[arg(long, default_value_t = 1, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: i32,
}

/// Tells the sidecar that its pod ends.
pub fn tell(args: &DrainArgs) -> std::io::Result<()> {
    let pid = Pid::from_raw(args.pid).ok_or(std::io::ErrorKind::InvalidInput)?;
    Ok(kill_process(pid, Signal::USR1)?)
}

/// Drains when told so. Never returns.
pub(super) async fn listen(work: &Work) {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::user_defined1()) {
        Ok(mut told) => {
            while told.recv().await.is_some() {
                tracing::info!("the pod ends: new prompts are refused, and work goes on to its end");
                work.drain();
            }
        }
        Err(error) => tracing::warn!(%error, "cannot listen for the pod's end: it may cut work"),
    }
    std::future::pending::<()>().await;
}
