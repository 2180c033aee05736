//! A controller and a receiver as processes, and a forge that signs.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client as Pool, connect::HttpConnector},
    rt::TokioExecutor,
};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use parking_lot::Mutex;
use pilothouse::api::{Repository, RepositoryStatus};
use serde_json::{Value, json};

use crate::common::{
    audit,
    cluster::{Cluster, control_plane},
    controller::{Controller, Release, eventually, pilothouse},
    git_server::GitServer,
};

/// The token of the tests' webhooks.
pub(crate) const TOKEN: &str = "correct horse battery staple";

/// A running receiver. Dropping it kills it.
pub(super) struct Receiver {
    child: Child,
    /// `host:port` of deliveries.
    pub(super) hooks: String,
    /// `http://host:port` of health and metrics.
    pub(super) health: String,
    log: Arc<Mutex<String>>,
}

impl Receiver {
    fn start(kubeconfig: &Path, namespace: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(pilothouse());
        command.env_clear().env("KUBECONFIG", kubeconfig);
        command.args(["receiver", "--log-format", "json", "--log", "info,pilothouse=debug"]);
        command.args(["--listen", "127.0.0.1:0", "--hooks-listen", "127.0.0.1:0", "--watch-namespaces", namespace]);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("pilothouse receiver");
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (log, (send, addresses)) = (Arc::new(Mutex::new(String::new())), mpsc::channel());
        let sink = log.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if let Ok(value) = serde_json::from_str::<Value>(&line)
                    && let Some(address) = value["address"].as_str()
                {
                    let _ = send.send(address.to_owned());
                }
                let mut log = sink.lock();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut next = || {
            addresses.recv_timeout(Duration::from_mins(1)).unwrap_or_else(|_| {
                let _ = child.kill();
                panic!("the receiver did not start:\n{}", log.lock())
            })
        };
        let (health, hooks) = (format!("http://{}", next()), next());
        Self { child, hooks, health, log }
    }

    /// What it has logged so far.
    pub(super) fn log(&self) -> String {
        self.log.lock().clone()
    }

    /// Asks it to stop and waits; whether it ended well.
    pub(super) fn stop(&mut self) -> bool {
        let status = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success(), "kill");
        let until = Instant::now() + Duration::from_secs(40);
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the receiver did not stop:\n{}", self.log());
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the receiver's log:\n{}", self.log());
        }
    }
}

pub(super) struct World {
    pub(super) cluster: &'static Cluster,
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) release: Release,
    pub(super) controller: Controller,
    pub(super) receiver: Receiver,
    pub(super) server: GitServer,
    pool: Pool<HttpConnector, Full<Bytes>>,
}

impl World {
    pub(super) async fn new() -> Self {
        Self::with(&[]).await
    }

    /// With more flags for the receiver.
    pub(super) async fn with(arguments: &[&str]) -> Self {
        let cluster = control_plane();
        let namespace = cluster.namespace("hooks").await;
        let release =
            Release::install_with(cluster, std::slice::from_ref(&namespace), &["receiver.enabled=true"]).await;
        let controller = release.start(&[]);
        let kubeconfig = cluster.kubeconfig_as(&release.namespace, &account(&release)).await;
        let receiver = Receiver::start(&kubeconfig, &namespace, arguments);
        let client = cluster.client().await;
        let pool = Pool::builder(TokioExecutor::new()).build_http();
        Self { cluster, client, namespace, release, controller, receiver, server: GitServer::http(), pool }
    }

    /// How the audit log calls the receiver.
    pub(super) fn receiver_user(&self) -> String {
        audit::user_of(&self.release.namespace, &account(&self.release))
    }

    /// A client with the receiver's rights.
    pub(super) async fn as_receiver(&self) -> Client {
        self.cluster.client_as(&self.release.namespace, &account(&self.release)).await
    }

    pub(super) fn api(&self) -> Api<Repository> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// A Repository of the server's `r.git` that is asked once an hour, with a webhook of this type.
    pub(super) async fn repository(&self, name: &str, forge: &str, reference: Value) {
        let webhook = json!({"type": forge, "secretRef": {"name": "hook"}});
        let spec = json!({"url": self.server.url("r.git"), "interval": "1h", "ref": reference, "webhook": webhook});
        let mut object = Repository::new(name, serde_json::from_value(spec).unwrap());
        object.metadata.namespace = Some(self.namespace.clone());
        self.api().create(&PostParams::default(), &object).await.unwrap();
    }

    pub(super) async fn secret(&self, name: &str, token: &str) {
        let data = [("token".to_owned(), ByteString(token.as_bytes().to_vec()))].into();
        let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
        let secret = Secret { metadata, data: Some(data), ..Secret::default() };
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        api.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(secret)).await.unwrap();
    }

    pub(super) async fn patch(&self, name: &str, patch: Value) {
        self.api().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// Waits until the status is what `check` wants.
    pub(super) async fn status<T>(&self, name: &str, what: &str, check: impl Fn(RepositoryStatus) -> Option<T>) -> T {
        eventually(what, 30, || async { check(self.api().get(name).await.unwrap().status?) }).await
    }

    /// Waits until the commit is what the Repository has.
    pub(super) async fn fetched(&self, name: &str, commit: &str) {
        let check = |s: RepositoryStatus| s.artifact.filter(|a| a.revision.ends_with(commit)).map(|_| ());
        self.status(name, commit, check).await;
    }

    /// The path, once it is another one than `old` and the receiver knows it.
    pub(super) async fn path(&self, name: &str, old: Option<&str>) -> String {
        let path = self.status(name, "a path", |s| s.webhook_path.filter(|p| Some(p.as_str()) != old)).await;
        // An authentic ping of the type GitHub, or of any other an authentic event that nobody asks for.
        let forge = self.api().get(name).await.unwrap().spec.webhook.unwrap().forge;
        eventually("the receiver knows the path", 30, || async {
            let delivery = super::forges::ping(forge);
            (self.deliver(&path, &delivery.signed(TOKEN)).await.0 != 404).then_some(())
        })
        .await;
        path
    }

    /// Sends a delivery; status and words of the answer.
    pub(super) async fn deliver(&self, path: &str, delivery: &Signed) -> (u16, String) {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}{path}", self.receiver.hooks))
            .header("content-type", "application/json");
        for (name, value) in &delivery.headers {
            request = request.header(*name, value);
        }
        let answer = self.pool.request(request.body(Full::from(delivery.body.clone())).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        let words = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&words).trim().to_owned())
    }

    /// What `/metrics` says.
    pub(super) async fn metrics(&self) -> String {
        let answer = self.pool.get(format!("{}/metrics", self.receiver.health).parse().unwrap()).await.unwrap();
        String::from_utf8_lossy(&answer.into_body().collect().await.unwrap().to_bytes()).into_owned()
    }
}

/// The chart's name for the receiver's account.
fn account(release: &Release) -> String {
    format!("{}-receiver", release.name)
}

/// A delivery as it goes over the wire.
#[derive(Clone, Debug)]
pub(super) struct Signed {
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: String,
}

pub(super) fn hmac(key: &[u8], text: &str) -> [u8; 32] {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().into()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
