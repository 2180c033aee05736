//! The story: a push becomes agents, a text and a skill arrive without a restart, a rollout waits for a Task.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use super::{
    embedded, foreign, half,
    screen::{self, until},
    shell,
    world::{PASSWORD, USER, World},
};

/// Where agents live, on a cluster of our own.
pub(crate) const NAMESPACE: &str = "agents";
/// The agents of the examples.
pub(crate) const AGENTS: [&str; 3] = ["coding-assistant", "on-call", "reviewer"];

/// Tells all of it, as far as it can be told here; an error is the step that did not happen.
pub(crate) async fn tell(once: bool) -> Result<(), String> {
    let started = Instant::now();
    let world = match std::env::var("DEMO_CONTEXT") {
        Ok(context) if !context.is_empty() => foreign::start(&context)?,
        _ if std::env::var_os("DEMO_HALF").is_some_and(|v| v == "1") => return half::tell(once).await,
        _ => embedded::start().await?,
    };
    install(&world)?;
    first_push(&world).await?;
    task(&world).await?;
    live_text(&world).await?;
    live_skill(&world).await?;
    protected_rollout(&world).await?;
    screen::chapter(8, "That was it");
    screen::good("every step happened", Some(started.elapsed()));
    look_around(&world);
    if once {
        return walk_around(&world);
    }
    wait_for_interrupt().await
}

/// Waits for Ctrl-C.
pub(crate) async fn wait_for_interrupt() -> Result<(), String> {
    while !shell::interrupted() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

fn install(world: &World) -> Result<(), String> {
    screen::chapter(2, "helm install");
    let now = Instant::now();
    if world.access.context.is_none() {
        shell::run(&mut world.access.kubectl(&["create", "namespace", world.agents]))?;
    }
    screen::command(&format!("helm install {} charts/pilothouse --wait …", world.release));
    world.install()?;
    let rights = format!("the controller runs as a pod, with rights in the namespace {:?} only", world.agents);
    screen::good(&rights, Some(now.elapsed()));
    Ok(())
}

async fn first_push(world: &World) -> Result<(), String> {
    screen::chapter(3, "A push becomes running agents");
    world.publish_examples()?;
    screen::command("git push        # examples-repo, to a real Git server with a password");
    bootstrap(world)?;
    let ready = || {
        let all = AGENTS.iter().all(|agent| world.field(&format!("agent/{agent}"), "{.status.state}") == "Ready");
        all.then_some(())
    };
    let ((), took) = until("all agents are Ready", Duration::from_mins(4), || table(world), ready).await?;
    screen::good("three opencode servers answer; REVISION is the commit", Some(took));
    Ok(())
}

/// Applies what a user applies once: the Secrets, one Repository, one Sync.
pub(crate) fn bootstrap(world: &World) -> Result<(), String> {
    let (user, password) = (format!("--from-literal=username={USER}"), format!("--from-literal=password={PASSWORD}"));
    world.kubectl(&["create", "secret", "generic", "git-credentials", &user, &password])?;
    world.kubectl(&["create", "secret", "generic", "model-gateway", "--from-literal=apiKey=demo"])?;
    world.apply(&format!(
        "apiVersion: pilothouse.dev/v1alpha1
kind: Repository
metadata: {{name: team}}
spec: {{url: '{}', ref: {{branch: main}}, interval: 1m, secretRef: {{name: git-credentials}}}}
---
apiVersion: pilothouse.dev/v1alpha1
kind: Sync
metadata: {{name: agents}}
spec:
  repositoryRef: {{name: team}}
  path: overlays/dev
  values: {{model: {{name: m, baseURL: '{}'}}}}
",
        world.url, world.model
    ))?;
    screen::command("kubectl apply -f bootstrap.yaml    # one Repository, one Sync");
    Ok(())
}

/// What a user looks at.
pub(crate) fn table(world: &World) -> Option<String> {
    world.kubectl(&["get", "repositories,syncs,agents"]).ok().filter(|t| !t.is_empty())
}

fn agents(world: &World) -> Option<String> {
    world.kubectl(&["get", "agents,tasks"]).ok().filter(|t| !t.is_empty())
}

fn submit(world: &World, name: &str, agent: &str, prompt: &str) -> Result<(), String> {
    world.apply(&format!(
        "apiVersion: pilothouse.dev/v1alpha1
kind: Task
metadata: {{name: {name}}}
spec: {{agentRef: {{name: {agent}}}, description: '{prompt}'}}
"
    ))
}

async fn task(world: &World) -> Result<(), String> {
    screen::chapter(4, "A Task");
    screen::say("opencode, the Task and its pod are real; the model is a stand-in that says the same to everybody");
    submit(world, "first", "reviewer", "Read the README and tell me what is unclear.")?;
    screen::command("kubectl apply -f task.yaml    # agentRef: reviewer");
    let phase = || {
        let phase = world.field("task/first", "{.status.phase}");
        ["Completed", "Failed"].contains(&phase.as_str()).then_some(phase)
    };
    let (phase, took) = until("the Task ends", Duration::from_secs(90), || agents(world), phase).await?;
    let answer = world.kubectl(&["logs", "first-pod"])?;
    if phase != "Completed" {
        screen::say(&format!("its log: {}", answer.trim()));
        return Err(format!("the Task ended as {phase}"));
    }
    screen::say(&format!("the answer: {}", said(&answer)?));
    screen::good("the Task is Completed", Some(took));
    Ok(())
}

/// What a Task has said: something.
pub(crate) fn said(log: &str) -> Result<&str, String> {
    Some(log.trim()).filter(|text| !text.is_empty()).ok_or_else(|| "the Task is Completed and said nothing".into())
}

fn pod_of(world: &World, agent: &str) -> Result<String, String> {
    let selector = format!("pilothouse.dev/agent={agent},!pilothouse.dev/task");
    world.kubectl(&["get", "pods", "-l", &selector, "-o", "jsonpath={.items[0].metadata.name}"])
}

/// The forge of this demo sends no webhooks: somebody asks for a look, as one would by hand.
fn look_now(world: &World) -> Result<(), String> {
    let args = ["reconcile", "repository", "team", "-n", world.agents];
    screen::command(&format!("pilothouse {}    # at once, as after a webhook; else within a minute", args.join(" ")));
    shell::run(&mut world.access.pilothouse(&args)).map(drop)
}

/// Pushes one more line of text, which is returned.
pub(crate) fn new_rule(world: &World) -> Result<&'static str, String> {
    let rule = "- Never reboot on a Friday.";
    world.edit("base/instructions/runbook.md", |text| text + rule + "\n")?;
    world.push("Runbook: Fridays")?;
    screen::command("git push        # one more line in base/instructions/runbook.md");
    look_now(world)?;
    Ok(rule)
}

