//! Accepts sidecars: TLS, then HTTP with the token, then a WebSocket.

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::sync::CancellationToken;

use super::{
    Hub, connection,
    identity::{Identity, IdentityError},
    throttle::Handshake,
};
use crate::net::accept;

/// From the connection to the end of the TLS handshake.
const TLS: Duration = Duration::from_secs(3);
/// From there to the end of the request's head.
const HEAD: Duration = Duration::from_secs(3);
/// From the first byte to the WebSocket, a review of the token included.
const HANDSHAKE: Duration = Duration::from_secs(15);
const MAX_HEAD: usize = 20 << 10;

/// Whether this replica leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Leadership {
    /// It does: sidecars are welcome.
    Leader,
    /// Another one does, or nobody knows.
    #[default]
    Unknown,
    /// Another one does, and is reached at this `host:port`.
    Follower(String),
}

pub(super) async fn serve(
    hub: Hub,
    listener: TcpListener,
    tls: watch::Receiver<Arc<rustls::ServerConfig>>,
    stop: CancellationToken,
) {
    loop {
        let (stream, from) = tokio::select! {
            () = stop.cancelled() => return,
            accepted = accept(&listener) => accepted,
        };
        // Nobody waits for a place: whoever comes next may be an honest one from elsewhere.
        let Some(handshake) = hub.0.handshakes.begin(from) else { continue };
        let acceptor = TlsAcceptor::from(tls.borrow().clone());
        let welcome = welcome(hub.clone(), stream, acceptor, Guest { from, handshake }, stop.clone());
        tokio::spawn(tokio::time::timeout(HANDSHAKE, welcome));
    }
}

/// Who comes, and his place among those who have not said hello.
struct Guest {
    from: IpAddr,
    handshake: Handshake,
}

/// Ends when the WebSocket stands (it lives on in a task of its own) or the answer was another.
async fn welcome(hub: Hub, stream: TcpStream, acceptor: TlsAcceptor, guest: Guest, stop: CancellationToken) {
    let stream = match tokio::time::timeout(TLS, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => return,
    };
    let guest = parking_lot::Mutex::new(Some(guest));
    let service = hyper::service::service_fn(|request: Request<Incoming>| {
        let (hub, guest, stop) = (hub.clone(), guest.lock().take(), stop.clone());
        async move { Ok::<_, Infallible>(answer(hub, request, guest, stop).await) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(MAX_HEAD);
    let _ = server.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}

async fn answer(
    hub: Hub,
    mut request: Request<Incoming>,
    guest: Option<Guest>,
    stop: CancellationToken,
) -> Response<Full<Bytes>> {
    let Some(guest) = guest else { return refuse(StatusCode::BAD_REQUEST, "one request a connection") };
    let leadership = hub.0.leadership.borrow().clone();
    match leadership {
        Leadership::Leader => {}
        Leadership::Unknown => return refuse(StatusCode::SERVICE_UNAVAILABLE, "no leader is known: try again"),
        Leadership::Follower(address) => return elsewhere(&address),
    }
    let Some(key) = websocket_key(request.headers()) else {
        return refuse(StatusCode::UPGRADE_REQUIRED, "this port speaks WebSocket with the sidecars of agents");
    };
    let identity = match identify(&hub, request.headers(), guest.from).await {
        Ok(identity) => identity,
        Err(error @ IdentityError::Unavailable(_)) => {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, &error.to_string());
        }
        Err(error @ IdentityError::TooMany) => return refuse(StatusCode::TOO_MANY_REQUESTS, &error.to_string()),
        Err(error) => return refuse(StatusCode::UNAUTHORIZED, &error.to_string()),
    };
    let Ok(permit) = hub.0.connections.clone().try_acquire_owned() else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "as many sidecars are connected as this controller takes");
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(stream) = upgraded.await {
            connection::talk(hub, stream, identity, guest.handshake, stop).await;
        }
        drop(permit);
    });
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::try_from(key) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

async fn identify(hub: &Hub, headers: &HeaderMap, from: IpAddr) -> Result<Identity, IdentityError> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = value.and_then(|value| value.strip_prefix("Bearer ")).ok_or(IdentityError::Invalid)?;
    hub.0.reviews.identify(token, from).await
}

/// The answer to the client's key, if the request asks for a WebSocket.
fn websocket_key(headers: &HeaderMap) -> Option<String> {
    let upgrade = headers.get(header::UPGRADE)?.to_str().ok()?;
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    let version = headers.get(header::SEC_WEBSOCKET_VERSION)?;
    (upgrade.eq_ignore_ascii_case("websocket") && version == "13").then(|| derive_accept_key(key.as_bytes()))
}

fn refuse(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{text}\n")));
    *response.status_mut() = status;
    // One request a connection: the next token has to come by the front again.
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn elsewhere(address: &str) -> Response<Full<Bytes>> {
    let mut response = refuse(StatusCode::MISDIRECTED_REQUEST, "another replica leads");
    if let Ok(value) = HeaderValue::try_from(address) {
        response.headers_mut().insert(crate::api::voice::LEADER_HEADER, value);
    }
    response
}
