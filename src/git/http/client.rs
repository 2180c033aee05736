//! One connection: redirects, credentials, and how curl is told.

use std::{
    io::Seek,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use curl::easy::{Easy2, List};
use tempfile::SpooledTempFile;

use super::{
    answer::{Receiver, explain, no_git, rejection},
    route,
};
use crate::git::{
    address::Policy,
    credential::{Auth, Credential},
    error::{GitError, Reason},
    remote::{Access, Stop},
    url::{RemoteUrl, Scheme},
};

const MAX_REDIRECTS: usize = 3;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// One connection, its limits, and where it has been redirected to.
pub(super) struct Client {
    handle: Easy2<Receiver>,
    origin: RemoteUrl,
    credential: Arc<Credential>,
    policy: Arc<Policy>,
    limit: u64,
    /// Where large responses wait.
    folder: PathBuf,
    stop: Arc<Stop>,
    /// It has led into a private network: what is there is not told.
    veiled: bool,
    /// It is a proxy of one's own that is there.
    behind: bool,
    /// What a server says inside a connection that a proxy only hands on is nothing that the private network says.
    sealed: bool,
    begun: Instant,
    /// The base URL of the last redirect.
    pub(super) redirected: Option<String>,
}

type Answer = (Vec<u8>, SpooledTempFile);

impl Client {
    pub(super) fn new(access: &Access, policy: &Arc<Policy>, limit: u64, folder: &Path, stop: &Arc<Stop>) -> Self {
        Self {
            handle: Easy2::new(Receiver::new(0, folder, stop)),
            origin: access.url.clone(),
            credential: access.credential.clone(),
            policy: policy.clone(),
            limit,
            folder: folder.to_owned(),
            stop: stop.clone(),
            veiled: false,
            behind: false,
            sealed: false,
            begun: Instant::now(),
            redirected: None,
        }
    }

    /// Follows a few redirects, as forges use them for renamed repositories.
    pub(super) fn get(&mut self, url: &str, base: &str, headers: &[String]) -> Result<Answer, GitError> {
        let tail = url.strip_prefix(base).unwrap_or_default().to_owned();
        let mut at = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            self.perform(&at, headers, None)?;
            let status = self.handle.response_code().unwrap_or_default();
            if !matches!(status, 301 | 302 | 303 | 307 | 308) {
                return self.answer(status);
            }
            at = self.redirect(&at, &tail)?;
            self.redirected = at.strip_suffix(tail.as_str()).map(ToOwned::to_owned);
        }
        Err(GitError::new(Reason::ProtocolError, "the remote redirects more than three times; use its final URL"))
    }

    pub(super) fn post(&mut self, url: &str, headers: &[String], body: &[u8]) -> Result<Answer, GitError> {
        self.perform(url, headers, Some(body))?;
        let status = self.handle.response_code().unwrap_or_default();
        self.answer(status)
    }

    /// The next place to ask: same or better scheme, same kind of request.
    fn redirect(&self, from: &str, tail: &str) -> Result<String, GitError> {
        let to = self.handle.redirect_url().ok().flatten().unwrap_or_default().to_owned();
        let base = to.strip_suffix(tail).and_then(|base| RemoteUrl::parse(base, false).ok());
        let before = from.strip_suffix(tail).and_then(|base| RemoteUrl::parse(base, false).ok());
        let safe = match (&base, before) {
            (Some(new), Some(old)) => new.scheme() == old.scheme() || new.scheme() == Scheme::Https,
            _ => false,
        };
        let http = base.is_some_and(|new| matches!(new.scheme(), Scheme::Http | Scheme::Https));
        if safe && http {
            return Ok(to);
        }
        Err(GitError::new(
            Reason::ProtocolError,
            "the remote redirects to something that is no Git repository over the same or a safer transport; is a login page in the way?",
        ))
    }

    fn perform(&mut self, url: &str, headers: &[String], body: Option<&[u8]>) -> Result<(), GitError> {
        self.stop.check()?;
        let target = RemoteUrl::parse(url.split('?').next().unwrap_or_default(), false)
            .map_err(|error| GitError::new(Reason::ProtocolError, error.to_string()))?;
        let port = target.port().unwrap_or_default();
        let credential = self.credential.clone();
        let addresses = match credential.proxies.of(&target) {
            Some(proxy) => {
                let own = route::through(&mut self.handle, &target, proxy, &self.policy)?;
                self.behind |= own.iter().any(|address| self.policy.veils(*address));
                vec![]
            }
            None if credential.proxies.is_empty() => route::addresses(&mut self.handle, &target, port, &self.policy)?,
            None => route::directly(&mut self.handle, &target, port, &self.policy)?,
        };
        let led = addresses.iter().any(|address| self.policy.veils(*address));
        self.veiled |= led || self.behind;
        self.sealed = self.behind && !led && target.scheme() == Scheme::Https;
        self.begun = Instant::now();
        self.configure(url, &target, headers, body)
            .and_then(|()| route::pin(&mut self.handle, target.host(), port, &addresses))
            .map_err(|error| GitError::new(Reason::ProtocolError, format!("the request cannot be made: {error}")))?;
        *self.handle.get_mut() = Receiver::new(self.limit, &self.folder, &self.stop);
        let Err(error) = self.handle.perform() else { return Ok(()) };
        let explained = explain(&error, self.handle.get_ref(), &self.origin);
        // A certificate of one's own authority needs its name.
        let told = error.is_peer_failed_verification()
            || matches!(explained.reason, Reason::TooLarge | Reason::StorageFailed | Reason::Cancelled);
        Err(if told { explained } else { self.veil(explained) })
    }

    /// What is told of a failure: in a private network the same of all, after the same time.
    fn veil(&self, error: GitError) -> GitError {
        if !self.veiled {
            return error;
        }
        self.stop.wait_until_after(self.begun, CONNECT_TIMEOUT);
        error.veiled(&self.origin, self.behind)
    }

    /// What is told of an answer.
    fn veil_answer(&self, error: GitError) -> GitError {
        if self.sealed { error } else { self.veil(error) }
    }

    fn configure(
        &mut self,
        url: &str,
        target: &RemoteUrl,
        headers: &[String],
        body: Option<&[u8]>,
    ) -> Result<(), curl::Error> {
        let handle = &mut self.handle;
        handle.url(url)?;
        match body {
            Some(bytes) => {
                handle.post(true)?;
                handle.post_fields_copy(bytes)?;
            }
            None => handle.get(true)?,
        }
        let mut list = List::new();
        for header in headers {
            list.append(header)?;
        }
        // Without this curl waits for a "100 Continue" that some servers never send.
        list.append("Expect:")?;
        if target.origin() == self.origin.origin()
            && let Some(line) = authorization(&self.credential.auth)
        {
            list.append(&line)?;
        }
        handle.http_headers(list)?;
        handle.follow_location(false)?;
        handle.progress(true)?;
        handle.connect_timeout(CONNECT_TIMEOUT)?;
        handle.timeout(self.stop.left().max(Duration::from_millis(1)))?;
        handle.low_speed_limit(256)?;
        handle.low_speed_time(Duration::from_secs(20))?;
        match (&self.credential.ca, &self.credential.more_ca, system_certificates()) {
            (Some(pem), ..) => handle.ssl_cainfo_blob(pem)?,
            (None, Some(more), system) => {
                let system = system.and_then(|path| std::fs::read(path).ok()).unwrap_or_default();
                handle.ssl_cainfo_blob(&[&system, &b"\n"[..], more].concat())?;
            }
            (None, None, Some(path)) => handle.cainfo(path)?,
            (None, None, None) => {}
        }
        Ok(())
    }

    fn answer(&mut self, status: u32) -> Result<Answer, GitError> {
        let empty = Receiver::new(0, &self.folder, &self.stop);
        let receiver = std::mem::replace(self.handle.get_mut(), empty);
        if status != 200 {
            let anonymous = self.credential.auth == Auth::None;
            let error = rejection(status, receiver.retry_after(), anonymous);
            let told = matches!(error.reason, Reason::AuthenticationFailed | Reason::RateLimited);
            return Err(if told { error } else { self.veil_answer(error) });
        }
        if !receiver.is_git() {
            return Err(self.veil_answer(no_git()));
        }
        let mut body = receiver.body;
        body.rewind().map_err(|error| GitError::storage("cannot read back a response", &error))?;
        Ok((receiver.headers, body))
    }
}

