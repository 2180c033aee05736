//! The chart: it installs, its controller runs with little, and what it leaves does not hang.

use std::process::Command;

use serde_json::{Value, json};

use super::world::{condition, helm, helm_install, namespaces_of, ran};
use crate::common::{
    git_server::GitServer,
    node::{GATEWAY, Node, node},
};

const SYSTEM: &str = "pilothouse-other";

fn get(node: &Node, namespace: &str, args: &[&str]) -> Value {
    let mut kubectl = Command::new(node.cluster.ready.bin.join("kubectl"));
    kubectl.env("KUBECONFIG", &node.cluster.ready.kubeconfig).args(["get", "-o", "json", "-n", namespace]);
    serde_json::from_str(&ran(kubectl.args(args))).unwrap()
}

/// Namespaces must have gone their way within this time, or something waits for a controller that is gone.
const PATIENCE: &str = "--timeout=60s";

#[tokio::test(flavor = "multi_thread")]
async fn the_chart_installs_and_leaves_nothing_that_hangs() {
    let Some(node) = node() else { return };
    let namespace = node.cluster.namespace("leaving").await;
    let mut settings = namespaces_of(std::slice::from_ref(&namespace));
    // The other release has it.
    settings.push("config.create=false".into());
    settings.push("receiver.enabled=true,receiver.replicas=1,receiver.networkPolicy.enabled=true".into());
    helm_install(node, "other", SYSTEM, &settings);
    runs_with_little(node);

    let git = tokio::task::spawn_blocking(|| GitServer::http_on(&format!("{GATEWAY}:0"))).await.unwrap();
    let config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kept}\n";
    // Rendered by a process that the controller starts with what little its container has.
    let template = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: rendered}\ndata: {sync: {{ sync.name }}}\n";
    let hostile = format!("{{% set x = '12345678' %}}{}", "{% set x = x ~ x %}".repeat(64));
    let files = [("app/a.yaml", config), ("app/b.yaml.j2", template), ("hostile/a.yaml.j2", &hostile)];
    git.repository("leaving.git").commit("main", &files);
    let url = git.url("leaving.git");
    let objects = [
        json!({"kind": "Repository", "metadata": {"name": "r"}, "spec": {"url": url, "ref": {"branch": "main"}}}),
        json!({"kind": "Sync", "metadata": {"name": "s"}, "spec": {"repositoryRef": {"name": "r"}, "path": "app"}}),
        json!({"kind": "Sync", "metadata": {"name": "hostile"}, "spec": {"repositoryRef": {"name": "r"}, "path": "hostile"}}),
    ];
    for mut object in objects {
        object["apiVersion"] = json!("pilothouse.dev/v1alpha1");
        node.apply(&namespace, &object.to_string());
    }
    let ready = node.cluster.kubectl(["wait", "--for=condition=Ready", "sync/s", "-n", &namespace, "--timeout=60s"]);
    assert!(ready.status.success(), "{}", node.story(&namespace));
    let sync = get(node, &namespace, &["sync/s"]);
    assert_eq!(condition(&sync, "Ready")[0], "True", "{sync:#}");
    assert_eq!(get(node, &namespace, &["configmap/rendered"])["data"]["sync"], "s");
    let stalled =
        node.cluster.kubectl(["wait", "--for=condition=Stalled", "sync/hostile", "-n", &namespace, "--timeout=60s"]);
    assert!(stalled.status.success(), "{}", node.story(&namespace));
    let hostile = get(node, &namespace, &["sync/hostile"]);
    let [_, reason, message] = condition(&hostile, "Ready");
    assert!(reason == "RenderFailed" && message.contains("MiB of memory"), "{reason}: {message}");
    let pods = get(node, SYSTEM, &["pods"]);
    for pod in pods["items"].as_array().unwrap() {
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "{pod:#}");
    }
    assert!(
        !sync["metadata"]["finalizers"].as_array().unwrap().is_empty(),
        "a Sync that needs no release proves nothing"
    );

    leave(node, &namespace);
}

fn runs_with_little(node: &Node) {
    let pods = get(node, SYSTEM, &["pods"]);
    let pods = pods["items"].as_array().unwrap();
    assert_eq!(pods.len(), 2, "the controller and the receiver: {pods:#?}");
    for pod in pods {
        let container = &pod["spec"]["containers"][0];
        assert_eq!(condition(pod, "Ready")[0], "True", "{pod:#}");
        assert_eq!(pod["spec"]["securityContext"]["runAsNonRoot"], true);
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
        assert_eq!(container["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
        let name = pod["metadata"]["name"].as_str().unwrap();
        let status = node.exec(SYSTEM, name, ["cat", "/proc/1/status"]);
        let uid = status.lines().find(|l| l.starts_with("Uid:")).unwrap_or_default();
        assert_eq!(uid.split_whitespace().nth(1), Some("65532"), "{status}");
    }
}

fn leave(node: &Node, namespace: &str) {
    // In this order: a controller that still runs sets the finalizer again at once.
    ran(helm(node).args(["uninstall", "other", "-n", SYSTEM, "--wait", "--timeout", "1m"]));
    let mut uninstall = Command::new(env!("CARGO_BIN_EXE_pilothouse"));
    uninstall.env("KUBECONFIG", &node.cluster.ready.kubeconfig).args(["uninstall", "-n", namespace]);
    ran(&mut uninstall);
    // What the Sync applied stays; the Sync and the namespaces go although nobody is there to release them.
    get(node, namespace, &["configmap/kept"]);
    for gone in [["sync", "s"], ["namespace", namespace], ["namespace", SYSTEM]] {
        let out = node.cluster.kubectl(["delete", gone[0], gone[1], "-n", namespace, PATIENCE]);
        assert!(out.status.success(), "{gone:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
}
