//! The WebSocket to the controller.

use std::time::Duration;

use http::header;
use tokio::time::timeout;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Error as WsError, client::IntoClientRequest as _, protocol::WebSocketConfig},
};

use crate::{
    api::voice::LEADER_HEADER,
    net::dial::{DialError, Endpoint, Stream},
};

/// From the connection to the WebSocket.
const OPEN: Duration = Duration::from_secs(10);
const MAX_MESSAGE: usize = crate::api::voice::MAX_ORDER;

pub(super) type Socket = WebSocketStream<Box<dyn Stream>>;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The controller is not reached, or cannot be.
    #[error(transparent)]
    Dial(#[from] DialError),
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

/// Connects, to `leader` where one was named.
pub(super) async fn connect(endpoint: &Endpoint, leader: Option<&str>) -> Result<Socket, ConnectError> {
    let address = leader.map_or_else(|| endpoint.address(), str::to_owned);
    let unreachable = |why: String| ConnectError::Dial(DialError::Unreachable(address.clone(), why));
    let stream = endpoint.dial(leader).await?;
    let mut request = endpoint.url().into_client_request().map_err(|e| unreachable(e.to_string()))?;
    request.headers_mut().insert(header::AUTHORIZATION, endpoint.token()?);
    match timeout(OPEN, client_async_with_config(request, stream, Some(buffers()))).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(error)) => Err(refusal(error, &address)),
        Err(_) => Err(unreachable("no WebSocket in time".into())),
    }
}

fn refusal(error: WsError, address: &str) -> ConnectError {
    let WsError::Http(response) = error else {
        return DialError::Unreachable(address.to_owned(), error.to_string()).into();
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
