//! The pod of a Task, and the ConfigMap with its prompt.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Capabilities, ConfigMap, ConfigMapVolumeSource, Container, EnvVar, LocalObjectReference, Pod,
        PodSecurityContext, PodSpec, ResourceRequirements, SeccompProfile, SecretVolumeSource, SecurityContext, Volume,
        VolumeMount,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, OwnerReference},
    },
};

use super::{AgentView, GRACE_SECONDS, Server, Template, budget::Budget};
use crate::{
    agent::build::{Alone, alone},
    api::{
        PullPolicy, Task, TaskInput,
        names::{self, annotation, label, value},
    },
};

/// Name of the container that the pod ends with.
pub const CONTAINER: &str = alone::MAIN;
/// Where the prompt is mounted.
const PROMPT_DIR: &str = "/pilothouse/task";
/// Where the agent's password is mounted.
const AUTH_DIR: &str = "/pilothouse/auth";
/// Key of the prompt in the ConfigMap, and its file name.
const PROMPT_KEY: &str = "prompt.txt";
/// Key of the gathered contexts, and their file name.
const CONTEXT_KEY: &str = "context.md";

/// Largest prompt in bytes, its contexts included: a ConfigMap holds 1 MiB.
pub const MAX_PROMPT: usize = 900 * 1024;

/// Settings of the cluster for Task pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Image of Pilothouse.
    pub image: Option<String>,
    /// When it is pulled; `IfNotPresent` unless given.
    pub pull_policy: Option<PullPolicy>,
}

/// What is created to start a Task.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// The prompt; created first.
    pub prompt: ConfigMap,
    /// What a pod of its own reads; created next.
    pub files: Option<ConfigMap>,
    /// The pod.
    pub pod: Pod,
}

/// The objects that start `task` on `agent` at `server` with `image`.
///
/// `contexts` is the text of its contexts; it may be empty.
pub fn start(
    task: &Task,
    agent: &AgentView,
    server: Server<'_>,
    image: &str,
    settings: &Settings,
    contexts: &str,
) -> Start {
    Start { prompt: prompt(task, contexts), files: None, pod: pod(task, agent, server, image, settings) }
}

/// The objects that start `task` in a pod of its own.
pub fn start_alone(task: &Task, template: &Template, image: &str, settings: &Settings) -> Start {
    let pod = alone_pod(task, template, image, settings);
    Start { prompt: prompt(task, ""), files: Some(files(task, &template.alone)), pod }
}

/// What the pod reads beside the prompt.
fn files(task: &Task, alone: &Alone) -> ConfigMap {
    let digests = (annotation::ARTIFACTS.to_owned(), alone.digests.clone());
    let annotations = Some([digests].into()).filter(|_| !alone.digests.is_empty());
    ConfigMap {
        metadata: ObjectMeta { annotations, ..meta(task, alone.files.clone(), BTreeMap::new()) },
        data: Some(alone.data.clone()),
        binary_data: Some(alone.binary.clone()).filter(|data| !data.is_empty()),
        immutable: Some(true),
    }
}

fn alone_pod(task: &Task, template: &Template, image: &str, settings: &Settings) -> Pod {
    let alone = &template.alone;
    let mut labels = alone.labels.clone();
    // Not an agent's: its Service would send requests to this pod.
    labels.remove(label::AGENT);
    labels.insert(label::AGENT_TEMPLATE.into(), names::label_value(&template.name));
    let mut metadata = meta(task, names::task::pod(&name(task)), labels);
    let command = alone.has_command().then(|| (annotation::COMMAND.to_owned(), "true".to_owned()));
    metadata.annotations = annotations(task, template.revision.as_ref(), &template.inputs(), command);
    let mut spec = alone.spec.clone();
    spec.termination_grace_period_seconds = Some(GRACE_SECONDS);
    if !alone.has_command() {
        let mut client = container(task, Server { url: &alone.url, pod: None }, image, settings);
        client.volume_mounts = Some(vec![mount(alone::PROMPT, PROMPT_DIR), Alone::auth_mount()]);
        spec.containers = vec![client];
        spec.volumes.get_or_insert_default().push(prompt_volume(alone::PROMPT, task));
    }
    Pod { metadata, spec: Some(spec), ..Pod::default() }
}

