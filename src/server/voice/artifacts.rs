//! Artifacts for those who may read them, on the sidecars' port of every replica.
//!
//! Who may read an artifact is decided by what the API server says of the token, see [`Rights`]; what exists is looked at
//! afterwards only, so that nobody learns what others have. Who reads has a place, see `places::Places`, and keeps it while he
//! reads fast enough.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::{io::ReaderStream, sync::CancellationToken};

use super::{identity::Identity, places::Places};
use crate::{
    api::voice::ARTIFACTS_PATH,
    artifact::{Digest, Opened, Store, StoreError},
};

/// What is read from disk at once, and so what a transfer has in memory, in bytes.
const CHUNK: usize = 32 << 10;
/// How often it is asked whether the reader reads.
const WINDOW: Duration = Duration::from_secs(10);
/// Least that is taken in that time, in bytes.
const LEAST: u64 = 320 << 10;
/// Longest transfer.
const WHOLE: Duration = Duration::from_mins(10);

/// An answer's body.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A short text.
pub(super) fn text(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Who may read which artifact.
pub trait Rights: Send + Sync {
    /// Whether this pod may read this artifact. It must not depend on whether the artifact exists.
    fn may_read(&self, who: &Identity, digest: &Digest) -> bool;
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Result {
    result: &'static str,
}

/// All of them.
const RESULTS: [&str; 7] = ["served", "missing", "denied", "unauthenticated", "busy", "damaged", "failed"];

/// What was served.
#[derive(Clone, Debug, Default)]
struct Counts {
    requests: Family<Result, Counter>,
    bytes: Counter,
}

/// The artifacts of this replica. Cheap to clone.
#[derive(Clone)]
pub struct Shelf {
    store: Arc<Store>,
    rights: Arc<dyn Rights>,
    places: Places,
    counts: Counts,
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shelf").field("places", &self.places).finish_non_exhaustive()
    }
}

/// Which artifact a path names: exactly `/artifacts/` and 64 digits.
fn named(path: &str) -> Option<Digest> {
    Digest::parse(&format!("sha256:{}", path.strip_prefix(ARTIFACTS_PATH)?))
}

/// Whether a request is for this room.
pub(super) fn is_ours(request: &Request<Incoming>) -> bool {
    request.uri().path().starts_with(ARTIFACTS_PATH)
}

impl Shelf {
    /// Serves what is in `store` to those who have a right.
    pub fn new(store: Arc<Store>, rights: impl Rights + 'static) -> Self {
        Self { store, rights: Arc::new(rights), places: Places::default(), counts: Counts::default() }
    }

    /// Adds its counters to those of the process.
    pub fn register(&self, registry: &mut Registry) {
        // What never happened is zero, not unknown.
        for result in RESULTS {
            drop(self.counts.requests.get_or_create(&Result { result }));
        }
        let requests = "Requests for artifacts by result";
        registry.register("artifact_requests", requests, self.counts.requests.clone());
        registry.register("artifact_sent_bytes", "Bytes of artifacts that were sent", self.counts.bytes.clone());
    }

    /// Counts a request that did not get as far as [`Shelf::answer`].
    pub(super) fn refused(&self) {
        self.count("unauthenticated");
    }

    fn count(&self, result: &'static str) {
        self.counts.requests.get_or_create(&Result { result }).inc();
    }

    /// The answer for somebody whose token was reviewed, and the transfer that it begins. The text is the same whether
    /// an artifact does not exist or is not his.
    pub(super) async fn answer(
        &self,
        request: &Request<Incoming>,
        who: &Identity,
    ) -> std::result::Result<(Response<Body>, Option<Transfer>), StatusCode> {
        let method = request.method();
        if method != Method::GET && method != Method::HEAD {
            self.count("denied");
            return Err(StatusCode::METHOD_NOT_ALLOWED);
        }
        let digest = named(request.uri().path()).filter(|_| request.uri().query().is_none());
        let Some(digest) = digest.filter(|digest| self.rights.may_read(who, digest)) else {
            self.count("denied");
            return Err(StatusCode::NOT_FOUND);
        };
        let Some(place) = self.places.enter(&who.namespace, &who.pod_uid) else {
            self.count("busy");
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        };
        let opened = self.open(digest).await?;
        let mut response = Response::new(text(Bytes::new()));
        describe(&mut response, &digest, opened.size);
        if method == Method::HEAD {
            self.count("served");
            return Ok((response, None));
        }
        let transfer = Transfer { taken: Arc::default(), ended: CancellationToken::new(), cut: place.cut() };
        let (taken, bytes, counts) = (transfer.taken.clone(), self.counts.bytes.clone(), self.clone());
        let file = tokio::fs::File::from_std(opened.file);
        // The place, and the word that the transfer has ended, go with the body.
        let end = (place, transfer.ended.clone().drop_guard());
        let chunks = ReaderStream::with_capacity(file, CHUNK).map(move |chunk| {
            let _ = &end;
            chunk.map(|chunk| {
                bytes.inc_by(chunk.len() as u64);
                taken.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                Frame::data(chunk)
            })
        });
        counts.count("served");
        *response.body_mut() = StreamBody::new(chunks).boxed_unsync();
        Ok((response, Some(transfer)))
    }

    async fn open(&self, digest: Digest) -> std::result::Result<Opened, StatusCode> {
        let store = self.store.clone();
        let opened = tokio::task::spawn_blocking(move || store.serve(&digest)).await;
        let (result, status) = match opened {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(StoreError::Missing(_))) => ("missing", StatusCode::NOT_FOUND),
            // It is gone now, and whoever can make it again was told.
            Ok(Err(StoreError::Damaged(digest))) => {
                tracing::warn!(%digest, "an artifact was damaged on disk and has been removed");
                ("damaged", StatusCode::SERVICE_UNAVAILABLE)
            }
            Ok(Err(error)) => {
                tracing::warn!(%digest, %error, "an artifact cannot be served");
                ("failed", StatusCode::SERVICE_UNAVAILABLE)
            }
            Err(_) => ("failed", StatusCode::SERVICE_UNAVAILABLE),
        };
        self.count(result);
        Err(status)
    }
}

