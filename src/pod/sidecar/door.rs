//! The door: checks the password, counts work, holds prompts, and passes everything else on unchanged.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header, uri::PathAndQuery};
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::net::TcpListener;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::TaskTracker,
};

use crate::pod::opencode::{POD_HEADER, PROOF_HEADER};

use super::{
    auth::{Guard, Lock, OWN_HEADER},
    callers::{Caller, Hall},
    name::{Name, follows, listens},
    peers::{Other, Peers},
    probes::Probes,
    route::{Probe, Route},
    work::{Attached, Entered, Following, Listening, NotEnding, Refused, Work},
};

/// Longest request or answer head.
const MAX_HEAD: usize = 64 << 10;
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests in flight may go on for this long after the door was told to stop.
pub const DRAIN: Duration = Duration::from_secs(20);

type Answer = Response<Either<Watched, Full<Bytes>>>;

/// What the door needs.
#[derive(Debug)]
pub struct Door {
    /// Where the server listens: `127.0.0.1:port`.
    pub upstream: http::uri::Authority,
    /// The password; replaced when the Secret changes.
    pub lock: Guard,
    /// What the server behind wants as `Authorization`, if anything.
    pub upstream_auth: Option<HeaderValue>,
    /// Which pod this is.
    pub name: Name,
    /// The work that is counted.
    pub work: Work,
    /// The other pods of the agent.
    pub peers: Peers,
    /// The door's own answers.
    pub probes: Probes,
    /// Connections to the server.
    pub pool: Client<HttpConnector, Incoming>,
}

/// Connections from the door to the server behind it.
pub fn pool() -> Client<HttpConnector, Incoming> {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(4))
        .pool_max_idle_per_host(16)
        .http1_max_buf_size(MAX_HEAD)
        .build(connector)
}

impl Door {
    /// Serves until `stop`, then lets requests in flight end for [`DRAIN`] at most.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let mut server = hyper::server::conn::http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD);
        let (connections, hall) = (TaskTracker::new(), Hall::default());
        loop {
            let (stream, from) = tokio::select! {
                () = stop.cancelled() => break,
                accepted = crate::net::accept(&listener) => accepted,
            };
            let caller = Arc::new(hall.enter(from));
            let (door, calls) = (self.clone(), caller.clone());
            let service = hyper::service::service_fn(move |request| {
                let (door, caller) = (door.clone(), calls.clone());
                async move { Ok::<_, std::convert::Infallible>(door.answer(request, &caller).await) }
            });
            let connection = server.serve_connection(TokioIo::new(stream), service).with_upgrades();
            let stop = stop.clone();
            connections.spawn(async move {
                let mut connection = std::pin::pin!(connection);
                let ended = tokio::select! {
                    _ = connection.as_mut() => true, // a client that went away is no event
                    () = caller.overstays() => true,
                    () = stop.cancelled() => false,
                };
                if !ended {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            });
        }
        drop(listener);
        connections.close();
        let _ = tokio::time::timeout(DRAIN, connections.wait()).await;
    }

    async fn answer(&self, request: Request<Incoming>, caller: &Caller) -> Answer {
        let route = Route::of(request.method(), request.uri().path());
        if route == Route::Probe(Probe::Drained) {
            return self.drained(caller).await;
        }
        if route == Route::Probe(Probe::Proof) {
            return self.proof(request.headers());
        }
        if let Route::Probe(probe) = route {
            caller.probes();
            let (status, text) = self.probes.answer(probe).await;
            return own(status, &text);
        }
        let mut answer = self.admit(request, route, caller).await;
        // Another door has signed what it answered.
        if answer.extensions().get::<Led>().is_none() {
            self.name.sign(answer.headers_mut());
        }
        answer
    }

