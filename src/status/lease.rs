//! Leader election: what to do with a Lease (pure).
//!
//! The rules are those of client-go's leader election: a candidate trusts its own clock only. It remembers when it last
//! saw the Lease change, and takes over when nothing changed for the Lease's duration. Skewed clocks do no harm.

use std::time::Duration;

/// What a replica has seen of the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who holds it; empty when it was given back.
    pub holder: String,
    /// How long a holder may be silent.
    pub duration: Duration,
    /// How long ago, by the replica's own clock, the Lease last changed.
    pub unchanged_for: Duration,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write ourselves as the new holder.
    Acquire,
    /// Write a new renewal time.
    Renew,
    /// Somebody else holds it.
    Follow,
}

/// Decides for the replica `me`; `None` means that there is no Lease yet.
pub fn step(seen: Option<&Seen>, me: &str) -> Step {
    match seen {
        None => Step::Acquire,
        Some(seen) if seen.holder == me => Step::Renew,
        Some(seen) if seen.holder.is_empty() || seen.unchanged_for >= seen.duration => Step::Acquire,
        Some(_) => Step::Follow,
    }
}

/// Whether a leader that last renewed `since` ago must consider itself deposed. It gives up at two thirds of the
/// duration, before anybody else may take over.
pub fn expired(since: Duration, duration: Duration) -> bool {
    since >= duration * 2 / 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps() {
        let seen = |holder: &str, unchanged| Seen {
            holder: holder.into(),
            duration: Duration::from_secs(12),
            unchanged_for: Duration::from_secs(unchanged),
        };
        let cases = [
            (None, Step::Acquire),
            (Some(seen("me", 0)), Step::Renew),
            (Some(seen("me", 100)), Step::Renew),
            (Some(seen("", 0)), Step::Acquire),
            (Some(seen("other", 0)), Step::Follow),
            (Some(seen("other", 11)), Step::Follow),
            (Some(seen("other", 12)), Step::Acquire),
        ];
        for (seen, want) in cases {
            assert_eq!(step(seen.as_ref(), "me"), want, "{seen:?}");
        }
    }

    #[test]
    fn a_leader_gives_up_before_others_may_take_over() {
        let duration = Duration::from_secs(12);
        assert!(!expired(Duration::from_secs(7), duration));
        assert!(expired(Duration::from_secs(8), duration));
    }
}
