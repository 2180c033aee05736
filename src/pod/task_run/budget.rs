//! Stops a session that takes more than it may.

use std::{future::pending, time::Duration};

use clap::Args;
use tokio::time::sleep;

use super::ending::{Ending, Outcome};
use crate::pod::opencode::{Client, Error, Session};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// Sessions that are looked at together: the Task's own, and those that it has begun for parts of the work.
const SESSIONS: usize = 100;

/// What the session may take.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Cost in millionths of a US dollar beyond which the session is aborted
    #[arg(long = "max-cost-micros", env = "PILOTHOUSE_TASK_MAX_COST_MICROS", value_name = "N")]
    pub cost: Option<i64>,
    /// Tokens of all kinds beyond which the session is aborted
    #[arg(long = "max-tokens", env = "PILOTHOUSE_TASK_MAX_TOKENS", value_name = "N")]
    pub tokens: Option<i64>,
}

impl Budget {
    /// Resolves when the session has taken more; never without a limit. What cannot be looked at is looked at again.
    pub(super) async fn exceeded(self, client: &Client, session: &str) -> Ending {
        if self.cost.is_none() && self.tokens.is_none() {
            return pending().await;
        }
        loop {
            sleep(LOOK).await;
            match family(client, session).await {
                Ok(all) => {
                    if let Some(message) = self.broken_by(&all) {
                        return Ending::new(Outcome::BudgetExceeded, message);
                    }
                }
                Err(error) => tracing::debug!(%error, "the cost of the session cannot be looked at; trying again"),
            }
        }
    }

    /// Which limit these sessions have passed together.
    fn broken_by(self, all: &[Session]) -> Option<String> {
        let (cost, tokens) = (all.iter().map(cost), all.iter().map(tokens));
        let (cost, tokens) = (cost.fold(0, i64::saturating_add), tokens.fold(0, i64::saturating_add));
        let is_over = |most: Option<i64>, taken: i64| most.is_some_and(|most| taken > most);
        if is_over(self.cost, cost) {
            return Some("the session cost more than spec.budget.maxCost, and was aborted".into());
        }
        is_over(self.tokens, tokens)
            .then(|| "the session took more tokens than spec.budget.maxTokens, and was aborted".into())
    }
}

/// A session and those that it has begun.
async fn family(client: &Client, session: &str) -> Result<Vec<Session>, Error> {
    let mut all = vec![client.session(session).await?];
    let mut next = 0;
    while next < all.len() && all.len() < SESSIONS {
        let children = client.children(&all[next].id).await?;
        all.extend(children.into_iter().take(SESSIONS));
        next += 1;
    }
    Ok(all)
}

#[allow(clippy::cast_possible_truncation)] // saturates; a millionth of a dollar is small enough
fn cost(session: &Session) -> i64 {
    (session.cost.unwrap_or_default() * 1e6).round() as i64
}

#[allow(clippy::cast_possible_truncation)] // saturates
fn tokens(session: &Session) -> i64 {
    let tokens = session.tokens.unwrap_or_default();
    (tokens.input + tokens.output + tokens.reasoning + tokens.cache.read + tokens.cache.write) as i64
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_sessions_count_together() {
        let session = |cost: f64, input: u64| -> Session {
            let tokens = json!({"input": input, "output": 1, "reasoning": 0, "cache": {"read": 2, "write": 3}});
            serde_json::from_value(json!({"id": "s", "cost": cost, "tokens": tokens})).unwrap()
        };
        let all = [session(0.1, 10), session(0.2, 20)];
        for (cost, tokens, word) in [
            (None, None, None),
            (Some(300_000), Some(42), None),
            (Some(299_999), None, Some("maxCost")),
            (None, Some(41), Some("maxTokens")),
            (Some(1), Some(1), Some("maxCost")),
        ] {
            let found = Budget { cost, tokens }.broken_by(&all);
            assert_eq!(found.is_some(), word.is_some(), "{cost:?} {tokens:?}: {found:?}");
            assert!(found.zip(word).is_none_or(|(text, word)| text.contains(word)));
        }
    }
}
