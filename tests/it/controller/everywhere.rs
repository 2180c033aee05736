//! A controller that works in all namespaces, with the ClusterRole of `rbac.clusterWide` and no Role.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use pilothouse::api::{Agent, Repository, Sync};
use serde_json::json;

use crate::common::{
    audit::Request,
    cluster::{Cluster, Shape},
    controller::Release,
    git_server::GitServer,
    wait::eventually,
};

/// In a cluster of its own: it would take every other test's objects for its own. Whatever the chart does not allow
/// fails when the controller is dropped.
#[tokio::test]
async fn cluster_wide_rights_reach_namespaces_that_come_later() {
    let cluster = Cluster::start(Shape { no_scheduler: true, ..Shape::default() });
    let release = Release::install_with(&cluster, &[], &["rbac.clusterWide=true"]).await;
    let mut controller = release.start(&[]);
    let git = GitServer::http();
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {k: v}\n";
    let agent = "apiVersion: pilothouse.dev/v1alpha1\nkind: Agent\nmetadata: {name: a}\nspec: {workspaceDir: /w, \
                 serviceAccountName: default, agentImage: i, executorImage: i}\n";
    git.repository("r.git").commit("main", &[("m.yaml", map), ("a.yaml", agent)]);
    let client = cluster.client().await;
    for name in ["late-one", "late-two"] {
        let namespace = cluster.namespace(name).await;
        let account = format!("--serviceaccount={namespace}:default");
        let role = format!("--clusterrole={}:{}:sync", release.name, release.namespace);
        let bound = cluster.kubectl(["create", "rolebinding", "sync", &role, &account, "-n", &namespace]);
        assert!(bound.status.success(), "{bound:?}");
        let apply = PatchParams::apply("test");
        let object = |kind: &str, spec| json!({"apiVersion": "pilothouse.dev/v1alpha1", "kind": kind, "metadata": {"name": "r"}, "spec": spec});
        let repository = object("Repository", json!({"url": git.url("r.git"), "interval": "1h"}));
        let sync = object("Sync", json!({"repositoryRef": {"name": "r"}, "wait": false}));
        let repositories: Api<Repository> = Api::namespaced(client.clone(), &namespace);
        repositories.patch("r", &apply, &Patch::Apply(repository)).await.unwrap();
        let syncs: Api<Sync> = Api::namespaced(client.clone(), &namespace);
        syncs.patch("r", &apply, &Patch::Apply(sync)).await.unwrap();
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
        eventually("what the Sync applies", 60, || async { maps.get_opt("m").await.unwrap() }).await;
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
        eventually("what the Agent is made of", 60, || async { deployments.get_opt("a-server").await.unwrap() }).await;
        let agents: Api<Agent> = Api::namespaced(client.clone(), &namespace);
        eventually("the Agent's status", 60, || async { agents.get("a").await.unwrap().status?.state }).await;
    }
    // One watch of a kind for all namespaces, not one of each.
    let lists = cluster.audit().requests(&release.user());
    let of: Vec<&str> =
        lists.iter().filter(|r| r.verb == "list" && r.resource() == "agents").map(Request::namespace).collect();
    assert!(!of.is_empty() && of.iter().all(|namespace| namespace.is_empty()), "{of:?}");
    assert!(controller.stop(), "{}", controller.log());
}
