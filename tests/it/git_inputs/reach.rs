//! Remotes of an agent's own behind a proxy, and with an authority of its own.

use serde_json::json;

use super::{ConfigMap, Patch, PatchParams, World, context, eventually, synced};
use crate::{
    common::git_server::{GitServer, basic},
    git_remote::proxy,
};

#[tokio::test]
async fn an_authority_of_the_agent_is_trusted_beside_the_systems() {
    let world = World::new().await;
    let server = GitServer::https();
    let first = server.repository("r.git").commit("main", &[("docs/a", "1")]);
    let bundle = json!({"configMapRef": {"name": "authorities"}});
    let contexts = json!([context("c", &server.url("r.git"), "docs", &json!({"sync": synced("HotReload")}))]);
    let spec = |bundle: &serde_json::Value| {
        json!({"workspaceDir": "/workspace", "agentImage": "agents:1", "executorImage": "devbox:1",
            "contexts": contexts, "caBundle": bundle})
    };
    world.apply::<super::Agent>("Agent", "a", json!({}), spec(&bundle)).await;
    world
        .ready("a", "the ConfigMap is waited for", |reason, message| {
            reason == "ConfigMapNotFound" && message.contains("ConfigMap authorities")
        })
        .await;
    let map = |text: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "authorities"}, "data": {"ca-bundle.crt": text}});
    let write = async |text: &str| {
        let params = PatchParams::apply("test").force();
        world.api::<ConfigMap>().patch("authorities", &params, &Patch::Apply(map(text))).await.unwrap();
    };
    write("nothing").await;
    world
        .ready("a", "a key without certificates is named", |_, message| message.contains("must hold PEM certificates"))
        .await;
    write(server.ca()).await;
    world.at("a", "contexts/c", &first).await;

    // The same from a Secret, and a private repository.
    server.behave(|b| b.authorization = Some(basic("me", "s3cret")));
    world.secret("git", &[("username", b"me"), ("password", b"s3cret")]).await;
    world.secret("own-ca", &[("root.pem", server.ca().as_bytes())]).await;
    let private = context("c", &server.url("r.git"), "docs", &json!({"secretRef": {"name": "git"}}));
    let bundle = json!({"secretRef": {"name": "own-ca", "key": "root.pem"}});
    let spec = json!({"workspaceDir": "/workspace", "agentImage": "agents:1", "executorImage": "devbox:1",
        "contexts": [private], "caBundle": bundle});
    world.apply::<super::Agent>("Agent", "b", json!({}), spec).await;
    world.at("b", "contexts/c", &first).await;
    let volumes = eventually("the pod has the authority", 60, || async {
        let deployment = world.api::<super::Deployment>().get_opt("b-server").await.unwrap()?;
        Some(serde_json::to_value(deployment.spec?.template.spec?.volumes).unwrap())
    })
    .await;
    let volume = volumes.as_array().unwrap().iter().find(|v| v["name"] == "custom-ca").unwrap();
    assert_eq!(volume["secret"]["secretName"], "own-ca");
}

#[tokio::test]
async fn a_proxy_of_the_agent_takes_its_own_remotes() {
    let world = World::new().await;
    let first = world.server.repository("r.git").commit("main", &[("docs/a", "1")]);
    let url = world.server.url("r.git");
    let host = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
    let (address, asked) = proxy(host.to_owned());
    let behind = context("c", "http://git.invalid/r.git", "docs", &json!({}));
    let beside = context("d", &url, "docs", &json!({}));
    let spec = json!({"workspaceDir": "/workspace", "agentImage": "agents:1", "executorImage": "devbox:1",
        "contexts": [behind, beside], "proxy": {"httpProxy": address.replace("http://", "http://me:s3cret@"), "noProxy": "127.0.0.1"}});
    world.apply::<super::Agent>("Agent", "a", json!({}), spec).await;
    world.at("a", "contexts/c", &first).await;
    world.at("a", "contexts/d", &first).await;
    let asked = asked.lock().clone();
    assert!(!asked.is_empty(), "the proxy was asked");
    for line in &asked {
        assert!(line.contains("git.invalid") && line.contains(&basic("me", "s3cret")), "{line}");
    }
}
