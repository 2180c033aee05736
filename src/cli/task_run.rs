//! `pilothouse task-run`, run in Task pods.

use std::process::ExitCode;

use crate::pod::task_run::{self, TaskRunArgs};

/// Runs the Task; the exit code says how it ended.
pub async fn run(args: &TaskRunArgs) -> ExitCode {
    ExitCode::from(task_run::run(args).await)
}
