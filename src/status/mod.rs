//! Conditions, error classes, backoff: what a reconcile tells the world and when it comes again (pure).

pub mod backoff;
pub mod condition;
pub mod lease;
pub mod panic;
pub mod text;

pub use backoff::Backoff;
pub use condition::{Condition, set_condition, truncate};
pub use text::plain;

use std::time::Duration;

/// What must happen before a failed effect is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Try again by itself: exponential backoff with full jitter.
    Transient,
    /// An event, or a deadline, will wake the object; no retry before.
    Waiting,
    /// Nothing but a change of the spec or of an input helps.
    Stalled,
}

/// Effects report failures as this: which class, which condition reason, and a message fit for a user.
///
/// Messages must not hold secrets, times or counters that tick (they would cause status writes).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Decides the retry.
    pub class: Class,
    /// CamelCase, stable: users match on it.
    pub reason: &'static str,
    /// One or two sentences: what is wrong and what to do.
    pub message: String,
}

impl Failure {
    /// A failure that is retried with backoff.
    pub fn transient(reason: &'static str, message: impl Into<String>) -> Self {
        Self { class: Class::Transient, reason, message: message.into() }
    }

    /// A failure that waits for an event.
    pub fn waiting(reason: &'static str, message: impl Into<String>) -> Self {
        Self { class: Class::Waiting, reason, message: message.into() }
    }

    /// A failure that no retry mends.
    pub fn stalled(reason: &'static str, message: impl Into<String>) -> Self {
        Self { class: Class::Stalled, reason, message: message.into() }
    }
}

/// When a reconcile that went well wants to come again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Next {
    /// Only when something it read changes.
    #[default]
    OnEvent,
    /// After this long, or earlier when something it read changes.
    After(Duration),
}

impl Next {
    /// The earlier of the two.
    #[must_use]
    pub fn or_earlier(self, other: Self) -> Self {
        match (self, other) {
            (Self::After(a), Self::After(b)) => Self::After(a.min(b)),
            (Self::OnEvent, next) | (next, Self::OnEvent) => next,
        }
    }

    /// The same, up to a tenth earlier or later: `share` is drawn from `0.0..1.0`. What waits in great numbers for
    /// something that tells nobody does not come back together.
    #[must_use]
    pub fn spread(self, share: f64) -> Self {
        match self {
            Self::OnEvent => Self::OnEvent,
            Self::After(delay) => Self::After(delay.mul_f64(0.9 + 0.2 * share.clamp(0.0, 1.0))),
        }
    }
}

/// A Kubernetes Event to publish about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whether it is a warning.
    pub warning: bool,
    /// CamelCase reason.
    pub reason: &'static str,
    /// CamelCase action that was tried.
    pub action: &'static str,
    /// At most 1 KiB; no secrets.
    pub message: String,
}

impl Note {
    /// An ordinary event.
    pub fn normal(reason: &'static str, action: &'static str, message: impl Into<String>) -> Self {
        Self { warning: false, reason, action, message: message.into() }
    }

    /// A warning.
    pub fn warning(reason: &'static str, action: &'static str, message: impl Into<String>) -> Self {
        Self { warning: true, reason, action, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spread_comes_about_then() {
        let next = Next::After(Duration::from_secs(30));
        for (share, seconds) in [(0.0, 27), (0.5, 30), (1.0, 33), (-4.0, 27), (9.0, 33)] {
            let Next::After(delay) = next.spread(share) else { panic!("it comes") };
            assert_eq!(delay, Duration::from_secs(seconds), "{share}");
        }
        assert_eq!(Next::OnEvent.spread(0.5), Next::OnEvent);
    }
}
