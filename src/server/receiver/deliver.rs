//! One delivery, from its head to the answer.
//!
//! Who does not sign learns nothing: a path that nobody has, a Secret that is missing and a wrong signature are read
//! with the same care and answered with the same words after the same time.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use tracing::{debug, info};

use super::{
    Receiver,
    forge::{self, Verdict},
    index::Target,
    peer::peer,
    poke::Poked,
    signature::{Check, Refusal},
};
use crate::api::webhook;

/// Longest body. GitHub sends up to 25 MB and signs all of it, so less would lose pushes. It is hashed as it arrives,
/// not kept.
const MAX_BODY: usize = 25 << 20;
/// What is kept of a body, to see which reference was pushed. Of a longer one that is not known.
const KEPT: usize = 256 << 10;
/// From the head to the end of the body.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// A refusal is answered at a whole multiple of this after its beginning: time tells nothing.
const REFUSED_AFTER: Duration = Duration::from_millis(250);

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Asked,
    Nothing(Verdict),
    Suspended,
    Seen,
    NotFound,
    Refused(Refusal),
    TooLarge,
    TooSlow,
    Cut,
    TooMany,
    Busy,
    Failed,
}

impl Outcome {
    /// Status, words and the name in metrics.
    fn answer(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Asked => (StatusCode::ACCEPTED, "the remote is looked at", "asked"),
            Self::Nothing(Verdict::Ping) => (StatusCode::OK, "pong", "ping"),
            Self::Nothing(Verdict::OtherEvent) => (StatusCode::OK, "not an event that asks for a look", "other_event"),
            Self::Nothing(Verdict::OtherReference) => (StatusCode::OK, "another reference", "other_reference"),
            Self::Nothing(Verdict::Pinned | Verdict::Look) => (StatusCode::OK, "a commit never moves", "pinned"),
            Self::Suspended => (StatusCode::OK, "the Repository is suspended", "suspended"),
            Self::Seen => (StatusCode::OK, "seen before", "replayed"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not found", "no_path"),
            Self::Refused(refusal) => (StatusCode::NOT_FOUND, "not found", refused(refusal)),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "longer than 25 MiB", "too_large"),
            Self::TooSlow => (StatusCode::REQUEST_TIMEOUT, "the body did not come in 10 s", "too_slow"),
            Self::Cut => (StatusCode::BAD_REQUEST, "the body is cut", "cut"),
            Self::TooMany => (StatusCode::TOO_MANY_REQUESTS, "too many requests", "rate_limited"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "too many deliveries at once", "busy"),
            Self::Failed => {
                (StatusCode::SERVICE_UNAVAILABLE, "the cluster did not take it: deliver it again", "failed")
            }
        }
    }
}

fn refused(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::UnknownPath => "unknown_path",
        Refusal::NoToken => "no_token",
        Refusal::NoSignature => "no_signature",
        Refusal::Stale => "stale",
        Refusal::BadSignature => "bad_signature",
    }
}

/// What makes a delivery the same as another one.
type Seal = [u8; 32];

/// A body that was read.
struct Read {
    seal: Result<Seal, Refusal>,
    kept: Option<Vec<u8>>,
}

impl Receiver {
    /// Answers one request of a connection from this address.
    pub(super) async fn answer(&self, request: Request<Incoming>, connection: IpAddr) -> Response<Full<Bytes>> {
        let start = Instant::now();
        let outcome = self.deliver(request, connection, start).await;
        if matches!(outcome, Outcome::Refused(_)) {
            tokio::time::sleep(until_refusal(start.elapsed())).await;
        }
        let (status, words, result) = outcome.answer();
        self.counts.delivered(result, start.elapsed());
        response(status, words)
    }

    async fn deliver(&self, request: Request<Incoming>, connection: IpAddr, start: Instant) -> Outcome {
        let path = request.uri().path();
        if request.method() != Method::POST || webhook::digits(path).is_none() {
            return Outcome::NotFound;
        }
        let peer = peer(connection, request.headers(), &self.trusted);
        if !self.limits.lock().take(peer, start) {
            debug!(%peer, "too many deliveries of one peer");
            return Outcome::TooMany;
        }
        if request.body().size_hint().lower() > MAX_BODY as u64 {
            return Outcome::TooLarge;
        }
        let Ok(Some(reading)) = tokio::time::timeout(READ_TIMEOUT, self.readers.begin(peer)).await else {
            return Outcome::Busy;
        };
        let (target, check) = self.begin(path, request.headers()).await;
        let (head, body) = request.into_parts();
        let read = match tokio::time::timeout(READ_TIMEOUT, self.read(body, check, peer)).await {
            Ok(Ok(read)) => read,
            Ok(Err(outcome)) => return outcome,
            Err(_) => return Outcome::TooSlow,
        };
        let (seal, target) = match (read.seal, target) {
            (Ok(seal), Some(target)) => (seal, target),
            (Err(refusal), target) => return refuse(refusal, target.as_deref(), peer),
            (Ok(_), None) => return Outcome::NotFound, // a decoy never says yes
        };
        let spared = self.spared(&target, seal, forge::event(target.forge, &head.headers), read.kept.as_deref());
        // Many may wait for one write: what was read of their bodies is not kept for that.
        drop((read.kept, reading));
        match spared {
            Some(outcome) => outcome,
            None => self.ask(&target, seal).await,
        }
    }

