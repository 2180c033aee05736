//! Whether a Task that failed is tried again, and when.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::budget::Budget;
use crate::api::{GoDuration, Task, TaskPhase, TaskStatus, TaskTry, names, names::reasons};

/// Wait before the first further try where the spec does not say.
const BACKOFF: Duration = Duration::from_secs(30);
/// No wait is longer, unless the first one is.
const LONGEST: Duration = Duration::from_hours(1);

/// `spec.retry`, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How many further tries there are.
    pub limit: usize,
    /// Wait before the first one.
    pub backoff: Duration,
}

impl Retry {
    /// Reads the spec; what the schema would have refused is an error that names the field.
    pub fn of(task: &Task) -> Result<Self, String> {
        let Some(spec) = &task.spec.retry else {
            return Ok(Self { limit: 0, backoff: BACKOFF });
        };
        let backoff = match &spec.backoff {
            Some(text) => GoDuration::parse(text).map_err(|e| format!("spec.retry.backoff: {e}"))?,
            None => BACKOFF,
        };
        Ok(Self { limit: usize::try_from(spec.limit).unwrap_or_default(), backoff })
    }

    /// Wait after so many tries have failed, from 1: doubled each time.
    pub fn wait(&self, failed: usize) -> Duration {
        let doubled = u32::try_from(failed.saturating_sub(1)).unwrap_or(u32::MAX);
        let factor = 2_u32.checked_pow(doubled).unwrap_or(u32::MAX);
        self.backoff.saturating_mul(factor).min(LONGEST.max(self.backoff))
    }
}

/// When the next try is, if there is one after a try that failed for `reason` at `end`.
pub fn next(task: &Task, reason: &str, end: Timestamp) -> Option<Timestamp> {
    let retry = Retry::of(task).ok()?;
    let failed = super::tries(task) + 1;
    // Somebody aborted the session by hand: he does not want it again.
    if failed > retry.limit || reason == reasons::ABORTED || Budget::of(task).is_ok_and(|b| b.left(task).is_spent()) {
        return None;
    }
    let wait = SignedDuration::try_from(retry.wait(failed)).unwrap_or(SignedDuration::MAX);
    Some(end.checked_add(wait).unwrap_or(Timestamp::MAX))
}

/// Title of the session of the present try. What failed in the session gets another one; what failed around it goes on
/// with the same: the agent may still be at work there. A pod that was lost without a word may wake up and abort the
/// session that it knows, so the next try has another one too.
pub fn session_title(task: &Task) -> String {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let meta = &task.metadata;
    let title = names::task::session_title(&text(&meta.namespace), &text(&meta.name), &text(&meta.uid));
    let over = tries(task).iter().filter(|t| ends_session(&t.reason) || is_silent(&t.reason)).count();
    if over == 0 { title } else { format!("{title}/{}", over + 1) }
}

/// Whether a Task that is not finished has begun: it may have a session.
pub fn is_begun(task: &Task) -> bool {
    let started = task.status.as_ref().is_some_and(|s| s.start_time.is_some() || !s.tries.is_empty());
    started && !super::is_finished(task)
}

/// Whether a Task ends now while its session may go on: its pod is gone or was killed, and could not stop it.
pub fn leaves_session(task: &Task, after: &TaskStatus) -> bool {
    let began = after.start_time.is_some() || !after.tries.is_empty();
    let ends = after.phase.is_some_and(TaskPhase::is_terminal) && !super::is_finished(task);
    let condition = |kind: &str| after.conditions.iter().find(|c| c.type_ == kind && c.status == "True");
    // One that has answered is at rest.
    let answered = after.phase == Some(TaskPhase::Completed) && condition(names::condition::STOPPED).is_none();
    let over = condition(names::condition::STALLED).is_some_and(|c| ends_session(&c.reason));
    began && ends && !answered && !over
}

/// What has to stop before a further try begins, so that nobody works on the same beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing: the last session is over.
    Nothing,
    /// The session in pods of the agent that end: the try looks for it in the others alone.
    InEndingPods,
    /// The session, wherever it is: the try has another one.
    Everywhere,
}

/// What has to stop before the present try of a Task begins.
pub fn before(task: &Task) -> Before {
    match tries(task).last() {
        None => Before::Nothing,
        Some(last) if is_silent(&last.reason) => Before::Everywhere,
        Some(last) if ends_session(&last.reason) => Before::Nothing,
        Some(_) => Before::InEndingPods,
    }
}

/// Whether a try fails now whose session nobody goes on with, although it may be at work.
pub fn drops_session(task: &Task, after: &TaskStatus) -> bool {
    let new = after.tries.get(tries(task).len()..).unwrap_or_default();
    new.iter().any(|failed| is_silent(&failed.reason))
}

fn tries(task: &Task) -> &[TaskTry] {
    task.status.as_ref().map_or(&[], |s| &s.tries)
}

pub(super) fn ends_session(reason: &str) -> bool {
    [reasons::AGENT_ERROR, reasons::SESSION_LOST].contains(&reason)
}