/// Same digest, same bytes, for ever; but they are for this reader.
fn describe(response: &mut Response<Body>, digest: &Digest, size: u64) {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=31536000, immutable"));
    if let Ok(tag) = HeaderValue::try_from(format!("\"{digest}\"")) {
        headers.insert(header::ETAG, tag);
    }
}

/// A transfer that goes on, as its connection sees it.
#[derive(Debug)]
pub(super) struct Transfer {
    /// Bytes that were handed to the connection, which takes no more than a few buffers ahead of the reader.
    taken: Arc<AtomicU64>,
    /// All of them were.
    ended: CancellationToken,
    /// The place is needed for somebody else.
    cut: CancellationToken,
}

impl Transfer {
    /// Resolves when the connection must end because the reader is too slow, has had his time, or loses his place.
    pub(super) async fn over(self) {
        let end = Instant::now() + WHOLE;
        tokio::select! {
            () = self.cut.cancelled() => tracing::debug!("a transfer is cut: its place is needed"),
            () = self.stalls() => tracing::debug!("a transfer is cut: its reader is too slow"),
            () = sleep_until(end) => tracing::debug!("a transfer is cut: it takes too long"),
        }
    }

    async fn stalls(&self) {
        let mut before = 0;
        loop {
            sleep(WINDOW).await;
            let taken = self.taken.load(Ordering::Relaxed);
            // After the last byte was handed over there is one window to read what is under way.
            if self.ended.is_cancelled() && taken == before || !self.ended.is_cancelled() && taken < before + LEAST {
                return;
            }
            before = taken;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_one_artifact_or_none() {
        let hex = "0123456789abcdef".repeat(4);
        assert_eq!(named(&format!("/artifacts/{hex}")).unwrap().hex(), hex);
        for bad in [
            "/artifacts/".to_owned(),
            format!("/artifacts/{}", hex.to_uppercase()),
            format!("/artifacts/{hex}/"),
            format!("/artifacts//{hex}"),
            format!("/artifacts/{hex}0"),
            format!("/artifacts/../artifacts/{hex}"),
            format!("/artifacts/%30{}", &hex[1..]),
            format!("/artifacts/sha256:{hex}"),
            format!("/artifact/{hex}"),
            format!("/artifacts/{}/../../../etc/passwd", &hex[..40]),
            format!("/artifacts/{}é", &hex[..62]),
        ] {
            assert_eq!(named(&bad), None, "{bad}");
        }
    }

    fn transfer() -> Transfer {
        Transfer { taken: Arc::default(), ended: CancellationToken::new(), cut: CancellationToken::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_must_read() {
        let begun = Instant::now();
        transfer().over().await;
        assert_eq!(begun.elapsed().as_secs(), WINDOW.as_secs());

        let (slow, begun) = (transfer(), Instant::now());
        slow.taken.store(LEAST * 3 / 2, Ordering::Relaxed);
        slow.over().await;
        assert_eq!(begun.elapsed().as_secs(), WINDOW.as_secs() * 2, "good at first, then not");

        let (endless, begun) = (transfer(), Instant::now());
        let taken = endless.taken.clone();
        let feeding = tokio::spawn(async move {
            loop {
                sleep(Duration::from_secs(1)).await;
                taken.fetch_add(LEAST, Ordering::Relaxed);
            }
        });
        endless.over().await;
        assert_eq!(begun.elapsed().as_secs(), WHOLE.as_secs());
        feeding.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_bytes_have_a_moment_too() {
        let (last, begun) = (transfer(), Instant::now());
        last.taken.store(10, Ordering::Relaxed);
        last.ended.cancel();
        last.over().await;
        assert_eq!(begun.elapsed().as_secs(), WINDOW.as_secs() * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_loses_his_place_goes_at_once() {
        let (cut, begun) = (transfer(), Instant::now());
        cut.cut.cancel();
        cut.over().await;
        assert!(begun.elapsed().is_zero());
    }
}