fn authorization(auth: &Auth) -> Option<String> {
    use base64::Engine as _;
    match auth {
        Auth::Basic(pair) => {
            Some(format!("Authorization: Basic {}", base64::engine::general_purpose::STANDARD.encode(pair.expose())))
        }
        Auth::Bearer(token) => Some(format!("Authorization: Bearer {}", String::from_utf8_lossy(token.expose()))),
        Auth::None | Auth::Ssh { .. } => None,
    }
}

/// Where distributions keep the certificates; `SSL_CERT_FILE` wins.
fn system_certificates() -> Option<PathBuf> {
    let known = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    named.into_iter().chain(known.map(PathBuf::from)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
    };

    use super::*;

    /// A port at which each connection gets these bytes, and then its end.
    fn says(text: &'static str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(text.as_bytes());
            }
        });
        port
    }

    fn asked(url: &str, veiled: bool) -> (GitError, Duration) {
        let folder = tempfile::tempdir().unwrap();
        let url = RemoteUrl::parse(url, false).unwrap();
        let access = Access {
            url: url.clone(),
            credential: Arc::default(),
            cache: "c".into(),
            submodules: false,
            namespaces: vec![],
        };
        let policy = Arc::new(Policy::new(vec!["127.0.0.1".parse().unwrap()], vec![]));
        let stop = Arc::new(Stop::after(Duration::from_secs(2)));
        let mut client = Client::new(&access, &policy, 1 << 20, folder.path(), &stop);
        client.veiled = veiled;
        let begun = Instant::now();
        let error = client.get(&url.to_string(), &url.to_string(), &[]).unwrap_err();
        (error, begun.elapsed())
    }

    /// What a Repository hears that goes through a proxy of its own.
    fn through(proxy: &str, url: &str, allowed: &str, limit: Duration) -> GitError {
        use crate::git::credential::Proxy;
        let folder = tempfile::tempdir().unwrap();
        let url = RemoteUrl::parse(url, false).unwrap();
        let data = [("address".to_owned(), proxy.as_bytes().to_vec())].into();
        let credential =
            Credential::anonymous(&url).unwrap().through(Proxy::from_secret(&data).unwrap(), &url).unwrap();
        let access = Access {
            url: url.clone(),
            credential: Arc::new(credential),
            cache: "c".into(),
            submodules: false,
            namespaces: vec![],
        };
        let policy = Arc::new(Policy::new(vec![allowed.parse().unwrap()], vec!["api.cluster.example".into()]));
        let stop = Arc::new(Stop::after(limit));
        let mut client = Client::new(&access, &policy, 1 << 20, folder.path(), &stop);
        client.get(&url.to_string(), &url.to_string(), &[]).unwrap_err()
    }

    #[test]
    fn a_proxy_of_ones_own_is_no_way_around_the_veil() {
        let second = Duration::from_secs(1);
        for scheme in ["http", "https"] {
            let error = through("http://10.255.255.1:9", &format!("{scheme}://git.example.org/r"), "192.0.2.1", second);
            let same = "no Git repository answers at git.example.org through the proxy (of proxySecretRef, or of the agent), which";
            assert!(error.reason == Reason::Unreachable && error.message.starts_with(same), "{error}");
        }
    }

    #[test]
    fn a_proxy_of_ones_own_is_not_sent_where_no_remote_may_be() {
        let (port, minute) = (says("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"), Duration::from_mins(1));
        let asked =
            |host: &str| through(&format!("http://127.0.0.1:{port}"), &format!("http://{host}/r"), "127.0.0.1", minute);
        for host in ["169.254.169.254", "metadata.google.internal", "[fe80::1]", "127.0.0.2", "api.cluster.example"] {
            let error = asked(host);
            assert_eq!(error.reason, Reason::AddressRefused, "{host}: {error}");
        }
        for host in ["git.invalid", "10.1.2.3", "127.0.0.1", "localhost", "deadbeef.example"] {
            let error = asked(host);
            assert_eq!(error.reason, Reason::RepositoryNotFound, "{host}: {error}");
        }
    }

    #[test]
    fn in_a_private_network_everything_looks_the_same() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let ports = [
            closed,
            says(""),
            says("SSH-2.0-OpenSSH\r\n"),
            says("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"),
            says("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"),
            says("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n"),
        ];
        let mut open = std::collections::BTreeSet::new();
        for port in ports {
            for scheme in ["http", "https"] {
                let url = format!("{scheme}://127.0.0.1:{port}/r");
                open.insert(asked(&url, false).0.to_string());
                let (error, took) = asked(&url, true);
                assert_eq!(error.reason, Reason::Unreachable, "{error}");
                let same = format!("no Git repository answers at 127.0.0.1, port {port}, an address in a private");
                assert!(error.message.starts_with(&same) && error.retry_after.is_none(), "{error}");
                assert!(took >= Duration::from_secs(2), "{url} was told after {took:?}");
            }
        }
        assert!(open.len() > 4, "elsewhere people read what is wrong: {open:?}");
        let (error, _) =
            asked(&format!("http://127.0.0.1:{}/r", says("HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n")), true);
        assert_eq!(error.reason, Reason::AuthenticationFailed, "a credential is what its owner can mend");
    }
}
