//! From a push to the object in the cluster.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use pilothouse::api::{Repository, Sync};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{
    common::{controller::Release, git_server::GitServer},
    table::Number,
    world,
};

fn manifest(round: usize) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: pushed}}\ndata: {{round: '{round}'}}\n")
}

/// `push_to_applied_ms`: one Sync; from the reconcile annotation on the Repository, after a push, to the changed object.
pub(crate) fn measure(runtime: &Runtime) -> Vec<Number> {
    let git = GitServer::http();
    let remote = git.repository("push.git");
    remote.commit("main", &[("app/cm.yaml", &manifest(0))]);
    let samples = runtime.block_on(async {
        let cluster = world::cluster();
        let agents = cluster.namespace("push").await;
        let release = Release::install(cluster, std::slice::from_ref(&agents)).await;
        let controller = release.start(&[]);
        world::leading(&controller).await;
        let client = cluster.client().await;
        let repositories: Api<Repository> = Api::namespaced(client.clone(), &agents);
        let syncs: Api<Sync> = Api::namespaced(client.clone(), &agents);
        let maps: Api<ConfigMap> = Api::namespaced(client, &agents);
        let post = PostParams::default();
        repositories
            .create(
                &post,
                &object(&json!({"kind": "Repository", "metadata": {"name": "push"},
            "spec": {"url": git.url("push.git"), "ref": {"branch": "main"}, "interval": "1h"}})),
            )
            .await
            .unwrap();
        syncs
            .create(
                &post,
                &object(&json!({"kind": "Sync", "metadata": {"name": "push"},
            "spec": {"repositoryRef": {"name": "push"}, "path": "app"}})),
            )
            .await
            .unwrap();
        let mut samples = vec![];
        for round in 0..12 {
            if round > 0 {
                remote.commit("main", &[("app/cm.yaml", &manifest(round))]);
            }
            let now = Instant::now();
            if round > 0 {
                let ask = json!({"metadata": {"annotations": {"pilothouse.dev/reconcile-at": format!("{now:?}")}}});
                repositories.patch("push", &PatchParams::default(), &Patch::Merge(ask)).await.unwrap();
            }
            world::until(Duration::from_mins(1), || async {
                let map = maps.get_opt("pushed").await.unwrap()?;
                (map.data?.get("round")? == &round.to_string()).then_some(())
            })
            .await;
            // The first one starts from nothing and is another number.
            if round > 0 {
                samples.push(now.elapsed().as_secs_f64() * 1000.0);
            }
        }
        samples
    });
    vec![Number::new("push_to_applied_ms", "ms", 200.0, samples)]
}

/// A typed object from JSON without its apiVersion.
pub(crate) fn object<T: serde::de::DeserializeOwned>(value: &serde_json::Value) -> T {
    let mut value = value.clone();
    value["apiVersion"] = "pilothouse.dev/v1alpha1".into();
    serde_json::from_value(value).unwrap()
}
