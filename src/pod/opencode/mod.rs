//! A small HTTP client for the opencode server: what the sidecar and `task-run` need of its API, and no more.
//!
//! Every call is bounded in time and in bytes. A server that is starting may accept a connection and never answer on
//! it (seen with 1.18.33), so a call that runs into its limit is given up together with its connection.

mod events;
mod pinned;
mod proof;
mod sse;
mod types;

pub use events::{Event, Follower, Payload, Properties, Signal};
pub use pinned::{DOOR_HEADER, Door, POD_HEADER};
pub use proof::{CHALLENGE_HEADER, Key, OFFERED, PROOF_HEADER, PROOF_PATH};
pub use types::{
    Health, Message, MessageInfo, ModelRef, Part, Prompt, Rule, Session, SessionError, SessionStatus, Skill, Tokens,
};

use std::{collections::BTreeMap, fmt, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client as Pool, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde::{Serialize, de::DeserializeOwned};

use proof::{Connector, Pin};

/// Longest wait for an answer of an ordinary call.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer of an ordinary call; the last messages of a session may hold whole files.
const MAX_ANSWER: usize = 16 << 20;

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No connection, a connection that broke, or no answer in time. A later call may go well.
    #[error("the agent's server at {url} does not answer: {why}")]
    Unreachable {
        /// Base address without credentials.
        url: String,
        /// What the network said.
        why: String,
        /// Whether the server may have got the request.
        sent: bool,
    },
    /// The password was refused (401 or 403).
    #[error("the agent's server at {url} refuses the password: check the Secret with its username and password")]
    Unauthorized {
        /// Base address without credentials.
        url: String,
    },
    /// The server answered with an error.
    #[error("{method} {path} was answered with {status}: {message}")]
    Refused {
        /// HTTP method.
        method: Method,
        /// Path without the query.
        path: String,
        /// HTTP status.
        status: u16,
        /// The beginning of the answer.
        message: String,
    },
    /// The answer is not what this client knows, or longer than its limit.
    #[error("{method} {path} was answered with something unknown: {why}")]
    Unknown {
        /// HTTP method.
        method: Method,
        /// Path without the query.
        path: String,
        /// What did not fit.
        why: String,
    },
    /// The base address is no `http://host[:port]`.
    #[error("`{0}` is no address of an agent's server: write http://host:port")]
    BadUrl(String),
}

impl Error {
    /// Whether the same call may go well later: the network's faults, and answers of a server (or of the door in front
    /// of it) that is overloaded, held or restarting.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => matches!(status, 429 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// Whether another pod answered than the one that was meant; see [`Client::pinned`].
    pub fn is_of_another_pod(&self) -> bool {
        matches!(self, Self::Refused { status: 421, .. })
    }
}

/// Basic auth of the door. The password never shows in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Credentials {
    /// The value of an `Authorization` header, marked sensitive.
    pub fn header(&self) -> Option<HeaderValue> {
        let text = BASE64_STANDARD.encode(format!("{}:{}", self.username, self.password));
        let mut value = HeaderValue::try_from(format!("Basic {text}")).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// What these have in common with who knows them too.
    pub fn key(&self) -> Key {
        Key::new(&self.username, &self.password)
    }
}

