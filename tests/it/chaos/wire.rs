//! Addresses that lead elsewhere with time: an agent's Service, and that of the controller.

use std::{net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};

/// Leads each new connection to one of those that are behind it. Connections stay where they are, as in a cluster.
#[derive(Clone)]
pub(super) struct Wire {
    pub(super) port: u16,
    behind: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Wire {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Self { port: listener.local_addr().unwrap().port(), behind: Arc::default() };
        let behind = wire.behind.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let to = behind.lock().clone();
                tokio::spawn(lead(client, to));
            }
        });
        wire
    }

    /// The newest comes first.
    pub(super) fn add(&self, address: SocketAddr) {
        self.behind.lock().insert(0, address);
    }

    pub(super) fn remove(&self, address: SocketAddr) {
        self.behind.lock().retain(|other| *other != address);
    }
}

async fn lead(mut client: TcpStream, to: Vec<SocketAddr>) {
    for address in to {
        if let Ok(mut server) = TcpStream::connect(address).await {
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            return;
        }
    }
}
