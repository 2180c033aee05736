//! Who is at the other end: the door proves that it knows the password before anything is sent that is worth having.
//!
//! A pinned address is a pod's own. When the pod is gone, the network may give the address to anybody, and the password
//! goes in clear. So each new connection to such an address begins with a question: who asks shows with a keyed hash
//! that it knows the password, and the door answers with another one, for this question and its own pod alone. Neither
//! can be used again or taken to another pod of the agent, and who knows no password gets no answer from the door.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures::future::BoxFuture;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderName, HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tower::Service;

/// Where the door answers the question; without the password.
pub const PROOF_PATH: &str = "/pilothouse/proof";
/// The question: a random word, and the hash that shows that the asking one knows the password.
pub const CHALLENGE_HEADER: HeaderName = HeaderName::from_static("x-pilothouse-challenge");
/// The door's answer to the question. In its other answers to who knows the password: that it can be asked.
pub const PROOF_HEADER: HeaderName = HeaderName::from_static("x-pilothouse-proof");
/// What is in [`PROOF_HEADER`] of other answers.
pub const OFFERED: HeaderValue = HeaderValue::from_static("offered");
const LIMIT: Duration = Duration::from_secs(5);
const MAX_ANSWER: usize = 4096;

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// What both know: a hash of user name and password. It never shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// Whose hash it is, so that a question is no answer.
#[derive(Clone, Copy)]
enum Side {
    Asks,
    Door,
}

impl Key {
    /// Of these words.
    pub fn new(username: &str, password: &str) -> Self {
        Self(Sha256::digest(format!("{username}:{password}")).into())
    }

    /// The hash itself, to compare with.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn mac(&self, side: Side, nonce: &str, pod: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.0).ok()?;
        for part in [[side as u8].as_slice(), nonce.as_bytes(), pod] {
            mac.update(&u64::try_from(part.len()).ok()?.to_be_bytes());
            mac.update(part);
        }
        Some(mac)
    }

    fn write(&self, side: Side, nonce: &str, pod: &[u8]) -> Option<String> {
        Some(BASE64_URL_SAFE_NO_PAD.encode(self.mac(side, nonce, pod)?.finalize().into_bytes()))
    }

    fn is(&self, text: &str, side: Side, nonce: &str, pod: &[u8]) -> bool {
        let Ok(bytes) = BASE64_URL_SAFE_NO_PAD.decode(text) else { return false };
        self.mac(side, nonce, pod).is_some_and(|mac| mac.verify_slice(&bytes).is_ok())
    }

    /// The question for the door of `pod`.
    fn challenge(&self, nonce: &str, pod: &[u8]) -> Option<HeaderValue> {
        HeaderValue::try_from(format!("{nonce}.{}", self.write(Side::Asks, nonce, pod)?)).ok()
    }

    /// The answer of the door of `pod`; `None` for who does not know the password, or means another pod.
    pub fn answer(&self, challenge: &HeaderValue, pod: &HeaderValue) -> Option<HeaderValue> {
        let (nonce, mac) = challenge.to_str().ok()?.split_once('.')?;
        let pod = pod.as_bytes();
        if !self.is(mac, Side::Asks, nonce, pod) {
            return None;
        }
        HeaderValue::try_from(self.write(Side::Door, nonce, pod)?).ok()
    }
}

/// The pod that must be at the other end.
pub(super) struct Pin {
    pub pod: HeaderValue,
    pub key: Key,
}

impl Pin {
    /// Asks at a new connection, which is good for more afterwards.
    async fn ask(&self, stream: TokioIo<TcpStream>, uri: &Uri) -> Result<TokioIo<TcpStream>, Fault> {
        let nonce = BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>());
        let challenge = self.key.challenge(&nonce, self.pod.as_bytes()).ok_or("no question can be made")?;
        let request = Request::get(PROOF_PATH)
            .header(header::HOST, uri.authority().map_or("", |a| a.as_str()))
            .header(CHALLENGE_HEADER, challenge)
            .body(Empty::<Bytes>::new())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        let asked = async move {
            let (parts, body) = sender.send_request(request).await?.into_parts();
            Limited::new(body, MAX_ANSWER).collect().await?;
            Ok::<_, Fault>(parts)
        };
        let (answer, rest) = tokio::join!(asked, connection.without_shutdown());
        let (answer, rest) = (answer?, rest?);
        let proof = answer.headers.get(PROOF_HEADER).and_then(|proof| proof.to_str().ok()).unwrap_or_default();
        if !rest.read_buf.is_empty() || !self.key.is(proof, Side::Door, &nonce, self.pod.as_bytes()) {
            return Err("what answers there is not the agent's pod any more".into());
        }
        Ok(rest.io)
    }
}

/// Connects, and asks who is there where it must be a certain pod.
#[derive(Clone)]
pub(super) struct Connector {
    http: HttpConnector,
    pin: Option<Arc<Pin>>,
}

impl Connector {
    pub(super) fn new(http: HttpConnector, pin: Option<Pin>) -> Self {
        Self { http, pin: pin.map(Arc::new) }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = Fault;
    type Future = BoxFuture<'static, Result<Self::Response, Fault>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        self.http.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, pin) = (self.http.call(uri.clone()), self.pin.clone());
        Box::pin(async move {
            let stream = connecting.await?;
            let Some(pin) = pin else { return Ok(stream) };
            tokio::time::timeout(LIMIT, pin.ask(stream, &uri)).await.map_err(|_| "what answers there says nothing")?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_knows_the_password_and_the_pod_asks_and_answers() {
        let (key, other) = (Key::new("opencode", "a"), Key::new("opencode", "b"));
        let pod = HeaderValue::from_static("uid-1");
        let question = key.challenge("nonce", b"uid-1").unwrap();
        let answer = key.answer(&question, &pod).unwrap();
        let text = answer.to_str().unwrap();
        assert!(key.is(text, Side::Door, "nonce", b"uid-1"));
        for (key, nonce, uid) in [(&key, "again", "uid-1"), (&key, "nonce", "uid-2"), (&other, "nonce", "uid-1")] {
            assert!(!key.is(text, Side::Door, nonce, uid.as_bytes()), "{nonce} {uid}");
        }
        assert_eq!(key.answer(&question, &HeaderValue::from_static("uid-2")), None, "another pod of the agent");
        assert_eq!(other.answer(&question, &pod), None);
        assert_eq!(key.answer(&answer, &pod), None);
        let echo = question.to_str().unwrap().split_once('.').unwrap().1;
        assert!(!key.is(echo, Side::Door, "nonce", b"uid-1"), "a question is no answer");
        for wrong in ["", ".", "nonce", "nonce.", "nonce.AAAA", "nonce.!"] {
            assert_eq!(key.answer(&HeaderValue::from_str(wrong).unwrap(), &pod), None, "{wrong}");
        }
        assert_eq!(format!("{key:?}"), "Key");
    }
}
