//! A new release of Pilothouse replaces no pod, until somebody asks.

use std::{collections::BTreeMap, process::Command};

use super::*;

const AGENTS: usize = 200;

/// A controller of a release, by its image and the layout that it gives new pods.
const NEW: [&str; 6] = ["--leader-elect", "false", "--layout", "2", "--system-image", "localhost/pilothouse:next"];

async fn templates(place: &Place) -> BTreeMap<String, Value> {
    let all = place.api::<Deployment>().list(&ListParams::default()).await.unwrap();
    all.items.into_iter().map(|d| (d.name_any(), json!(d.spec.unwrap().template))).collect()
}

/// Layout and sidecar of an agent's pod template.
fn made_of(templates: &BTreeMap<String, Value>, agent: &str) -> (String, String) {
    let template = &templates[&format!("{agent}-server")];
    let sidecar = template["spec"]["initContainers"].as_array().unwrap().iter().find(|c| c["name"] == "sidecar");
    let text = |value: &Value| value.as_str().unwrap().to_string();
    (text(&template["metadata"]["annotations"]["pilothouse.dev/layout"]), text(&sidecar.unwrap()["image"]))
}

fn upgrade(namespace: &str, arguments: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_pilothouse"))
        .env("KUBECONFIG", &cluster().ready.kubeconfig)
        .args(["upgrade", "agents", "-n", namespace, "--log", "warn"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[tokio::test]
async fn an_upgrade_of_pilothouse_replaces_no_pod_until_somebody_asks() {
    let mut town = Town::start("layouts").await;
    let names: Vec<String> = (0..AGENTS).map(|n| format!("a{n:03}")).collect();
    let spec = |tag: u32| json!({"executorImage": format!("devbox:{tag}")});
    futures::future::join_all(names.iter().map(|name| town.place.agent(name, spec(1)))).await;
    eventually("all have a Deployment", 300, || async { (templates(&town.place).await.len() == AGENTS).then_some(()) })
        .await;
    let before = templates(&town.place).await;
    assert_eq!(made_of(&before, "a000"), ("1".into(), "localhost/pilothouse:test".into()));

    // The next release.
    town.place.controller.kill();
    town.place.controller = town.place.release.start(&NEW);
    // It works, and has been through with all when it has seen this.
    for name in [&names[0], &names[AGENTS - 1]] {
        town.place.agent(name, spec(2)).await;
    }
    eventually("another cause brings the newest", 120, || async {
        let now = templates(&town.place).await;
        [&names[0], &names[AGENTS - 1]].iter().all(|name| made_of(&now, name).0 == "2").then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let now = templates(&town.place).await;
    let changed: Vec<_> = before.iter().filter(|(name, template)| now[*name] != **template).map(|(n, _)| n).collect();
    assert_eq!(changed, ["a000-server", "a199-server"]);
    assert_eq!(made_of(&now, "a000"), ("2".into(), "localhost/pilothouse:next".into()));

    // Asked for, they come at the pace of the fleet.
    town.set(json!({"fleet": {"maxConcurrent": 1}})).await;
    let said = upgrade(&town.place.namespace, &["a001", "a002"]);
    assert!(said.contains("/a001") && said.contains("/a002"), "{said}");
    let newest = async || {
        let now = templates(&town.place).await;
        names.iter().filter(|name| made_of(&now, name).0 == "2").cloned().collect::<Vec<_>>()
    };
    let one = eventually("one of them", 60, || async {
        let new: Vec<_> = newest().await.into_iter().filter(|name| name != "a000" && name != "a199").collect();
        new.first().cloned()
    })
    .await;
    let other = if one == "a001" { "a002" } else { "a001" };
    assert!(town.waits(other, "WaitingForFleet").await.contains("upgrade"));
    assert_eq!(newest().await.len(), 3, "one at a time");
    town.ready(&one, 1).await;
    eventually("the other one", 60, || async { (newest().await.len() == 4).then_some(()) }).await;
    // Who is up to date has nothing to do.
    let done = templates(&town.place).await[&format!("{one}-server")].clone();
    town.ready(other, 1).await;
    upgrade(&town.place.namespace, &[&one]);
    town.place
        .deployment_where("it is noted", &format!("{one}-server"), |d| {
            let template = d.spec.as_ref().unwrap().template.metadata.clone().unwrap_or_default();
            d.annotations().get("pilothouse.dev/upgrade")
                != template.annotations.unwrap_or_default().get("pilothouse.dev/upgrade")
        })
        .await;
    assert_eq!(templates(&town.place).await[&format!("{one}-server")], done);

    town.set(json!({})).await;
}
