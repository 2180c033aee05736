//! Child processes that end with this program.

use std::process::Command;

/// A command whose process the kernel kills when the thread that started it ends, and so also when the tests are killed.
/// Start it from a thread that outlives the process: the test's own.
pub(crate) fn bound(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    command
}
