//! Real clusters for tests, made by `tests/cluster/cluster`.
//!
//! A control plane (etcd, API server, controllers, scheduler) is shared by the tests of a run; each test works in namespaces
//! of its own. A cluster lives as long as the pipe to its supervisor: when the test program ends, however it ends, the
//! kernel closes the pipe and the supervisor takes everything away.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{Namespace, ServiceAccount},
};
use kube::{
    Api, Client, Config,
    api::{ObjectMeta, PostParams},
    config::{AuthInfo, KubeConfigOptions, Kubeconfig},
};
use serde::Deserialize;

use super::audit::AuditLog;

/// A running cluster. Dropping it stops it and removes its state.
pub(crate) struct Cluster {
    /// What the supervisor said when it was ready.
    pub(crate) ready: Ready,
    supervised: Supervised,
}

/// Nodes that KWOK plays.
pub(crate) struct FakeNodes {
    _kwok: Supervised,
}

/// A process that ends when its standard input is closed, and so with us, and that says on one line when it is ready.
struct Supervised {
    stdin: Option<ChildStdin>,
    child: Child,
}

impl Supervised {
    fn start(command: &mut Command) -> (Self, String) {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("tests/cluster/cluster");
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().unwrap());
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        (Self { stdin, child }, line)
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// Where a cluster's things are.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ready {
    /// The instance's name, for `tests/cluster/cluster --name`.
    pub(crate) name: String,
    /// The folder of logs and state.
    pub(crate) state: PathBuf,
    /// The administrator's kubeconfig.
    pub(crate) kubeconfig: PathBuf,
    /// The API server's URL.
    pub(crate) server: String,
    /// One JSON line a request.
    pub(crate) audit_log: PathBuf,
    /// kubectl and the components.
    pub(crate) bin: PathBuf,
}

/// What a cluster consists of.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Shape {
    /// Real pods: kubelet, containerd, kube-proxy, DNS. Needs root.
    pub(crate) node: bool,
    /// Leaves the scheduler out: pods are made, and stay pending.
    pub(crate) no_scheduler: bool,
}

/// The project's own script of that name under `tests/cluster`.
pub(crate) fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/cluster")
}

/// The control plane that all tests of this run share.
pub(crate) fn control_plane() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::start(Shape::default()))
}

/// A name with a suffix that no other call of this run gives.
pub(crate) fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{prefix}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Cluster {
    /// Starts a cluster of its own for a test that changes what all namespaces share, or stops parts of it.
    ///
    /// # Panics
    /// When it does not come up; the supervisor has said why on standard error.
    pub(crate) fn start(shape: Shape) -> Self {
        // Not the process id: inside of namespaces small numbers come back.
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_micros();
        let name = unique(&format!("it-{now:x}"));
        let mut command = Command::new(script());
        command.args(["run", "--name", &name]);
        if shape.node {
            command.arg("--node");
        }
        if shape.no_scheduler {
            command.arg("--no-scheduler");
        }
        let (supervised, line) = Supervised::start(&mut command);
        assert!(!line.is_empty(), "the cluster did not come up: see the messages above");
        Self { ready: serde_json::from_str(&line).expect("what `cluster run` prints"), supervised }
    }

    /// A client with the rights of `system:masters`.
    pub(crate) async fn client(&self) -> Client {
        self.client_of(None).await
    }

    /// A client of a ServiceAccount, with a token as its pods would have one. The account is made when it is missing.
    pub(crate) async fn client_as(&self, namespace: &str, account: &str) -> Client {
        self.client_of(Some(self.token_of(namespace, account).await)).await
    }

    /// A token of a ServiceAccount, valid for an hour.
    pub(crate) async fn token_of(&self, namespace: &str, account: &str) -> String {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await, namespace);
        if accounts.get_opt(account).await.unwrap().is_none() {
            let new = ServiceAccount { metadata: named(account), ..ServiceAccount::default() };
            accounts.create(&PostParams::default(), &new).await.unwrap();
        }
        let wish = TokenRequest { spec: TokenRequestSpec::default(), ..TokenRequest::default() };
        let made = accounts.create_token_request(account, &PostParams::default(), &wish).await.unwrap();
        made.status.expect("a token").token
    }

    /// A kubeconfig for another program that acts as a ServiceAccount: the path of a file in the cluster's state.
    pub(crate) async fn kubeconfig_as(&self, namespace: &str, account: &str) -> PathBuf {
        let mut config = Kubeconfig::read_from(&self.ready.kubeconfig).unwrap();
        let token = self.token_of(namespace, account).await;
        config.auth_infos[0].auth_info = Some(AuthInfo { token: Some(token.into()), ..AuthInfo::default() });
        let path = self.ready.state.join(format!("{namespace}.{account}.kubeconfig"));
        std::fs::write(&path, serde_json::to_string(&config).unwrap()).unwrap();
        path
    }

    async fn client_of(&self, token: Option<String>) -> Client {
        // The first to come wins; both are the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let file = Kubeconfig::read_from(&self.ready.kubeconfig).unwrap();
        let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
        if let Some(token) = token {
            config.auth_info = AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
        }
        Client::try_from(config).unwrap()
    }

    /// Makes a namespace of a name that no other test has.
    pub(crate) async fn namespace(&self, prefix: &str) -> String {
        self.namespace_with(prefix, BTreeMap::new()).await
    }

    /// The same with labels.
    pub(crate) async fn namespace_with(&self, prefix: &str, labels: BTreeMap<String, String>) -> String {
        let name = unique(prefix);
        let new = Namespace { metadata: ObjectMeta { labels: Some(labels), ..named(&name) }, ..Namespace::default() };
        Api::all(self.client().await).create(&PostParams::default(), &new).await.unwrap();
        name
    }

    /// Runs kubectl as the administrator.
    pub(crate) fn kubectl<const N: usize>(&self, args: [&str; N]) -> Output {
        let mut command = Command::new(self.ready.bin.join("kubectl"));
        command.env("KUBECONFIG", &self.ready.kubeconfig).args(args).output().expect("kubectl")
    }

    /// Makes fake nodes and runs KWOK, which lets them and the pods on them seem alive, until the value is dropped.
    pub(crate) fn fake_nodes(&self, count: usize) -> FakeNodes {
        let mut command = Command::new(script());
        command.args(["fake-nodes", "--name", &self.ready.name, &count.to_string()]);
        let (kwok, line) = Supervised::start(&mut command);
        assert_eq!(line.trim(), "ready", "KWOK did not start: see the messages above");
        FakeNodes { _kwok: kwok }
    }

    /// The process id of the supervisor.
    pub(crate) fn supervisor(&self) -> u32 {
        self.supervised.child.id()
    }

    /// The requests that the API server has answered so far.
    pub(crate) fn audit(&self) -> AuditLog {
        AuditLog::new(self.ready.audit_log.clone())
    }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}
