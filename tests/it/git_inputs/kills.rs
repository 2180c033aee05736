//! The controller dies at each write of content that is exchanged in the running pod: it arrives once, whole, and never
//! goes back.

use std::sync::Arc;

use futures::StreamExt as _;
use kube::runtime::{WatchStreamExt as _, watcher};
use parking_lot::Mutex;

use super::*;
use crate::common::between::Stop;

/// The commits that the ConfigMap named over time.
async fn watched(api: Api<ConfigMap>, story: Arc<Mutex<Vec<String>>>) {
    let config = watcher::Config::default().fields("metadata.name=a-server-content");
    let mut changes = Box::pin(watcher(api, config).default_backoff().applied_objects());
    while let Some(Ok(map)) = changes.next().await {
        let manifest: Value = serde_json::from_str(&map.data.unwrap()["content.json"]).unwrap();
        let commit = manifest["pieces"][0]["revision"].as_str().unwrap().to_owned();
        let mut story = story.lock();
        if story.last() != Some(&commit) {
            story.push(commit);
        }
    }
}

#[tokio::test]
async fn a_controller_that_dies_at_any_write_of_content_loses_none() {
    let cluster = control_plane();
    let namespace = cluster.namespace("inputs-kills").await;
    let mut release = Release::install(cluster, std::slice::from_ref(&namespace)).await;
    let between = release.between().await;
    let controller = release.start(&["--leader-elect", "false"]);
    let (client, server, namespaces) = (cluster.client().await, GitServer::http(), vec![namespace.clone()]);
    let mut world = World { cluster, client, namespace, namespaces, release, controller, server };
    let repository = world.server.repository("r.git");
    let mut wanted = vec![repository.commit("main", &[("docs/a", "0")])];
    let docs = context("docs", &world.server.url("r.git"), "docs", &json!({"sync": synced("HotReload")}));
    let book = json!({"name": "book", "type": "Git", "mountPath": "/content/book", "git": docs["git"]});
    world.agent("a", json!([docs, book]), json!([])).await;
    world.at("a", "contexts/docs", &wanted[0]).await;
    world.calm().await;
    let story = Arc::new(Mutex::new(vec![]));
    let watch = tokio::spawn(watched(world.api(), story.clone()));
    let mut at = vec![];
    for stop in (0..10).flat_map(|after| [false, true].map(|carried_out| Stop { of: "", after, carried_out })) {
        between.stop_at(stop);
        let commit = repository.commit("main", &[("docs/a", &format!("{stop:?}"))]);
        let stopped = eventually("it has arrived, or the controller is dead", 60, || async {
            let told = world.api::<Agent>().get("a").await.unwrap().status.unwrap_or_default().git_sync_statuses;
            let all = told.len() == 2 && told.iter().all(|s| s.observed_commit.as_deref() == Some(commit.as_str()));
            let there = world.applied("a").await["contexts/docs"].revision.ends_with(&commit);
            between.stopped().map(Some).or((all && there).then_some(None))
        })
        .await;
        if stopped.is_some() {
            world.controller.kill();
            between.go_on();
            world.controller = world.release.start(&["--leader-elect", "false"]);
        }
        between.go_on();
        for id in ["contexts/docs", "contexts/book"] {
            world.at("a", id, &commit).await;
        }
        wanted.push(commit);
        world.calm().await;
        match stopped {
            Some(write) => at.push(write),
            None => break,
        }
    }
    watch.abort();
    let wanted: Vec<_> = wanted.iter().map(|commit| format!("main@sha1:{commit}")).collect();
    assert_eq!(*story.lock(), wanted, "one after the other, each once");
    assert!(at.iter().any(|write| write.contains("configmaps/a-server-content")), "{at:#?}");
}
