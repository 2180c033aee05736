//! Git's smart HTTP over libcurl: one request at a time, on the calling thread.
//!
//! gix brings an HTTP backend too. This one adds what a server for many namespaces needs: an overall deadline, byte
//! limits, `Retry-After`, redirects that never take a credential elsewhere, addresses checked after the lookup, and
//! errors that say what a user should do.

use std::{
    any::Any,
    cell::RefCell,
    io::{self, BufRead, BufReader, Read, Seek, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use curl::easy::{Easy2, Handler, List, WriteError};
use gix::protocol::transport::client::blocking_io::http::{
    GetResponse, Http, PostBodyDataKind, PostResponse, Transport,
};
use tempfile::SpooledTempFile;

use super::{
    credential::{Auth, Credential},
    error::{GitError, Reason},
    remote::{Access, Stop, checked_addresses, timeout},
    url::{RemoteUrl, Scheme},
};

/// Responses above this wait on disk.
const IN_MEMORY: usize = 1 << 20;
const MAX_REDIRECTS: usize = 3;

/// The failure behind gix's opaque errors, kept where the caller finds it.
pub(super) type LastFailure = Rc<RefCell<Option<GitError>>>;

/// Opens a transport to an http(s) remote. Nothing is sent yet.
pub(super) fn transport(
    access: &Access,
    limit: u64,
    folder: &Path,
    stop: &Arc<Stop>,
) -> (Transport<CurlHttp>, LastFailure) {
    let failure = LastFailure::default();
    let client = Client {
        handle: Easy2::new(Receiver::new(0, folder, stop)),
        origin: access.url.clone(),
        credential: access.credential.clone(),
        limit,
        folder: folder.to_owned(),
        stop: stop.clone(),
        redirected: None,
    };
    let http = CurlHttp { client: Rc::new(RefCell::new(client)), failure: failure.clone() };
    let url = access.url.to_string();
    let url = gix::Url::try_from(url.as_str()).unwrap_or_default();
    (Transport::new_http(http, url, gix::protocol::transport::Protocol::V2, false), failure)
}

/// What gix drives.
pub(super) struct CurlHttp {
    client: Rc<RefCell<Client>>,
    failure: LastFailure,
}

impl Http for CurlHttp {
    type Headers = Part;
    type ResponseBody = Part;
    type PostBody = Upload;

    fn get(
        &mut self,
        url: &str,
        base_url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> gix::Result<GetResponse<Part, Part>> {
        let exchange = self.exchange(url, base_url, headers, false);
        // At once, so that a redirect is known before gix asks for it.
        exchange.borrow_mut().run();
        Ok(GetResponse { headers: Part::headers(&exchange), body: Part::body(&exchange) })
    }

    fn post(
        &mut self,
        url: &str,
        base_url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
        _kind: PostBodyDataKind,
    ) -> gix::Result<PostResponse<Part, Part, Upload>> {
        let exchange = self.exchange(url, base_url, headers, true);
        Ok(PostResponse {
            post_body: Upload(exchange.clone()),
            headers: Part::headers(&exchange),
            body: Part::body(&exchange),
        })
    }

    fn configure(&mut self, _config: &dyn Any) -> gix::Result<()> {
        Ok(())
    }

    fn redirected_base_url(&self) -> Option<String> {
        self.client.borrow().redirected.clone()
    }
}

impl CurlHttp {
    fn exchange(
        &self,
        url: &str,
        base: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
        post: bool,
    ) -> Rc<RefCell<Exchange>> {
        Rc::new(RefCell::new(Exchange {
            client: self.client.clone(),
            failure: self.failure.clone(),
            url: url.to_owned(),
            base: base.to_owned(),
            request_headers: headers.into_iter().map(|h| h.as_ref().to_owned()).collect(),
            upload: post.then(Vec::new),
            outcome: None,
        }))
    }
}

/// One request. It runs when somebody reads the response, by which time the body is complete.
struct Exchange {
    client: Rc<RefCell<Client>>,
    failure: LastFailure,
    url: String,
    base: String,
    request_headers: Vec<String>,
    upload: Option<Vec<u8>>,
    outcome: Option<Outcome>,
}

enum Outcome {
    Answer { headers: Option<Vec<u8>>, body: Option<SpooledTempFile> },
    Failed,
}

impl Exchange {
    fn run(&mut self) {
        if self.outcome.is_some() {
            return;
        }
        let mut client = self.client.borrow_mut();
        let result = match &self.upload {
            Some(body) => client.post(&self.url, &self.request_headers, body),
            None => client.get(&self.url, &self.base, &self.request_headers),
        };
        self.outcome = Some(match result {
            Ok((headers, body)) => Outcome::Answer { headers: Some(headers), body: Some(body) },
            Err(error) => {
                *self.failure.borrow_mut() = Some(error);
                Outcome::Failed
            }
        });
    }

    fn take_headers(&mut self) -> io::Result<Vec<u8>> {
        self.run();
        match &mut self.outcome {
            Some(Outcome::Answer { headers, .. }) => Ok(headers.take().unwrap_or_default()),
            _ => Err(io::Error::other("the request failed")),
        }
    }

    fn take_body(&mut self) -> io::Result<Option<SpooledTempFile>> {
        self.run();
        match &mut self.outcome {
            Some(Outcome::Answer { body, .. }) => Ok(body.take()),
            _ => Err(io::Error::other("the request failed")),
        }
    }
}

/// The writer of a request's body.
pub(super) struct Upload(Rc<RefCell<Exchange>>);

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(upload) = &mut self.0.borrow_mut().upload {
            upload.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The headers or the body of a response, fetched at the first read.
pub(super) struct Part {
    exchange: Rc<RefCell<Exchange>>,
    headers: bool,
    reader: Option<BufReader<Box<dyn Read>>>,
}

impl Part {
    fn headers(exchange: &Rc<RefCell<Exchange>>) -> Self {
        Self { exchange: exchange.clone(), headers: true, reader: None }
    }

    fn body(exchange: &Rc<RefCell<Exchange>>) -> Self {
        Self { exchange: exchange.clone(), headers: false, reader: None }
    }

    fn open(&mut self) -> io::Result<&mut BufReader<Box<dyn Read>>> {
        if self.reader.is_none() {
            let mut exchange = self.exchange.borrow_mut();
            let source: Box<dyn Read> = if self.headers {
                Box::new(io::Cursor::new(exchange.take_headers()?))
            } else {
                exchange.take_body()?.map_or_else(|| Box::new(io::empty()) as Box<dyn Read>, |file| Box::new(file))
            };
            self.reader = Some(BufReader::with_capacity(32 * 1024, source));
        }
        self.reader.as_mut().ok_or_else(|| io::Error::other("no response"))
    }
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.open()?.read(buffer)
    }
}

impl BufRead for Part {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.open()?.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        if let Some(reader) = &mut self.reader {
            reader.consume(amount);
        }
    }
}

/// One connection, its limits, and where it has been redirected to.
struct Client {
    handle: Easy2<Receiver>,
    origin: RemoteUrl,
    credential: Arc<Credential>,
    limit: u64,
    /// Where large responses wait.
    folder: PathBuf,
    stop: Arc<Stop>,
    redirected: Option<String>,
}

type Answer = (Vec<u8>, SpooledTempFile);

impl Client {
    /// Follows a few redirects, as forges use them for renamed repositories.
    fn get(&mut self, url: &str, base: &str, headers: &[String]) -> Result<Answer, GitError> {
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

    fn post(&mut self, url: &str, headers: &[String], body: &[u8]) -> Result<Answer, GitError> {
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
        let addresses = self.addresses(&target, port)?;
        self.configure(url, &target, headers, body)
            .and_then(|()| pin(&mut self.handle, target.host(), port, &addresses))
            .map_err(|error| GitError::new(Reason::ProtocolError, format!("the request cannot be made: {error}")))?;
        *self.handle.get_mut() = Receiver::new(self.limit, &self.folder, &self.stop);
        self.handle.perform().map_err(|error| self.explain(&error))
    }

    /// Where to connect to. Behind a proxy a name may be known only there; then everything goes through the proxy, so
    /// that nothing is ever looked up unchecked.
    fn addresses(&mut self, target: &RemoteUrl, port: u16) -> Result<Vec<IpAddr>, GitError> {
        match checked_addresses(target.host(), port) {
            Err(error) if error.reason == Reason::Unreachable && has_proxy(target.scheme()) => {
                let forced = self.handle.noproxy("");
                forced.map(|()| vec![]).map_err(|_| error)
            }
            other => other,
        }
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
        handle.connect_timeout(Duration::from_secs(10))?;
        handle.timeout(self.stop.left().max(Duration::from_millis(1)))?;
        handle.low_speed_limit(256)?;
        handle.low_speed_time(Duration::from_secs(20))?;
        match (&self.credential.ca, system_certificates()) {
            (Some(pem), _) => handle.ssl_cainfo_blob(pem)?,
            (None, Some(path)) => handle.cainfo(path)?,
            (None, None) => {}
        }
        Ok(())
    }

    fn answer(&mut self, status: u32) -> Result<Answer, GitError> {
        let empty = Receiver::new(0, &self.folder, &self.stop);
        let receiver = std::mem::replace(self.handle.get_mut(), empty);
        if status != 200 {
            return Err(self.rejection(status, receiver.retry_after()));
        }
        if !receiver.is_git() {
            return Err(no_git());
        }
        let mut body = receiver.body;
        body.rewind().map_err(|error| GitError::storage("cannot read back a response", &error))?;
        Ok((receiver.headers, body))
    }

    fn rejection(&self, status: u32, retry_after: Option<Duration>) -> GitError {
        let anonymous = self.credential.auth == Auth::None;
        let (reason, message) = match status {
            401 | 403 if anonymous => (
                Reason::AuthenticationFailed,
                format!("the remote wants a credential (HTTP {status}); set spec.secretRef"),
            ),
            401 | 403 => (
                Reason::AuthenticationFailed,
                format!("the remote does not accept the credential of the Secret (HTTP {status})"),
            ),
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

    fn explain(&self, error: &curl::Error) -> GitError {
        let host = self.origin.host();
        let receiver = self.handle.get_ref();
        if receiver.too_large {
            return GitError::new(
                Reason::TooLarge,
                format!("the response is larger than {} MiB, the limit for one request", self.limit >> 20),
            );
        }
        if receiver.storage_failed {
            return GitError::new(Reason::StorageFailed, "no space for the response on the controller's disk");
        }
        if self.stop.is_over() || error.is_operation_timedout() || error.is_aborted_by_callback() {
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
            return GitError::new(
                Reason::TLSFailed,
                format!("no TLS connection to {host}; does it speak https there?"),
            );
        }
        GitError::new(Reason::Unreachable, format!("no connection to {host}: {}", error.description()))
    }
}

fn no_git() -> GitError {
    GitError::new(Reason::ProtocolError, "what answers at this URL is no Git server; is a login page in the way?")
}

/// Whether curl would use a proxy for this scheme, by the names that it knows.
fn has_proxy(scheme: Scheme) -> bool {
    let names: &[&str] = match scheme {
        Scheme::Https => &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
        _ => &["http_proxy", "all_proxy", "ALL_PROXY"],
    };
    names.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// Connects to the addresses that were checked, whatever the name says a moment later.
fn pin(handle: &mut Easy2<Receiver>, host: &str, port: u16, addresses: &[IpAddr]) -> Result<(), curl::Error> {
    if addresses.is_empty() || host.contains(':') {
        return Ok(());
    }
    let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let mut list = List::new();
    list.append(&format!("{host}:{port}:{}", all.join(",")))?;
    handle.resolve(list)
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

/// Takes in a response.
struct Receiver {
    headers: Vec<u8>,
    body: SpooledTempFile,
    limit: u64,
    received: u64,
    too_large: bool,
    storage_failed: bool,
    stop: Arc<Stop>,
}

impl Receiver {
    fn new(limit: u64, folder: &Path, stop: &Arc<Stop>) -> Self {
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
    fn is_git(&self) -> bool {
        let text = String::from_utf8_lossy(&self.headers).to_ascii_lowercase();
        text.lines().any(|line| {
            let value = line.strip_prefix("content-type:").map(str::trim);
            value.is_some_and(|value| value.starts_with("application/x-git-upload-pack-"))
        })
    }

    /// Seconds only; the other form of the header, a date, is rare.
    fn retry_after(&self) -> Option<Duration> {
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