    async fn admit(&self, mut request: Request<Incoming>, route: Route, caller: &Caller) -> Answer {
        let Some(pass) = self.lock.admits(request.headers()) else {
            let text = "the password is missing or wrong: use Basic auth with the Agent's Secret `<agent>-server-auth`";
            let mut answer = own(StatusCode::UNAUTHORIZED, text);
            let realm = HeaderValue::from_static("Basic realm=\"Pilothouse\", charset=\"UTF-8\"");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, realm);
            return answer;
        };
        request.extensions_mut().insert(Pass(pass));
        if !caller.is_known() {
            return busy(Refused::Full);
        }
        self.let_in(request, route).await
    }

    /// Proves to who knows the password that this door does too; see [`crate::pod::opencode::PROOF_PATH`].
    fn proof(&self, headers: &HeaderMap) -> Answer {
        match self.name.pod().and_then(|pod| self.lock.lock().proof(headers, pod)) {
            Some(proof) => {
                let mut answer = own(StatusCode::OK, "this is the pod");
                answer.headers_mut().insert(PROOF_HEADER, proof);
                answer
            }
            None => own(StatusCode::UNAUTHORIZED, "another pod is meant, or another password"),
        }
    }

    async fn let_in(&self, request: Request<Incoming>, route: Route) -> Answer {
        if self.name.is_not(request.headers()) {
            return own(StatusCode::MISDIRECTED_REQUEST, "another pod of the agent was meant; this one took its place");
        }
        let lock = self.lock.lock();
        if let Some(other) = self.peers.has(&request, &lock).await {
            return lead(&other, request, &lock).await;
        }
        let (session, waits) = match route {
            // What would live in this pod alone.
            Route::Change if opens_session(&request) && self.work.is_ending() => return busy(Refused::Ending),
            Route::Read | Route::Probe(_) => return self.forward(request, None, false).await,
            Route::Change => (None, false),
            Route::Prompt { session, waits } => (Some(session), waits),
        };
        match self.work.enter(session).await {
            Ok(entered) => self.forward(request, Some(entered), waits).await,
            Err(refused) => busy(refused),
        }
    }

    /// The kubelet's hook before it stops the server: answers when nothing is left to be cut. Harmless without a
    /// password, because asking does not make the pod end.
    async fn drained(&self, caller: &Caller) -> Answer {
        let too_many = || own(StatusCode::TOO_MANY_REQUESTS, "too many ask for the end of this pod");
        let mut answer = match caller.wait() {
            Some(waiting) => tokio::select! {
                drained = self.work.drained() => match drained {
                    Ok(()) => own(StatusCode::OK, "no work is left"),
                    Err(NotEnding) => own(StatusCode::CONFLICT, "this pod does not end"),
                },
                () = waiting.shown_out() => too_many(),
            },
            None => too_many(),
        };
        // Whoever asked this is no stranger any more, and has no other place either.
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        answer
    }

    async fn forward(&self, mut request: Request<Incoming>, entered: Option<Entered>, waits: bool) -> Answer {
        let upgrade = upgrade_of(request.headers());
        let following = follows(&request).then(|| Following::new(&self.work));
        let listening = listens(&request).then(|| Listening::new(&self.work)).flatten();
        let client = upgrade.as_ref().map(|_| hyper::upgrade::on(&mut request));
        let Pass(pass) = request.extensions_mut().remove().unwrap_or_default();
        if let Err(text) = self.readdress(&mut request, upgrade.as_ref()) {
            return own(StatusCode::BAD_REQUEST, &text);
        }
        let mut response = match self.pool.request(request).await {
            Ok(response) => response,
            Err(error) => return own(StatusCode::BAD_GATEWAY, &bad_gateway(&self.upstream, &error)),
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(client) = client
        {
            let server = hyper::upgrade::on(&mut response);
            tokio::spawn(tunnel(client, server, pass, (Attached::new(&self.work), entered)));
            return response.map(|_| Either::Right(Full::default()));
        }
        strip_hops(response.headers_mut());
        let whole = waits && response.status().is_success();
        let revoked = is_stream(response.headers()).then(|| Box::pin(pass.cancelled_owned()));
        response.map(|body| Either::Left(Watched { body, entered, whole, revoked, _of: (following, listening) }))
    }

    /// Points the request at the server: absolute address, hop-by-hop headers and passwords off.
    fn readdress(&self, request: &mut Request<Incoming>, upgrade: Option<&HeaderValue>) -> Result<(), String> {
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::builder()
            .scheme("http")
            .authority(self.upstream.clone())
            .path_and_query(path)
            .build()
            .map_err(|e| format!("the request's address is malformed: {e}"))?;
        *request.version_mut() = http::Version::HTTP_11;
        let headers = request.headers_mut();
        strip_hops(headers);
        headers.remove(header::AUTHORIZATION);
        headers.remove(OWN_HEADER);
        headers.remove(POD_HEADER);
        if let Some(auth) = &self.upstream_auth {
            headers.insert(header::AUTHORIZATION, auth.clone());
        }
        if let Some(protocol) = upgrade {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, protocol.clone());
        }
        Ok(())
    }
}

/// What a request was let in with: cancelled when that password is no good any more.
#[derive(Clone, Debug, Default)]
struct Pass(CancellationToken);

/// An answer that another pod's door gave.
#[derive(Clone, Copy, Debug)]
struct Led;

/// Takes a request to the pod that has what it is about.
async fn lead(other: &Other, mut request: Request<Incoming>, lock: &Lock) -> Answer {
    let pass = lock.pass(request.headers());
    strip_hops(request.headers_mut());
    request.headers_mut().remove(OWN_HEADER);
    if let Some(pass) = pass {
        request.headers_mut().insert(header::AUTHORIZATION, pass);
    }
    let mut answer = match other.take(request, lock).await {
        Ok(answer) if other.has_signed(answer.headers()) => answer,
        Ok(_) | Err(_) => {
            return own(StatusCode::BAD_GATEWAY, "the pod of the agent that has this session does not answer");
        }
    };
    strip_hops(answer.headers_mut());
    answer.extensions_mut().insert(Led);
    answer.map(|body| Either::Left(Watched { body, entered: None, whole: false, revoked: None, _of: (None, None) }))
}