/// What a pod remembers for its Task: of what it was made, and for which try.
fn annotations(
    task: &Task,
    revision: Option<&String>,
    inputs: &[TaskInput],
    further: Option<(String, String)>,
) -> Option<BTreeMap<String, String>> {
    let revision = revision.map(|revision| (annotation::REVISION.to_owned(), revision.clone()));
    let attempt = Some(super::tries(task)).filter(|n| *n > 0).map(|n| (annotation::ATTEMPT.to_owned(), n.to_string()));
    let commits: BTreeMap<_, _> = inputs.iter().map(|input| (&input.id, &input.commit)).collect();
    let commits = serde_json::to_string(&commits).ok().filter(|_| !inputs.is_empty());
    let inputs = commits.map(|text| (annotation::INPUTS.to_owned(), text));
    Some(revision.into_iter().chain(attempt).chain(inputs).chain(further).collect())
        .filter(|all: &BTreeMap<_, _>| !all.is_empty())
}

fn prompt(task: &Task, contexts: &str) -> ConfigMap {
    let text = task.spec.description.clone().unwrap_or_default();
    let contexts = Some(contexts).filter(|c| !c.is_empty()).map(|c| (CONTEXT_KEY.to_owned(), c.to_owned()));
    ConfigMap {
        metadata: meta(task, names::task::context(&name(task)), BTreeMap::new()),
        data: Some([(PROMPT_KEY.to_owned(), text)].into_iter().chain(contexts).collect()),
        // A pod that starts late still gets the prompt that was decided on.
        immutable: Some(true),
        ..ConfigMap::default()
    }
}

fn pod(task: &Task, agent: &AgentView, server: Server<'_>, image: &str, settings: &Settings) -> Pod {
    // Not the agent's label: its Service would send requests to this pod.
    let mut labels = agent.labels.clone();
    labels.remove(label::AGENT);
    let mut metadata = meta(task, names::task::pod(&name(task)), labels);
    metadata.annotations = annotations(task, agent.revision.as_ref(), &agent.inputs, None);
    Pod { metadata, spec: Some(pod_spec(task, agent, server, image, settings)), ..Pod::default() }
}

fn pod_spec(task: &Task, agent: &AgentView, server: Server<'_>, image: &str, settings: &Settings) -> PodSpec {
    let scheduling = agent.scheduling.clone().unwrap_or_default();
    let secrets: Vec<_> =
        agent.image_pull_secrets.iter().map(|s| LocalObjectReference { name: s.name.clone() }).collect();
    PodSpec {
        restart_policy: Some("Never".into()),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(agent.pod_security_context.clone().unwrap_or_else(pod_security)),
        image_pull_secrets: (!secrets.is_empty()).then_some(secrets),
        node_selector: (!scheduling.node_selector.is_empty()).then_some(scheduling.node_selector),
        tolerations: (!scheduling.tolerations.is_empty()).then_some(scheduling.tolerations),
        affinity: scheduling.affinity,
        containers: vec![container(task, server, image, settings)],
        volumes: Some(volumes(task, agent)),
        ..PodSpec::default()
    }
}

fn container(task: &Task, server: Server<'_>, image: &str, settings: &Settings) -> Container {
    let policy = settings.pull_policy.unwrap_or(PullPolicy::IfNotPresent);
    Container {
        name: CONTAINER.into(),
        image: Some(image.into()),
        image_pull_policy: Some(format!("{policy:?}")),
        args: Some(vec!["task-run".into()]),
        env: Some(environment(task, server)),
        resources: Some(resources()),
        security_context: Some(container_security()),
        volume_mounts: Some(vec![mount("task", PROMPT_DIR), mount("auth", AUTH_DIR)]),
        termination_message_policy: Some("File".into()),
        ..Container::default()
    }
}

