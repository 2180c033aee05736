//! Requests to the API server that end.

use std::time::Duration;

use tokio::time::timeout;

use crate::{api::names::reasons, status::Failure};

/// No single request may take longer: a connection that died says nothing for minutes.
pub const LIMIT: Duration = Duration::from_secs(15);

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
