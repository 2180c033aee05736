//! A real node, shared by the tests in `node::`: pods, Services, DNS, images made on this machine.
//!
//! These tests run inside `tests/cluster/in-netns`, in network namespaces of their own. A server of a test that listens
//! on [`GATEWAY`] is reached from pods, and pods and Services are reached from the test.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::PathBuf,
    process::{Command, Output},
    sync::OnceLock,
};

use parking_lot::Mutex;

use super::cluster::{Cluster, Shape, script};

/// The node's address on the pods' network: where pods reach servers of the tests.
pub(crate) const GATEWAY: &str = "10.90.0.1";

/// A cluster with a node.
pub(crate) struct Node {
    /// The cluster.
    pub(crate) cluster: Cluster,
    images: Mutex<BTreeMap<String, String>>,
}

/// The node that all tests of this run share. `None` only where the environment says to leave these tests out.
///
/// # Panics
/// When the tests are not in namespaces of their own, with what to do about it.
pub(crate) fn node() -> Option<&'static Node> {
    static SHARED: OnceLock<Option<Node>> = OnceLock::new();
    SHARED.get_or_init(start).as_ref()
}

fn start() -> Option<Node> {
    if std::env::var_os("PILOTHOUSE_TEST_SKIP_NODES").is_some_and(|v| v == "1") {
        let line = "!".repeat(100);
        eprintln!("{line}\n!! PILOTHOUSE_TEST_SKIP_NODES=1: the tests with real pods are LEFT OUT.\n{line}");
        return None;
    }
    assert!(
        std::env::var_os("PILOTHOUSE_CLUSTER_NAMESPACES").is_some(),
        "tests with real pods need namespaces of their own, and so root. Run them as root by:\n  \
         tests/cluster/in-netns cargo test --test it -- node::\n\
         or leave them out by PILOTHOUSE_TEST_SKIP_NODES=1"
    );
    let cluster = Cluster::start(Shape { node: true, ..Shape::default() });
    Some(Node { cluster, images: Mutex::default() })
}

impl Node {
    /// Makes an image (`executor`, `opencode`, `pilothouse`), once, loads it, and returns its reference.
    pub(crate) fn image(&self, what: &str) -> String {
        let mut loaded = self.images.lock();
        if let Some(reference) = loaded.get(what) {
            return reference.clone();
        }
        let recipe = match what {
            "pilothouse" => format!("pilothouse={}", env!("CARGO_BIN_EXE_pilothouse")),
            other => other.to_owned(),
        };
        let archive = ran(Self::script().args(["image", &recipe]));
        ran(Self::script().args(["load-image", "--name", &self.cluster.ready.name, &archive]));
        let reference = match what {
            "opencode" => "localhost/opencode:1.18.33".to_owned(),
            other => format!("localhost/{other}:dev"),
        };
        loaded.insert(what.to_owned(), reference.clone());
        reference
    }

    /// Gives an image another name: the same content with a new tag.
    pub(crate) fn tag_image(&self, from: &str, to: &str) {
        ran(Self::script().args(["tag-image", "--name", &self.cluster.ready.name, from, to]));
    }

    /// Lets pods resolve a name to [`GATEWAY`]; it takes a second to be known.
    pub(crate) fn add_host(&self, name: &str) {
        let path = self.cluster.ready.state.join("hosts");
        let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        writeln!(file, "{GATEWAY} {name}").unwrap();
    }

    /// Applies manifests in a namespace, as the administrator.
    pub(crate) fn apply(&self, namespace: &str, yaml: &str) {
        let file = self.file(yaml);
        let out = self.cluster.kubectl(["apply", "-n", namespace, "-f", file.to_str().unwrap()]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    fn file(&self, text: &str) -> PathBuf {
        let path = self.cluster.ready.state.join(format!("{}.yaml", super::cluster::unique("manifest")));
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Waits until a Deployment's pods are ready.
    ///
    /// # Panics
    /// After two minutes, with the namespace's pods and events.
    pub(crate) fn rolled_out(&self, namespace: &str, deployment: &str) {
        let name = format!("deployment/{deployment}");
        let out = self.cluster.kubectl(["rollout", "status", "-n", namespace, &name, "--timeout=120s"]);
        assert!(out.status.success(), "{}\n{}", text(&out), self.story(namespace));
    }

    /// What happened in a namespace, for a test that failed.
    pub(crate) fn story(&self, namespace: &str) -> String {
        let pods = self.cluster.kubectl(["get", "pods", "-n", namespace, "-o", "wide"]);
        let events = self.cluster.kubectl(["get", "events", "-n", namespace, "--sort-by=.lastTimestamp"]);
        text(&pods) + "\n" + &text(&events)
    }

    /// Runs a command in a pod and returns what it prints.
    pub(crate) fn exec<const N: usize>(&self, namespace: &str, pod: &str, command: [&str; N]) -> String {
        let mut args = vec!["exec", "-n", namespace, pod, "--"];
        args.extend(command);
        let mut kubectl = Command::new(self.cluster.ready.bin.join("kubectl"));
        ran(kubectl.env("KUBECONFIG", &self.cluster.ready.kubeconfig).args(args))
    }

    fn script() -> Command {
        Command::new(script())
    }
}

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

fn ran(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", text(&out));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}
