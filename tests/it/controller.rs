//! The controller as a process: leader election, probes, stopping.

mod edges;
mod ends;
mod everywhere;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, PostParams},
};
use serde_json::json;

use crate::common::{
    cluster::control_plane,
    controller::Release,
    wait::{eventually, get},
};

async fn holder(leases: &Api<Lease>, name: &str) -> Option<String> {
    leases.get_opt(name).await.unwrap()?.spec?.holder_identity.filter(|h| !h.is_empty())
}

#[tokio::test]
async fn a_replica_takes_over_from_one_that_stops_and_from_one_that_vanishes() {
    let cluster = control_plane();
    let agents = cluster.namespace("leader").await;
    let release = Release::install(cluster, std::slice::from_ref(&agents)).await;
    let leases: Api<Lease> = Api::namespaced(cluster.client().await, &release.namespace);

    let mut first = release.start_as("first", &[]);
    let leads = |who: &'static str| {
        let (leases, lease) = (leases.clone(), release.name.clone());
        move || {
            let (leases, lease) = (leases.clone(), lease.clone());
            async move { (holder(&leases, &lease).await.as_deref() == Some(who)).then_some(()) }
        }
    };
    eventually("first leads", 20, leads("first")).await;
    let mut second = release.start_as("second", &[]);
    eventually("second is ready while it follows", 20, || async {
        get(&format!("{}/readyz", second.health)).await.filter(|(status, _)| *status == 200)
    })
    .await;

    // A graceful stop gives the Lease back: no waiting for its end.
    assert!(first.stop(), "{}", first.log());
    eventually("second leads after a graceful stop", 5, leads("second")).await;

    // A crash leaves the Lease to run out.
    let _third = release.start_as("third", &[]);
    second.kill();
    eventually("third leads after a crash", 20, leads("third")).await;
    every_kind_is_looked_at(&cluster.client().await, &agents).await;
}

/// One object of each kind, of which a controller that works says something.
async fn every_kind_is_looked_at(client: &Client, namespace: &str) {
    let of_agent = json!({"agentRef": {"name": "nobody"}, "description": "Say hello."});
    let kinds = [
        ("Repository", json!({"url": "https://127.0.0.1:1/a.git", "ref": {"branch": "main"}})),
        ("Sync", json!({"repositoryRef": {"name": "nothing"}, "path": "."})),
        ("Agent", json!({"workspaceDir": "/workspace", "serviceAccountName": "default"})),
        ("Task", of_agent.clone()),
        ("CronTask", json!({"schedule": "0 2 * * *", "taskTemplate": {"spec": of_agent}})),
    ];
    for (kind, spec) in kinds {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("pilothouse.dev", "v1alpha1", kind));
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
        let object = DynamicObject::new("after", &resource).data(json!({ "spec": spec }));
        api.create(&PostParams::default(), &object).await.unwrap();
        eventually(&format!("{kind} is looked at"), 60, || async {
            let seen = api.get("after").await.unwrap();
            seen.data.pointer("/status/conditions/0/type").map(|_| ())
        })
        .await;
    }
}

#[tokio::test]
async fn probes_and_metrics_answer() {
    let cluster = control_plane();
    let agents = cluster.namespace("probes").await;
    let release = Release::install(cluster, &[agents]).await;
    let controller = release.start(&[]);
    assert_eq!(get(&format!("{}/healthz", controller.health)).await.unwrap().0, 200);
    let (_, metrics) = eventually("ready and leading", 30, || async {
        get(&format!("{}/metrics", controller.health)).await.filter(|(_, text)| text.contains("pilothouse_leader 1"))
    })
    .await;
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    for name in ["pilothouse_git_listings_total 0", "pilothouse_sidecars_connected 0", "pilothouse_git_remotes 0"] {
        assert!(metrics.contains(name), "{name} is not in:\n{metrics}");
    }
    assert_eq!(get(&format!("{}/readyz", controller.health)).await.unwrap(), (200, "ok\n".into()));
}