async fn live_text(world: &World) -> Result<(), String> {
    screen::chapter(5, "A new text reaches a running agent: no restart");
    let pod = pod_of(world, "on-call")?;
    let rule = new_rule(world)?;
    let now = Instant::now();
    let read = || {
        let text =
            world.kubectl(&["exec", &pod, "-c", "opencode-server", "--", "cat", "/pilothouse/context/context.md"]);
        text.is_ok_and(|t| t.contains(rule)).then_some(())
    };
    until("the text is in the running container", Duration::from_mins(1), || None, read).await?;
    screen::good("the running container has the new text", Some(now.elapsed()));
    if pod_of(world, "on-call")? != pod {
        return Err("the pod was replaced; a text must not do that".into());
    }
    screen::good("and it is the same pod as before", None);
    Ok(())
}

/// Submits a Task that takes its time, and waits until it runs.
async fn works(world: &World, task: &str, agent: &str, delay_ms: u32) -> Result<(), String> {
    submit(world, task, agent, &format!("Think for a while. [[delay_ms={delay_ms}]]"))?;
    let running = || (world.field(&format!("task/{task}"), "{.status.phase}") == "Running").then_some(());
    until("a long Task runs", Duration::from_mins(1), || None, running).await.map(drop)
}

/// Waits for the end of a Task, which must not have been cut.
async fn ends_whole(world: &World, task: &str) -> Result<(), String> {
    let ended = || {
        let phase = world.field(&format!("task/{task}"), "{.status.phase}");
        ["Completed", "Failed"].contains(&phase.as_str()).then_some(phase)
    };
    let (phase, took) = until("the Task ends", Duration::from_mins(2), || agents(world), ended).await?;
    if phase != "Completed" {
        return Err(format!("the long Task was cut: it ended as {phase}"));
    }
    screen::good("the Task ended as Completed: nothing was cut", Some(took));
    Ok(())
}

/// A skill that is pushed.
const SKILL: &str = "---
name: hand-over
description: Writes what the next engineer on call has to know. Use it at the end of a shift.
---

# Hand over

What is open, what was tried, what must not be touched: three lines each at most.
";

async fn live_skill(world: &World) -> Result<(), String> {
    screen::chapter(6, "A new skill reaches a running agent, after the session that works: no restart");
    works(world, "watch", "on-call", 200).await?;
    let before = containers(world, "on-call")?;
    world.add("skills/hand-over/SKILL.md", SKILL)?;
    world.edit("handbook/releases.md", |text| text + "- On Fridays nothing is released after noon.\n")?;
    let commit = world.push("Skill: hand over")?;
    screen::command("git push        # a new folder skills/hand-over and a line in handbook/, while on-call works");
    look_now(world)?;
    let condition = |kind: &str, field: &str| {
        world.field("agent/on-call", &format!("{{.status.conditions[?(@.type=='{kind}')].{field}}}"))
    };
    let waits = || (condition("GitSyncPending", "status") == "True").then(|| condition("GitSyncPending", "message"));
    let (message, _) = until("it waits for the session", Duration::from_secs(20), || None, waits).await?;
    screen::good(&format!("GitSyncPending: {message}"), None);
    ends_whole(world, "watch").await?;
    let at = || world.field("agent/on-call", "{.status.gitSyncStatuses[*].commitHash}");
    let loaded = || {
        let listed = condition("SkillsLoaded", "message");
        let all = at().split_whitespace().filter(|one| *one == commit).count() == 2;
        (all && condition("SkillsLoaded", "status") == "True" && listed.contains("hand-over")).then_some(listed)
    };
    let (listed, took) = until("the running server has it", Duration::from_secs(30), || None, loaded).await?;
    screen::good(&format!("SkillsLoaded: {listed}"), Some(took));
    let file = world.kubectl(&[
        "exec",
        "deployment/on-call-server",
        "-c",
        "opencode-server",
        "--",
        "cat",
        "docs/handbook/releases.md",
    ])?;
    if !file.contains("On Fridays") {
        return Err("the handbook in the running container is the old one".into());
    }
    if containers(world, "on-call")? != before {
        return Err("the pod was replaced or restarted; a skill must not do that".into());
    }
    screen::good("docs/handbook is of the same commit, in the same pod as before", None);
    Ok(())
}

