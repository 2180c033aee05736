//! Artifacts from the controller: what a pod unpacks, and what a replica mirrors.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use tokio::{io::AsyncWriteExt as _, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Digest,
    archive::{self, UnpackError},
};
use crate::api::voice::{ARTIFACTS_PATH, LEADER_HEADER};
pub use crate::net::dial::{DialError, Endpoint, Trust};

/// Largest artifact that is taken where nobody said its size, in bytes: more than the largest tree makes.
pub const MAX_ARTIFACT: u64 = 512 << 20;
/// From the request to the head of the answer. The controller may have to ask the API server who we are.
const ANSWER: Duration = Duration::from_secs(20);
/// From one part of the content to the next.
const PART: Duration = Duration::from_secs(20);
/// The whole content.
const WHOLE: Duration = Duration::from_mins(10);
/// Replicas that name another one, in a row.
const REDIRECTS: usize = 2;
const BUFFER: usize = 64 << 10;

/// Why there is no artifact. All of these may pass, so callers ask again, after a growing pause that differs from pod to
/// pod.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The controller is not reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// Not there, or not ours: the answer is the same.
    #[error(
        "the controller has no artifact {0} for this pod: it is not there yet, or nothing that the Agent refers to names \
         it; look at the Agent's conditions"
    )]
    Missing(Digest),
    /// Too many others are served.
    #[error("the controller serves as many as it can: {0}")]
    Busy(String),
    /// Any other answer.
    #[error("the controller refuses: {0}")]
    Refused(String),
    /// The connection broke or was too slow.
    #[error("the transfer of {0} broke off: {1}")]
    Broken(Digest, String),
    /// Another size than the manifest says, or none at all.
    #[error("the artifact {digest} has {found} bytes where {wanted} were expected")]
    Size {
        /// Which one.
        digest: Digest,
        /// What was expected, or the most that is taken.
        wanted: u64,
        /// What came, or was announced.
        found: u64,
    },
    /// Other bytes than the name says.
    #[error("what came for {0} is something else: its digest is {1}")]
    Damaged(Digest, Digest),
    /// The content cannot be unpacked.
    #[error("the artifact {0} cannot be unpacked: {1}")]
    Unpack(Digest, UnpackError),
    /// The local disk.
    #[error("cannot write below {0}: {1}")]
    Disk(PathBuf, io::Error),
}

/// Fetches artifacts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Fetcher {
    endpoint: Endpoint,
}

enum Answer {
    Content(Incoming, AbortOnDropHandle<()>),
    Elsewhere(String),
}

