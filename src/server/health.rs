//! `/healthz`, `/readyz` and `/metrics`.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use tokio::{net::TcpListener, sync::Mutex, time::Instant};
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use crate::net::front::Front;

/// Connections at once, from probes, Prometheus and whoever else reaches the port.
const MAX_CONNECTIONS: usize = 64;
/// Metrics are written at most this often, however many ask.
const FRESH: Duration = Duration::from_millis(250);

/// What the probes answer from.
#[derive(Clone, Default)]
pub struct Health {
    ready: Arc<AtomicBool>,
}

impl Health {
    /// Whether caches are filled; false again while the process stops.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }
}

/// Binds `address`; the listener is returned so that a port of 0 can be read back.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until `stop`. Whoever reaches the port gets one answer a connection, and few connections at once.
pub async fn serve(listener: TcpListener, health: Health, metrics: Arc<Metrics>, stop: CancellationToken) {
    let pages = Arc::new(Pages { health, metrics, written: Mutex::default() });
    let answer = move |request: http::Request<hyper::body::Incoming>| {
        let pages = pages.clone();
        async move { pages.answer(request.method(), request.uri().path()).await }
    };
    Front::new(MAX_CONNECTIONS).serve(listener, answer, stop).await;
}

struct Pages {
    health: Health,
    metrics: Arc<Metrics>,
    /// What all who ask at a time share.
    written: Mutex<Option<(Instant, Bytes)>>,
}

impl Pages {
    async fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        match (path, matches!(*method, Method::GET | Method::HEAD)) {
            ("/healthz", true) => text(StatusCode::OK, "ok\n"),
            ("/readyz", true) if self.health.ready.load(Ordering::Acquire) => text(StatusCode::OK, "ok\n"),
            ("/readyz", true) => text(StatusCode::SERVICE_UNAVAILABLE, "caches are not filled yet\n"),
            ("/metrics", true) => {
                let openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                with_type(StatusCode::OK, self.metrics().await, openmetrics)
            }
            (_, true) => text(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics\n"),
            (_, false) => text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"),
        }
    }

    /// The metrics, written once for all who wait.
    async fn metrics(&self) -> Bytes {
        let mut written = self.written.lock().await;
        match &*written {
            Some((at, text)) if at.elapsed() < FRESH => text.clone(),
            _ => {
                let text = Bytes::from(self.metrics.render());
                *written = Some((Instant::now(), text.clone()));
                text
            }
        }
    }
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    with_type(status, Bytes::from_static(text.as_bytes()), "text/plain; charset=utf-8")
}

fn with_type(status: StatusCode, body: Bytes, kind: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    struct Served(SocketAddr, CancellationToken);

    impl Served {
        async fn start() -> Self {
            let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
            let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
            tokio::spawn(serve(listener, Health::default(), Arc::default(), stop.clone()));
            Self(address, stop)
        }

        /// What comes back until the connection is closed.
        async fn ask(&self, request: &[u8]) -> String {
            let mut stream = TcpStream::connect(self.0).await.unwrap();
            // A head that is too long is not read to its end.
            let _ = stream.write_all(request).await;
            let mut answer = vec![];
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8(answer).unwrap()
        }

        async fn get(&self, path: &str) -> String {
            self.ask(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await
        }
    }

    impl Drop for Served {
        fn drop(&mut self) {
            self.1.cancel();
        }
    }

    #[tokio::test]
    async fn pages() {
        let served = Served::start().await;
        for (path, want) in [("/healthz", "200 OK"), ("/readyz", "503"), ("/metrics", "200 OK"), ("/x", "404")] {
            let answer = served.get(path).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {want}")), "{path}: {answer}");
        }
        assert!(served.get("/metrics").await.contains("pilothouse_leader"));
        assert!(served.ask(b"POST /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.contains(" 405 "));
    }

    /// Who says nothing, and there are more of them than places, is in nobody's way; the oldest of them go.
    #[tokio::test]
    async fn silent_strangers_are_shown_out() {
        let served = Served::start().await;
        let mut silent = vec![];
        for _ in 0..3 * MAX_CONNECTIONS {
            silent.push(TcpStream::connect(served.0).await.unwrap());
        }
        assert!(served.get("/healthz").await.starts_with("HTTP/1.1 200"));
        for stream in &mut silent[..MAX_CONNECTIONS] {
            // Closed, with or without a farewell.
            assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)));
        }
    }

    #[tokio::test]
    async fn a_long_head_is_refused() {
        let served = Served::start().await;
        let answer = served.get(&format!("/{}", "x".repeat(1 << 20))).await;
        assert!(!answer.contains(" 200 ") && !answer.contains(" 404 "), "{answer}");
        assert!(served.get("/healthz").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test(start_paused = true)]
    async fn metrics_are_written_once_for_all() {
        let pages = Pages { health: Health::default(), metrics: Arc::default(), written: Mutex::default() };
        let first = pages.metrics().await;
        assert_eq!(pages.metrics().await.as_ptr(), first.as_ptr(), "the same bytes");
        tokio::time::advance(FRESH).await;
        pages.metrics.set_leader(true);
        assert_ne!(pages.metrics().await, first);
    }
}
