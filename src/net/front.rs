//! A plain HTTP server for short answers to whoever asks: one request a connection, few connections, little time.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::lobby::{Guest, Lobby};

/// From the connection to the end of the request's head.
const HEAD: Duration = Duration::from_secs(3);
/// From the connection to the end of the answer.
const WHOLE: Duration = Duration::from_secs(10);
/// Longest head, in bytes.
const MAX_HEAD: usize = 8 << 10;

/// Connections to such a server; see [`Lobby`] for who goes when all places are taken.
#[derive(Debug)]
pub struct Front {
    lobby: Lobby,
}

impl Front {
    /// With so many connections at once.
    pub fn new(places: usize) -> Self {
        Self { lobby: Lobby::new(places) }
    }

    /// Serves until `stop`. Answers under way are finished as long as the process lives.
    pub async fn serve<A, F>(self, listener: TcpListener, answer: A, stop: CancellationToken)
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        loop {
            let (stream, from) = tokio::select! {
                () = stop.cancelled() => return,
                accepted = super::accept(&listener) => accepted,
            };
            tokio::spawn(attend(stream, self.lobby.enter(from), answer.clone()));
        }
    }
}

async fn attend<A, F>(stream: TcpStream, guest: Guest, answer: A)
where
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<Full<Bytes>>>,
{
    let service = hyper::service::service_fn(move |request| {
        let answered = answer(request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(MAX_HEAD).keep_alive(false);
    tokio::select! {
        _ = server.serve_connection(TokioIo::new(stream), service) => {} // a client that went away is no event
        () = guest.shown_out() => {}
        () = tokio::time::sleep(WHOLE) => {}
    }
}
