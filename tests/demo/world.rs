//! What the demo starts: a cluster with a node, a Git server, a model, and Pilothouse installed by helm.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    common::{
        cluster::{Cluster, Shape, script},
        controller::{pilothouse, program},
        git_server::{GitServer, basic},
        model::Model,
    },
    screen,
};

/// The node's address, at which pods reach what runs beside the cluster.
pub(crate) const HOST: &str = "10.90.0.1";
/// Where agents live.
pub(crate) const NAMESPACE: &str = "agents";
/// The user of the Git server.
const USER: &str = "demo";
const PASSWORD: &str = "correct-horse";

/// Everything that runs. Dropping it takes it away.
pub(crate) struct World {
    /// The cluster.
    pub(crate) cluster: Cluster,
    /// The model that answers.
    pub(crate) model: Model,
    git: GitServer,
    work: tempfile::TempDir,
}

/// Runs a command; its output, or what it said on failure.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let out = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    Err(format!("{command:?} failed:\n{}", String::from_utf8_lossy(&out.stderr).trim()))
}

impl World {
    /// Starts the cluster, with the images on its node.
    pub(crate) async fn start() -> Result<Self, String> {
        let cluster = Cluster::start(Shape { node: true, no_scheduler: false });
        screen::say("images: opencode (from npm), a workspace, pilothouse");
        let pilothouse = format!("pilothouse={}", pilothouse().display());
        let images = run(Command::new(script()).args(["image", "opencode", "executor", &pilothouse]))?;
        run(Command::new(script()).args(["load-image", "--name", &cluster.ready.name]).args(images.lines()))?;
        // The Git server has a runtime of its own, which must not start inside of ours.
        let git = tokio::task::spawn_blocking(|| GitServer::http_on(&format!("{HOST}:0"))).await;
        let git = git.map_err(|e| e.to_string())?;
        git.behave(|b| b.authorization = Some(basic(USER, PASSWORD)));
        let model = Model::start_on(&format!("{HOST}:0")).await;
        let work = tempfile::tempdir().map_err(|e| e.to_string())?;
        Ok(Self { cluster, model, git, work })
    }

    /// A second tag of the workspace image, as a new release of it would be.
    pub(crate) fn tag_image(&self, from: &str, to: &str) -> Result<(), String> {
        let socket = self.cluster.ready.state.join("containerd.sock");
        let mut ctr = Command::new(self.cluster.ready.bin.join("ctr"));
        run(ctr.arg("-a").arg(socket).args(["-n", "k8s.io", "images", "tag", from, to])).map(drop)
    }

    /// Installs the chart and waits until the controller runs.
    pub(crate) fn install(&self, agent_image: &str, executor_image: &str) -> Result<(), String> {
        let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/pilothouse");
        let mut helm = Command::new(program("helm"));
        helm.env("KUBECONFIG", &self.cluster.ready.kubeconfig)
            .args(["install", "pilothouse", chart, "--namespace", "pilothouse-system", "--create-namespace"])
            .args(["--wait", "--timeout", "2m"])
            .args(["--set", &format!("agentNamespaces={{{NAMESPACE}}}")])
            .args(["--set", &format!("syncAccounts[0].namespace={NAMESPACE},syncAccounts[0].name=default")])
            .args(["--set", "image.repository=localhost/pilothouse,image.tag=dev"])
            .args(["--set", &format!("config.agentImage={agent_image},config.executorImage={executor_image}")]);
        run(&mut helm).map(drop)
    }

    /// The repository on the server and a working copy of it, filled with the examples.
    pub(crate) fn publish_examples(&self) -> Result<(), String> {
        self.git.repository("agents.git");
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples-repo");
        run(Command::new("cp").arg("-r").arg(examples).arg(self.copy()))?;
        self.git_command(&["init", "-q", "-b", "main"])?;
        self.git_command(&["remote", "add", "origin", &self.push_url()])?;
        self.push("The team's agents").map(drop)
    }

    /// Commits everything in the working copy and pushes it. The commit id.
    pub(crate) fn push(&self, message: &str) -> Result<String, String> {
        self.git_command(&["add", "-A"])?;
        self.git_command(&["commit", "-q", "-m", message])?;
        self.git_command(&["push", "-q", "origin", "main"])?;
        self.git_command(&["rev-parse", "HEAD"]).map(|id| id.trim().to_owned())
    }

    /// Changes a file of the working copy.
    pub(crate) fn edit(&self, file: &str, change: impl FnOnce(String) -> String) -> Result<(), String> {
        let path = self.copy().join(file);
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{file}: {e}"))?;
        std::fs::write(&path, change(text)).map_err(|e| format!("{file}: {e}"))
    }

    /// The URL for the Repository object, without credentials.
    pub(crate) fn url(&self) -> String {
        self.git.url("agents.git")
    }

    /// The keys of the Secret that the Repository refers to.
    pub(crate) fn credentials() -> [String; 2] {
        [format!("--from-literal=username={USER}"), format!("--from-literal=password={PASSWORD}")]
    }

    /// Runs kubectl in the agents' namespace.
    pub(crate) fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new(self.cluster.ready.bin.join("kubectl"));
        run(command.env("KUBECONFIG", &self.cluster.ready.kubeconfig).args(["-n", NAMESPACE]).args(args))
    }

    /// Applies a manifest in the agents' namespace.
    pub(crate) fn apply(&self, manifest: &str) -> Result<(), String> {
        let file = self.work.path().join("manifest.yaml");
        std::fs::write(&file, manifest).map_err(|e| e.to_string())?;
        self.kubectl(&["apply", "--server-side", "-f", &file.to_string_lossy()]).map(drop)
    }

    /// One value of one object; empty when it is not there.
    pub(crate) fn field(&self, object: &str, path: &str) -> String {
        self.kubectl(&["get", object, "--ignore-not-found", "-o", &format!("jsonpath={path}")]).unwrap_or_default()
    }

    fn copy(&self) -> PathBuf {
        self.work.path().join("agents")
    }

    fn push_url(&self) -> String {
        self.url().replacen("://", &format!("://{USER}:{PASSWORD}@"), 1)
    }

    fn git_command(&self, args: &[&str]) -> Result<String, String> {
        let who = ["-c", "user.name=Demo", "-c", "user.email=demo@example.com"];
        run(Command::new("git").current_dir(self.copy()).args(who).args(args))
    }
}