fn is_silent(reason: &str) -> bool {
    reason == reasons::POD_LOST
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::task;

    fn task(limit: i32, backoff: Option<&str>, failed: &[&str]) -> Task {
        let mut task = Task::new("t", crate::api::TaskSpec::default());
        task.metadata.namespace = Some("ns".into());
        task.metadata.uid = Some("0123456789".into());
        task.spec.retry = Some(task::Retry { limit, backoff: backoff.map(Into::into) });
        let tries = failed.iter().map(|r| TaskTry { reason: (*r).into(), ..TaskTry::default() }).collect();
        task.status = Some(TaskStatus { tries, ..TaskStatus::default() });
        task
    }

    #[test]
    fn waits_double_up_to_an_hour() {
        let end = Timestamp::UNIX_EPOCH;
        // limit | backoff | failed before | wait in seconds
        let table: &[(i32, Option<&str>, usize, Option<i64>)] = &[
            (0, None, 0, None),
            (1, None, 0, Some(30)),
            (1, None, 1, None),
            (3, None, 2, Some(120)),
            (10, None, 9, Some(3_600)),
            (2, Some("10s"), 1, Some(20)),
            (2, Some("3h"), 1, Some(10_800)),
            (2, Some("0s"), 1, Some(0)),
        ];
        for (limit, backoff, before, wait) in table {
            let task = task(*limit, *backoff, &vec![reasons::POD_LOST; *before]);
            let at = next(&task, reasons::POD_LOST, end).map(Timestamp::as_second);
            assert_eq!(at, *wait, "{limit} {backoff:?} {before}");
        }
        assert_eq!(next(&task(3, None, &[]), reasons::ABORTED, end), None);
        assert_eq!(next(&task(3, None, &[]), reasons::POD_LOST, Timestamp::MAX), Some(Timestamp::MAX));
    }

    #[test]
    fn a_session_that_failed_is_not_gone_on_with() {
        let title = |failed: &[&str]| session_title(&task(9, None, failed));
        assert_eq!(title(&[]), "pilothouse/ns/t/01234567");
        assert_eq!(title(&[reasons::POD_DELETED, reasons::OOM_KILLED]), "pilothouse/ns/t/01234567");
        assert_eq!(title(&[reasons::POD_DELETED, reasons::AGENT_ERROR]), "pilothouse/ns/t/01234567/2");
        assert_eq!(title(&[reasons::POD_LOST]), "pilothouse/ns/t/01234567/2", "its pod may wake up");
        assert_eq!(title(&[reasons::SESSION_LOST, reasons::AGENT_ERROR]), "pilothouse/ns/t/01234567/3");
    }

    #[test]
    fn what_is_left_of_a_try_stops_before_the_next_one() {
        let before = |failed: &[&str]| before(&task(9, None, failed));
        assert_eq!(before(&[]), Before::Nothing);
        assert_eq!(before(&[reasons::AGENT_ERROR]), Before::Nothing);
        assert_eq!(before(&[reasons::POD_LOST]), Before::Everywhere);
        assert_eq!(before(&[reasons::POD_LOST, reasons::OOM_KILLED]), Before::InEndingPods);
        let lost = task(9, None, &[reasons::POD_LOST]);
        let status = |task: &Task| task.status.clone().unwrap();
        assert!(drops_session(&task(9, None, &[]), &status(&lost)) && !drops_session(&lost, &status(&lost)));
        let killed = status(&task(9, None, &[reasons::POD_LOST, reasons::OOM_KILLED]));
        assert!(!drops_session(&lost, &killed), "the agent goes on with it");
    }

    #[test]
    fn a_session_is_stopped_that_nobody_follows() {
        let condition = |kind: &str, reason: &str| {
            serde_json::json!({"type": kind, "status": "True", "reason": reason, "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        let after = |phase: &str, started: bool, conditions: Vec<serde_json::Value>| -> TaskStatus {
            let start = started.then_some("2026-01-01T00:00:00Z");
            serde_json::from_value(serde_json::json!({"phase": phase, "startTime": start, "conditions": conditions}))
                .unwrap()
        };
        let table = [
            (after("Running", true, vec![]), false),
            (after("Completed", true, vec![condition("Ready", "Completed")]), false),
            (after("Completed", true, vec![condition("Stopped", "UserStopped")]), true),
            (after("Completed", false, vec![condition("Stopped", "UserStopped")]), false),
            (after("Failed", true, vec![condition("Stalled", "PodLost")]), true),
            (after("Failed", true, vec![condition("Stalled", "OOMKilled")]), true),
            (after("Failed", true, vec![condition("Stalled", "AgentError")]), false),
        ];
        for (status, expected) in table {
            assert_eq!(leaves_session(&task(0, None, &[]), &status), expected, "{status:?}");
            let finished = Task { status: Some(after("Failed", true, vec![])), ..task(0, None, &[]) };
            assert!(!leaves_session(&finished, &status), "it has ended before");
        }
        assert!(is_begun(&task(1, None, &[reasons::POD_LOST])) && !is_begun(&task(1, None, &[])));
    }
}
