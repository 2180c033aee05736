//! Serving strangers: anybody may connect, so each gets little, and nobody's share can be taken by others. And the way
//! to the controller, for those who know it.

pub mod dial;
pub mod front;
pub mod lobby;

use std::{net::IpAddr, time::Duration};

use tokio::net::{TcpListener, TcpStream};

/// The next connection and its peer. A failure (too many open files, say) is logged and must not spin: the next try comes
/// 50 ms later. Dropping the future loses no connection.
pub async fn accept(listener: &TcpListener) -> (TcpStream, IpAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let _ = stream.set_nodelay(true);
                return (stream, from.ip());
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
