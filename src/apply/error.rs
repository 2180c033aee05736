//! What the API server refuses, in words that help.

use kube::core::Status;

use super::account::Account;
use crate::{
    api::names::reasons,
    plan::Origin,
    status::{Class, Failure},
};

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The object, its namespace or its kind does not exist.
    #[error("{0}")]
    NotFound(String),
    /// It exists already, or is not what the request expected.
    #[error("{0}")]
    Conflict(String),
    /// The account has no right to.
    #[error("{0}")]
    Forbidden(String),
    /// The object is refused.
    #[error("{message}")]
    Rejected {
        /// HTTP status.
        code: u16,
        /// The server's words.
        message: String,
    },
    /// The server did not answer, or cannot now. Tried again.
    #[error("the API server is not available: {0}")]
    Unavailable(String),
}

impl ApiError {
    pub(super) fn from_status(code: u16, status: Status) -> Self {
        let message =
            if status.message.is_empty() { format!("the API server answered {code}") } else { status.message };
        match code {
            404 => Self::NotFound(message),
            409 => Self::Conflict(message),
            403 => Self::Forbidden(message),
            // An unknown field, which the server reports as a fault of its own.
            500 if message.starts_with("failed to create typed patch object") => Self::Rejected { code, message },
            408 | 429 | 500..=599 => Self::Unavailable(message),
            _ => Self::Rejected { code, message },
        }
    }

    /// Whether it goes away by itself.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Conflict(_))
    }
}

/// One object that could not be brought about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The object, `Kind/namespace/name`.
    pub object: String,
    /// Where it comes from; a pruned object comes from nowhere.
    pub origin: Option<Origin>,
    /// Condition reason.
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
    /// Whether it goes away by itself.
    pub transient: bool,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        write!(f, "{}: {}", self.object, self.message)
    }
}

/// What was tried, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tried<'a> {
    pub(super) verb: &'static str,
    pub(super) plural: &'a str,
    pub(super) namespace: &'a str,
}

/// The condition reason and the message for `error`.
pub(super) fn explain(account: &Account, tried: Tried<'_>, error: &ApiError) -> (&'static str, String) {
    if tried.plural == "secrets" {
        return explain_secret(account, tried, error);
    }
    let reason = match error {
        ApiError::Forbidden(message) if message.contains("cannot") => {
            return (reasons::FORBIDDEN, forbidden(account, tried, message));
        }
        ApiError::Forbidden(_) => reasons::FORBIDDEN,
        ApiError::Unavailable(_) => reasons::CLUSTER_UNAVAILABLE,
        _ => reasons::APPLY_FAILED,
    };
    let message = match error {
        ApiError::NotFound(text) if text.starts_with("namespaces ") => {
            format!("namespace {} does not exist; create it, or put it into the files", tried.namespace)
        }
        ApiError::Rejected { message, .. } if message.contains("immutable") || message.contains("may not change") => {
            format!("a field cannot be changed in place; delete the object, and it is created anew: {message}")
        }
        other => other.to_string(),
    };
    (reason, message)
}

/// The server quotes values in its answers: of a Secret nothing but the field is told.
fn explain_secret(account: &Account, tried: Tried<'_>, error: &ApiError) -> (&'static str, String) {
    let at = |message: &str| secret_field(message).map_or_else(String::new, |field| format!(" because of {field}"));
    match error {
        ApiError::Forbidden(message) if message.contains(" cannot ") && account.service_account_name().is_some() => {
            (reasons::FORBIDDEN, forbidden(account, tried, ""))
        }
        ApiError::Forbidden(message) => {
            (reasons::FORBIDDEN, format!("writing it is forbidden{}; {UNTOLD}", at(message)))
        }
        ApiError::Unavailable(_) => {
            (reasons::CLUSTER_UNAVAILABLE, format!("the API server or a webhook does not answer; {UNTOLD}"))
        }
        ApiError::NotFound(text) if text.starts_with("namespaces ") => {
            let message = format!("namespace {} does not exist; create it, or put it into the files", tried.namespace);
            (reasons::APPLY_FAILED, message)
        }
        ApiError::NotFound(_) => (reasons::APPLY_FAILED, "it does not exist any more".into()),
        ApiError::Conflict(_) => (reasons::APPLY_FAILED, "somebody else changes it at the same time".into()),
        ApiError::Rejected { code, message } => {
            (reasons::APPLY_FAILED, format!("the API server refuses it ({code}){}; {UNTOLD}", at(message)))
        }
    }
}

const UNTOLD: &str = "its words are not shown, they may quote the Secret; kubectl apply --dry-run=server shows them";

