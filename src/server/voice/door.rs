//! Accepts sidecars: TLS, then HTTP with the token, then a WebSocket or an artifact.

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::sync::CancellationToken;

use super::{
    Hub, archive,
    artifacts::{self, Body, Shelf, Transfer},
    connection,
    identity::{Identity, IdentityError},
    throttle::Handshake,
};
use crate::net::accept;

/// From the connection to the end of the TLS handshake.
const TLS: Duration = Duration::from_secs(3);
/// From there to the end of the request's head.
const HEAD: Duration = Duration::from_secs(3);
/// From the TLS handshake to the WebSocket or the beginning of a transfer, a review of the token included.
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
        tokio::spawn(welcome(hub.clone(), stream, acceptor, (from, handshake), stop.clone()));
    }
}

/// Who comes, and his place among those who have not said hello.
struct Guest {
    from: IpAddr,
    handshake: Handshake,
    /// Told of a transfer, which has other limits.
    begun: oneshot::Sender<Transfer>,
}

/// Ends when the WebSocket stands (it lives on in a task of its own) or the answer has been sent.
async fn welcome(
    hub: Hub,
    stream: TcpStream,
    acceptor: TlsAcceptor,
    (from, handshake): (IpAddr, Handshake),
    stop: CancellationToken,
) {
    let stream = match tokio::time::timeout(TLS, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => return,
    };
    let (begun, transfer) = oneshot::channel();
    let guest = parking_lot::Mutex::new(Some(Guest { from, handshake, begun }));
    let service = hyper::service::service_fn(|request: Request<Incoming>| {
        let (hub, guest, stop) = (hub.clone(), guest.lock().take(), stop.clone());
        async move { Ok::<_, Infallible>(answer(hub, request, guest, stop).await) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(MAX_HEAD);
    tokio::select! {
        _ = server.serve_connection(TokioIo::new(stream), service).with_upgrades() => {} // who went away is no event
        () = patience(transfer) => {}
        () = stop.cancelled() => {}
    }
}

/// Resolves when it has taken too long: everything together, or the transfer that began.
async fn patience(transfer: oneshot::Receiver<Transfer>) {
    let mut late = std::pin::pin!(tokio::time::sleep(HANDSHAKE));
    let transfer = tokio::select! {
        () = &mut late => return,
        transfer = transfer => transfer,
    };
    match transfer {
        Ok(transfer) => transfer.over().await,
        Err(_) => late.await, // there is none
    }
}

async fn answer(
    hub: Hub,
    mut request: Request<Incoming>,
    guest: Option<Guest>,
    stop: CancellationToken,
) -> Response<Body> {
    let Some(guest) = guest else { return refuse(StatusCode::BAD_REQUEST, "one request a connection") };
    if let Some(shelf) = hub.0.shelf.as_ref().filter(|_| artifacts::is_ours(&request)) {
        return artifact(&hub, shelf, &request, guest).await;
    }
    if let Some(archive) = hub.0.archive.get().filter(|_| archive::is_ours(&request)) {
        let mut response = archive.answer(&request, guest.from, hub.leads()).await;
        close(&mut response);
        return response;
    }
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
        Err(error) => return unknown(&error),
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
    let mut response = Response::new(artifacts::text(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::try_from(key) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

/// Every replica answers this, whoever leads.
async fn artifact(hub: &Hub, shelf: &Shelf, request: &Request<Incoming>, guest: Guest) -> Response<Body> {
    let who = match identify(hub, request.headers(), guest.from).await {
        Ok(who) => who,
        Err(error) => {
            shelf.refused();
            return unknown(&error);
        }
    };
    match shelf.answer(request, &who).await {
        Ok((mut response, transfer)) => {
            close(&mut response);
            if let Some(transfer) = transfer {
                // It has a place of its own now, not one of those who have yet to say who they are.
                let _ = guest.begun.send(transfer);
                drop(guest.handshake);
            }
            response
        }
        Err(StatusCode::NOT_FOUND) => {
            let mut response = refuse(StatusCode::NOT_FOUND, "no such artifact for you");
            if let Leadership::Follower(address) = &*hub.0.leadership.borrow() {
                name_leader(&mut response, address);
            }
            response
        }
        Err(StatusCode::METHOD_NOT_ALLOWED) => refuse(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD"),
        Err(status) => {
            let mut response = refuse(status, "not now: try again in a moment");
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
    }
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

/// Somebody whose token does not say who he is, or cannot be reviewed.
fn unknown(error: &IdentityError) -> Response<Body> {
    let status = match error {
        IdentityError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        IdentityError::TooMany => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::UNAUTHORIZED,
    };
    refuse(status, &error.to_string())
}

fn refuse(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(artifacts::text(format!("{text}\n")));
    *response.status_mut() = status;
    close(&mut response);
    response
}

/// One request a connection: the next token has to come by the front again.
fn close(response: &mut Response<Body>) {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}

fn elsewhere(address: &str) -> Response<Body> {
    let mut response = refuse(StatusCode::MISDIRECTED_REQUEST, "another replica leads");
    name_leader(&mut response, address);
    response
}

fn name_leader(response: &mut Response<Body>, address: &str) {
    if let Ok(value) = HeaderValue::try_from(address) {
        response.headers_mut().insert(crate::api::voice::LEADER_HEADER, value);
    }
}