/// A client of one opencode server. Cheap to clone; connections are shared.
#[derive(Clone)]
pub struct Client {
    base: String,
    auth: Option<HeaderValue>,
    key: Option<Key>,
    directory: Option<HeaderValue>,
    /// The pod that must answer.
    pod: Option<HeaderValue>,
    timeout: Duration,
    pool: Pool<Connector, Full<Bytes>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Client {
    /// A client for `http://host[:port]`. Nothing is connected yet.
    pub fn new(url: &str, credentials: Option<&Credentials>) -> Result<Self, Error> {
        let bad = || Error::BadUrl(url.to_owned());
        let uri: http::Uri = url.parse().map_err(|_| bad())?;
        if uri.scheme_str() != Some("http") || uri.host().is_none_or(str::is_empty) || uri.query().is_some() {
            return Err(bad());
        }
        Ok(Self {
            base: url.trim_end_matches('/').to_owned(),
            auth: credentials.and_then(Credentials::header),
            key: credentials.map(Credentials::key),
            directory: None,
            pod: None,
            timeout: CALL_TIMEOUT,
            pool: connections(None),
        })
    }

    /// Works on the instance of this directory (a path on the server) instead of the server's own.
    #[must_use]
    pub fn in_directory(mut self, directory: &str) -> Self {
        self.directory = HeaderValue::try_from(directory).ok();
        self
    }

    /// Gives every call this long instead of [`CALL_TIMEOUT`].
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// `GET /global/health`.
    pub async fn health(&self) -> Result<Health, Error> {
        self.call(Method::GET, "/global/health", None::<&()>).await
    }

    /// `POST /session`: a new session.
    pub async fn create_session(&self, title: &str, agent: Option<&str>, deny: &[Rule]) -> Result<Session, Error> {
        let body = types::NewSession { title, agent, permission: deny };
        self.call(Method::POST, "/session", Some(&body)).await
    }

    /// The session with exactly this title, the newest if there are several.
    pub async fn find_session(&self, title: &str) -> Result<Option<Session>, Error> {
        let path = format!("/session?search={}&limit=100", query_escape(title));
        let found: Vec<Session> = self.call(Method::GET, &path, None::<&()>).await?;
        Ok(found.into_iter().filter(|s| s.title == title).max_by(|a, b| a.time.created.total_cmp(&b.time.created)))
    }

    /// `GET /session`: those of a Task, by the title of its first one.
    pub async fn sessions_of(&self, title: &str) -> Result<Vec<Session>, Error> {
        let path = format!("/session?search={}&limit=100", query_escape(title));
        let found: Vec<Session> = self.call(Method::GET, &path, None::<&()>).await?;
        let further = format!("{title}/");
        Ok(found.into_iter().filter(|s| s.title == title || s.title.starts_with(&further)).collect())
    }

    /// `GET /session/{id}`.
    pub async fn session(&self, id: &str) -> Result<Session, Error> {
        self.call(Method::GET, &format!("/session/{id}"), None::<&()>).await
    }

    /// `GET /session/{id}/children`: sessions that this one has begun.
    pub async fn children(&self, id: &str) -> Result<Vec<Session>, Error> {
        self.call(Method::GET, &format!("/session/{id}/children"), None::<&()>).await
    }

    /// `GET /session/status`: sessions that are not idle.
    pub async fn status(&self) -> Result<BTreeMap<String, SessionStatus>, Error> {
        self.call(Method::GET, "/session/status", None::<&()>).await
    }

    /// `GET /session/{id}/message`: the newest `limit` messages, oldest first.
    pub async fn messages(&self, id: &str, limit: usize) -> Result<Vec<Message>, Error> {
        self.call(Method::GET, &format!("/session/{id}/message?limit={limit}"), None::<&()>).await
    }

    /// `POST /session/{id}/prompt_async`: returns when the server has taken the prompt.
    pub async fn prompt_async(&self, id: &str, prompt: &Prompt) -> Result<(), Error> {
        let path = format!("/session/{id}/prompt_async");
        self.answer(Method::POST, &path, Some(prompt)).await.map(drop)
    }

    /// `POST /session/{id}/abort`: stops what the session does.
    pub async fn abort(&self, id: &str) -> Result<(), Error> {
        self.answer(Method::POST, &format!("/session/{id}/abort"), None::<&()>).await.map(drop)
    }

    /// `POST /permission/{id}/reply` with `reject`.
    pub async fn reject_permission(&self, id: &str) -> Result<(), Error> {
        let body = serde_json::json!({ "reply": "reject" });
        self.answer(Method::POST, &format!("/permission/{id}/reply"), Some(&body)).await.map(drop)
    }

    /// Ids of what waits for a person: `GET /permission` or `GET /question`.
    pub async fn asks(&self, kind: &str) -> Result<Vec<String>, Error> {
        let found: Vec<types::Asked> = self.call(Method::GET, &format!("/{kind}"), None::<&()>).await?;
        Ok(found.into_iter().map(|asked| asked.id).collect())
    }

    /// `GET /skill`: the skills that the instance knows. It reads them once, at the first question or prompt.
    pub async fn skills(&self) -> Result<Vec<Skill>, Error> {
        self.call(Method::GET, "/skill", None::<&()>).await
    }

    /// `POST /global/dispose`: what [`dispose`](Self::dispose) does, for the instances of all directories. The event
    /// `global.disposed` says that it is done.
    pub async fn dispose_all(&self) -> Result<(), Error> {
        self.answer(Method::POST, "/global/dispose", None::<&()>).await.map(drop)
    }

    /// `POST /instance/dispose`: the server forgets what it cached, and cuts what runs.
    pub async fn dispose(&self) -> Result<(), Error> {
        self.answer(Method::POST, "/instance/dispose", None::<&()>).await.map(drop)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Error> {
        let bytes = self.answer(method.clone(), path, body).await?;
        serde_json::from_slice(&bytes).map_err(|e| unknown(method, path, &e))
    }

    async fn answer(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Result<Bytes, Error> {
        let body = match body {
            Some(value) => serde_json::to_vec(value).map_err(|e| unknown(method.clone(), path, &e))?,
            None => Vec::new(),
        };
        tokio::time::timeout(self.timeout, async {
            let response = self.send(method.clone(), path, body).await?;
            let limited = Limited::new(response.into_body(), MAX_ANSWER);
            let collected = limited.collect().await.map_err(|e| self.unreachable(e.as_ref(), true))?;
            Ok(collected.to_bytes())
        })
        .await
        .unwrap_or_else(|_| Err(self.late()))
    }

    /// Sends a request and checks the status; the body is the caller's to read.
    async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Response<Incoming>, Error> {
        let mut request = Request::builder().method(method.clone()).uri(format!("{}{path}", self.base));
        if let Some(headers) = request.headers_mut() {
            if let Some(auth) = &self.auth {
                headers.insert(header::AUTHORIZATION, auth.clone());
            }
            if let Some(directory) = &self.directory {
                headers.insert("x-opencode-directory", directory.clone());
            }
            if let Some(pod) = &self.pod {
                headers.insert(POD_HEADER, pod.clone());
            }
            if !body.is_empty() {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            }
        }
        let request = request.body(Full::from(body)).map_err(|e| unknown(method.clone(), path, &e))?;
        let failed = |e: hyper_util::client::legacy::Error| self.unreachable(&e, !e.is_connect());
        let response = self.pool.request(request).await.map_err(failed)?;
        self.checked(method, path, response).await
    }

    async fn checked(
        &self,
        method: Method,
        path: &str,
        answer: Response<Incoming>,
    ) -> Result<Response<Incoming>, Error> {
        let status = answer.status();
        // A proxy in between, or whoever has the address now, is not the pod. The door of another pod says so (421).
        if self.pod.as_ref().is_some_and(|pod| answer.headers().get(POD_HEADER) != Some(pod))
            && status != StatusCode::MISDIRECTED_REQUEST
        {
            let why = format!("something else than the agent's pod answered with {}", status.as_u16());
            return Err(Error::Unreachable { url: self.base.clone(), why, sent: true });
        }
        if status.is_success() {
            return Ok(answer);
        }
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(Error::Unauthorized { url: self.base.clone() });
        }
        let body = Limited::new(answer.into_body(), 64 << 10).collect().await;
        let text = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
        Err(Error::Refused {
            method,
            path: plain(path),
            status: status.as_u16(),
            message: text.chars().take(500).collect::<String>().trim().to_owned(),
        })
    }

    fn unreachable(&self, error: &(dyn std::error::Error + 'static), sent: bool) -> Error {
        Error::Unreachable { url: self.base.clone(), why: chain(error), sent }
    }

    fn late(&self) -> Error {
        let why = format!("no answer within {} s", self.timeout.as_secs_f32());
        Error::Unreachable { url: self.base.clone(), why, sent: true }
    }
}

/// New connections; `pin` is who must be at their other end.
fn connections<B>(pin: Option<Pin>) -> Pool<Connector, B>
where
    B: hyper::body::Body + Send,
    B::Data: Send,
{
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_nodelay(true);
    Pool::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(5))
        .pool_max_idle_per_host(2)
        .build(Connector::new(connector, pin))
}

fn unknown(method: Method, path: &str, error: &dyn std::error::Error) -> Error {
    Error::Unknown { method, path: plain(path), why: error.to_string() }
}

fn plain(path: &str) -> String {
    path.split('?').next().unwrap_or_default().to_owned()
}

/// The error and its causes; hyper keeps the useful part ("connection refused") at the end.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

fn query_escape(text: &str) -> String {
    use fmt::Write as _;
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["http://127.0.0.1:4096", "http://agent.ns.svc:4096/", "http://[::1]:1"] {
            assert!(Client::new(good, None).is_ok(), "{good}");
        }
        for bad in ["", "agent:4096", "https://agent", "http://agent?x=1", "ftp://a"] {
            assert_eq!(Client::new(bad, None).unwrap_err(), Error::BadUrl(bad.to_owned()));
        }
    }

    #[test]
    fn no_password_in_debug() {
        let credentials = Credentials { username: "opencode".into(), password: "hunter2".into() };
        let client = Client::new("http://a:1", Some(&credentials)).unwrap();
        assert!(!format!("{credentials:?} {client:?} {:?}", credentials.header()).contains("hunter2"));
    }

    #[test]
    fn titles_in_a_query() {
        assert_eq!(query_escape("pilothouse/a b/ü"), "pilothouse%2Fa%20b%2F%C3%BC");
    }
}
