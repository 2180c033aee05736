//! How a Task ended, as exit code and last words.

use std::path::Path;

use serde::Serialize;

use crate::{
    api::{
        names::reasons,
        task::{SessionSummary, TaskSession, TokenUsage},
    },
    pod::opencode::{Error, Session, SessionError},
    status::condition::truncate,
};

/// Messages that are counted; a longer session has no count.
pub(super) const COUNTED: usize = 200;
/// The kubelet keeps 4096 bytes of last words.
const MAX_WORDS: usize = 4000;
/// Longest message, in characters.
const MAX_MESSAGE: usize = 500;
/// Longest answer that is kept, in bytes.
const MAX_RESULT: usize = 1536;

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The agent finished.
    Completed,
    /// The pod lacks what it needs.
    Misconfigured,
    /// The agent or its model failed.
    AgentError,
    /// The time was up.
    Timeout,
    /// It took more than its budget.
    BudgetExceeded,
    /// Somebody stopped it.
    Aborted,
    /// The server was not reached for too long.
    Unreachable,
    /// The server does not know the session any more, or was restarted under it.
    SessionLost,
}

impl Outcome {
    /// Exit code of the process.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Completed => 0,
            Self::Misconfigured => 2,
            Self::AgentError => 10,
            Self::Timeout => 20,
            Self::BudgetExceeded => 21,
            Self::Aborted => 30,
            Self::Unreachable | Self::SessionLost => 40,
        }
    }

    /// Reason of the Task's condition.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Completed => reasons::COMPLETED,
            Self::Misconfigured => "",
            Self::AgentError => reasons::AGENT_ERROR,
            Self::Timeout => reasons::TIMEOUT,
            Self::BudgetExceeded => reasons::BUDGET_EXCEEDED,
            Self::Aborted => reasons::ABORTED,
            Self::Unreachable => reasons::UNREACHABLE,
            Self::SessionLost => reasons::SESSION_LOST,
        }
    }
}

/// How it ended, with words.
#[derive(Clone, Debug, PartialEq)]
pub struct Ending {
    /// How.
    pub outcome: Outcome,
    /// For people; empty where it completed.
    pub message: String,
    /// The answer, at most `MAX_RESULT` bytes of it.
    pub result: String,
    /// The end of what was printed.
    pub log: String,
    /// The session, if there was one.
    pub session: Option<TaskSession>,
}

#[derive(Serialize)]
struct LastWords<'a> {
    reason: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    result: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    log: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a TaskSession>,
}

impl Ending {
    /// Without a session.
    pub fn new(outcome: Outcome, message: impl Into<String>) -> Self {
        let message: String = message.into();
        let message = message.chars().take(MAX_MESSAGE).collect();
        Self { outcome, message, result: String::new(), log: String::new(), session: None }
    }

    /// With an answer.
    pub(super) fn answering(self, answer: &str) -> Self {
        Self { result: truncate(answer.trim(), MAX_RESULT), ..self }
    }

    /// A call failed for good.
    pub(super) fn from_error(error: &Error) -> Self {
        let outcome = match error {
            Error::Unreachable { .. } => Outcome::Unreachable,
            Error::Refused { status: 404 | 421, .. } => Outcome::SessionLost,
            error if error.is_transient() => Outcome::Unreachable,
            Error::BadUrl(_) => Outcome::Misconfigured,
            Error::Refused { .. } | Error::Unauthorized { .. } | Error::Unknown { .. } => Outcome::AgentError,
        };
        Self::new(outcome, error.to_string())
    }

    /// The server reported an error for the session.
    pub(super) fn from_session_error(error: &SessionError) -> Self {
        let text = error.data.message.as_deref().unwrap_or("no details were given");
        if error.name == super::ABORTED {
            return Self::new(Outcome::Aborted, format!("the session was aborted on the agent's server: {text}"));
        }
        Self::new(Outcome::AgentError, format!("{}: {text}", error.name))
    }

    /// Writes the last words. The file exists in a pod; it is written in place.
    pub fn write(&self, file: &Path) -> std::io::Result<()> {
        std::fs::write(file, self.words()?)
    }

    /// The last words: what matters least is left out where there is too much. Text grows when it is quoted.
    fn words(&self) -> serde_json::Result<String> {
        let words = |result, log| {
            let (reason, message, session) = (self.outcome.reason(), self.message.as_str(), self.session.as_ref());
            serde_json::to_string(&LastWords { reason, message, result, log, session })
        };
        for (result, log) in [(self.result.as_str(), self.log.as_str()), (&self.result, ""), ("", "")] {
            let text = words(result, log)?;
            if text.len() <= MAX_WORDS {
                return Ok(text);
            }
        }
        words("", "")
    }
}

/// The session, as a Task's status has it.
pub(super) fn describe(session: &Session, messages: Option<usize>) -> TaskSession {
    let count = |n: f64| {
        #[allow(clippy::cast_possible_truncation)] // saturates
        let whole = n as i64;
        (whole > 0).then_some(whole)
    };
    let small = |n: u64| i32::try_from(n).ok();
    let tokens = session.tokens.map(|t| TokenUsage {
        input: count(t.input),
        output: count(t.output),
        reasoning: count(t.reasoning),
        cache: count(t.cache.read + t.cache.write),
    });
    let changes = session.summary.as_ref();
    let summary = SessionSummary {
        message_count: messages.filter(|n| *n < COUNTED).and_then(|n| i32::try_from(n).ok()),
        token_usage: tokens,
        cost: session.cost.map(|cost| format!("{cost:.6}")),
        files_changed: changes.and_then(|c| small(c.files)),
        additions: changes.and_then(|c| small(c.additions)),
        deletions: changes.and_then(|c| small(c.deletions)),
    };
    TaskSession { id: Some(session.id.clone()), title: Some(session.title.clone()), summary: Some(summary) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_never_longer_than_the_kubelet_keeps() {
        let ending =
            |result: String, log: String| Ending { log, ..Ending::new(Outcome::Completed, "").answering(&result) };
        let words = |ending: &Ending| serde_json::from_str::<serde_json::Value>(&ending.words().unwrap()).unwrap();
        let short = words(&ending("the answer".into(), "the log".into()));
        assert_eq!((&short["result"], &short["log"]), (&"the answer".into(), &"the log".into()));
        // Text that grows sixfold when it is quoted.
        for n in [0, 100, 500, 1_500, 10_000] {
            let long = ending("\u{1}".repeat(n), "\u{1}".repeat(n.min(1024)));
            assert!(long.words().unwrap().len() <= MAX_WORDS, "{n}");
        }
        let both = words(&ending("a".repeat(9_999), "b".repeat(1024)));
        assert!(both["result"].as_str().unwrap().len() <= MAX_RESULT && both["log"].as_str().unwrap().len() == 1024);
    }
}
