//! What the door costs: time added to a request, memory of the process.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client as Pool, rt::TokioExecutor};

use super::{Pod, credentials};

/// Requests before the first that counts.
const WARM: usize = 50;

/// Milliseconds that the door adds to each of `n` requests on loopback: through the door, less the median of the same
/// request without it. The server behind answers at once and keeps its connections, so nothing hides the door.
pub(crate) async fn door_added_latency_ms(n: usize) -> Vec<f64> {
    let port = instant_server().await;
    let pod = Pod::in_front_of(port).await;
    let direct = times(&format!("http://127.0.0.1:{port}"), n).await;
    let through = times(&pod.url(), n).await;
    let median = median(direct);
    through.into_iter().map(|ms| ms - median).collect()
}

/// The middle of the values.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

async fn instant_server() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = axum::Router::new().fallback(|| async { "ok" });
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    port
}

async fn times(base: &str, n: usize) -> Vec<f64> {
    let pool: Pool<_, Full<Bytes>> = Pool::builder(TokioExecutor::new()).build_http();
    let mut times = Vec::with_capacity(n);
    for count in 0..WARM + n {
        let request = Request::builder()
            .uri(format!("{base}/session/status"))
            .header("authorization", credentials().header().unwrap())
            .body(Full::default())
            .unwrap();
        let begun = Instant::now();
        let response = pool.request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap();
        if count >= WARM {
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
    }
    times
}

/// A bound that only something broken exceeds; the goal (1 ms) is the benchmark's to judge, on a release build.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_door_adds_little() {
    let samples = door_added_latency_ms(200).await;
    assert_eq!(samples.len(), 200);
    let median = median(samples);
    println!("door_added_latency_ms: {median:.3}");
    assert!(median < Duration::from_millis(100).as_secs_f64() * 1e3, "{median} ms");
}
