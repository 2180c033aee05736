//! A real Git server: `git http-backend` behind HTTP or HTTPS with a log of its requests, and `sshd`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use base64::Engine as _;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Bytes, body::Incoming};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{io::AsyncWriteExt, net::TcpListener};

/// What a request asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The greeting: `GET info/refs`.
    Greeting,
    /// A listing of references.
    Listing,
    /// A pack.
    Fetch,
    /// A push, or something else.
    Other,
}

/// One request in the log.
#[derive(Clone, Debug)]
pub(crate) struct Logged {
    pub(crate) asked: Asked,
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Changes how the server answers, from outside and at any time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Behaviour {
    /// Exact value of the `Authorization` header that is wanted.
    pub(crate) authorization: Option<String>,
    /// Answer everything with this status instead.
    pub(crate) status: Option<u16>,
    /// `Retry-After` in seconds beside `status`.
    pub(crate) retry_after: Option<u32>,
    /// Redirect every greeting to this base URL instead of `/`.
    pub(crate) redirect: Option<String>,
    /// Wait this long before each answer.
    pub(crate) delay: Duration,
}

/// `Authorization` for HTTP Basic.
pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

struct State {
    root: PathBuf,
    behaviour: Mutex<Behaviour>,
    log: Mutex<Vec<Logged>>,
}

/// The server; it ends when this is dropped.
pub(crate) struct GitServer {
    state: Arc<State>,
    address: SocketAddr,
    scheme: &'static str,
    ca: Option<String>,
    runtime: Option<tokio::runtime::Runtime>,
    _folder: tempfile::TempDir,
}

impl GitServer {
    /// Plain HTTP on a free port of loopback.
    pub(crate) fn http() -> Self {
        Self::http_on("127.0.0.1:0")
    }

    /// Plain HTTP at this address, for pods on a node's network.
    pub(crate) fn http_on(address: &str) -> Self {
        Self::start("http", address, None, None)
    }

    /// HTTPS with a private CA, for `localhost` and `127.0.0.1`.
    pub(crate) fn https() -> Self {
        let (ca, config) = certificates();
        Self::start("https", "127.0.0.1:0", Some(ca), Some(config))
    }

    fn start(scheme: &'static str, address: &str, ca: Option<String>, tls: Option<rustls::ServerConfig>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state =
            Arc::new(State { root: folder.path().to_owned(), behaviour: Mutex::default(), log: Mutex::default() });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        // Not by `block_on`: callers may be in a runtime of their own.
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let guard = runtime.enter();
        let listener = TcpListener::from_std(listener).unwrap();
        drop(guard);
        let acceptor = tls.map(|config| tokio_rustls::TlsAcceptor::from(Arc::new(config)));
        runtime.spawn(accept(listener, acceptor, state.clone()));
        Self { state, address, scheme, ca, runtime: Some(runtime), _folder: folder }
    }

    /// Creates an empty repository on the server, with the branch `main`.
    pub(crate) fn repository(&self, name: &str) -> Repository {
        Repository::create(&self.state.root.join(name))
    }

    /// The URL of a repository.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("{}://{}/{name}", self.scheme, self.address)
    }

    /// The CA's certificate as PEM; for `https` only.
    pub(crate) fn ca(&self) -> &str {
        self.ca.as_deref().unwrap()
    }

    /// Changes how the server answers.
    pub(crate) fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.state.behaviour.lock());
    }

    /// All requests so far, oldest first.
    pub(crate) fn log(&self) -> Vec<Logged> {
        self.state.log.lock().clone()
    }

    /// How many requests asked for `what`.
    pub(crate) fn count(&self, what: Asked) -> usize {
        self.state.log.lock().iter().filter(|entry| entry.asked == what).count()
    }

    /// Empties the log.
    pub(crate) fn forget(&self) {
        self.state.log.lock().clear();
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn certificates() -> (String, rustls::ServerConfig) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::from_params(&params, &ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    (ca.pem(), config)
}

async fn accept(listener: TcpListener, tls: Option<tokio_rustls::TlsAcceptor>, state: Arc<State>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let (tls, state) = (tls.clone(), state.clone());
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| answer(request, state.clone()));
            let http = hyper::server::conn::http1::Builder::new();
            match tls {
                Some(tls) => {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                }
                None => {
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                }
            }
        });
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer(request: Request<Incoming>, state: Arc<State>) -> Result<Answer, std::convert::Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let behaviour = state.behaviour.lock().clone();
    tokio::time::sleep(behaviour.delay).await;
    let response = respond(&parts, &body, &behaviour, &state.root).await;
    let text = String::from_utf8_lossy(&body).into_owned();
    let asked = match parts.uri.path() {
        path if path.ends_with("/info/refs") => Asked::Greeting,
        path if path.ends_with("/git-upload-pack") && text.contains("command=ls-refs") => Asked::Listing,
        path if path.ends_with("/git-upload-pack") => Asked::Fetch,
        _ => Asked::Other,
    };
    state.log.lock().push(Logged {
        asked,
        path: parts.uri.path().to_owned(),
        authorization: header(&parts, "authorization"),
        status: response.status().as_u16(),
        body: text,
    });
    Ok(response)
}

