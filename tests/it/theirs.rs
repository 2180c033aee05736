//! `make demo` on a cluster of somebody's own: it tells the whole story there and leaves nothing. `tests/run` runs this by
//! itself, in namespaces of its own: the demo refuses a cluster that has Pilothouse already, as that of `node::` has.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Child, Command, Output},
    time::{Duration, Instant},
};

use crate::common::{
    cluster::Cluster,
    controller::{pilothouse, program},
    node::node,
};

/// Where the images are pushed to; the node of the same namespaces pulls from there.
const REGISTRY: &str = "127.0.0.1:5000";

/// A registry, until it is dropped.
struct Registry(Child);

impl Registry {
    fn start(disk: &Path) -> Self {
        std::fs::create_dir(disk).unwrap();
        let mut command = Command::new(program("crane"));
        command.args(["registry", "serve", "--address", REGISTRY, "--disk"]).arg(disk);
        let registry = Self(command.spawn().unwrap());
        let begun = Instant::now();
        while std::net::TcpStream::connect(REGISTRY).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(30), "the registry does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Somebody's own machine: kubectl and helm, and a kubeconfig with a context that is not the current one.
struct Theirs {
    folder: tempfile::TempDir,
}

impl Theirs {
    fn new(cluster: &Cluster) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["kubectl", "helm"] {
            std::os::unix::fs::symlink(program(name), folder.path().join(name)).unwrap();
        }
        std::fs::copy(&cluster.ready.kubeconfig, folder.path().join("kubeconfig")).unwrap();
        let theirs = Self { folder };
        let current = theirs.ran(&["config", "current-context"]);
        theirs.ran(&["config", "rename-context", &current, "theirs"]);
        theirs.ran(&["config", "unset", "current-context"]);
        theirs
    }

    fn command(&self, program: &str) -> Command {
        let (path, folder) = (std::env::var("PATH").unwrap_or_default(), self.folder.path());
        let mut command = Command::new(program);
        command.env("PATH", format!("{}:{path}", folder.display())).env("KUBECONFIG", folder.join("kubeconfig"));
        command
    }

    fn ran(&self, args: &[&str]) -> String {
        let out = self.command("kubectl").args(args).output().unwrap();
        assert!(out.status.success(), "kubectl {args:?}: {}", said(&out));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    /// Every object of every kind, but those that come and go by themselves.
    fn everything(&self) -> BTreeSet<String> {
        let kinds = self.ran(&["--context", "theirs", "api-resources", "--verbs=list", "-o", "name"]);
        let fleeting = ["events", "events.events.k8s.io", "leases.coordination.k8s.io", "componentstatuses"];
        let kinds: Vec<_> = kinds.lines().filter(|kind| !fleeting.contains(kind)).collect();
        let columns = "custom-columns=K:.kind,NS:.metadata.namespace,N:.metadata.name";
        let get = ["--context", "theirs", "get", &kinds.join(","), "-A", "--no-headers", "-o", columns];
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        self.ran(&get).lines().map(words).collect()
    }

    /// The same once it has stopped to change and holds all of `known`: what follows from a new object comes a moment later.
    fn settled(&self, known: &[&str]) -> BTreeSet<String> {
        let begun = Instant::now();
        let mut last = BTreeSet::new();
        loop {
            let now = self.everything();
            if now == last && known.iter().all(|line| now.contains(*line)) {
                return now;
            }
            assert!(begun.elapsed() < Duration::from_mins(2), "not settled with {known:?}: {now:#?}");
            last = now;
            std::thread::sleep(Duration::from_secs(2));
        }
    }

    /// `make demo` as its user types it.
    fn demo(&self) -> Output {
        let mut make = self.command("make");
        make.args(["-s", "-C", env!("CARGO_MANIFEST_DIR"), "demo"]).env("CARGO_NET_OFFLINE", "true");
        make.envs([("DEMO_CONTEXT", "theirs"), ("DEMO_REGISTRY", &format!("{REGISTRY}/me")), ("DEMO_ONCE", "1")]);
        make.output().unwrap()
    }

    /// Waits until there is what there was; what garbage collection has not reached yet goes within seconds.
    fn assert_nothing_is_left(&self, before: &BTreeSet<String>, told: &str) {
        let begun = Instant::now();
        loop {
            let after = self.everything();
            if after == *before {
                return;
            }
            let more: Vec<_> = after.difference(before).collect();
            let less: Vec<_> = before.difference(&after).collect();
            assert!(begun.elapsed() < Duration::from_mins(1), "left: {more:#?}\ntaken: {less:#?}\n{told}");
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

#[test]
fn the_demo_tells_its_story_on_somebody_s_cluster_and_leaves_nothing() {
    let Some(node) = node() else { return };
    let theirs = Theirs::new(&node.cluster);
    let _registry = Registry::start(&theirs.folder.path().join("registry"));
    theirs.ran(&["--context", "theirs", "create", "namespace", "bystander"]);
    theirs.ran(&["--context", "theirs", "create", "configmap", "mine", "-n", "bystander"]);
    let before = theirs.settled(&[
        "ConfigMap bystander mine",
        "ConfigMap bystander kube-root-ca.crt",
        "ServiceAccount bystander default",
    ]);

    let out = theirs.demo();
    let told = said(&out);
    assert!(out.status.success(), "{told}");
    for part in ["Your cluster: context theirs", "the answer: ", "every step happened", "nothing of it is left"] {
        assert!(told.contains(part), "{part:?} is not in\n{told}");
    }
    theirs.assert_nothing_is_left(&before, &told);

    // One that has Pilothouse is not touched.
    let file = theirs.folder.path().join("crds.yaml");
    let crds = Command::new(pilothouse()).args(["crds", "-o", "yaml", "--log", "warn"]).output().unwrap();
    std::fs::write(&file, crds.stdout).unwrap();
    theirs.ran(&["--context", "theirs", "create", "-f", file.to_str().unwrap()]);
    let before = theirs.settled(&["APIService <none> v1alpha1.pilothouse.dev"]);
    let out = theirs.demo();
    let told = said(&out);
    assert!(!out.status.success() && told.contains("this cluster has Pilothouse already"), "{told}");
    theirs.assert_nothing_is_left(&before, &told);
}
