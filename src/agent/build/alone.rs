//! A pod for one Task alone: the containers, volumes and files of an agent, and no Deployment or Service around them.
//!
//! The server is a native sidecar. So the pod ends when its only other container does, with that one's exit code, and the
//! kubelet ends the server after it.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::core::v1::{
        ConfigMapVolumeSource, Container, EmptyDirVolumeSource, EnvVar, KeyToPath, PodSpec, Volume, VolumeMount,
    },
};
use serde_json::json;

use super::{Plan, containers, env, git, layout, pod, sidecar};
use crate::{
    agent::{Inputs, Invalid, Pieces, hash},
    api::names::{self, reasons},
};

/// Name of the container that the pod ends with.
pub const MAIN: &str = "task";
/// Name of the volume with the prompt, which whoever makes the pod adds where there is no command.
pub const PROMPT: &str = "pilothouse-task";
/// Variable of the sidecar: nobody orders it anything, and it makes the password of its door.
pub const MARK: &str = "PILOTHOUSE_ALONE";
/// Volume of the password.
const AUTH: &str = "auth";
/// A ConfigMap holds 1 MiB; what stays is for names and metadata.
const LIMIT: usize = 1000 * 1024;

/// Runs the user's command and keeps the end of what it says as the container's last words. The text is fixed; the command
/// comes as arguments. A shell as process 1 passes signals on. What the command leaves running is waited for no longer than
/// its exit.
const KEEP: &str = "d=$(mktemp -d) && mkfifo \"$d/all\" \"$d/end\" || exit 2\n\
                    tail -c 1024 <\"$d/end\" >/dev/termination-log &\nt=$!\n\
                    tee \"$d/end\" <\"$d/all\" &\ne=$!\n\
                    \"$@\" >\"$d/all\" 2>&1 &\np=$!\n\
                    trap 'kill -TERM \"$p\" 2>/dev/null' TERM INT\nwait \"$p\"\ns=$?\n\
                    if kill -0 \"$p\" 2>/dev/null; then wait \"$p\"; s=$?; fi\n\
                    { sleep 1; kill \"$e\" 2>/dev/null; } &\nwait \"$t\"\nexit \"$s\"\n";

/// What a pod of its own is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Alone {
    /// The pod's spec. Its list of containers is empty, or has the command's alone, named [`MAIN`].
    pub spec: PodSpec,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
    /// Name of the immutable ConfigMap that the pod reads; its end is a hash of the content.
    pub files: String,
    /// Its text.
    pub data: BTreeMap<String, String>,
    /// Its other content.
    pub binary: BTreeMap<String, ByteString>,
    /// Digests of the artifacts that the pod fetches, sorted, with commas between; empty where it fetches none.
    pub digests: String,
    /// What the Git inputs are.
    pub pieces: Pieces,
    /// Address of the door, for who is in the pod.
    pub url: String,
}

impl Alone {
    /// Whether a command of the user's runs in the place of ours.
    pub fn has_command(&self) -> bool {
        !self.spec.containers.is_empty()
    }

    /// The volume mount of the password.
    pub fn auth_mount() -> VolumeMount {
        containers::read_only(AUTH, layout::AUTH)
    }
}

/// Builds the pod for the Task that `inputs.agent` has the metadata of, or says why not. `authority` is the certificate that the
/// sidecar trusts when it fetches artifacts.
///
/// # Errors
/// As [`build`](super::build()).
pub fn alone(inputs: &Inputs<'_>, authority: Option<&str>) -> Result<Alone, Invalid> {
    let plan = super::plan(inputs)?;
    let files = Files::of(&plan, authority)?;
    let volumes: Vec<_> = pod::volumes(&plan).into_iter().map(|volume| files.volume(volume)).collect();
    if volumes.iter().any(|volume| volume.name == PROMPT) {
        return Err(containers::taken(PROMPT));
    }
    let mut spec = pod::spec(&plan);
    spec.volumes = Some(volumes);
    spec.restart_policy = Some("Never".into());
    (spec.readiness_gates, spec.termination_grace_period_seconds) = (None, None);
    let mut before = vec![containers::opencode_init(&plan), companion(&plan)];
    spec.containers = if inputs.spec.command.is_some() {
        vec![command(&plan)]
    } else {
        before.push(server(&plan));
        vec![]
    };
    spec.init_containers = Some(before);
    Ok(Alone {
        spec,
        labels: inputs.spec.pod_spec.as_ref().map(|p| p.labels.clone()).unwrap_or_default(),
        files: files.name,
        data: files.data,
        binary: files.binary,
        digests: git::digests(&plan.git.fixed),
        pieces: plan.git.fixed_pieces.clone(),
        url: format!("http://127.0.0.1:{}", layout::DOOR_PORT),
    })
}

