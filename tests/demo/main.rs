//! `make demo`: the main job on a real cluster, told as it happens.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a demo stops at the first surprise")]

#[path = "../it/common/mod.rs"]
mod common;
mod embedded;
mod ending;
mod foreign;
mod half;
mod live;
mod screen;
mod serve;
mod shell;
mod story;
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    if std::env::args().nth(1).as_deref() == Some("serve") {
        return runtime.block_on(serve::serve());
    }
    let once = std::env::var_os("DEMO_ONCE").is_some_and(|v| !v.is_empty() && v != "0");
    let told = runtime.block_on(async {
        tokio::spawn(ending::interrupts());
        // On a thread of its own: most of it waits for other programs.
        tokio::spawn(story::tell(once)).await
    });
    let told = told.unwrap_or_else(|_| Err("the demo broke: see above".into()));
    ExitCode::from(ending::code(told, once))
}