/// Whether a request opens a session.
fn opens_session<B>(request: &Request<B>) -> bool {
    request.method() == http::Method::POST && request.uri().path().trim_end_matches('/').ends_with("/session")
}

/// The protocol that the client wants to switch to, if its `Connection` says so.
fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let wants = connection_options(headers).any(|option| option.eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| wants).cloned()
}

fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|option| !option.is_empty())
}

/// Removes what belongs to one connection and not to the message (RFC 9110, 7.6.1).
fn strip_hops(headers: &mut HeaderMap) {
    let named: Vec<String> = connection_options(headers).map(str::to_owned).collect();
    for name in named {
        headers.remove(name.as_str());
    }
    for name in [
        header::CONNECTION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        http::HeaderName::from_static("keep-alive"),
        http::HeaderName::from_static("proxy-connection"),
    ] {
        headers.remove(name);
    }
}

/// A terminal may stay open for days: it ends with the password that opened it.
async fn tunnel(
    client: hyper::upgrade::OnUpgrade,
    server: hyper::upgrade::OnUpgrade,
    pass: CancellationToken,
    counted: (Attached, Option<Entered>),
) {
    if let (Ok(client), Ok(server)) = tokio::join!(client, server) {
        let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
        let copied = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, 8 << 10, 8 << 10);
        tokio::select! { _ = copied => {}, () = pass.cancelled() => {} }
    }
    drop(counted);
}

/// Whether an answer tells of events, for as long as somebody listens.
fn is_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.trim_start().starts_with("text/event-stream"))
}

fn own(status: StatusCode, text: &str) -> Answer {
    let mut answer = Response::new(Either::Right(Full::from(format!("{text}\n"))));
    *answer.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, plain);
    answer
}

fn busy(refused: Refused) -> Answer {
    let (text, retry_after) = match refused {
        Refused::Held { retry_after } => {
            ("a change is being rolled out to this agent: try again in a moment", retry_after)
        }
        Refused::Full => ("more connections than this door has room for: try again", Duration::from_secs(1)),
        Refused::Ending => ("this pod of the agent ends: try again, another one answers", Duration::from_secs(1)),
    };
    let mut answer = own(StatusCode::SERVICE_UNAVAILABLE, text);
    if !matches!(refused, Refused::Held { .. }) {
        // The next connection goes to a pod that stays.
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let seconds = retry_after.as_millis().div_ceil(1000).max(1);
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(u64::try_from(seconds).unwrap_or(1)));
    answer
}

fn bad_gateway(upstream: &http::uri::Authority, error: &hyper_util::client::legacy::Error) -> String {
    let cause = std::error::Error::source(error).map(|c| format!(": {c}")).unwrap_or_default();
    format!("the agent's server does not answer on {upstream}{cause}")
}

/// A body on its way to the client, and the work that ends with it.
#[derive(Debug)]
pub struct Watched {
    body: Incoming,
    entered: Option<Entered>,
    /// Its end is the end of the work.
    whole: bool,
    /// A stream of events ends with the password that opened it; other answers end by themselves.
    revoked: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    _of: (Option<Following>, Option<Listening>),
}

impl Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.revoked.as_mut().is_some_and(|revoked| revoked.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let ended = matches!(polled, Poll::Ready(None)) || polled.is_ready() && self.body.is_end_stream();
        if ended {
            let whole = self.whole;
            if let Some(mut entered) = self.entered.take()
                && whole
            {
                entered.served();
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How long something has been there; a door that has just started knows nothing bad of the server.
#[derive(Clone, Copy, Debug)]
pub struct Age {
    since: Instant,
    before: Duration,
}

impl Age {
    /// Begins now.
    pub fn start() -> Self {
        Self::of(Duration::ZERO)
    }

    /// Has this age now.
    pub fn of(before: Duration) -> Self {
        Self { since: Instant::now(), before }
    }

    /// Whether it is younger than `limit`.
    pub fn younger_than(self, limit: Duration) -> bool {
        self.before + self.since.elapsed() < limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter().map(|(k, v)| (http::HeaderName::from_static(k), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn hop_by_hop_headers_go_and_the_rest_stays() {
        let mut headers = map(&[
            ("connection", "close, X-Once"),
            ("x-once", "1"),
            ("transfer-encoding", "chunked"),
            ("te", "trailers"),
            ("keep-alive", "timeout=5"),
            ("x-opencode-directory", "/w"),
            ("content-length", "3"),
        ]);
        strip_hops(&mut headers);
        assert_eq!(headers, map(&[("x-opencode-directory", "/w"), ("content-length", "3")]));
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        let asked = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
        assert_eq!(upgrade_of(&map(&asked)).unwrap(), "websocket");
        assert_eq!(upgrade_of(&map(&asked[..1])), None);
        assert_eq!(upgrade_of(&map(&asked[1..])), None);
    }
}
