//! The controller as a process, with the rights that the chart gives it and no others.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

#[allow(unused_imports, reason = "for the tests of a controller, which all wait for something")]
pub(crate) use super::wait::eventually;
use super::{
    audit::AuditLog,
    between::Between,
    cluster::{Cluster, script, unique},
};

/// A release of the chart without its Deployment: its account and its rights are in the cluster.
pub(crate) struct Release {
    /// Name of the release, and of the account and the Lease.
    pub(crate) name: String,
    /// Namespace of the release.
    pub(crate) namespace: String,
    /// Namespaces in which it works.
    pub(crate) agents: Vec<String>,
    kubeconfig: PathBuf,
    audit: AuditLog,
}

/// A running controller. Dropping it kills it.
pub(crate) struct Controller {
    child: Child,
    /// `http://127.0.0.1:port` of health and metrics.
    pub(crate) health: String,
    /// Everything it has logged.
    pub(crate) log: Arc<Mutex<String>>,
    /// Its `--data-dir`.
    pub(crate) data: Arc<tempfile::TempDir>,
    /// Set by a test in which it lacks rights at first.
    pub(crate) may_be_refused: bool,
    audit: AuditLog,
    user: String,
}

/// The program that is tested: the one of this build, or what `PILOTHOUSE_BINARY` names.
pub(crate) fn pilothouse() -> PathBuf {
    std::env::var_os("PILOTHOUSE_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_pilothouse").into(), PathBuf::from)
}

/// The path of a program that `tests/cluster` builds.
pub(crate) fn program(name: &str) -> PathBuf {
    let out = Command::new(script()).args(["path", name]).output().expect("tests/cluster/cluster path");
    assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().into()
}

