//! A cluster with a node on this machine, in network namespaces of its own.

use std::process::Command;

use super::{
    screen,
    serve::git_on,
    shell::run,
    world::{Access, Images, REPOSITORY, World, with_credentials},
};
use crate::common::{
    cluster::{Cluster, Shape, script},
    controller::{pilothouse, program},
    model::{Model, Script},
};

/// The node's address, at which pods reach what runs beside the cluster.
pub(crate) const HOST: &str = "10.90.0.1";

/// Starts the cluster, with the images on its node.
pub(crate) async fn start() -> Result<World, String> {
    screen::chapter(1, "A real cluster: API server, kubelet, containerd; pods are real");
    let started = std::time::Instant::now();
    let cluster = Cluster::start(Shape { node: true, no_scheduler: false });
    let images = images(&cluster)?;
    let git = git_on(format!("{HOST}:0")).await?;
    let model = Model::start_on(&format!("{HOST}:0")).await;
    model.play(Script::stand_in());
    screen::good("Kubernetes is up, with one node", Some(started.elapsed()));
    let url = git.url(REPOSITORY);
    Ok(World {
        access: Access {
            kubectl: cluster.ready.bin.join("kubectl"),
            helm: program("helm"),
            kubeconfig: Some(cluster.ready.kubeconfig.clone()),
            context: None,
        },
        images: Some(images),
        release: "pilothouse",
        system: "pilothouse-system",
        agents: "agents",
        push_url: with_credentials(&url),
        url,
        model: format!("http://{HOST}:{}/v1", model.address.port()),
        look: vec![format!("tests/cluster/cluster exec --name {} bash", cluster.ready.name)],
        _keep: vec![Box::new(git), Box::new(model), Box::new(cluster)],
        work: tempfile::tempdir().map_err(|e| e.to_string())?,
    })
}

fn images(cluster: &Cluster) -> Result<Images, String> {
    screen::say("images: opencode (from npm), a workspace, pilothouse");
    let pilothouse = format!("pilothouse={}", pilothouse().display());
    let archives = run(Command::new(script()).args(["image", "opencode", "executor", &pilothouse]))?;
    let name = &cluster.ready.name;
    run(Command::new(script()).args(["load-image", "--name", name]).args(archives.lines()))?;
    let images = Images {
        pilothouse: ("localhost/pilothouse".into(), "dev".into()),
        agent: "localhost/opencode:1.18.33".into(),
        executor: "localhost/executor:dev".into(),
        next: "localhost/executor:next".into(),
    };
    run(Command::new(script()).args(["tag-image", "--name", name, &images.executor, &images.next]))?;
    Ok(images)
}
