//! What comes back: taken in within limits, and what went wrong in words.

use std::{io::Write, path::Path, sync::Arc, time::Duration};

use curl::easy::{Handler, WriteError};
use tempfile::SpooledTempFile;

use crate::git::{
    error::{GitError, Reason},
    remote::{Stop, timeout},
    url::RemoteUrl,
};

/// Responses above this wait on disk.
const IN_MEMORY: usize = 1 << 20;

/// Takes in a response.
pub(super) struct Receiver {
    pub(super) headers: Vec<u8>,
    pub(super) body: SpooledTempFile,
    limit: u64,
    received: u64,
    too_large: bool,
    storage_failed: bool,
    stop: Arc<Stop>,
}

impl Receiver {
    pub(super) fn new(limit: u64, folder: &Path, stop: &Arc<Stop>) -> Self {
        Self {
            headers: vec![],
            body: tempfile::spooled_tempfile_in(IN_MEMORY, folder),
            limit,
            received: 0,
            too_large: false,
            storage_failed: false,
            stop: stop.clone(),
        }
    }

    /// By the content type, which the protocol demands.
    pub(super) fn is_git(&self) -> bool {
        let text = String::from_utf8_lossy(&self.headers).to_ascii_lowercase();
        text.lines().any(|line| {
            let value = line.strip_prefix("content-type:").map(str::trim);
            value.is_some_and(|value| value.starts_with("application/x-git-upload-pack-"))
        })
    }

    /// Seconds only; the other form of the header, a date, is rare.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let text = String::from_utf8_lossy(&self.headers);
        let value = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("retry-after").then(|| value.trim().to_owned())
        })?;
        value.parse().ok().map(Duration::from_secs)
    }
}

impl Handler for Receiver {
    fn write(&mut self, data: &[u8]) -> Result<usize, WriteError> {
        self.received += data.len() as u64;
        if self.received > self.limit {
            self.too_large = true;
            return Ok(0);
        }
        if self.body.write_all(data).is_err() {
            self.storage_failed = true;
            return Ok(0);
        }
        Ok(data.len())
    }

    fn header(&mut self, data: &[u8]) -> bool {
        if data.starts_with(b"HTTP/") {
            self.headers.clear();
        }
        self.headers.extend_from_slice(data);
        self.headers.len() <= 256 * 1024
    }

    fn progress(&mut self, _: f64, _: f64, _: f64, _: f64) -> bool {
        !self.stop.is_over()
    }
}

/// What a status other than 200 means.
pub(super) fn rejection(status: u32, retry_after: Option<Duration>, anonymous: bool) -> GitError {
    let (reason, message) = match status {
        401 | 403 if anonymous => {
            (Reason::AuthenticationFailed, format!("the remote wants a credential (HTTP {status}); set secretRef"))
        }
        401 | 403 => {
            (Reason::AuthenticationFailed, format!("the remote does not accept the credential (HTTP {status})"))
        }
        404 | 410 => (
            Reason::RepositoryNotFound,
            format!("no repository at this URL, or it is hidden from this credential (HTTP {status})"),
        ),
        429 => (Reason::RateLimited, "the remote asks for fewer requests (HTTP 429)".to_owned()),
        500..=599 => (Reason::Unreachable, format!("the server has an error of its own (HTTP {status})")),
        // Nothing of the answer is shown: what is there may be no business of whoever wrote the URL.
        _ => return GitError { retry_after, ..no_git() },
    };
    GitError { retry_after, ..GitError::new(reason, message) }
}

/// Why a request to the remote failed before its answer was complete.
pub(super) fn explain(error: &curl::Error, receiver: &Receiver, remote: &RemoteUrl) -> GitError {
    let host = remote.host();
    if receiver.too_large {
        return GitError::new(
            Reason::TooLarge,
            format!("the response is larger than {} MiB, the limit for one request", receiver.limit >> 20),
        );
    }
    if receiver.storage_failed {
        return GitError::new(Reason::StorageFailed, "no space for the response on the controller's disk");
    }
    if receiver.stop.is_over() || error.is_operation_timedout() || error.is_aborted_by_callback() {
        return timeout();
    }
    if error.is_couldnt_resolve_host() || error.is_couldnt_resolve_proxy() {
        return GitError::new(Reason::Unreachable, format!("the name {host} cannot be resolved"));
    }
    if error.is_peer_failed_verification() || error.is_ssl_cacert_badfile() {
        return GitError::new(
            Reason::TLSFailed,
            format!(
                "the certificate of {host} is not trusted or not for this name; a private CA goes into the Secret's ca.crt"
            ),
        );
    }
    if error.is_ssl_connect_error() || error.is_ssl_certproblem() || error.is_ssl_cipher() {
        return GitError::new(Reason::TLSFailed, format!("no TLS connection to {host}; does it speak https there?"));
    }
    let port = remote.port().map(|port| format!(", port {port}")).unwrap_or_default();
    GitError::new(Reason::Unreachable, format!("no connection to {host}{port}: {}", error.description()))
}

pub(super) fn no_git() -> GitError {
    GitError::new(Reason::ProtocolError, "what answers at this URL is no Git server; is a login page in the way?")
}