    /// The Repository of a path, and what its deliveries must pass.
    async fn begin(&self, path: &str, headers: &http::HeaderMap) -> (Option<Arc<Target>>, Check) {
        let targets = self.index.lock().find(path);
        let refusal = if targets.is_empty() { Refusal::UnknownPath } else { Refusal::NoToken };
        for target in &targets {
            if let Some(token) = self.keys.of(target).await {
                let now = jiff::Timestamp::now().as_second();
                return (Some(target.clone()), Check::begin(target.forge, &token, headers, now));
            }
        }
        (targets.into_iter().next(), Check::decoy(refusal))
    }

    async fn read(&self, mut body: Incoming, mut check: Check, peer: IpAddr) -> Result<Read, Outcome> {
        let (mut length, mut kept) = (0, Vec::new());
        let outcome = loop {
            let data = match body.frame().await {
                None => break None,
                Some(Err(_)) => break Some(Outcome::Cut),
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            length += data.len();
            if length > MAX_BODY {
                break Some(Outcome::TooLarge);
            }
            check.update(&data);
            if length <= KEPT {
                kept.extend_from_slice(&data);
            }
        };
        self.limits.lock().charge(peer, length, Instant::now());
        let kept = (length <= KEPT).then_some(kept);
        outcome.map_or_else(|| Ok(Read { seal: check.finish(), kept }), Err)
    }

    /// Why an authentic delivery needs no look; `None` where it does.
    fn spared(&self, target: &Target, seal: Seal, event: Option<&str>, body: Option<&[u8]>) -> Option<Outcome> {
        if self.replays.lock().contains(&target.uid, &seal, Instant::now()) {
            return Some(Outcome::Seen);
        }
        let verdict = forge::verdict(target.forge, &target.events, &target.follows, event, body);
        let Target { namespace, name, .. } = target;
        debug!(namespace, repository = name, event = event.map(short), ?verdict, "a delivery");
        match verdict {
            Verdict::Look if target.suspended => Some(Outcome::Suspended),
            Verdict::Look => None,
            other => Some(Outcome::Nothing(other)),
        }
    }

    async fn ask(&self, target: &Arc<Target>, seal: Seal) -> Outcome {
        match self.pokes.poke(target).await {
            Poked::Asked => {
                // Only now: what failed may be delivered again.
                self.replays.lock().remember(&target.uid, &seal, Instant::now());
                Outcome::Asked
            }
            Poked::Failed => Outcome::Failed,
            Poked::Gone => Outcome::NotFound,
        }
    }
}

/// How long a refusal waits.
fn until_refusal(elapsed: Duration) -> Duration {
    let step = REFUSED_AFTER.as_millis();
    let answer = (elapsed.as_millis() / step + 1) * step;
    Duration::from_millis(u64::try_from(answer).unwrap_or(u64::MAX)).saturating_sub(elapsed)
}

fn refuse(refusal: Refusal, target: Option<&Target>, peer: IpAddr) -> Outcome {
    if let Some(Target { namespace, name, .. }) = target {
        info!(namespace, repository = name, %peer, "refused: {refusal}");
    } else {
        debug!(%peer, "refused: {refusal}");
    }
    Outcome::Refused(refusal)
}

/// What a sender writes is shown up to a length.
fn short(text: &str) -> &str {
    text.char_indices().nth(64).map_or(text, |(end, _)| &text[..end])
}

fn response(status: StatusCode, words: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{words}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    // What is left of the body is not waited for.
    if matches!(status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_answered_in_steps() {
        for (elapsed, total) in [(0, 250), (1, 250), (249, 250), (250, 500), (9_999, 10_000)] {
            let elapsed = Duration::from_millis(elapsed);
            assert_eq!(elapsed + until_refusal(elapsed), Duration::from_millis(total));
        }
    }

    #[test]
    fn who_does_not_sign_learns_nothing() {
        use Refusal::{BadSignature, NoSignature, NoToken, Stale, UnknownPath};
        let words = |refusal| {
            let (status, words, _) = Outcome::Refused(refusal).answer();
            (status, words)
        };
        for refusal in [UnknownPath, NoToken, NoSignature, Stale, BadSignature] {
            assert_eq!(words(refusal), (StatusCode::NOT_FOUND, "not found"), "{refusal:?}");
        }
    }

    #[test]
    fn what_a_sender_writes_is_shown_up_to_a_length() {
        assert_eq!((short("push"), short(&"ä".repeat(100)).chars().count()), ("push", 64));
    }
}
