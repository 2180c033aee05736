//! A session that waits for a person is at work: no rollout may end it.

use http::Method;
use pilothouse::pod::opencode::Prompt;
use serde_json::{Value, json};

use super::{PASSWORD, Pod, Real, eventually};
use crate::common::{
    model::{Model, Script},
    opencode::Server,
};

impl Pod {
    /// What the server waits for a person to decide.
    async fn questions(&self) -> Vec<Value> {
        let (status, answer) = self.call(Method::GET, "/permission", Some(PASSWORD)).await;
        assert_eq!(status, 200);
        serde_json::from_slice(answer.body()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_permission_is_at_work() {
    let model = Model::start().await;
    let mut config = model.config();
    config["permission"] = json!({ "bash": "ask" });
    let server = Server::start(&config).await;
    let pod = Pod::in_front_of(server.port).await;
    pod.known().await;
    let real = Real { model, server, pod };
    real.model.play(Script::tool("bash", json!({ "command": "true", "description": "does nothing" })));
    let (client, work) = (real.pod.client(), real.pod.sidecar.work.clone());
    let session = client.create_session("asks", None, &[]).await.unwrap();
    client.prompt_async(&session.id, &Prompt::text("run it")).await.unwrap();
    let question = loop {
        if let Some(question) = real.pod.questions().await.pop() {
            break question;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };

    let (snapshot, idle) = work.hold(std::time::Duration::from_secs(2)).await;
    work.release();
    assert!(!idle && !snapshot.without_work(), "{snapshot:?}");
    assert!(work.report().2.contains(&session.id), "{:?}", work.report());
    assert!(work.seize().await.is_none(), "no exchange of content may end it either");

    client.reject_permission(question["id"].as_str().unwrap()).await.unwrap();
    eventually("the session ends", || work.report().1).await;
}
