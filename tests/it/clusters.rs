//! The test clusters themselves: what every other test relies on.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};

use crate::common::{
    audit::user_of,
    cluster::{Cluster, Shape, control_plane},
};

/// Writes are counted by user, as they are defined; what fails for want of a right counts too.
#[tokio::test]
async fn writes_of_a_user_are_counted() {
    let cluster = control_plane();
    let namespace = cluster.namespace("audit").await;
    let rolebinding = cluster.kubectl([
        "create",
        "rolebinding",
        "edit",
        "--clusterrole=edit",
        &format!("--serviceaccount={namespace}:writer"),
        "-n",
        &namespace,
    ]);
    assert!(rolebinding.status.success(), "{rolebinding:?}");
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client_as(&namespace, "writer").await, &namespace);
    let log = cluster.audit().later();
    let user = user_of(&namespace, "writer");

    let map =
        ConfigMap { metadata: ObjectMeta { name: Some("a".into()), ..ObjectMeta::default() }, ..ConfigMap::default() };
    maps.create(&PostParams::default(), &map).await.unwrap();
    maps.get("a").await.unwrap();
    let patch =
        serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    let apply = PatchParams::apply("audit-test");
    maps.patch("a", &apply.clone().dry_run(), &Patch::Apply(&patch)).await.unwrap();
    assert_eq!(log.writes(&user).len(), 1, "neither a read nor a dry run is a write: {:?}", log.summary(&user));
    maps.patch("a", &apply, &Patch::Apply(&patch)).await.unwrap();
    maps.patch("a", &apply, &Patch::Apply(&patch)).await.unwrap();
    assert_eq!(log.writes(&user).len(), 3, "a patch that changes nothing is a write: {:?}", log.summary(&user));

    let namespaces: Api<Namespace> = Api::all(cluster.client_as(&namespace, "writer").await);
    namespaces.create(&PostParams::default(), &Namespace::default()).await.unwrap_err();
    let writes = log.writes(&user);
    assert_eq!((writes.len(), writes[3].code()), (4, 403));
    assert_eq!(writes[0].object(), format!("{namespace}/configmaps/a"));
}

/// Two clusters stand side by side, know nothing of each other, and leave nothing behind.
#[tokio::test]
async fn a_cluster_of_its_own_leaves_nothing() {
    let shared = control_plane();
    let own = Cluster::start(Shape { no_scheduler: true, ..Shape::default() });
    let namespace = own.namespace("own").await;
    let namespaces: Api<Namespace> = Api::all(shared.client().await);
    assert!(namespaces.get_opt(&namespace).await.unwrap().is_none(), "the other cluster has our namespace");
    let state = own.ready.state.clone();
    assert!(state.join("log/kube-apiserver.log").exists() && !state.join("log/kube-scheduler.log").exists());
    drop(own);
    assert!(!state.exists(), "{} is still there", state.display());
    assert_eq!(processes_of(&state), 0, "processes of {} are left", state.display());
}

fn processes_of(state: &Path) -> usize {
    let mine = |command: Vec<u8>| String::from_utf8_lossy(&command).contains(&*state.to_string_lossy());
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.filter(|p| std::fs::read(p.path().join("cmdline")).is_ok_and(mine)).count()
}

/// A supervisor that is killed takes its components with it, and the next start of any cluster removes what it left.
#[tokio::test]
async fn a_killed_cluster_is_cleaned_up_later() {
    let own = Cluster::start(Shape { no_scheduler: true, ..Shape::default() });
    let state = own.ready.state.clone();
    assert!(processes_of(&state) > 0);
    let killed = Command::new("kill").args(["-9", &own.supervisor().to_string()]).status().unwrap();
    assert!(killed.success());
    drop(own);
    let end = Instant::now() + Duration::from_secs(20);
    while processes_of(&state) > 0 {
        assert!(Instant::now() < end, "processes of {} are left", state.display());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(state.exists());
    drop(Cluster::start(Shape { no_scheduler: true, ..Shape::default() }));
    assert!(!state.exists(), "{} is still there", state.display());
}

/// A Deployment's pods become ready on nodes that KWOK plays.
#[tokio::test]
async fn pods_seem_alive_on_fake_nodes() {
    let own = Cluster::start(Shape::default());
    let nodes = own.fake_nodes(2);
    let namespace = own.namespace("fleet").await;
    let made = own.kubectl(["create", "deployment", "web", "--image=none", "--replicas=20", "-n", &namespace]);
    assert!(made.status.success(), "{made:?}");
    let ready = own.kubectl(["rollout", "status", "deployment/web", "-n", &namespace, "--timeout=60s"]);
    assert!(ready.status.success(), "{ready:?}");
    drop(nodes);
    drop(own);
}
