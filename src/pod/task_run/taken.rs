//! Whether a pod has taken the prompt (pure).

use super::ending::Ending;
use crate::pod::opencode::Error;

/// What the answer to a prompt says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is this pod's now.
    Taken,
    /// This pod does not have it: it may be taken to another.
    Elsewhere,
    /// This pod may have it or not.
    Unknown,
    /// No pod will take it.
    Refused,
}

impl Sent {
    /// Reads the answer.
    pub fn of<T>(answer: &Result<T, Error>) -> Self {
        match answer {
            Ok(_) => Self::Taken,
            // 503 and 421 are the door's: it passes nothing on then. 404: the session is not there.
            Err(Error::Unreachable { sent: false, .. } | Error::Refused { status: 404 | 421 | 429 | 503, .. }) => {
                Self::Elsewhere
            }
            Err(error) if error.is_transient() => Self::Unknown,
            Err(_) => Self::Refused,
        }
    }
}

/// Whether a call may go well later, with this pod or another.
pub(super) fn may_pass(error: &Error) -> bool {
    error.is_transient() || matches!(error, Error::Refused { status: 404 | 421, .. })
}

/// Why no pod has the prompt.
pub(super) enum NotTaken {
    /// The next attempt may go better.
    Yet(Error),
    /// None will.
    Never(Ending),
}

/// Of a call before the prompt is sent.
impl From<Error> for NotTaken {
    fn from(error: Error) -> Self {
        if may_pass(&error) { Self::Yet(error) } else { Self::Never(Ending::from_error(&error)) }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn only_a_prompt_that_was_surely_not_taken_goes_elsewhere() {
        let refused = |status| {
            let (method, path, message) = (Method::POST, "/session/s/prompt_async".into(), String::new());
            Err(Error::Refused { method, path, status, message })
        };
        let broken = |sent| Err(Error::Unreachable { url: String::new(), why: String::new(), sent });
        for (answer, expected) in [
            (Ok(()), Sent::Taken),
            (refused(503), Sent::Elsewhere),
            (refused(421), Sent::Elsewhere),
            (refused(429), Sent::Elsewhere),
            (refused(404), Sent::Elsewhere),
            (broken(false), Sent::Elsewhere),
            (broken(true), Sent::Unknown),
            (refused(502), Sent::Unknown),
            (refused(504), Sent::Unknown),
            (refused(400), Sent::Refused),
            (refused(500), Sent::Refused),
            (Err(Error::Unauthorized { url: String::new() }), Sent::Refused),
        ] {
            assert_eq!(Sent::of(&answer), expected, "{answer:?}");
        }
    }
}