fn header(parts: &http::request::Parts, name: &str) -> Option<String> {
    parts.headers.get(name).and_then(|v| v.to_str().ok()).map(ToOwned::to_owned)
}

fn plain(status: u16) -> http::response::Builder {
    Response::builder().status(StatusCode::from_u16(status).unwrap())
}

async fn respond(parts: &http::request::Parts, body: &Bytes, behaviour: &Behaviour, root: &Path) -> Answer {
    if let Some(status) = behaviour.status {
        let mut response = plain(status);
        if let Some(seconds) = behaviour.retry_after {
            response = response.header("retry-after", seconds);
        }
        return response.body(Full::default()).unwrap();
    }
    if let Some(base) = &behaviour.redirect
        && parts.uri.path().ends_with("/info/refs")
    {
        let target = format!("{base}{}", parts.uri.path_and_query().unwrap());
        return plain(302).header("location", target).body(Full::default()).unwrap();
    }
    if behaviour.authorization.is_some() && header(parts, "authorization") != behaviour.authorization {
        return plain(401).header("www-authenticate", "Basic realm=\"git\"").body(Full::default()).unwrap();
    }
    backend(parts, body, root).await
}

/// Runs `git http-backend` and translates its CGI answer.
async fn backend(parts: &http::request::Parts, body: &Bytes, root: &Path) -> Answer {
    let exec = Command::new("git").arg("--exec-path").output().unwrap().stdout;
    let program = Path::new(String::from_utf8_lossy(&exec).trim()).join("git-http-backend");
    let mut child = tokio::process::Command::new(program)
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "http.receivepack")
        .env("GIT_CONFIG_VALUE_0", "true")
        .env("REQUEST_METHOD", parts.method.as_str())
        .env("PATH_INFO", parts.uri.path())
        .env("QUERY_STRING", parts.uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", header(parts, "content-type").unwrap_or_default())
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header(parts, "content-encoding").unwrap_or_default())
        .env("GIT_PROTOCOL", header(parts, "git-protocol").unwrap_or_default())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (mut input, body) = (child.stdin.take().unwrap(), body.clone());
    tokio::spawn(async move { input.write_all(&body).await });
    let output = child.wait_with_output().await.unwrap().stdout;
    let end = output.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(output.len());
    let mut response = Response::builder();
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        let Some((name, value)) = line.split_once(": ") else { continue };
        response = match name {
            "Status" => response.status(value[..3].parse::<u16>().unwrap()),
            _ => response.header(name, value),
        };
    }
    let rest = output.get(end + 4..).unwrap_or_default().to_vec();
    response.body(Full::from(rest)).unwrap()
}

/// A bare repository on the server and the means to change it.
#[derive(Clone)]
pub(crate) struct Repository {
    path: PathBuf,
}

impl Repository {
    /// Makes a bare repository at `path`.
    pub(crate) fn create(path: &Path) -> Self {
        run(Command::new("git").args(["init", "-q", "--bare", "-b", "main"]).arg(path));
        Self { path: path.to_owned() }
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Commits files on a branch, on top of what is there; an empty text removes the file. Returns the commit id.
    pub(crate) fn commit(&self, branch: &str, files: &[(&str, &str)]) -> String {
        let all: Vec<_> = files.iter().map(|(path, text)| (*path, *text, "100644")).collect();
        self.commit_modes(branch, &all)
    }

    /// Like [`commit`](Self::commit), each file with its mode: 100644, 100755, 120000 (a link), 160000 (a submodule).
    pub(crate) fn commit_modes(&self, branch: &str, files: &[(&str, &str, &str)]) -> String {
        let index = tempfile::Builder::new().prefix("index").tempdir().unwrap();
        let git = |args: &[&str]| {
            let mut command = self.git(args);
            command.env("GIT_INDEX_FILE", index.path().join("index"));
            command
        };
        let parent = self.id(&format!("refs/heads/{branch}"));
        if parent.is_some() {
            run(&mut git(&["read-tree", &format!("refs/heads/{branch}")]));
        }
        for (path, text, mode) in files {
            if text.is_empty() {
                // The one way that needs no work tree.
                let removal = format!("0 {}\t{path}\n", "0".repeat(40));
                feed(&mut git(&["update-index", "--index-info"]), &removal);
                continue;
            }
            let id = if *mode == "160000" { (*text).to_owned() } else { self.blob(text) };
            run(&mut git(&["update-index", "--add", "--cacheinfo", &format!("{mode},{id},{path}")]));
        }
        let tree = run(&mut git(&["write-tree"]));
        let mut args = vec!["commit-tree", &tree, "-m", "a change"];
        if let Some(parent) = &parent {
            args.extend(["-p", parent]);
        }
        let commit = run(&mut git(&args));
        run(&mut git(&["update-ref", &format!("refs/heads/{branch}"), &commit]));
        commit
    }

    fn blob(&self, text: &str) -> String {
        feed(&mut self.git(&["hash-object", "-w", "--stdin"]), text)
    }

    /// Makes an annotated tag.
    pub(crate) fn tag(&self, name: &str, commit: &str) {
        run(&mut self.git(&["tag", "-a", "-m", name, name, commit]));
    }

    /// Points any reference at a commit.
    pub(crate) fn set_ref(&self, name: &str, commit: &str) {
        run(&mut self.git(&["update-ref", name, commit]));
    }

    /// Runs any git command in the repository and returns what it prints.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        run(&mut self.git(args))
    }