/// Where everything is comes by the environment; the prompt and the password are files, and never arguments.
fn environment(task: &Task, server: Server<'_>) -> Vec<EnvVar> {
    let (namespace, name) = (namespace(task), name(task));
    [
        ("PILOTHOUSE_AGENT_URL", server.url.to_owned()),
        ("PILOTHOUSE_AUTH_DIR", AUTH_DIR.into()),
        ("PILOTHOUSE_PROMPT_FILE", format!("{PROMPT_DIR}/{PROMPT_KEY}")),
        // Where there are contexts.
        ("PILOTHOUSE_CONTEXT_FILE", format!("{PROMPT_DIR}/{CONTEXT_KEY}")),
        ("PILOTHOUSE_SESSION_TITLE", super::retry::session_title(task)),
        // The pod's log is the answer; what goes wrong is in it too.
        ("PILOTHOUSE_LOG", "warn".into()),
        ("TASK_NAME", name),
        ("TASK_NAMESPACE", namespace),
    ]
    .into_iter()
    .chain(server.pod.map(|uid| ("PILOTHOUSE_AGENT_POD", uid.to_owned())))
    // What the last try aborted on its way out is asked for again.
    .chain((super::tries(task) > 0).then(|| ("PILOTHOUSE_TASK_AGAIN", "true".to_owned())))
    .chain(limits(task))
    .map(|(name, value)| EnvVar { name: name.into(), value: Some(value), value_from: None })
    .collect()
}

/// What the session may take: what earlier tries have left of the budget.
fn limits(task: &Task) -> impl Iterator<Item = (&'static str, String)> {
    let left = Budget::of(task).unwrap_or_default().left(task);
    let limits = [("PILOTHOUSE_TASK_MAX_COST_MICROS", left.cost), ("PILOTHOUSE_TASK_MAX_TOKENS", left.tokens)];
    limits.into_iter().filter_map(|(name, most)| Some((name, most?.to_string())))
}

fn volumes(task: &Task, agent: &AgentView) -> Vec<Volume> {
    let auth = SecretVolumeSource { secret_name: Some(names::agent::auth(&agent.name)), ..Default::default() };
    vec![prompt_volume("task", task), Volume { name: "auth".into(), secret: Some(auth), ..Volume::default() }]
}

fn prompt_volume(volume: &str, task: &Task) -> Volume {
    let prompt = ConfigMapVolumeSource { name: names::task::context(&name(task)), ..Default::default() };
    Volume { name: volume.into(), config_map: Some(prompt), ..Volume::default() }
}

fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.into(), mount_path: path.into(), read_only: Some(true), ..VolumeMount::default() }
}

fn resources() -> ResourceRequirements {
    let list = |cpu: Option<&str>, memory: &str| {
        let cpu = cpu.map(|c| ("cpu".to_owned(), Quantity(c.into())));
        cpu.into_iter().chain([("memory".to_owned(), Quantity(memory.into()))]).collect::<BTreeMap<_, _>>()
    };
    ResourceRequirements {
        requests: Some(list(Some("10m"), "16Mi")),
        // Long answers are held in memory once.
        limits: Some(list(None, "128Mi")),
        ..ResourceRequirements::default()
    }
}

fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(1000),
        run_as_group: Some(1000),
        fs_group: Some(1000),
        fs_group_change_policy: Some("OnRootMismatch".into()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
        ..SecurityContext::default()
    }
}

fn meta(task: &Task, name: String, mut labels: BTreeMap<String, String>) -> ObjectMeta {
    for (key, value) in [
        (label::NAME, value::TASK_NAME.to_owned()),
        (label::COMPONENT, value::TASK.into()),
        (label::MANAGED_BY, value::MANAGED_BY.into()),
        (label::TASK, names::label_value(&self::name(task))),
    ] {
        labels.insert(key.into(), value);
    }
    ObjectMeta {
        name: Some(name),
        namespace: task.metadata.namespace.clone(),
        labels: Some(labels),
        owner_references: Some(vec![owner(task)]),
        ..ObjectMeta::default()
    }
}

fn owner(task: &Task) -> OwnerReference {
    OwnerReference {
        api_version: crate::api::API_VERSION.into(),
        kind: "Task".into(),
        name: name(task),
        uid: uid(task),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

fn name(task: &Task) -> String {
    task.metadata.name.clone().unwrap_or_default()
}

fn namespace(task: &Task) -> String {
    task.metadata.namespace.clone().unwrap_or_default()
}

fn uid(task: &Task) -> String {
    task.metadata.uid.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests;
