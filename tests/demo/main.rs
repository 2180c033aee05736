//! `make demo`: the main job on a real cluster, told as it happens.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a demo stops at the first surprise")]

#[path = "../it/common/mod.rs"]
mod common;
mod screen;
mod story;
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    let once = std::env::var_os("DEMO_ONCE").is_some_and(|v| !v.is_empty() && v != "0");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let told = runtime.block_on(async {
        tokio::select! {
            told = story::tell(once) => told,
            _ = tokio::signal::ctrl_c() => {
                screen::say("cleaning up");
                // Who breaks off a story that was to be told once has not seen it happen.
                if once { Err("interrupted".into()) } else { Ok(()) }
            }
        }
    });
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            screen::bad(&what);
            ExitCode::FAILURE
        }
    }
}
