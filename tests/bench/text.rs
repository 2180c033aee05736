//! From a text in Git to the file that a running agent reads.

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Config, ResourceExt,
    api::{ListParams, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use pilothouse::api::{Agent, Repository, Sync, agent::AgentState};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{
    demo::{
        embedded,
        shell::run,
        world::{PASSWORD, USER, World},
    },
    push::object,
    table::Number,
    world::until,
};

const AGENT: &str = "on-call";
const NAMESPACE: &str = "agents";
const ROUNDS: usize = 12;

/// `text_change_to_visible_ms`: from the reconcile annotation on the Repository, after a push, to the new text in the file
/// that the agent's running container has. The file is read through the container's own root, every 2 ms.
pub(crate) fn measure(runtime: &Runtime) -> Vec<Number> {
    let samples = runtime.block_on(rounds());
    vec![Number::new("text_change_to_visible_ms", "ms", 1000.0, samples)]
}

async fn rounds() -> Vec<f64> {
    let world = embedded::start().await.unwrap();
    world.kubectl(&["create", "namespace", NAMESPACE]).unwrap();
    world.install().unwrap();
    world.publish_examples().unwrap();
    let (user, password) = (format!("--from-literal=username={USER}"), format!("--from-literal=password={PASSWORD}"));
    world.kubectl(&["create", "secret", "generic", "git-credentials", &user, &password]).unwrap();
    world.kubectl(&["create", "secret", "generic", "model-gateway", "--from-literal=apiKey=demo"]).unwrap();
    let client = client(&world).await;
    follow(&world, &client).await;
    let agents = Api::<Agent>::namespaced(client.clone(), NAMESPACE);
    until(Duration::from_mins(4), || async {
        let agent = agents.get_opt(AGENT).await.unwrap()?;
        (agent.status?.state? == AgentState::Ready).then_some(())
    })
    .await;
    let pod = pod(&client).await;
    let file = until(Duration::from_secs(30), || async { file_of(&pod) }).await;

    let repositories = Api::<Repository>::namespaced(client.clone(), NAMESPACE);
    let mut samples = vec![];
    for round in 0..ROUNDS {
        let rule = format!("- Rule {round} of this measurement.");
        world.edit("base/instructions/runbook.md", |text| text + &rule + "\n").unwrap();
        world.push(&format!("Runbook: rule {round}")).unwrap();
        let now = Instant::now();
        let ask = json!({"metadata": {"annotations": {"pilothouse.dev/reconcile-at": format!("{now:?}")}}});
        repositories.patch("team", &PatchParams::default(), &Patch::Merge(ask)).await.unwrap();
        until(Duration::from_mins(1), || async {
            std::fs::read_to_string(&file).is_ok_and(|text| text.contains(&rule)).then_some(())
        })
        .await;
        samples.push(now.elapsed().as_secs_f64() * 1000.0);
        eprintln!("round {round}: {:.0} ms", now.elapsed().as_secs_f64() * 1000.0);
        // The status of this round is written before the next one begins.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(self::pod(&client).await, pod, "a text must not replace the pod");
    samples
}

async fn client(world: &World) -> Client {
    // The first to come wins; both are the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let file = Kubeconfig::read_from(world.access.kubeconfig.as_ref().unwrap()).unwrap();
    Client::try_from(Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap()).unwrap()
}

async fn follow(world: &World, client: &Client) {
    let post = kube::api::PostParams::default();
    let repository = json!({"kind": "Repository", "metadata": {"name": "team"}, "spec": {
        "url": world.url, "ref": {"branch": "main"}, "interval": "1h", "secretRef": {"name": "git-credentials"}}});
    let sync = json!({"kind": "Sync", "metadata": {"name": "agents"}, "spec": {
        "repositoryRef": {"name": "team"}, "path": "overlays/dev",
        "values": {"model": {"name": "m", "baseURL": world.model}}}});
    Api::<Repository>::namespaced(client.clone(), NAMESPACE).create(&post, &object(&repository)).await.unwrap();
    Api::<Sync>::namespaced(client.clone(), NAMESPACE).create(&post, &object(&sync)).await.unwrap();
}

async fn pod(client: &Client) -> String {
    let params = ListParams::default().labels(&format!("pilothouse.dev/agent={AGENT},!pilothouse.dev/task"));
    let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE).list(&params).await.unwrap();
    assert_eq!(pods.items.len(), 1, "one pod of the agent");
    pods.items[0].name_any()
}

/// The text's file as the server's process in `pod` sees it.
fn file_of(pod: &str) -> Option<PathBuf> {
    let processes = run(Command::new("ls").arg("/proc")).unwrap();
    processes.lines().filter(|p| p.bytes().all(|b| b.is_ascii_digit())).find_map(|process| {
        let root = PathBuf::from(format!("/proc/{process}/root"));
        let name = std::fs::read_to_string(root.join("etc/hostname")).ok()?;
        let command = std::fs::read(format!("/proc/{process}/cmdline")).ok()?;
        let file = root.join("pilothouse/context/context.md");
        let server = String::from_utf8_lossy(&command).contains("opencode") && !name.is_empty();
        (name.trim() == pod && server && file.exists()).then_some(file)
    })
}