/// An agent's pod, and how often its containers started again.
fn containers(world: &World, agent: &str) -> Result<String, String> {
    let restarts = "{.status.containerStatuses[*].restartCount} {.status.initContainerStatuses[*].restartCount}";
    let pod = pod_of(world, agent)?;
    Ok(format!("{pod} {}", world.field(&format!("pod/{pod}"), restarts)))
}

async fn protected_rollout(world: &World) -> Result<(), String> {
    screen::chapter(7, "A new image waits for the Task that runs");
    works(world, "long", "reviewer", 400).await?;
    let before = pod_of(world, "reviewer")?;
    let Some(next) = world.images.as_ref().map(|i| i.next.clone()) else { return Err("there is no next image".into()) };
    world.edit("overlays/dev/kustomization.yaml", |text| {
        format!(
            "{text}  - target: {{group: pilothouse.dev, kind: Agent, name: reviewer}}
    patch: |
      - {{op: add, path: /spec/executorImage, value: '{next}'}}
"
        )
    })?;
    world.push("Reviewer: next image")?;
    screen::command("git push        # a new image for the reviewer, while its Task runs");
    look_now(world)?;
    let pending = || (world.field("agent/reviewer", "{.status.state}") == "RolloutPending").then_some(());
    until("the rollout waits", Duration::from_secs(30), || None, pending).await?;
    let message = world.field("agent/reviewer", "{.status.conditions[?(@.type=='RolloutPending')].message}");
    screen::good(&format!("RolloutPending: {message}"), None);
    ends_whole(world, "long").await?;
    let rolled = || {
        let image = world.field("deployment/reviewer-server", "{.spec.template.spec.containers[0].image}");
        let ready = world.field("agent/reviewer", "{.status.state}") == "Ready";
        let pod = pod_of(world, "reviewer").unwrap_or_default();
        (image == next && ready && !pod.is_empty() && pod != before).then_some(())
    };
    let ((), took) = until("the new image runs", Duration::from_mins(2), || agents(world), rolled).await?;
    screen::good("then the rollout went ahead", Some(took));
    Ok(())
}

/// What shows more of it, to be typed in a terminal.
fn ways(world: &World) -> Vec<String> {
    vec![
        format!("export PATH={}:$PATH", world.access.programs()),
        format!("kubectl -n {} get pilothouse,pods", world.agents),
        format!("kubectl -n {} describe agent reviewer", world.agents),
    ]
}

/// A push by hand.
fn own_push(world: &World) -> Vec<String> {
    vec![
        format!("cd {}", world.copy().display()),
        "echo '- Be brief.' >> base/instructions/runbook.md && git commit -qam 'Be brief' && git push -q".into(),
        format!("pilothouse reconcile repository team -n {} --wait", world.agents),
    ]
}

/// Says how to see more.
pub(crate) fn look_around(world: &World) {
    screen::say("Look around, in another terminal:");
    for line in world.look.iter().chain(&ways(world)) {
        screen::command(line);
    }
    screen::say(&format!("Push something yourself; Git is at {}, user {USER:?}, password {PASSWORD:?}:", world.url));
    for line in &own_push(world) {
        screen::command(line);
    }
    screen::say("Ctrl-C takes everything away.");
}

/// Types what [`look_around`] told, where nobody is there to do it. A context of somebody's own stays as it is chosen.
fn walk_around(world: &World) -> Result<(), String> {
    let (Some(shell), None) = (world.look.first(), &world.access.context) else { return Ok(()) };
    let words: Vec<&str> = shell.split_whitespace().collect();
    let lines: Vec<String> = ways(world).into_iter().chain(own_push(world)).collect();
    let told = shell::run(Command::new(words[0]).args(&words[1..]).args(["-ec", &lines.join("\n")]))?;
    for part in AGENTS.iter().chain(&["RolloutPending", "main@"]) {
        if !told.contains(part) {
            return Err(format!("who looks around does not see {part}:\n{told}"));
        }
    }
    screen::good("each of these lines works", None);
    Ok(())
}
