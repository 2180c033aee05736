//! How the controller is reached: address, trust and token, all read again for each connection.

use std::{path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderValue, Uri, header};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Error as WsError, client::IntoClientRequest as _, protocol::WebSocketConfig},
};

use crate::api::voice::LEADER_HEADER;

const CONNECT: Duration = Duration::from_secs(10);
const MAX_MESSAGE: usize = crate::api::voice::MAX_ORDER;

/// A stream of bytes, with TLS or without.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub(super) type Socket = WebSocketStream<Box<dyn Stream>>;

/// Where the controller is and how it is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
    tls: bool,
    url: String,
    ca_file: PathBuf,
    token_file: PathBuf,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is malformed.
    #[error("`{0}` is no address of the controller: write host:port")]
    BadUrl(String),
    /// A mounted file cannot be used.
    #[error("{0}: {1}")]
    File(PathBuf, String),
    /// The network, TLS or the WebSocket failed.
    #[error("the controller at {0} is not reached: {1}")]
    Unreachable(String, String),
    /// The controller answered with something else than a WebSocket.
    #[error("the controller refuses: {0}")]
    Refused(String),
    /// Another replica leads, there.
    #[error("another replica leads, at {0}")]
    Elsewhere(String),
    /// The connection ended.
    #[error("{0}")]
    Closed(String),
}

impl Endpoint {
    /// `host:port`, the same as `wss://host:port`; or `ws://host:port` in tests (then the token goes in clear).
    pub fn new(address: &str, ca_file: PathBuf, token_file: PathBuf) -> Result<Self, ConnectError> {
        let bad = || ConnectError::BadUrl(address.to_owned());
        let url = if address.contains("://") { address.to_owned() } else { format!("wss://{address}/") };
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let tls = match uri.scheme_str() {
            Some("wss") => true,
            Some("ws") => false,
            _ => return Err(bad()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(bad)?.to_owned();
        let port = uri.port_u16().unwrap_or(9443);
        Ok(Self { host, port, tls, url, ca_file, token_file })
    }

    /// Connects, to `leader` where one was named. The name that the certificate must have stays that of the URL.
    pub(super) async fn connect(&self, leader: Option<&str>) -> Result<Socket, ConnectError> {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        let address = leader.map_or_else(|| format!("{}:{}", self.host, self.port), str::to_owned);
        let unreachable = |why: String| ConnectError::Unreachable(address.clone(), why);
        let stream = timeout(CONNECT, TcpStream::connect(&address))
            .await
            .map_err(|_| unreachable("no connection in time".into()))?
            .map_err(|e| unreachable(e.to_string()))?;
        let _ = stream.set_nodelay(true);
        let stream: Box<dyn Stream> = if self.tls {
            let name = ServerName::try_from(bare.to_owned()).map_err(|_| ConnectError::BadUrl(self.url.clone()))?;
            let tls = timeout(CONNECT, self.trust()?.connect(name, stream)).await;
            let tls = tls.map_err(|_| unreachable("no TLS in time".into()))?;
            Box::new(tls.map_err(|e| unreachable(e.to_string()))?)
        } else {
            Box::new(stream)
        };
        let mut request = self.url.as_str().into_client_request().map_err(|e| unreachable(e.to_string()))?;
        request.headers_mut().insert(header::AUTHORIZATION, self.token()?);
        match timeout(CONNECT, client_async_with_config(request, stream, Some(buffers()))).await {
            Ok(Ok((socket, _))) => Ok(socket),
            Ok(Err(error)) => Err(refusal(error, &address)),
            Err(_) => Err(unreachable("no WebSocket in time".into())),
        }
    }

    fn token(&self) -> Result<HeaderValue, ConnectError> {
        let file = |why: &str| ConnectError::File(self.token_file.clone(), why.to_owned());
        let token = std::fs::read_to_string(&self.token_file).map_err(|e| file(&e.to_string()))?;
        let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim())).map_err(|_| file("is no token"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn trust(&self) -> Result<TlsConnector, ConnectError> {
        let file = |why: String| ConnectError::File(self.ca_file.clone(), why);
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&self.ca_file).map_err(|e| file(e.to_string()))? {
            let certificate = certificate.map_err(|e| file(e.to_string()))?;
            roots.add(certificate).map_err(|e| file(e.to_string()))?;
        }
        if roots.is_empty() {
            return Err(file("holds no certificate".into()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| file(e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

fn refusal(error: WsError, address: &str) -> ConnectError {
    let WsError::Http(response) = error else {
        return ConnectError::Unreachable(address.to_owned(), error.to_string());
    };
    let leader = response.headers().get(LEADER_HEADER).and_then(|value| value.to_str().ok());
    if let (421, Some(leader)) = (response.status().as_u16(), leader) {
        return ConnectError::Elsewhere(leader.to_owned());
    }
    let text = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
    ConnectError::Refused(format!("{} {}", response.status(), text.trim().chars().take(300).collect::<String>()))
}

fn buffers() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4 << 10)
        .write_buffer_size(0)
        .max_write_buffer_size(256 << 10)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parse = |url: &str| Endpoint::new(url, "ca".into(), "token".into());
        let endpoint = parse("wss://pilothouse.system.svc:9443/voice").unwrap();
        assert_eq!((endpoint.host.as_str(), endpoint.port, endpoint.tls), ("pilothouse.system.svc", 9443, true));
        assert!(!parse("ws://127.0.0.1:1").unwrap().tls);
        assert!(parse("pilothouse.system.svc:9443").unwrap().tls);
        for bad in ["https://a", "", "wss://", "a b:1"] {
            assert!(matches!(parse(bad), Err(ConnectError::BadUrl(_))), "{bad}");
        }
    }
}