impl Fetcher {
    /// From there. The token is read for each request.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint }
    }

    /// Fetches an artifact of `size` bytes and unpacks it as the folder `to`, which must not exist; its parent must, and
    /// needs room for it twice. `to` is there complete, or not at all. Files are 0644 or 0755.
    pub async fn fetch(&self, digest: &Digest, size: u64, to: &Path) -> Result<(), FetchError> {
        let parent = to.parent().unwrap_or(Path::new(".")).to_owned();
        let file = self.download(digest, Some(size), &parent, None).await?;
        let (digest, to) = (*digest, to.to_owned());
        let unpacked = tokio::task::spawn_blocking(move || {
            let file = file.reopen().map_err(UnpackError::Disk)?;
            archive::unpack(io::BufReader::with_capacity(BUFFER, file), &to)
        });
        let unpacked = unpacked.await.unwrap_or_else(|e| Err(UnpackError::Disk(io::Error::other(e))));
        unpacked.map_err(|error| FetchError::Unpack(digest, error))
    }

    /// Fetches the archive alone into a temporary file below `folder`, verified. Asks the replica at `first` where one is
    /// named, and whoever a replica names that does not have it.
    pub async fn download(
        &self,
        digest: &Digest,
        size: Option<u64>,
        folder: &Path,
        first: Option<&str>,
    ) -> Result<NamedTempFile, FetchError> {
        let mut at = first.map(str::to_owned);
        for _ in 0..=REDIRECTS {
            match self.ask(digest, at.as_deref()).await? {
                Answer::Content(body, _connection) => {
                    let received = timeout(WHOLE, receive(digest, size, body, folder)).await;
                    return received.unwrap_or_else(|_| Err(broken(digest, "it took too long")));
                }
                Answer::Elsewhere(leader) if at.as_ref() != Some(&leader) => at = Some(leader),
                Answer::Elsewhere(_) => break,
            }
        }
        Err(FetchError::Missing(*digest))
    }

    async fn ask(&self, digest: &Digest, at: Option<&str>) -> Result<Answer, FetchError> {
        let stream = self.endpoint.dial(at).await?;
        let broke = |error: hyper::Error| broken(digest, error);
        let mut client = hyper::client::conn::http1::Builder::new();
        let (mut sender, connection) =
            client.max_buf_size(BUFFER).handshake(TokioIo::new(stream)).await.map_err(broke)?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            let _ = connection.await; // what broke it, the request says too
        }));
        let request = Request::get(format!("{ARTIFACTS_PATH}{}", digest.hex()))
            .header(header::HOST, self.endpoint.address())
            .header(header::AUTHORIZATION, self.endpoint.token()?)
            .body(Empty::<Bytes>::new())
            .map_err(|error| FetchError::Refused(error.to_string()))?;
        let answer = timeout(ANSWER, sender.send_request(request)).await;
        let answer = answer.map_err(|_| broken(digest, "no answer in time"))?.map_err(broke)?;
        let (head, body) = answer.into_parts();
        match head.status {
            StatusCode::OK => Ok(Answer::Content(body, connection)),
            StatusCode::NOT_FOUND => leader(&head.headers).map(Answer::Elsewhere).ok_or(FetchError::Missing(*digest)),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                Err(FetchError::Busy(said(head.status, body).await))
            }
            status => Err(FetchError::Refused(said(status, body).await)),
        }
    }
}

fn leader(headers: &HeaderMap) -> Option<String> {
    Some(headers.get(LEADER_HEADER)?.to_str().ok()?.to_owned())
}

fn broken(digest: &Digest, why: impl std::fmt::Display) -> FetchError {
    FetchError::Broken(*digest, why.to_string())
}

/// The status and the first line of the text, which is short.
async fn said(status: StatusCode, body: Incoming) -> String {
    let text = timeout(PART, http_body_util::Limited::new(body, 4 << 10).collect()).await;
    let text = text.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control());
    format!("{status} {}", line.take(300).collect::<String>())
}

/// Writes what comes to a temporary file, which is gone again unless everything is as expected.
async fn receive(
    digest: &Digest,
    size: Option<u64>,
    mut body: Incoming,
    folder: &Path,
) -> Result<NamedTempFile, FetchError> {
    let disk = |error: io::Error| FetchError::Disk(folder.to_owned(), error);
    let most = size.unwrap_or(MAX_ARTIFACT);
    let other_size = |found: u64| FetchError::Size { digest: *digest, wanted: most, found };
    if let Some(announced) = hyper::body::Body::size_hint(&body).exact()
        && (announced > most || size.is_some_and(|size| size != announced))
    {
        return Err(other_size(announced));
    }
    let file = NamedTempFile::with_prefix_in(".fetch-", folder).map_err(disk)?;
    let mut to = tokio::fs::File::from_std(file.reopen().map_err(disk)?);
    let (mut hasher, mut found) = (Sha256::new(), 0u64);
    loop {
        let part = timeout(PART, body.frame()).await.map_err(|_| broken(digest, "nothing came for too long"))?;
        let Some(part) = part.transpose().map_err(|error| broken(digest, error))? else { break };
        let Ok(bytes) = part.into_data() else { continue };
        found += bytes.len() as u64;
        if found > most {
            return Err(other_size(found));
        }
        hasher.update(&bytes);
        to.write_all(&bytes).await.map_err(disk)?;
    }
    to.flush().await.map_err(disk)?;
    if size.is_some_and(|size| size != found) {
        return Err(other_size(found));
    }
    let real = Digest::from(hasher);
    if real == *digest { Ok(file) } else { Err(FetchError::Damaged(*digest, real)) }
}
