//! Connections of forges.

use std::{convert::Infallible, sync::Arc, time::Duration};

use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Receiver, room::Connections};

/// Longest head of a request.
const MAX_HEAD: usize = 16 << 10;
/// A head must come in this time; an idle connection is closed after it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Deliveries under way may go on for this long after the stop.
const DRAIN: Duration = Duration::from_secs(20);

pub(super) async fn serve(receiver: Arc<Receiver>, listener: TcpListener, stop: CancellationToken) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD);
    let (open, room) = (TaskTracker::new(), Connections::default());
    loop {
        let (stream, from) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = crate::net::accept(&listener) => accepted,
        };
        let Some(place) = room.enter(from, &receiver.trusted) else { continue };
        let receiver = receiver.clone();
        let service = hyper::service::service_fn(move |request| {
            let receiver = receiver.clone();
            async move { Ok::<_, Infallible>(receiver.answer(request, from).await) }
        });
        let connection = http.serve_connection(TokioIo::new(stream), service);
        let stop = stop.clone();
        open.spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                _ = connection.as_mut() => true, // a sender that went away is no event
                () = place.shown_out() => true,
                () = stop.cancelled() => false,
            };
            if !ended {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
            drop(place);
        });
    }
    drop(listener);
    open.close();
    let _ = tokio::time::timeout(DRAIN, open.wait()).await;
}
