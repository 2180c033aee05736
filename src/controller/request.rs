//! Requests to the API server that end.
//!
//! A connection that died says nothing for minutes, so each request has a limit. There are two, by who must answer: the
//! API server alone ([`LIMIT`]), or also admission webhooks of others, which have [30 s](ADMITTED) themselves.

use std::time::Duration;

use tokio::time::timeout;

use crate::{api::names::reasons, apply::REQUEST_LIMIT, status::Failure};

/// For reads, and for writes of our own kinds (status, finalizers, Tasks and their pods): short, because a turn of a
/// loop waits for it.
pub const LIMIT: Duration = Duration::from_secs(15);
/// For writes of objects that anybody's admission webhooks look at, generated or from Git: a little longer than a
/// webhook may take, so that the API server tells which one it was.
pub const ADMITTED: Duration = REQUEST_LIMIT;

/// Runs a request for [`LIMIT`] at most; the outer failure is transient, reason `Timeout`. `what` goes on in "`what`: no
/// answer in 15 s".
pub async fn limited<T>(
    what: &str,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<kube::Result<T>, Failure> {
    limited_to(LIMIT, what, request).await
}

/// The same with another limit.
pub async fn limited_to<T>(
    limit: Duration,
    what: &str,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<kube::Result<T>, Failure> {
    timeout(limit, request)
        .await
        .map_err(|_| Failure::transient(reasons::TIMEOUT, format!("{what}: no answer in {} s", limit.as_secs().max(1))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_without_an_answer_ends() {
        let failure = limited::<()>("writing", std::future::pending()).await.unwrap_err();
        assert_eq!((failure.reason, failure.message.as_str()), ("Timeout", "writing: no answer in 15 s"));
        assert!(limited("writing", async { Ok(1) }).await.unwrap().is_ok());
    }
}
