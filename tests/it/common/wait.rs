//! Waiting for what happens elsewhere.

use std::time::{Duration, Instant};

/// Tries `check` until it gives a value or `limit` is over, with a `pause` between two tries.
pub(crate) async fn poll<T, F: Future<Output = Option<T>>>(
    limit: Duration,
    pause: Duration,
    mut check: impl FnMut() -> F,
) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        let value = check().await;
        if value.is_some() || Instant::now() > end {
            return value;
        }
        tokio::time::sleep(pause).await;
    }
}

/// Tries `check` until it gives a value; panics with `what` when that takes longer than `seconds`.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    seconds: u64,
    check: impl FnMut() -> F,
) -> T {
    let value = poll(Duration::from_secs(seconds), Duration::from_millis(50), check).await;
    value.unwrap_or_else(|| panic!("after {seconds} s there is still not: {what}"))
}

/// GET: the status and the body; `None` where nobody answers.
pub(crate) async fn get(url: &str) -> Option<(u16, String)> {
    use http_body_util::{BodyExt, Empty};
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
    let request = http::Request::get(url).body(Empty::<bytes::Bytes>::new()).unwrap();
    let answer = client.request(request).await.ok()?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.ok()?.to_bytes();
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}
