//! What is decided and written while prompts are held at the doors.

use std::time::{Duration, Instant};

use super::{Acted, Who};
use crate::{
    agent::{
        decide::Action,
        gate::{self, Work},
    },
    api::names::reasons,
    controller::agent::{Agents, voice},
    status::{Backoff, Failure},
};

/// Delays before a confirmation that failed is asked for again.
const CONFIRM: Backoff = Backoff { base: Duration::from_secs(2), cap: Duration::from_mins(1) };
/// A write is not begun when it would have less time than this.
const WRITE: Duration = Duration::from_millis(300);
/// Time that is left of a hold to renew it.
const MARGIN: Duration = Duration::from_millis(500);

impl Agents {
    /// Holds prompts. What goes on then, as the doors confirm it, with the Tasks that run by now, and until when the hold
    /// lasts for sure.
    pub(super) async fn held_work(&self, who: &Who<'_>) -> (Work, Instant) {
        let until = Instant::now() + voice::HOLD;
        let said = self.voice.hold(&who.namespace, &who.name).await;
        let activity = gate::held_activity(said.as_ref(), &self.running_pods(who.agent));
        (Work { running_tasks: self.open_tasks(&who.namespace, &who.name).0, activity }, until)
    }

    /// A confirmation that did not come (no answer, an order refused) is no event: it is asked for again. `what` it was
    /// asked for, as in [`super::super::waits`].
    pub(super) fn confirm_again(
        &self,
        who: &Who<'_>,
        what: &'static str,
        asked: bool,
        action: &Action,
        acted: &mut Acted,
    ) {
        let key = (who.namespace.clone(), who.name.clone());
        let mut refused = self.refused.lock();
        let of = refused.entry(key.clone()).or_default();
        if asked && matches!(action, Action::Wait { .. }) {
            let count = of.entry(what).and_modify(|n| *n = n.saturating_add(1)).or_insert(1);
            acted.after(CONFIRM.delay(*count, rand::random()));
            return;
        }
        of.remove(what);
        if of.is_empty() {
            refused.remove(&key);
        }
    }
}

/// Runs a write that is right only while prompts are held; what was decided is decided again after that. Also returned
/// is whether it was sent.
pub(super) async fn within<T>(
    until: Instant,
    what: &str,
    write: impl Future<Output = Result<T, Failure>>,
) -> (Result<T, Failure>, bool) {
    let left = until.saturating_duration_since(Instant::now()).saturating_sub(MARGIN);
    let sent = left >= WRITE;
    let answer = if sent { tokio::time::timeout(left, write).await.ok() } else { None };
    let late = || {
        let message = format!("the {what} could not be written while prompts were held; it is decided again");
        Err(Failure::transient(reasons::TIMEOUT, message))
    };
    (answer.unwrap_or_else(late), sent)
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::{super::settle, *};

    #[tokio::test]
    async fn a_write_that_is_cut_may_land_and_one_that_is_not_begun_may_not() {
        let long = || Instant::now() + voice::HOLD;
        assert!(matches!(within(long(), "Deployment", ready(Ok(()))).await, (Ok(()), true)));
        let refused = Failure::stalled(reasons::INVALID_SPEC, "no");
        let (written, sent) = within(long(), "Deployment", ready(Err(refused))).await;
        assert!(sent && !settle::may_land(&written), "{written:?}");
        let (written, sent) = within::<()>(Instant::now() + MARGIN + WRITE + WRITE, "Deployment", pending()).await;
        assert!(sent && settle::may_land(&written), "{written:?}");
        let (written, sent) = within::<()>(Instant::now() + MARGIN, "Deployment", async { panic!("begun") }).await;
        assert!(!sent && written.is_err(), "{written:?}");
    }
}
