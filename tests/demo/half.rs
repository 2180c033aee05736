//! Without root and without a context: a real control plane, nodes that are played, and so no real pods.

use std::time::{Duration, Instant};

use super::{
    screen::{self, until},
    serve::git_on,
    shell,
    story::{self, AGENTS},
    world::{Access, REPOSITORY, World, with_credentials},
};
use crate::common::{
    cluster::{Cluster, Shape},
    controller::{Release, program},
};

/// What can be seen without pods: a push becomes objects, a change of a text becomes a change of one of them.
pub(crate) async fn tell(once: bool) -> Result<(), String> {
    let started = Instant::now();
    let world = start().await?;
    screen::chapter(3, "A push becomes agents and their objects");
    world.publish_examples()?;
    screen::command("git push        # examples-repo, to a real Git server with a password");
    story::bootstrap(&world)?;
    let made = || {
        let names = world.kubectl(&["get", "deployments,services", "-o", "name"]).unwrap_or_default();
        AGENTS
            .iter()
            .all(|a| names.contains(&format!("/{a}-server")) && names.contains(&format!("service/{a}")))
            .then_some(())
    };
    let ((), took) =
        until("each agent has a Deployment and a Service", Duration::from_mins(1), || story::table(&world), made)
            .await?;
    screen::good("three agents, each with a Deployment and a Service", Some(took));
    screen::command("kubectl get deployments,services,configmaps,pods");
    for line in world.kubectl(&["get", "deployments,services,configmaps,pods"])?.lines().filter(|l| !l.is_empty()) {
        screen::say(&format!("  {line}"));
    }
    screen::chapter(4, "A second push changes what it names, and no pod");
    let before = pods(&world);
    let rule = story::new_rule(&world)?;
    let now = Instant::now();
    let arrived = || world.field("configmap/instructions", "{.data}").contains(rule).then_some(());
    until("the text is in the cluster", Duration::from_mins(1), || None, arrived).await?;
    screen::good("the ConfigMap that the Sync keeps has the new text", Some(now.elapsed()));
    let pending = || {
        let of = |field: &str| format!("{{.status.conditions[?(@.type=='TextPending')].{field}}}");
        let waits = world.field("agent/on-call", &of("status")) == "True";
        waits.then(|| world.field("agent/on-call", &of("message")))
    };
    let (message, _) = until("the agent holds it back", Duration::from_mins(1), || None, pending).await?;
    screen::say("an agent takes it over once its server is idle; nothing answers in a played pod, so it waits:");
    screen::good(&format!("TextPending: {message}"), None);
    let applied = || story::table(&world).filter(|t| t.matches(" True ").count() >= 2).map(drop);
    until("the Sync is Ready again", Duration::from_mins(1), || story::table(&world), applied).await?;
    if pods(&world) != before {
        return Err("pods were replaced; a text must not do that".into());
    }
    screen::good("and the pods are the same as before", None);
    screen::chapter(5, "That was half of it");
    screen::good("this half happened", Some(started.elapsed()));
    for line in [
        "what is missing, because pods are only played here (KWOK): opencode answering, a Task, a text and a skill that",
        "arrive in a running container, a rollout that waits for a Task. To see it:",
        "  as root on Linux        sudo make demo",
        "  on a cluster of yours   DEMO_CONTEXT=<kubectl context> DEMO_REGISTRY=<registry to push to> make demo",
    ] {
        screen::say(line);
    }
    if once {
        return Err("only the half without pods was shown: see above what is missing".into());
    }
    story::look_around(&world);
    story::wait_for_interrupt().await
}

fn pods(world: &World) -> String {
    world.kubectl(&["get", "pods", "-o", "name"]).unwrap_or_default()
}

async fn start() -> Result<World, String> {
    screen::chapter(1, "A real API server and controllers; nodes are played by KWOK, because this is not root");
    let started = Instant::now();
    let cluster = Cluster::start(Shape::default());
    let nodes = cluster.fake_nodes(2);
    let access = Access {
        kubectl: cluster.ready.bin.join("kubectl"),
        helm: program("helm"),
        kubeconfig: Some(cluster.ready.kubeconfig.clone()),
        context: None,
    };
    screen::good("Kubernetes is up, with two played nodes", Some(started.elapsed()));
    screen::chapter(2, "The controller, with the rights that the chart gives it");
    let started = Instant::now();
    shell::run(&mut access.kubectl(&["create", "namespace", story::NAMESPACE]))?;
    let release = Release::install(&cluster, &[story::NAMESPACE.to_owned()]).await;
    let mut controller = release.start(&[]);
    controller.may_be_refused = true; // the story tells what matters of it
    let git = git_on("127.0.0.1:0".into()).await?;
    let url = git.url(REPOSITORY);
    let world = World {
        images: None,
        release: "pilothouse",
        system: "pilothouse-system",
        agents: story::NAMESPACE,
        push_url: with_credentials(&url),
        url,
        model: "http://127.0.0.1:9/v1".into(),
        look: vec![format!("export KUBECONFIG={}", cluster.ready.kubeconfig.display())],
        _keep: vec![Box::new(controller), Box::new(git), Box::new(nodes), Box::new(cluster)],
        work: tempfile::tempdir().map_err(|e| e.to_string())?,
        access,
    };
    let config = "apiVersion: pilothouse.dev/v1alpha1\nkind: PilothouseConfig\nmetadata: {name: cluster}\n\
                  spec: {agentImage: 'localhost/opencode:played', executorImage: 'localhost/executor:played'}\n";
    world.apply(config)?;
    screen::good("the controller runs, with rights in the namespace \"agents\" only", Some(started.elapsed()));
    Ok(world)
}