    fn id(&self, name: &str) -> Option<String> {
        let output = self.git(&["rev-parse", "--verify", "-q", name]).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn git(&self, args: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.arg("--git-dir").arg(&self.path).args(args);
        for role in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{role}_NAME"), "Tester").env(format!("GIT_{role}_EMAIL"), "tester@example.com");
        }
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
        command
    }
}

/// Runs a command with a text on its standard input.
fn feed(command: &mut Command, text: &str) -> String {
    use std::io::Write as _;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Set to 1 by who has no `sshd` and wants the rest tested.
const NO_SSHD: &str = "PILOTHOUSE_TEST_WITHOUT_SSHD";

/// A real `sshd` on loopback that lets one key in.
pub(crate) struct SshServer {
    folder: tempfile::TempDir,
    child: Child,
    host: String,
    port: u16,
    user: String,
}

impl SshServer {
    /// Starts it; `None` where there is no `sshd` and [`NO_SSHD`] says that nobody minds.
    pub(crate) fn start() -> Option<Self> {
        Self::start_on("127.0.0.1")
    }

    /// The same at another address of this machine, for pods on a node's network.
    pub(crate) fn start_on(host: &str) -> Option<Self> {
        let Some(sshd) = ["/usr/sbin/sshd", "/usr/bin/sshd"].into_iter().find(|p| Path::new(p).exists()) else {
            assert!(
                std::env::var_os(NO_SSHD).is_some_and(|value| value == "1"),
                "no sshd on this machine (Debian: openssh-server); {NO_SSHD}=1 leaves out what needs it"
            );
            eprintln!("SKIPPED: no sshd, as {NO_SSHD} allows");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        for key in ["host", "client", "stranger"] {
            run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.path().join(key)));
        }
        std::fs::copy(folder.path().join("client.pub"), folder.path().join("authorized_keys")).unwrap();
        // sshd wants this folder when it runs as root.
        let _ = std::fs::create_dir_all("/run/sshd");
        let port = std::net::TcpListener::bind((host, 0)).unwrap().local_addr().unwrap().port();
        let at = folder.path().display();
        let config = format!(
            "ListenAddress {host}:{port}\nHostKey {at}/host\nAuthorizedKeysFile {at}/authorized_keys\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n\
             AcceptEnv GIT_PROTOCOL\nPidFile none\n"
        );
        std::fs::write(folder.path().join("sshd_config"), config).unwrap();
        let mut command = super::process::bound(sshd);
        command.args(["-D", "-e", "-f"]).arg(folder.path().join("sshd_config"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let user = run(Command::new("id").arg("-un"));
        let server = Self { folder, child, host: host.to_owned(), port, user };
        server.wait();
        Some(server)
    }

    fn wait(&self) {
        for _ in 0..500 {
            if std::net::TcpStream::connect((self.host.as_str(), self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("sshd did not start");
    }

    /// URL of a repository that lies at `path` on this disk.
    pub(crate) fn url(&self, path: &Path) -> String {
        format!("ssh://{}@{}:{}{}", self.user, self.host, self.port, path.display())
    }

    /// The private key that is let in.
    pub(crate) fn identity(&self) -> Vec<u8> {
        std::fs::read(self.folder.path().join("client")).unwrap()
    }

    /// A private key that is not let in.
    pub(crate) fn stranger(&self) -> Vec<u8> {
        std::fs::read(self.folder.path().join("stranger")).unwrap()
    }

    /// The line of `known_hosts` for this server.
    pub(crate) fn known_hosts(&self) -> Vec<u8> {
        self.known_hosts_with("host")
    }

    /// A line that names another key for this server.
    pub(crate) fn wrong_known_hosts(&self) -> Vec<u8> {
        self.known_hosts_with("stranger")
    }

    fn known_hosts_with(&self, key: &str) -> Vec<u8> {
        let public = std::fs::read_to_string(self.folder.path().join(format!("{key}.pub"))).unwrap();
        let mut words = public.split_whitespace();
        let (kind, body) = (words.next().unwrap(), words.next().unwrap());
        format!("[{}]:{} {kind} {body}\n", self.host, self.port).into_bytes()
    }
}

impl Drop for SshServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
