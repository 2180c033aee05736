//! How the controller is reached: address, trust and token, all read again for each connection.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderValue, Uri};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

const CONNECT: Duration = Duration::from_secs(10);

/// A stream of bytes, with TLS or without.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Whose signature the controller's certificate must have.
#[derive(Clone, PartialEq, Eq)]
pub enum Trust {
    /// The authorities in this file, in PEM. It is read again for each connection.
    File(PathBuf),
    /// These authorities, in PEM.
    Pem(Arc<str>),
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => fmt::Debug::fmt(path, f),
            Self::Pem(_) => f.write_str("given"),
        }
    }
}

/// Where the controller is and how it is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
    tls: bool,
    url: String,
    trust: Trust,
    token_file: PathBuf,
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The address is malformed.
    #[error("`{0}` is no address of the controller: write host:port")]
    BadUrl(String),
    /// A mounted file cannot be used.
    #[error("{0}: {1}")]
    File(PathBuf, String),
    /// The authority that was given cannot be used.
    #[error("the controller's authority cannot be used: {0}")]
    Authority(String),
    /// The network or TLS failed.
    #[error("the controller at {0} is not reached: {1}")]
    Unreachable(String, String),
}

impl Endpoint {
    /// `host:port`, the same as `wss://host:port`; or `ws://host:port` in tests (then the token goes in clear).
    pub fn new(address: &str, ca_file: PathBuf, token_file: PathBuf) -> Result<Self, DialError> {
        Self::trusting(address, Trust::File(ca_file), token_file)
    }

    /// The same with an authority from elsewhere.
    pub fn trusting(address: &str, trust: Trust, token_file: PathBuf) -> Result<Self, DialError> {
        let bad = || DialError::BadUrl(address.to_owned());
        let url = if address.contains("://") { address.to_owned() } else { format!("wss://{address}/") };
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let tls = match uri.scheme_str() {
            Some("wss") => true,
            Some("ws") => false,
            _ => return Err(bad()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(bad)?.to_owned();
        let port = uri.port_u16().unwrap_or(9443);
        Ok(Self { host, port, tls, url, trust, token_file })
    }

    /// The URL of its WebSocket.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its `host:port`.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Connects, to the replica at `leader` where one was named. The name that the certificate must have stays that of
    /// the URL: all replicas have one.
    pub async fn dial(&self, leader: Option<&str>) -> Result<Box<dyn Stream>, DialError> {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        let address = leader.map_or_else(|| self.address(), str::to_owned);
        let unreachable = |why: String| DialError::Unreachable(address.clone(), why);
        let stream = timeout(CONNECT, TcpStream::connect(&address))
            .await
            .map_err(|_| unreachable("no connection in time".into()))?
            .map_err(|e| unreachable(e.to_string()))?;
        let _ = stream.set_nodelay(true);
        if !self.tls {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(bare.to_owned()).map_err(|_| DialError::BadUrl(self.url.clone()))?;
        let tls = timeout(CONNECT, self.connector()?.connect(name, stream)).await;
        let tls = tls.map_err(|_| unreachable("no TLS in time".into()))?;
        Ok(Box::new(tls.map_err(|e| unreachable(e.to_string()))?))
    }

    /// The value of the header `Authorization`.
    pub fn token(&self) -> Result<HeaderValue, DialError> {
        let file = |why: &str| DialError::File(self.token_file.clone(), why.to_owned());
        let token = std::fs::read_to_string(&self.token_file).map_err(|e| file(&e.to_string()))?;
        let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim())).map_err(|_| file("is no token"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn connector(&self) -> Result<TlsConnector, DialError> {
        let untrusted = |why: String| match &self.trust {
            Trust::File(path) => DialError::File(path.clone(), why),
            Trust::Pem(_) => DialError::Authority(why),
        };
        let pem = match &self.trust {
            Trust::File(path) => std::fs::read(path).map_err(|e| untrusted(e.to_string()))?,
            Trust::Pem(pem) => pem.as_bytes().to_vec(),
        };
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|e| untrusted(e.to_string()))?;
            roots.add(certificate).map_err(|e| untrusted(e.to_string()))?;
        }
        if roots.is_empty() {
            return Err(untrusted("holds no certificate".into()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| untrusted(e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
    }
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
            assert!(matches!(parse(bad), Err(DialError::BadUrl(_))), "{bad}");
        }
    }
}
