//! `pilothouse sidecar`: the companion of an agent's server in its pod.
//!
//! The *door* stands in front of the server, which listens on loopback only. The *watch* follows the server's events.
//! Both tell the *work* what goes on. The *voice* reports it to the controller and carries out orders. Losing the
//! controller changes nothing here.

pub mod activity;
pub mod auth;
pub mod callers;
mod content;
pub mod door;
pub mod drain;
pub mod name;
pub mod peers;
pub mod probes;
pub mod route;
mod text;
pub mod voice;
mod watch;
pub mod work;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use http::uri::Authority;
use tokio::{net::TcpListener, sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::{
    auth::{Guard, Lock},
    door::Door,
    name::Name,
    peers::Peers,
    probes::Probes,
    voice::Voice,
    work::Work,
};
use super::opencode::{Client, Credentials, Error as ClientError};
use crate::{
    api::{
        content::Report,
        names::AUTHORITY_KEY,
        voice::{Hello, PROTOCOL},
    },
    artifact::Fetcher,
    net::dial::{DialError, Endpoint},
};

/// How often mounted files are looked at again.
const REREAD: Duration = Duration::from_secs(10);
/// A question of the kubelet that the server does not answer is given up; shorter than the probes' own limit (5 s).
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// Flags of `pilothouse sidecar`; in a pod all come from the environment.
#[derive(Args, Clone, Debug)]
pub struct SidecarArgs {
    /// Address of the door
    #[arg(long, env = "PILOTHOUSE_DOOR", default_value = "0.0.0.0:14096", value_name = "ADDR")]
    pub door: SocketAddr,
    /// Port of the agent's server on 127.0.0.1
    #[arg(long, env = "PILOTHOUSE_SERVER_PORT", default_value_t = 4096, value_name = "PORT")]
    pub server_port: u16,
    /// Folder with `username` and `password` that the door asks for (a mounted Secret)
    #[arg(long, env = "PILOTHOUSE_AUTH_DIR", default_value = "/pilothouse/auth", value_name = "DIR")]
    pub auth_dir: PathBuf,
    /// Folder with `username` and `password` that the server behind asks for, if it does
    #[arg(long, env = "PILOTHOUSE_SERVER_AUTH_DIR", value_name = "DIR")]
    pub server_auth_dir: Option<PathBuf>,
    /// The server's working directory
    #[arg(long, env = "PILOTHOUSE_WORKSPACE", default_value = "/workspace", value_name = "DIR")]
    pub workspace: PathBuf,
    /// Folder of the gathered text (a mounted ConfigMap with `context.md`), if the agent has any
    #[arg(long, env = "PILOTHOUSE_CONTEXT_DIR", value_name = "DIR")]
    pub context_dir: Option<PathBuf>,
    /// The pod's address; with it, a server that listens on all addresses is reported
    #[arg(long, env = "PILOTHOUSE_POD_IP", value_name = "IP")]
    pub pod_ip: Option<std::net::IpAddr>,
    /// Folder of files that belong into the workspace, with their list `files.json` (a mounted ConfigMap)
    #[arg(long, env = "PILOTHOUSE_FILES_DIR", value_name = "DIR")]
    pub files_dir: Option<PathBuf>,
    /// Folder of the manifest of what is exchanged in the running pod, `content.json` (a mounted ConfigMap)
    #[arg(long, env = "PILOTHOUSE_CONTENT_DIR", value_name = "DIR")]
    pub content_dir: Option<PathBuf>,
    /// Folder with a folder for each source of skills
    #[arg(long, env = "PILOTHOUSE_SKILLS_DIR", default_value = "/skills", value_name = "DIR")]
    pub skills_dir: PathBuf,
    /// The controller's address for sidecars; without it nothing is reported and nothing is ordered
    #[arg(long, env = "PILOTHOUSE_VOICE_ADDRESS", value_name = "HOST:PORT")]
    pub voice_address: Option<String>,
    /// Folder with `ca.crt` of the authority that signed the controller's certificate
    #[arg(long, env = "PILOTHOUSE_AUTHORITY_DIR", default_value = "/pilothouse/authority", value_name = "DIR")]
    pub authority_dir: PathBuf,
    /// Folder with `token`: a projected service account token with the audience `pilothouse`
    #[arg(long, env = "PILOTHOUSE_TOKEN_DIR", default_value = "/pilothouse/token", value_name = "DIR")]
    pub token_dir: PathBuf,
    /// Name of the Agent
    #[arg(long, env = "PILOTHOUSE_AGENT", default_value = "", value_name = "NAME")]
    pub agent: String,
    /// Namespace of the pod
    #[arg(long, env = "POD_NAMESPACE", default_value = "", value_name = "NAME")]
    pub namespace: String,
    /// Name of the pod
    #[arg(long, env = "POD_NAME", default_value = "", value_name = "NAME")]
    pub pod: String,
    /// Uid of the pod
    #[arg(long, env = "POD_UID", default_value = "", value_name = "UID")]
    pub pod_uid: String,
    /// Whether the pod goes on with its sessions when it is told to end, beside a newer one
    #[arg(long, env = "PILOTHOUSE_BESIDE")]
    pub beside: bool,
    /// Whether the pod is one Task's own: the password is made here, and no controller orders anything
    #[arg(long, env = "PILOTHOUSE_ALONE")]
    pub alone: bool,
    /// Version of the pod's layout
    #[arg(long, env = "PILOTHOUSE_LAYOUT", default_value_t = 1, value_name = "N")]
    pub layout: u32,
}

impl SidecarArgs {
    fn places(&self) -> content::Places {
        content::Places {
            workspace: self.workspace.clone(),
            context: self.context_dir.clone(),
            files: self.files_dir.clone(),
            content: self.content_dir.clone(),
            skills: self.skills_dir.clone(),
            pod: self.pod_uid.clone(),
        }
    }

    /// Where the controller is, if there is one.
    fn endpoint(&self) -> Result<Option<Endpoint>, DialError> {
        let Some(address) = &self.voice_address else { return Ok(None) };
        let (ca, token) = (self.authority_dir.join(AUTHORITY_KEY), self.token_dir.join("token"));
        Endpoint::new(address, ca, token).map(Some)
    }

    fn hello(&self) -> Hello {
        Hello {
            protocol: PROTOCOL,
            agent: self.agent.clone(),
            namespace: self.namespace.clone(),
            pod: self.pod.clone(),
            pod_uid: self.pod_uid.clone(),
            layout: self.layout,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Why the sidecar does not start.
#[derive(Debug, thiserror::Error)]
pub enum SidecarError {
    /// The Secret is not there or not complete.
    #[error("cannot read the password: {0}")]
    Auth(#[source] std::io::Error),
    /// The door's address cannot be bound.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// The server's address is malformed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The controller's address is malformed.
    #[error(transparent)]
    Controller(#[from] DialError),
}

/// A started sidecar.
#[derive(Debug)]
pub struct Sidecar {
    /// Where the door listens.
    pub address: SocketAddr,
    /// What it counts.
    pub work: Work,
    /// The other pods of the agent.
    pub peers: Peers,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Sidecar {
    /// Starts all parts. The door answers at once; it is ready when the server is.
    pub async fn start(args: &SidecarArgs) -> Result<Self, SidecarError> {
        if args.alone {
            auth::make_secret(&args.auth_dir).map_err(SidecarError::Auth)?;
        }
        let lock = Lock::new(&auth::read_secret(&args.auth_dir).map_err(SidecarError::Auth)?);
        let server_auth = args.server_auth_dir.as_deref().map(auth::read_secret).transpose();
        let server_auth = server_auth.map_err(SidecarError::Auth)?;
        let upstream = format!("127.0.0.1:{}", args.server_port);
        let server = Client::new(&format!("http://{upstream}"), server_auth.as_ref())?;
        let listen = |e| SidecarError::Listen(args.door, e);
        let listener = TcpListener::bind(args.door).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;

        let work = if args.beside { Work::lasting() } else { Work::default() };
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let peers = Peers::new(&args.pod_uid, server.clone());
        let (placed, in_place) = tokio::sync::watch::channel(Err(Arc::from("the content is not in place yet")));
        let door = Arc::new(Door {
            upstream: Authority::try_from(upstream.as_str()).map_err(|_| ClientError::BadUrl(upstream))?,
            lock: Guard::new(lock),
            upstream_auth: server_auth.as_ref().and_then(Credentials::header),
            name: Name::new(&args.pod_uid, args.pod_ip.map(|ip| SocketAddr::new(ip, address.port()))),
            work: work.clone(),
            peers: peers.clone(),
            probes: Probes::new(server.clone().with_timeout(PROBE_TIMEOUT), in_place, door::Age::start()),
            pool: door::pool(),
        });
        tasks.spawn(reread_password(door.clone(), args.auth_dir.clone()));
        tasks.spawn(door.serve(listener, stop.clone()));
        let server = watch::Server::new(server, work.clone());
        tasks.spawn(server.clone().follow());
        if let Some(pod) = args.pod_ip {
            tasks.spawn(server.clone().look_past_the_door(pod, args.server_port));
        }
        let (hash, text) = tokio::sync::watch::channel(String::new());
        let hurry = Arc::new(Notify::new());
        if let Some(dir) = args.context_dir.clone() {
            tasks.spawn(text::follow(dir, hash, hurry.clone(), work.clone()));
        }
        let endpoint = args.endpoint()?;
        let (loads, orders) = tokio::sync::watch::channel(None);
        let (report, content) = tokio::sync::watch::channel(Report::default());
        let fetcher = endpoint.clone().map(Fetcher::new);
        let parts = content::Parts { fetcher, work: work.clone(), server: server.clone(), orders, report };
        tasks.spawn(content::place(args.places(), parts, placed));
        if let Some(endpoint) = endpoint.filter(|_| !args.alone) {
            let (endpoint, hello, work, peers) = (Arc::new(endpoint), args.hello(), work.clone(), peers.clone());
            tasks.spawn(Voice { endpoint, hello, work, server, text, content, loads, peers, hurry }.speak());
        }
        Ok(Self { address, work, peers, tasks, stop })
    }

    /// Stops accepting, lets requests in flight end for [`door::DRAIN`] at most, and ends.
    pub async fn stop(mut self) {
        self.stop.cancel();
        self.work.release();
        let quiet = async {
            while self.work.snapshot().in_flight > 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let _ = tokio::time::timeout(door::DRAIN, quiet).await;
        self.tasks.shutdown().await;
    }
}

/// Runs until SIGTERM or SIGINT. Native sidecars are told to end after the pod's other containers.
pub async fn run(args: &SidecarArgs) -> Result<(), SidecarError> {
    let sidecar = Sidecar::start(args).await?;
    tracing::info!(door = %sidecar.address, server_port = args.server_port, "the door is open");
    tokio::select! {
        () = super::terminated() => {}
        () = drain::listen(&sidecar.work) => {}
    }
    let left = sidecar.work.snapshot();
    if left.draining && !left.without_work() {
        tracing::warn!(requests = left.in_flight, sessions = left.busy, "the pod's time is over: work is cut");
    }
    tracing::info!("the door closes");
    sidecar.stop().await;
    Ok(())
}

/// Secrets are updated in place: the door takes the new password without a restart.
async fn reread_password(door: Arc<Door>, dir: PathBuf) {
    loop {
        tokio::time::sleep(REREAD).await;
        match read_lock(&dir).await {
            Ok(lock) => {
                if door.lock.change(lock) {
                    tracing::info!("the password changed; terminals and event streams of the old one are closed");
                }
            }
            Err(error) => tracing::warn!(%error, "cannot read the password again; the last one stays"),
        }
    }
}

async fn read_lock(dir: &Path) -> std::io::Result<Lock> {
    let dir = dir.to_owned();
    let read = tokio::task::spawn_blocking(move || auth::read_secret(&dir));
    read.await.map_err(std::io::Error::other)?.map(|credentials| Lock::new(&credentials))
}
