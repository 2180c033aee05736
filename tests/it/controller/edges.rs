//! The edges of the process: what it does not see, when it is not ready, how it ends.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;

use super::{get, holder};
use crate::common::{
    cluster::{Cluster, control_plane},
    controller::{Release, eventually},
};

/// One of each kind that the controller would write a status of.
const OBJECTS: &str = "
- {kind: Repository, metadata: {name: r}, spec: {url: 'https://git.invalid/r', suspend: true}}
- {kind: Sync, metadata: {name: s}, spec: {repositoryRef: {name: none}}}
- {kind: Agent, metadata: {name: a}, spec: {workspaceDir: /w, serviceAccountName: default}}
- {kind: AgentTemplate, metadata: {name: t}, spec: {workspaceDir: /w, serviceAccountName: default}}
- {kind: Task, metadata: {name: k}, spec: {agentRef: {name: a}, description: x}}
";

fn apply(cluster: &Cluster, namespace: &str) {
    let items: String = OBJECTS
        .trim()
        .lines()
        .map(|line| line.replacen("- {", "---\n{apiVersion: pilothouse.dev/v1alpha1, ", 1) + "\n")
        .collect();
    let file = cluster.ready.state.join(format!("{namespace}.objects.yaml"));
    std::fs::write(&file, items).unwrap();
    let out = cluster.kubectl(["apply", "--server-side", "-n", namespace, "-f", file.to_str().unwrap()]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// Which objects have a status, `kind/name` sorted.
fn reported(cluster: &Cluster, namespace: &str) -> Vec<String> {
    let template = "{range .items[?(@.status)]}{.kind}/{.metadata.name}{\"\\n\"}{end}";
    let out = cluster.kubectl([
        "get",
        "repositories,syncs,agents,agenttemplates,tasks",
        "-n",
        namespace,
        "-o",
        &format!("jsonpath={template}"),
    ]);
    let mut all: Vec<_> = String::from_utf8(out.stdout).unwrap().lines().map(String::from).collect();
    all.sort();
    all
}

#[tokio::test]
async fn other_namespaces_are_neither_read_nor_written() {
    let cluster = control_plane();
    let (inside, outside) = (cluster.namespace("inside").await, cluster.namespace("outside").await);
    let release = Release::install(cluster, std::slice::from_ref(&inside)).await;
    for namespace in [&outside, &inside] {
        apply(cluster, namespace);
    }
    let controller = release.start(&[]);
    let all = ["Agent/a", "AgentTemplate/t", "Repository/r", "Sync/s", "Task/k"];
    eventually("everything inside has a status", 60, || async { (reported(cluster, &inside) == all).then_some(()) })
        .await;
    assert_eq!(reported(cluster, &outside), [""; 0]);

    let requests = cluster.audit().requests(&release.user());
    assert!(requests.len() > 20, "{}", requests.len());
    for request in &requests {
        let (namespace, resource) = (request.namespace(), request.resource());
        let allowed = match namespace {
            // What has no namespace; a listing of all namespaces would be here too.
            "" => ["", "pilothouseconfigs", "tokenreviews"].contains(&resource),
            _ => namespace == inside || namespace == release.namespace,
        };
        assert!(allowed, "{} {}", request.verb, request.uri);
    }
    drop(controller);
}

#[tokio::test]
async fn it_is_healthy_but_not_ready_until_every_cache_is_filled() {
    let cluster = control_plane();
    let (first, second) = (cluster.namespace("cache").await, cluster.namespace("cache").await);
    let mut release = Release::install(cluster, std::slice::from_ref(&first)).await;
    // The API server refuses the listings of this one, because the chart was not told of it.
    release.agents.push(second.clone());
    let audit = cluster.audit().later();
    let mut controller = release.start(&[]);
    controller.may_be_refused = true;
    let user = release.user();
    eventually("listings are answered, and refused", 30, || async {
        let all = audit.requests(&user);
        let listed =
            |ns: &str, code: u16| all.iter().any(|r| r.verb == "list" && r.namespace() == ns && r.code() == code);
        (listed(&first, 200) && listed(&second, 403)).then_some(())
    })
    .await;
    assert_eq!(get(&format!("{}/healthz", controller.health)).await.unwrap().0, 200);
    assert_eq!(
        get(&format!("{}/readyz", controller.health)).await.unwrap(),
        (503, "caches are not filled yet\n".to_owned())
    );
    let leases: Api<Lease> = Api::namespaced(cluster.client().await, &release.namespace);
    assert_eq!(holder(&leases, &release.name).await, None, "who sees half of the cluster does not lead");
    // Who reads the log learns what is missing and where.
    let log = controller.log();
    assert!(log.contains(&second) && log.contains("forbidden"), "{log}");

    let account = format!("--serviceaccount={}:{}", release.namespace, release.name);
    let bound =
        cluster.kubectl(["create", "rolebinding", "late", "--clusterrole=cluster-admin", &account, "-n", &second]);
    assert!(bound.status.success(), "{}", String::from_utf8_lossy(&bound.stderr));
    eventually("ready once it may read", 60, || async {
        get(&format!("{}/readyz", controller.health)).await.filter(|(status, _)| *status == 200)
    })
    .await;
}

#[tokio::test]
async fn it_ends_in_order_at_either_signal() {
    let cluster = control_plane();
    let agents = cluster.namespace("stop").await;
    let release = Release::install(cluster, std::slice::from_ref(&agents)).await;
    apply(cluster, &agents);
    let leases: Api<Lease> = Api::namespaced(cluster.client().await, &release.namespace);
    for signal in ["TERM", "INT"] {
        let mut controller = release.start_as(signal, &[]);
        eventually("it leads", 30, || async {
            (holder(&leases, &release.name).await.as_deref() == Some(signal)).then_some(())
        })
        .await;
        let asked = Instant::now();
        assert!(controller.stop_by(signal), "{signal}: {}", controller.log());
        assert!(asked.elapsed() < Duration::from_secs(20), "{signal}: nothing runs that it would have to wait for");
        assert_eq!(holder(&leases, &release.name).await, None, "{signal}: the Lease is given back");
        let log = controller.log();
        let (stopping, stopped) = (log.find("\"stopping\""), log.find("\"stopped\""));
        assert!(stopping.is_some() && stopping < stopped, "{signal}: {log}");
        assert!(get(&format!("{}/healthz", controller.health)).await.is_none(), "{signal}: nobody listens any more");
    }
}

/// Watches that are dead and not closed, as behind a firewall that has forgotten their connections, while the Lease is renewed.
#[tokio::test]
async fn a_replica_whose_watches_die_in_silence_sees_again_in_a_minute() {
    let cluster = control_plane();
    let namespace = cluster.namespace("silence").await;
    let mut release = Release::install(cluster, std::slice::from_ref(&namespace)).await;
    let between = release.between().await;
    let _controller = release.start(&[]);
    apply(cluster, &namespace);
    eventually("the first are seen", 60, || async {
        reported(cluster, &namespace).iter().any(|seen| seen == "Agent/a").then_some(())
    })
    .await;
    between.silence_watches();
    let file = cluster.ready.state.join(format!("{namespace}.late.yaml"));
    let late = "{apiVersion: pilothouse.dev/v1alpha1, kind: Agent, metadata: {name: late}, spec: {workspaceDir: /w, serviceAccountName: default}}";
    std::fs::write(&file, late).unwrap();
    let out = cluster.kubectl(["apply", "--server-side", "-n", &namespace, "-f", file.to_str().unwrap()]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    // 60 s, 5 s, and what a busy machine takes.
    eventually("what came meanwhile is seen", 100, || async {
        reported(cluster, &namespace).iter().any(|seen| seen == "Agent/late").then_some(())
    })
    .await;
}