/// The first field of a Secret that a message names; keys are no secrets, values come after them.
fn secret_field(message: &str) -> Option<&str> {
    let (_, told) = message.split_once(": ")?;
    let field = told.split(|c: char| c.is_whitespace() || matches!(c, '"' | ':' | ',' | '=')).next()?;
    let field = field.trim_start_matches('.');
    let (first, rest) = field.split_at(field.find(['.', '[']).unwrap_or(field.len()));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '[' | ']' | '-' | '_');
    let known = matches!(first, "data" | "stringData" | "metadata" | "type" | "immutable");
    let whole = rest.contains('[') == rest.ends_with(']');
    (known && whole && rest.len() <= 253 && rest.chars().all(plain)).then_some(field)
}

/// Names the account, the verb, the resource, and the binding to write.
fn forbidden(account: &Account, tried: Tried<'_>, message: &str) -> String {
    let Some((namespace, name)) = account.service_account_name() else { return message.into() };
    let verb = message.split("cannot ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or(tried.verb);
    let (place, binding, flag) = if tried.namespace.is_empty() {
        ("in the whole cluster".to_owned(), "clusterrolebinding", String::new())
    } else {
        (format!("in namespace {}", tried.namespace), "rolebinding", format!(" -n {}", tried.namespace))
    };
    let role = account.role().unwrap_or("ROLE");
    // Who may not look there cannot tell whether it is there.
    let first = match tried.namespace {
        "" => "",
        own if own == namespace => "",
        _ => "create that namespace if it is not there, and ",
    };
    format!(
        "ServiceAccount {name} of namespace {namespace} may not {verb} {} {place}; {first}bind a role that \
         allows it, for example: kubectl create {binding} pilothouse-sync-{name} --clusterrole={role} \
         --serviceaccount={namespace}:{name}{flag}",
        tried.plural
    )
}

/// One failure for all problems: the first few by name, sorted, so that the message is the same for the same problems.
pub fn failure(problems: &[Problem]) -> Option<Failure> {
    const SHOWN: usize = 3;
    let mut sorted: Vec<&Problem> = problems.iter().collect();
    sorted.sort_by_key(|p| (p.transient, p.to_string()));
    let first = sorted.first()?;
    let mut message = first.to_string();
    for (before, problem) in sorted.iter().zip(sorted.iter().skip(1)).take(SHOWN - 1) {
        let same = Problem { message: "the same".into(), ..(*problem).clone() };
        let shown = if before.message == problem.message { &same } else { problem };
        message = format!("{message}; {shown}");
    }
    if sorted.len() > SHOWN {
        message = format!("{message}; and {} more", sorted.len() - SHOWN);
    }
    let class = if sorted.iter().all(|p| p.transient) { Class::Transient } else { Class::Waiting };
    Some(Failure { class, reason: first.reason, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(object: &str, transient: bool) -> Problem {
        let origin = Some(Origin { file: "a.yaml".into(), line: 3 });
        Problem { object: object.into(), origin, reason: reasons::APPLY_FAILED, message: "bad".into(), transient }
    }

    #[test]
    fn messages_do_not_depend_on_order() {
        let all: Vec<Problem> = ["d", "a", "c", "b"].iter().map(|n| problem(n, false)).collect();
        let mut reversed = all.clone();
        reversed.reverse();
        let failed = failure(&all).unwrap();
        assert_eq!(Some(&failed), failure(&reversed).as_ref());
        assert_eq!(failed.message, "a.yaml:3: a: bad; a.yaml:3: b: the same; a.yaml:3: c: the same; and 1 more");
        assert_eq!(failure(&[]), None);
    }

    #[test]
    fn of_a_secret_only_the_field_is_told() {
        for (message, want) in [
            (
                "failed to create typed patch object (n/s; /v1, Kind=Secret): .data.key: expected string, got hunter2",
                Some("data.key"),
            ),
            ("Secret \"s\" is invalid: data[a b]: Invalid value: \"hunter2\"", None),
            ("Secret \"s\" is invalid: data[a.b]: Invalid value: \"hunter2\"", Some("data[a.b]")),
            ("Secret \"s\" is invalid: metadata.labels: Invalid value: \"hunter2\"", Some("metadata.labels")),
            ("admission webhook \"x\" denied the request: hunter2 is weak", None),
            ("hunter2", None),
        ] {
            assert_eq!(secret_field(message), want, "{message}");
        }
    }

    #[test]
    fn what_stays_wrong_decides() {
        let failed = failure(&[problem("a", true), problem("b", false)]).unwrap();
        assert_eq!(failed.class, Class::Waiting);
        assert!(failed.message.starts_with("a.yaml:3: b"));
        assert_eq!(failure(&[problem("a", true)]).unwrap().class, Class::Transient);
    }
}
