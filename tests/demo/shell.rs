//! Other programs, and how the wish to end reaches them.

use std::{
    io::Read,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Ends what runs; whether this is the first time.
pub(crate) fn interrupt() -> bool {
    !INTERRUPTED.swap(true, Ordering::AcqRel)
}

/// Whether the story is to end.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Acquire)
}

/// Runs a command; its output, or what it said on failure. It is ended when the story is.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    exec(command, true)
}

/// The same for what takes things away: a Ctrl-C does not reach it.
pub(crate) fn finish(command: &mut Command) -> Result<String, String> {
    exec(command, false)
}

fn exec(command: &mut Command, mortal: bool) -> Result<String, String> {
    if mortal && interrupted() {
        return Err("interrupted".into());
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|e| format!("{}: {e}", shown(command)))?;
    let (out, err) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
            break status;
        }
        if mortal && interrupted() {
            let _ = child.kill();
            let _ = child.wait();
            return Err("interrupted".into());
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
    if status.success() { Ok(out) } else { Err(format!("{} failed:\n{}", shown(command), err.trim())) }
}

fn drain(from: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = vec![];
        if let Some(mut from) = from {
            let _ = from.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The command as one would type it, shortened: arguments may be long.
fn shown(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let name = program.rsplit('/').next().unwrap_or(&program).to_owned();
    let all = command.get_args().fold(name, |all, arg| format!("{all} {}", arg.to_string_lossy()));
    all.chars().take(200).collect()
}
