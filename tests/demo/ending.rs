//! How the demo ends: by itself, or by a Ctrl-C.

use tokio::signal::unix::{SignalKind, signal};

use super::{screen, shell};

/// Ctrl-C and a kind kill end the story at its next step, and everything is taken away. They are heard once: what takes
/// away is not to be broken off.
pub(crate) async fn interrupts() {
    let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return;
    };
    loop {
        tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
        if shell::interrupt() {
            screen::say("cleaning up");
        } else {
            screen::say("still cleaning up");
        }
    }
}

/// The exit code of a story that was told so far. Who breaks off one that was to be told `once` has not seen it happen.
pub(crate) fn code(told: Result<(), String>, once: bool) -> u8 {
    match told {
        Ok(()) => 0,
        Err(_) if shell::interrupted() => {
            if once {
                130
            } else {
                0
            }
        }
        Err(what) => {
            screen::bad(&what);
            1
        }
    }
}
