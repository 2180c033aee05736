//! Revisions with content from Git: an older one that is pinned, and the last good one after one that failed.

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;

use super::*;

/// Plays the kubelet of the pods that have this image.
async fn get_ready(world: &World, image: &str) {
    let pods = world.api::<Pod>();
    eventually(&format!("a pod with {image}"), 30, || async {
        let all = pods.list(&ListParams::default().labels("pilothouse.dev/agent=a")).await.unwrap().items;
        let has = |pod: &&Pod| {
            let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
            containers.into_iter().any(|c| c.image.as_deref() == Some(image))
                && pod.metadata.deletion_timestamp.is_none()
        };
        let pod = all.iter().find(has)?;
        let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(ready)).await.ok()
    })
    .await;
}

/// The ids of the revisions that are kept, once there are so many.
async fn kept(world: &World, count: usize) -> Vec<String> {
    eventually(&format!("{count} revisions are kept"), 60, || async {
        let revisions = world.api::<Agent>().get("a").await.unwrap().status?.revisions;
        (revisions.len() == count).then(|| revisions.into_iter().map(|kept| kept.id).collect())
    })
    .await
}

/// Ids and commits that pods are told of.
async fn told_pods(world: &World) -> Vec<(String, String)> {
    let map = world.api::<ConfigMap>().get("a-server-content").await.unwrap();
    let manifest: Value = serde_json::from_str(&map.data.unwrap()["content.json"]).unwrap();
    let text = |piece: &Value, key: &str| piece[key].as_str().unwrap().to_owned();
    manifest["pieces"].as_array().unwrap().iter().map(|p| (text(p, "id"), text(p, "revision"))).collect()
}

#[tokio::test]
async fn a_pinned_agent_has_the_content_of_its_revision() {
    let world = World::new().await;
    let repository = world.server.repository("r.git");
    let first = repository.commit("main", &[("docs/a", "one")]);
    let docs = context("docs", &world.server.url("r.git"), "docs", &json!({"sync": synced("HotReload")}));
    world.agent("a", json!([docs]), json!([])).await;
    world.at("a", "contexts/docs", &first).await;
    get_ready(&world, "devbox:1").await;
    kept(&world, 1).await;
    let second = repository.commit("main", &[("docs/a", "two")]);
    world.at("a", "contexts/docs", &second).await;
    let ids = kept(&world, 2).await;

    let pin = |id: Option<&String>| json!({"metadata": {"annotations": {"pilothouse.dev/pinned-to": id}}});
    world.merge::<Agent>("a", pin(Some(&ids[1]))).await;
    world.at("a", "contexts/docs", &first).await;
    assert_eq!(told_pods(&world).await, [("contexts/docs".to_owned(), format!("main@sha1:{first}"))]);
    // What is pushed does not arrive, and that is said.
    let third = repository.commit("main", &[("docs/a", "three")]);
    let said = |s: &Value| {
        s["observedCommit"] == third.as_str() && s["message"].as_str().is_some_and(|m| m.contains("pinned"))
    };
    world.told("a", "docs", "the newest is known and not taken", said).await;
    world.calm().await;
    assert!(world.applied("a").await["contexts/docs"].revision.ends_with(&first));
    world.merge::<Agent>("a", pin(None)).await;
    world.at("a", "contexts/docs", &third).await;
}

/// The pods of the last good revision have other pieces than those of the one that failed.
#[tokio::test]
async fn the_last_good_revision_comes_back_with_its_content() {
    let world = World::new().await;
    let repository = world.server.repository("r.git");
    let commit = repository.commit("main", &[("docs/a", "one"), ("more/b", "two")]);
    let hot = |name: &str| context(name, &world.server.url("r.git"), name, &json!({"sync": synced("HotReload")}));
    let spec = |image: &str, contexts: Value| {
        json!({"workspaceDir": "/workspace", "agentImage": "agents:1", "executorImage": image, "contexts": contexts,
            "rollout": {"autoRollback": true, "progressDeadline": "8s"}})
    };
    world.apply::<Agent>("Agent", "a", json!({}), spec("good:1", json!([hot("docs")]))).await;
    world.at("a", "contexts/docs", &commit).await;
    get_ready(&world, "good:1").await;
    kept(&world, 1).await;
    let good = told_pods(&world).await;
    world.apply::<Agent>("Agent", "a", json!({}), spec("bad:1", json!([hot("docs"), hot("more")]))).await;
    world.at("a", "contexts/more", &commit).await;
    eventually("the content of the good one is back", 60, || async {
        let image =
            world.api::<Deployment>().get("a-server").await.unwrap().spec?.template.spec?.containers[0].image.clone();
        (image.as_deref() == Some("good:1") && told_pods(&world).await == good).then_some(())
    })
    .await;
    world.calm().await;
    assert_eq!(told_pods(&world).await, good);
}
