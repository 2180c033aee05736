//! How long a change has waited, although clocks jump.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// The present for a change that waits since `since`, as its gate is to see it. This process saw it first when its clock
/// showed `first`, and since then `watched` has passed by a clock that does not jump.
///
/// What was before is believed as the clock says: a crash loses no time. A start in the future (a clock that was set
/// back, another node's clock) has waited for nothing yet. Later the clock may jump as it likes.
pub fn waited_until(since: Timestamp, first: Timestamp, watched: Duration) -> Timestamp {
    let watched = SignedDuration::try_from(watched).unwrap_or(SignedDuration::MAX);
    since.max(first).checked_add(watched).unwrap_or(Timestamp::MAX)
}
