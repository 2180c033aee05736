//! What can go wrong with a remote, in the words a user needs (pure).

use std::time::Duration;

use crate::status::{Failure, text, truncate};

/// Stable reasons; each is a condition reason too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The remote does not accept the credential, or wants one.
    AuthenticationFailed,
    /// No repository at this address, or it is hidden from this credential.
    RepositoryNotFound,
    /// The branch, tag or name does not exist.
    ReferenceNotFound,
    /// The commit does not exist or the server does not give it out.
    CommitNotFound,
    /// The ssh server's key is not among `known_hosts`.
    HostKeyMismatch,
    /// The certificate is not trusted, or TLS failed otherwise.
    TLSFailed,
    /// The remote did not answer in time.
    Timeout,
    /// No connection, or the server answers with an error of its own.
    Unreachable,
    /// The server asks for fewer requests.
    RateLimited,
    /// A listing, a pack or a tree exceeds its limit.
    TooLarge,
    /// A file of the commit keeps it from being checked out as a whole repository.
    CheckoutRefused,
    /// A submodule has no usable address, or there are too many of them, or too deep.
    SubmoduleRefused,
    /// The address leads to where no remote may be.
    AddressRefused,
    /// What the server sent makes no sense.
    ProtocolError,
    /// The controller's own disk or memory.
    StorageFailed,
    /// The operation was given up because nobody wants it any more.
    Cancelled,
}

impl Reason {
    /// The CamelCase text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AuthenticationFailed => "AuthenticationFailed",
            Self::RepositoryNotFound => "RepositoryNotFound",
            Self::ReferenceNotFound => "ReferenceNotFound",
            Self::CommitNotFound => "CommitNotFound",
            Self::HostKeyMismatch => "HostKeyMismatch",
            Self::TLSFailed => "TLSFailed",
            Self::Timeout => "Timeout",
            Self::Unreachable => "Unreachable",
            Self::RateLimited => "RateLimited",
            Self::TooLarge => "TooLarge",
            Self::CheckoutRefused => "CheckoutRefused",
            Self::SubmoduleRefused => "SubmoduleRefused",
            Self::AddressRefused => "AddressRefused",
            Self::ProtocolError => "ProtocolError",
            Self::StorageFailed => "StorageFailed",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// A failed listing or fetch. Never holds a credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct GitError {
    /// Stable reason.
    pub reason: Reason,
    /// What is wrong and what to do; deterministic.
    pub message: String,
    /// How long the server asked to be left alone.
    pub retry_after: Option<Duration>,
    /// Whether a submodule is the trouble, which the message names, and not the repository itself.
    pub submodule: bool,
}

impl GitError {
    /// A failure with a message of at most 500 bytes. It may hold words of a remote: what could steer a terminal or
    /// turn the text around is replaced.
    pub fn new(reason: Reason, message: impl AsRef<str>) -> Self {
        Self { reason, message: truncate(&text::line(message.as_ref()), 500), retry_after: None, submodule: false }
    }

    /// What is said of a private network in the place of what was found: whether something is there, and what, would be a
    /// map of it for whoever may write URLs. The log, which is for who runs the controller, has the rest.
    pub(super) fn veiled(self, url: &super::RemoteUrl, behind: bool) -> Self {
        tracing::info!(%url, reason = self.reason.as_str(), "in a private network: {self}");
        if behind {
            let message = format!(
                "no Git repository answers at {} through the proxy (of proxySecretRef, or of the agent), which is in a private network, of which no more is told: is its address right, does it let this host through? The controller's log has the rest; --allow-git-address (chart: controller.git.allowAddresses) with the proxy's address shows it here",
                url.host()
            );
            return Self::new(Reason::Unreachable, message);
        }
        let port = url.port().map(|port| format!(", port {port}")).unwrap_or_default();
        let message = format!(
            "no Git repository answers at {}{port}, an address in a private network, of which no more is told: is the address right, does the server run, has it this repository? The controller's log has the rest; --allow-git-address (chart: controller.git.allowAddresses) shows it here",
            url.host()
        );
        Self::new(Reason::Unreachable, message)
    }