/// The chart as `helm template` renders it.
pub(crate) fn template(name: &str, namespace: &str, settings: &[String]) -> Result<String, String> {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/pilothouse");
    let mut command = Command::new(program("helm"));
    command.args(["template", name, chart, "--namespace", namespace]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    let out = command.output().expect("helm");
    if out.status.success() {
        Ok(String::from_utf8(out.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&out.stderr).into_owned())
    }
}

/// Installs the CRDs, as `pilothouse crds` prints them, once a cluster.
pub(crate) fn install_crds(cluster: &Cluster) {
    static DONE: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let mut done = DONE.lock();
    if done.contains(&cluster.ready.name) {
        return;
    }
    let out = Command::new(pilothouse()).args(["crds", "--log", "warn"]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let file = cluster.ready.state.join("crds.yaml");
    std::fs::write(&file, out.stdout).unwrap();
    let out = cluster.kubectl(["apply", "--server-side", "-f", file.to_str().unwrap()]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let out = cluster.kubectl(["wait", "--for=condition=Established", "--timeout=60s", "-f", file.to_str().unwrap()]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    done.push(cluster.ready.name.clone());
}

impl Release {
    /// Applies the CRDs and the chart's account and rights for a controller that works in `agents`, in which the Syncs' default
    /// account may do what the chart's ClusterRole for Syncs says.
    pub(crate) async fn install(cluster: &Cluster, agents: &[String]) -> Self {
        Self::install_with(cluster, agents, &[]).await
    }

    /// The same with more settings of the chart; without namespaces they must say `rbac.clusterWide=true`.
    pub(crate) async fn install_with(cluster: &Cluster, agents: &[String], more: &[&str]) -> Self {
        install_crds(cluster);
        let namespace = cluster.namespace("system").await;
        let name = unique(&format!("ph{}", std::process::id()));
        let mut settings = vec!["config.create=false".into()];
        if !agents.is_empty() {
            settings.push(format!("agentNamespaces={{{}}}", agents.join(",")));
        }
        for (i, agent) in agents.iter().enumerate() {
            settings.push(format!("syncAccounts[{i}].namespace={agent}"));
            settings.push(format!("syncAccounts[{i}].name=default"));
        }
        settings.extend(more.iter().map(|setting| (*setting).to_owned()));
        let all = template(&name, &namespace, &settings).unwrap();
        let mut rights = String::new();
        for document in all.split("\n---\n").filter(|d| !d.contains("\nkind: Deployment\n")) {
            let _ = write!(rights, "\n---\n{document}");
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rights.yaml");
        std::fs::write(&file, rights).unwrap();
        let out = cluster.kubectl(["apply", "--server-side", "-f", file.to_str().unwrap()]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        // helm names everything `<release>-pilothouse`.
        let name = format!("{name}-pilothouse");
        let kubeconfig = cluster.kubeconfig_as(&namespace, &name).await;
        Self { name, namespace, agents: agents.to_vec(), kubeconfig, audit: cluster.audit().later() }
    }

    /// From now on its controllers reach the API server through this one alone.
    pub(crate) async fn between(&mut self) -> Between {
        let (between, kubeconfig) = Between::start(&self.kubeconfig).await;
        self.kubeconfig = kubeconfig;
        between
    }

    /// How the API server's audit log calls the controller.
    pub(crate) fn user(&self) -> String {
        super::audit::user_of(&self.namespace, &self.name)
    }

    /// Starts a controller and waits until it serves health.
    pub(crate) fn start(&self, arguments: &[&str]) -> Controller {
        self.start_as(&unique("replica"), arguments)
    }

    /// The same as a replica of a name.
    pub(crate) fn start_as(&self, replica: &str, arguments: &[&str]) -> Controller {
        self.start_on(replica, Arc::new(tempfile::tempdir().unwrap()), arguments)
    }

    /// The same as one of several, whose sidecars reach it at `listen` and the Service at `front`; it may ask the others
    /// with the token of that file.
    pub(crate) fn start_among(
        &self,
        replica: &str,
        data: Arc<tempfile::TempDir>,
        (listen, front): (&str, &str),
        token: &Path,
        arguments: &[&str],
    ) -> Controller {
        let mut all = vec!["--voice-listen", listen, "--advertise-address", listen, "--voice-address", front];
        all.extend(["--service-account", &self.name, "--token-file", token.to_str().unwrap()]);
        all.extend(arguments);
        self.start_on(replica, data, &all)
    }

    /// The same with the data of an earlier one.
    pub(crate) fn start_on(&self, replica: &str, data: Arc<tempfile::TempDir>, arguments: &[&str]) -> Controller {
        let mut command = Command::new(pilothouse());
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("KUBECONFIG", &self.kubeconfig)
            .args(["controller", "--log-format", "json", "--log", "info,pilothouse=debug"])
            .args(["--listen", "127.0.0.1:0", "--pod-name", replica])
            .args(["--namespace", &self.namespace, "--lease-name", &self.name])
            .args(if self.agents.is_empty() {
                vec![]
            } else {
                vec!["--watch-namespaces".into(), self.agents.join(",")]
            })
            .args(["--sync-cluster-role", &format!("{}:{}:sync", self.name, self.namespace)])
            .args(if arguments.contains(&"--system-image") {
                &[][..]
            } else {
                &["--system-image", "localhost/pilothouse:test"]
            })
            .args(if arguments.contains(&"--voice-address") { &[][..] } else { &["--voice-address", "localhost:9443"] })
            // The tests' Git servers are on this machine.
            .args(["--allow-git-address", "127.0.0.0/8,::1"])
            .arg("--data-dir")
            .arg(data.path())
            .args(if arguments.contains(&"--voice-listen") { &[][..] } else { &["--voice-listen", "127.0.0.1:0"] })
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("pilothouse controller");
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (log, address) = (Arc::new(Mutex::new(String::new())), mpsc::channel());
        let sink = log.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if line.contains("health and metrics")
                    && let Ok(value) = serde_json::from_str::<serde_json::Value>(&line)
                {
                    let _ = address.0.send(value["address"].as_str().unwrap_or_default().to_owned());
                }
                let mut log = sink.lock();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let Ok(address) = address.1.recv_timeout(Duration::from_mins(1)) else {
            let _ = child.kill();
            panic!("the controller did not start:\n{}", log.lock());
        };
        Controller {
            child,
            health: format!("http://{address}"),
            log,
            data,
            may_be_refused: false,
            audit: self.audit.clone(),
            user: self.user(),
        }
    }
}

impl Controller {
    /// Asks it to stop and waits; panics when it does not stop within 40 s. Returns whether it ended well.
    pub(crate) fn stop(&mut self) -> bool {
        self.stop_by("TERM")
    }

    /// The same by another signal.
    pub(crate) fn stop_by(&mut self, signal: &str) -> bool {
        self.signal(signal);
        let until = Instant::now() + Duration::from_secs(40);
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the controller did not stop:\n{}", self.log());
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill").args(["-s", signal]).arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success(), "kill");
    }

    /// With what it has ended, if it has.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        self.child.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Kills it at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().clone()
    }

    /// Processor time that it has used, in all of its threads.
    pub(crate) fn processor(&self) -> Duration {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        // The name may hold spaces; it ends with the last parenthesis. User and system time are fields 14 and 15.
        let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
        let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = text.lines().find(|l| l.starts_with("VmRSS:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() * 1024
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the controller's log:\n{}", self.log());
        } else if !self.may_be_refused {
            // The chart gives everything that the code asks for.
            let refused: BTreeSet<String> = self
                .audit
                .requests(&self.user)
                .iter()
                .filter(|r| r.lacked_right())
                .map(|r| format!("{} {}", r.verb, r.object()))
                .collect();
            assert!(refused.is_empty(), "the chart does not allow what the controller tried: {refused:?}");
        }
    }
}