/// One ConfigMap has what an agent has in three.
struct Files {
    name: String,
    data: BTreeMap<String, String>,
    binary: BTreeMap<String, ByteString>,
    /// Keys that the sidecar reads as files of their names.
    items: Vec<KeyToPath>,
}

impl Files {
    fn of(plan: &Plan<'_>, authority: Option<&str>) -> Result<Self, Invalid> {
        let (mut data, binary) = (plan.files.data.clone(), plan.files.binary.clone());
        data.insert(layout::CONTEXT_KEY.into(), plan.content.text.clone());
        data.extend(authority.map(|pem| (names::AUTHORITY_KEY.to_owned(), pem.to_owned())));
        let texts = data.iter().map(|(key, text)| key.len() + text.len()).sum::<usize>();
        let size = texts + binary.iter().map(|(key, bytes)| key.len() + bytes.0.len()).sum::<usize>();
        if size > LIMIT {
            let message = format!(
                "contexts and configuration come to {size} bytes, more than {LIMIT} that fit into a ConfigMap: shorten \
                 them, or move them into a Git repository"
            );
            return Err(Invalid::stalled(reasons::CONTEXT_TOO_LARGE, message));
        }
        let name = names::task::files(plan.name, &hash::short(&json!([data, binary])));
        Ok(Self { name, data, binary, items: plan.files.items() })
    }

    /// The same volume, of this ConfigMap. The password is made in the pod.
    fn volume(&self, mut volume: Volume) -> Volume {
        let one = |key: &str| vec![KeyToPath { key: key.into(), path: key.into(), mode: None }];
        let items = match volume.name.as_str() {
            AUTH => {
                let memory = EmptyDirVolumeSource { medium: Some("Memory".into()), size_limit: None };
                return Volume { name: volume.name, empty_dir: Some(memory), ..Volume::default() };
            }
            // Nothing is exchanged in this pod.
            pod::CONTENT => {
                let empty = Some(EmptyDirVolumeSource::default());
                return Volume { name: volume.name, empty_dir: empty, ..Volume::default() };
            }
            "context" => one(layout::CONTEXT_KEY),
            "authority" => one(names::AUTHORITY_KEY),
            "files" => self.items.clone(),
            name if name.strip_prefix("files-").is_some_and(|n| n.parse::<usize>().is_ok()) => {
                volume.config_map.take().and_then(|map| map.items).unwrap_or_default()
            }
            _ => return volume,
        };
        let source = ConfigMapVolumeSource {
            name: self.name.clone(),
            items: Some(items),
            // Without an authority there is no controller to ask.
            optional: Some(true),
            default_mode: Some(0o644),
        };
        Volume { name: volume.name, config_map: Some(source), ..Volume::default() }
    }
}

/// The sidecar: it places the content and is the door; it ends with the pod and waits for nothing.
fn companion(plan: &Plan<'_>) -> Container {
    let mut container = sidecar::sidecar(plan);
    container.lifecycle = None;
    container.env.get_or_insert_default().push(env::var(MARK, "true"));
    for mount in container.volume_mounts.iter_mut().flatten().filter(|mount| mount.name == AUTH) {
        mount.read_only = None;
    }
    container
}

/// The server of the pod. Who works with it is in the pod, so nobody asks whether it is ready.
fn server(plan: &Plan<'_>) -> Container {
    Container {
        restart_policy: Some("Always".into()),
        readiness_probe: None,
        lifecycle: lifecycle(plan),
        env: Some(variables(plan)),
        ..containers::server(plan)
    }
}

/// The user's command in the place of the server and of our client.
fn command(plan: &Plan<'_>) -> Container {
    let own = plan.inputs.spec.command.iter().flatten().cloned();
    Container {
        name: MAIN.into(),
        command: Some(["sh", "-c", KEEP, "sh"].into_iter().map(String::from).chain(own).collect()),
        ports: None,
        lifecycle: lifecycle(plan),
        env: Some(variables(plan)),
        startup_probe: None,
        readiness_probe: None,
        liveness_probe: None,
        // A command that is killed says nothing; what it had said is the log's.
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        ..containers::server(plan)
    }
}

/// Hooks of the user's alone.
fn lifecycle(plan: &Plan<'_>) -> Option<k8s_openapi::api::core::v1::Lifecycle> {
    plan.inputs.spec.pod_spec.as_ref()?.lifecycle.clone()
}

/// Of the executor container; the user's come last, as everywhere.
fn variables(plan: &Plan<'_>) -> Vec<EnvVar> {
    let namespace = plan.inputs.agent.metadata.namespace.clone().unwrap_or_default();
    let own = vec![env::var("TASK_NAME", plan.name), env::var("TASK_NAMESPACE", namespace)];
    env::join([own, containers::server(plan).env.unwrap_or_default()])
}
