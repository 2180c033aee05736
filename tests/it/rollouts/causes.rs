//! What others own reaches an agent only when its work has ended: settings of the cluster, templates, Secrets, ConfigMaps.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod, Secret},
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use pilothouse::api::{AgentTemplate, PilothouseConfig};
use serde_json::{Value, json};

use crate::{
    agents::{Place, annotation, condition, image},
    common::cluster::{Cluster, Shape},
};

/// An agent, and of which cause its change waits.
const AGENTS: [(&str, &str); 4] =
    [("by-config", "image"), ("by-template", "env"), ("by-secret", "credentials/token"), ("by-map", "contexts/guide")];

async fn settings(place: &Place, image: &str) {
    let configs: Api<PilothouseConfig> = Api::all(place.client.clone());
    let config = json!({"apiVersion": "pilothouse.dev/v1alpha1", "kind": "PilothouseConfig",
        "metadata": {"name": "cluster"}, "spec": {"agentImage": "agents:1", "executorImage": image}});
    configs.patch("cluster", &PatchParams::apply("test").force(), &Patch::Apply(config)).await.unwrap();
}

async fn made(place: &Place) {
    settings(place, "devbox:1").await;
    let template = json!({"metadata": {"name": "base"}, "spec": {"workspaceDir": "/w", "serviceAccountName": "default",
        "podSpec": {"extraEnv": [{"name": "STAGE", "value": "one"}]}}});
    place.create::<AgentTemplate>(template).await;
    place.create::<Secret>(json!({"metadata": {"name": "keys"}, "stringData": {"token": "one"}})).await;
    place.create::<ConfigMap>(json!({"metadata": {"name": "books"}, "data": {"guide.md": "one"}})).await;
    let own = |more: Value| {
        let mut spec = json!({"executorImage": "own:1", "agentImage": "own:1"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    // The settings' images are taken where none is given.
    place.agent("by-config", json!({"executorImage": "", "agentImage": ""})).await;
    place.agent("by-template", own(json!({"templateRef": {"name": "base"}}))).await;
    let token = json!([{"name": "token", "secretRef": {"name": "keys", "key": "token"}, "env": "TOKEN"}]);
    place.agent("by-secret", own(json!({"credentials": token}))).await;
    let guide = json!([{"name": "guide", "type": "ConfigMap", "configMap": {"name": "books"}, "mountPath": "docs"}]);
    place.agent("by-map", own(json!({"contexts": guide}))).await;
}

fn template(deployment: &Deployment) -> Value {
    serde_json::to_value(&deployment.spec.as_ref().unwrap().template).unwrap()
}

/// The server of an agent's pod has ended, as a kubelet would say.
async fn ends(place: &Place, agent: &str) {
    let pods: Api<Pod> = place.api();
    let ended = json!({"status": {"containerStatuses": [{
        "name": "opencode-server", "image": "devbox:1", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    }]}});
    let list = ListParams::default().labels(&format!("pilothouse.dev/agent={agent}"));
    for pod in pods.list(&list).await.unwrap() {
        pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&ended)).await.unwrap();
    }
}

#[tokio::test]
async fn what_others_change_waits_for_work_and_then_arrives() {
    let cluster = Cluster::start(Shape::default());
    let place = Place::on(&cluster, "causes").await;
    made(&place).await;
    let mut before = vec![];
    for (agent, _) in AGENTS {
        let name = format!("{agent}-server");
        before.push(place.deployment_where("a Deployment", &name, |_| true).await);
        place.let_run(agent).await;
        place.agent_where("its pod is seen", agent, |a| condition(a, "ServerReady").is_some()).await;
    }
    assert_eq!(image(&before[0]), "devbox:1");
    // A wait for something not to happen: the controller has seen the pods.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;

    settings(&place, "devbox:2").await;
    place
        .merge::<AgentTemplate>("base", json!({"spec": {"podSpec": {"extraEnv": [{"name": "STAGE", "value": "two"}]}}}))
        .await;
    place.merge::<Secret>("keys", json!({"stringData": {"token": "two"}})).await;
    place.merge::<ConfigMap>("books", json!({"data": {"guide.md": "two"}})).await;
    for ((agent, cause), before) in AGENTS.iter().zip(&before) {
        let waits = place
            .deployment_where(&format!("{agent} waits"), &format!("{agent}-server"), |d| {
                annotation(d, "pending-causes").is_some()
            })
            .await;
        assert_eq!(annotation(&waits, "pending-causes"), Some(*cause), "{agent}");
        assert_eq!(template(&waits), template(before), "{agent}: nothing arrives while it works");
        let pending = |a: &_| condition(a, "RolloutPending").is_some_and(|c| c.0 == "True" && c.2.contains(cause));
        place.agent_where(&format!("{agent} says so"), agent, pending).await;
    }
    for ((agent, _), before) in AGENTS.iter().zip(&before) {
        ends(&place, agent).await;
        let arrived = place
            .deployment_where(&format!("{agent} arrives"), &format!("{agent}-server"), |d| {
                template(d) != template(before) && annotation(d, "pending-causes").is_none()
            })
            .await;
        if *agent == "by-config" {
            assert_eq!(image(&arrived), "devbox:2");
        }
    }
}