    /// Whether the commit itself is the trouble: nothing but another one helps.
    pub fn is_final(&self) -> bool {
        matches!(self.reason, Reason::TooLarge | Reason::CheckoutRefused | Reason::SubmoduleRefused)
    }

    /// For a condition. All are transient: somebody may push the branch or mend the server without us seeing it.
    pub fn to_failure(&self) -> Failure {
        Failure::transient(self.reason.as_str(), self.message.clone())
    }

    pub(super) fn storage(what: &str, error: &std::io::Error) -> Self {
        Self::new(Reason::StorageFailed, format!("{what}: {}", error.kind()))
    }
}

impl From<super::refs::RefError> for GitError {
    fn from(error: super::refs::RefError) -> Self {
        Self::new(Reason::ReferenceNotFound, error.to_string())
    }
}

/// Reads what `ssh` printed. `None` when nothing in it is known.
pub(super) fn from_ssh(stderr: &str, host: &str) -> Option<GitError> {
    let has = |text: &str| stderr.to_ascii_lowercase().contains(text);
    let error = |reason, message: String| Some(GitError::new(reason, message));
    if has("host key verification failed") || has("no matching host key") || has("identification has changed") {
        return error(
            Reason::HostKeyMismatch,
            format!(
                "the host key of {host} is not among known_hosts of the Secret; compare it with what the forge publishes and update the Secret"
            ),
        );
    }
    if has("permission denied")
        || has("too many authentication failures")
        || has("invalid format")
        || has("error in libcrypto")
    {
        return error(Reason::AuthenticationFailed, format!("{host} does not accept the Secret's private key"));
    }
    if has("timed out") {
        return error(Reason::Timeout, format!("{host} did not answer in time"));
    }
    if has("could not resolve")
        || has("connection refused")
        || has("no route")
        || has("unreachable")
        || has("connection reset")
        || has("connection closed")
    {
        return error(Reason::Unreachable, format!("no connection to {host}; is the address right and the server up?"));
    }
    from_server(stderr)
}

/// Reads what a Git server says about itself.
pub(super) fn from_server(text: &str) -> Option<GitError> {
    let has = |part: &str| text.to_ascii_lowercase().contains(part);
    if has("not our ref") || has("unadvertised object") || has("no such remote ref") {
        return Some(GitError::new(
            Reason::CommitNotFound,
            "the remote does not give out this commit; is it pushed, and reachable from a branch or tag?",
        ));
    }
    if has("not appear to be a git repository")
        || has("repository not found")
        || has("does not exist")
        || has("not exported")
    {
        return Some(GitError::new(
            Reason::RepositoryNotFound,
            "the remote has no repository at this path, or hides it from this credential",
        ));
    }
    if has("access denied") || has("not authorized") {
        return Some(GitError::new(Reason::AuthenticationFailed, "the remote denies access with this credential"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_cannot_steer_a_terminal() {
        let error = GitError::new(Reason::ProtocolError, "a\u{1b}[2Jb\r\nc\u{202e}d\u{9b}e\u{7f}é");
        assert_eq!(error.message, "a?[2Jb  c?d?e?é");
    }

    #[test]
    fn ssh_words_have_reasons() {
        for (text, want) in [
            ("Host key verification failed.\r\nfatal: x", Reason::HostKeyMismatch),
            ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @", Reason::HostKeyMismatch),
            ("git@h: Permission denied (publickey).", Reason::AuthenticationFailed),
            ("Load key \"/x\": invalid format", Reason::AuthenticationFailed),
            ("ssh: connect to host h port 22: Connection timed out", Reason::Timeout),
            ("ssh: Could not resolve hostname h: x", Reason::Unreachable),
            ("ssh: connect to host h port 1: Connection refused", Reason::Unreachable),
            ("fatal: '/x' does not appear to be a git repository", Reason::RepositoryNotFound),
            ("ERROR: Repository not found.", Reason::RepositoryNotFound),
            ("fatal: upload-pack: not our ref 00", Reason::CommitNotFound),
        ] {
            assert_eq!(from_ssh(text, "h").map(|e| e.reason), Some(want), "{text}");
        }
        assert_eq!(from_ssh("hello", "h"), None);
    }
}
