//! `make demo`: the main job on a real cluster, told as it happens.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a demo stops at the first surprise")]

#[path = "../it/common/mod.rs"]
mod common;
mod embedded;
mod foreign;
mod half;
mod live;
mod screen;
mod serve;
mod shell;
mod story;
mod world;

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    if std::env::args().nth(1).as_deref() == Some("serve") {
        return runtime.block_on(serve::serve());
    }
    let once = std::env::var_os("DEMO_ONCE").is_some_and(|v| !v.is_empty() && v != "0");
    let told = runtime.block_on(async {
        tokio::spawn(interrupts());
        // On a thread of its own: most of it waits for other programs.
        tokio::spawn(story::tell(once)).await
    });
    let told = told.unwrap_or_else(|_| Err("the demo broke: see above".into()));
    match told {
        Ok(()) => ExitCode::SUCCESS,
        // Who breaks off a story that was to be told once has not seen it happen.
        Err(_) if shell::interrupted() => ExitCode::from(if once { 130 } else { 0 }),
        Err(what) => {
            screen::bad(&what);
            ExitCode::FAILURE
        }
    }
}

/// Ctrl-C and a kind kill end the story at its next step, and everything is taken away. They are heard once: what takes
/// away is not to be broken off.
async fn interrupts() {
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
