//! What a door answers while it holds prompts decides, not what it had said before: a prompt that came in between counts.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use serde_json::json;

use crate::{
    agents::{Place, condition},
    common::{
        cluster::control_plane,
        controller::Release,
        door::{Door, busy, idle},
        opencode::free_port,
        wait::eventually,
    },
};

/// A place whose sidecars reach the controller at that port.
async fn listening(name: &str) -> (Place, u16) {
    let (cluster, port) = (control_plane(), free_port());
    let namespace = cluster.namespace(name).await;
    let release = Release::install(cluster, std::slice::from_ref(&namespace)).await;
    let (listen, address) = (format!("127.0.0.1:{port}"), format!("localhost:{port}"));
    let controller = release.start(&["--voice-listen", &listen, "--voice-address", &address]);
    (Place { client: cluster.client().await, namespace, release, controller }, port)
}

#[tokio::test]
async fn text_is_written_while_prompts_are_held_and_nothing_is_at_work() {
    let (place, port) = listening("held").await;
    let text = |text: &str| json!({"contexts": [{"name": "rules", "type": "Text", "text": text}]});
    let map = || async { place.api::<ConfigMap>().get("a-server-context").await.unwrap() };
    let has = |map: &ConfigMap, text: &str| map.data.as_ref().unwrap()["context.md"].contains(text);
    place.agent("a", text("one")).await;
    let pod = place.let_run("a").await;
    let mut door = Door::open(&place.client, "a", &pod, port).await;
    door.say(idle()).await;

    // It was idle when it was asked for; a prompt came before prompts were held.
    place.agent("a", text("two")).await;
    let hold = door.hold().await;
    assert!(has(&map().await, "one"));
    door.say(busy()).await;
    door.answer(&hold, busy()).await;
    door.release().await;
    eventually("the text waits", 30, || async {
        map().await.annotations().get("pilothouse.dev/pending-causes").filter(|c| *c == "text/rules").map(drop)
    })
    .await;
    place.agent_where("it is said", "a", |a| condition(a, "TextPending").is_some_and(|c| c.0 == "True")).await;
    assert!(has(&map().await, "one"));

    door.say(idle()).await;
    let hold = door.hold().await;
    assert!(has(&map().await, "one"), "nothing is written before the doors have answered");
    door.answer(&hold, idle()).await;
    let release = door.order().await;
    assert!(has(&map().await, "two"), "prompts pass when it is written");
    door.answer(&release, idle()).await;
    place.agent_where("nothing waits", "a", |a| condition(a, "TextPending").is_some_and(|c| c.0 == "False")).await;
}
