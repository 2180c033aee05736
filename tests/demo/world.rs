//! What the story has: a cluster, a Git server and a model, wherever they run.

use std::{
    any::Any,
    path::{Path, PathBuf},
    process::Command,
};

use super::shell::run;
use crate::common::controller::pilothouse;

/// The user of the Git server.
pub(crate) const USER: &str = "demo";
/// The password of this user.
pub(crate) const PASSWORD: &str = "correct-horse";
/// The repository on the server.
pub(crate) const REPOSITORY: &str = "agents.git";

/// Images, as the nodes name them.
#[derive(Clone)]
pub(crate) struct Images {
    /// Pilothouse itself, `repository` and `tag`.
    pub(crate) pilothouse: (String, String),
    /// opencode.
    pub(crate) agent: String,
    /// The workspace.
    pub(crate) executor: String,
    /// A second name of the workspace, as a new release of it would have.
    pub(crate) next: String,
}

/// How programs find the cluster.
#[derive(Clone)]
pub(crate) struct Access {
    /// The kubectl to use.
    pub(crate) kubectl: PathBuf,
    /// The helm to use.
    pub(crate) helm: PathBuf,
    /// `KUBECONFIG`, unless it is the user's own.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The user's context.
    pub(crate) context: Option<String>,
}

impl Access {
    /// kubectl for this cluster.
    pub(crate) fn kubectl(&self, args: &[&str]) -> Command {
        self.command(&self.kubectl, "--context", args)
    }

    /// helm for this cluster.
    pub(crate) fn helm(&self, args: &[&str]) -> Command {
        self.command(&self.helm, "--kube-context", args)
    }

    /// Our own program for this cluster.
    pub(crate) fn pilothouse(&self, args: &[&str]) -> Command {
        self.command(&pilothouse(), "--context", args)
    }

    /// The folders of `pilothouse` and `kubectl`, for `PATH`.
    pub(crate) fn programs(&self) -> String {
        let folder = |program: &Path| program.parent().map(|p| p.display().to_string()).unwrap_or_default();
        format!("{}:{}", folder(&pilothouse()), folder(&self.kubectl))
    }

    fn command(&self, program: &Path, flag: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        if let Some(kubeconfig) = &self.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        if let Some(context) = &self.context {
            command.args([flag, context]);
        }
        command.args(args);
        command
    }
}

/// Everything that runs. Dropping it takes it away.
pub(crate) struct World {
    /// The cluster.
    pub(crate) access: Access,
    /// Images for the chart; none where pods are not real.
    pub(crate) images: Option<Images>,
    /// Name of the release.
    pub(crate) release: &'static str,
    /// Namespace of the release.
    pub(crate) system: &'static str,
    /// Where agents live.
    pub(crate) agents: &'static str,
    /// The repository as the controller reaches it, without credentials.
    pub(crate) url: String,
    /// The same as this machine does.
    pub(crate) push_url: String,
    /// The model as pods reach it.
    pub(crate) model: String,
    /// How to look around.
    pub(crate) look: Vec<String>,
    /// Dropped last: what takes everything away.
    pub(crate) _keep: Vec<Box<dyn Any + Send + Sync>>,
    /// A folder for the working copy.
    pub(crate) work: tempfile::TempDir,
}

impl World {
    /// Installs the chart and waits until the controller runs.
    pub(crate) fn install(&self) -> Result<(), String> {
        let Some(images) = &self.images else { return Err("there are no images to install".into()) };
        let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/pilothouse");
        let (repository, tag) = &images.pilothouse;
        let settings = [
            format!("agentNamespaces={{{}}}", self.agents),
            format!("syncAccounts[0].namespace={},syncAccounts[0].name=default", self.agents),
            format!("image.repository={repository},image.tag={tag}"),
            format!("config.agentImage={},config.executorImage={}", images.agent, images.executor),
        ];
        let args = ["install", self.release, chart, "--namespace", self.system, "--create-namespace"];
        let mut helm = self.access.helm(&args);
        helm.args(["--wait", "--timeout", "3m"]);
        if self.access.context.is_some() {
            helm.arg("--skip-crds"); // they are there, with our mark on them
        } else {
            // The Git server is on the node itself, where a controller looks for none unless allowed.
            let allowed = format!("controller.git.allowAddresses={{{}/32}}", super::embedded::HOST);
            helm.args(["--set", &allowed]);
        }
        for setting in settings {
            helm.args(["--set", &setting]);
        }
        run(&mut helm).map(drop)
    }

    /// Fills the repository on the server with the examples, from a working copy of it.
    pub(crate) fn publish_examples(&self) -> Result<(), String> {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples-repo");
        run(Command::new("cp").arg("-r").arg(examples).arg(self.copy()))?;
        self.git(&["init", "-q", "-b", "main"])?;
        self.git(&["config", "user.name", "Demo"])?;
        self.git(&["config", "user.email", "demo@example.com"])?;
        self.git(&["remote", "add", "origin", &self.push_url])?;
        self.push("The team's agents").map(drop)
    }

    /// Commits everything in the working copy and pushes it. The commit id.
    pub(crate) fn push(&self, message: &str) -> Result<String, String> {
        self.git(&["add", "-A"])?;
        self.git(&["commit", "-q", "-m", message])?;
        self.git(&["push", "-q", "-u", "origin", "main"])?;
        self.git(&["rev-parse", "HEAD"]).map(|id| id.trim().to_owned())
    }

    /// Changes a file of the working copy.
    pub(crate) fn edit(&self, file: &str, change: impl FnOnce(String) -> String) -> Result<(), String> {
        let path = self.copy().join(file);
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{file}: {e}"))?;
        std::fs::write(&path, change(text)).map_err(|e| format!("{file}: {e}"))
    }

    /// Adds a file to the working copy.
    pub(crate) fn add(&self, file: &str, text: &str) -> Result<(), String> {
        let path = self.copy().join(file);
        let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        folder.and_then(|()| std::fs::write(&path, text)).map_err(|e| format!("{file}: {e}"))
    }

    /// Runs kubectl in the agents' namespace.
    pub(crate) fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        run(self.access.kubectl(&["-n", self.agents]).args(args))
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

    /// The working copy.
    pub(crate) fn copy(&self) -> PathBuf {
        self.work.path().join("agents")
    }

    fn git(&self, args: &[&str]) -> Result<String, String> {
        run(Command::new("git").current_dir(self.copy()).args(args))
    }
}

/// `url` with the user and the password in it.
pub(crate) fn with_credentials(url: &str) -> String {
    url.replacen("://", &format!("://{USER}:{PASSWORD}@"), 1)
}
