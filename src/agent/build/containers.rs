//! The init container that brings opencode, and the container of the agent's work.

use k8s_openapi::{
    api::core::v1::{Container, ContainerPort, HTTPGetAction, Lifecycle, LifecycleHandler, Probe, VolumeMount},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{Plan, env, layout, reach, security};
use crate::{
    agent::{
        Invalid,
        content::paths::{self, Place},
    },
    api::{
        names::reasons,
        pod::{Protocol, SystemContainers},
    },
};

/// Runs the server as a child: a shell as process 1 passes signals on, which opencode as process 1 ignores. The text
/// is fixed; what the user sets comes as arguments.
const RUN: &str = "trap 'kill -TERM \"$p\" 2>/dev/null' TERM INT\n\"$@\" &\np=$!\nwait \"$p\"\ns=$?\n\
                   if kill -0 \"$p\" 2>/dev/null; then wait \"$p\"; s=$?; fi\nexit \"$s\"\n";

/// A mount of one of our volumes.
pub(super) fn mount(volume: &str, path: &str) -> VolumeMount {
    VolumeMount { name: volume.into(), mount_path: path.into(), ..VolumeMount::default() }
}

/// The same, read-only.
pub(super) fn read_only(volume: &str, path: &str) -> VolumeMount {
    VolumeMount { read_only: Some(true), ..mount(volume, path) }
}

/// The user's settings for our containers.
pub(super) fn system<'a>(plan: &'a Plan<'_>) -> Option<&'a SystemContainers> {
    plan.inputs.spec.pod_spec.as_ref()?.system_containers.as_ref()
}

/// agentImage puts the binary at `$TOOLS_DIR/opencode`.
pub(super) fn opencode_init(plan: &Plan<'_>) -> Container {
    let own = system(plan).and_then(|s| s.open_code_init.as_ref());
    let mut mounts = vec![mount("tools", layout::TOOLS)];
    mounts.extend(reach::mount(plan));
    mounts.extend(own.map(|c| c.extra_volume_mounts.clone()).unwrap_or_default());
    Container {
        name: layout::OPENCODE_INIT.into(),
        image: Some(plan.images.agent.clone()),
        env: Some(env::join([
            vec![env::var("TOOLS_DIR", layout::TOOLS)],
            reach::variables(plan),
            env::extra(plan),
            env::system(own),
        ])),
        volume_mounts: Some(mounts),
        security_context: Some(security::of_container(plan)),
        ..Container::default()
    }
}

/// The opencode server, on loopback: others come through the door.
pub(super) fn server(plan: &Plan<'_>) -> Container {
    let credentials = &plan.credentials;
    let probe = |path: &str| Probe { http_get: Some(door(path)), ..Probe::default() };
    Container {
        name: layout::SERVER.into(),
        image: Some(plan.images.executor.clone()),
        command: Some(command(plan)),
        working_dir: Some(plan.workspace.clone()),
        env: Some(env::join([env::server(plan), reach::variables(plan), credentials.env.clone(), env::extra(plan)])),
        env_from: Some(credentials.env_from.clone()).filter(|list| !list.is_empty()),
        ports: Some(ports(plan)).filter(|list| !list.is_empty()),
        resources: Some(security::resources(plan)),
        volume_mounts: Some(mounts(plan)),
        lifecycle: Some(lifecycle(plan)),
        security_context: Some(security::of_container(plan)),
        // A first start migrates a database: a minute and more under load.
        startup_probe: Some(Probe {
            period_seconds: Some(1),
            failure_threshold: Some(180),
            timeout_seconds: Some(5),
            ..probe("/readyz")
        }),
        readiness_probe: Some(Probe {
            period_seconds: Some(10),
            failure_threshold: Some(3),
            timeout_seconds: Some(5),
            ..probe("/readyz")
        }),
        // A restart of the door must not kill the server.
        liveness_probe: Some(Probe {
            period_seconds: Some(30),
            failure_threshold: Some(6),
            timeout_seconds: Some(5),
            ..probe("/server-livez")
        }),
        ..Container::default()
    }
}

/// Before the server is stopped, work has time to end. A hook of the user takes this one's place: there is one only.
fn lifecycle(plan: &Plan<'_>) -> Lifecycle {
    let mut own = plan.inputs.spec.pod_spec.as_ref().and_then(|p| p.lifecycle.clone()).unwrap_or_default();
    let wait = || LifecycleHandler { http_get: Some(door("/drained")), ..LifecycleHandler::default() };
    own.pre_stop.get_or_insert_with(wait);
    own
}

/// A question to the door.
pub(super) fn door(path: &str) -> HTTPGetAction {
    HTTPGetAction { path: Some(path.into()), port: IntOrString::Int(layout::DOOR_PORT), ..HTTPGetAction::default() }
}

fn command(plan: &Plan<'_>) -> Vec<String> {
    if let Some(own) = &plan.inputs.spec.command {
        return own.clone();
    }
    let port = plan.inputs.spec.port.to_string();
    let serve = ["/tools/opencode", "serve", "--hostname", "127.0.0.1", "--port", &port];
    ["sh", "-c", RUN, "sh"].into_iter().chain(serve).map(String::from).collect()
}

fn ports(plan: &Plan<'_>) -> Vec<ContainerPort> {
    let port = |p: &crate::api::ExtraPort| ContainerPort {
        name: Some(p.name.clone()),
        container_port: p.port,
        protocol: Some(protocol(p.protocol).into()),
        ..ContainerPort::default()
    };
    plan.inputs.spec.extra_ports.iter().flatten().map(port).collect()
}

/// As Kubernetes writes it.
pub(super) fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    }
}

fn mounts(plan: &Plan<'_>) -> Vec<VolumeMount> {
    let mut mounts =
        vec![mount("tools", layout::TOOLS), mount("workspace", &plan.workspace), read_only("context", layout::CONTEXT)];
    if plan.config.is_some() {
        mounts.push(file(layout::CONFIG, layout::CONFIG_KEY));
    }
    mounts.extend(plan.files.single.iter().map(|(path, key)| file(path, key)));
    let directories = plan.files.directories.keys().enumerate();
    mounts.extend(directories.map(|(index, path)| read_only(&directory_volume(index), path)));
    mounts.extend(plan.git.server_mounts());
    mounts.extend(reach::mount(plan));
    mounts.extend(plan.credentials.mounts.iter().cloned());
    mounts.extend(extra_mounts(plan));
    if !has_home(plan, &mounts) {
        mounts.push(mount("home", layout::HOME));
    }
    mounts
}

fn file(path: &str, key: &str) -> VolumeMount {
    VolumeMount { sub_path: Some(key.into()), ..read_only("files", path) }
}

/// Volume of a directory outside the workspace.
pub(super) fn directory_volume(index: usize) -> String {
    format!("files-{index}")
}

fn extra_mounts(plan: &Plan<'_>) -> Vec<VolumeMount> {
    plan.inputs.spec.pod_spec.as_ref().map(|p| p.extra_volume_mounts.clone()).unwrap_or_default()
}

/// Whether something else is mounted at the home folder, or the workspace is there.
fn has_home(plan: &Plan<'_>, mounts: &[VolumeMount]) -> bool {
    paths::within(&plan.workspace, layout::HOME) || mounts.iter().any(|m| m.mount_path == layout::HOME)
}

/// Whether the pod needs a volume for the home folder.
pub(super) fn needs_home(plan: &Plan<'_>) -> bool {
    mounts(plan).iter().any(|m| m.name == "home" && m.mount_path == layout::HOME)
}

/// No two volumes have the same name.
pub(super) fn check_volumes(plan: &Plan<'_>) -> Result<(), Invalid> {
    let mut names = std::collections::BTreeSet::new();
    match super::pod::volumes(plan).into_iter().find(|v| !names.insert(v.name.clone())) {
        Some(twice) => Err(taken(&twice.name)),
        None => Ok(()),
    }
}

/// A volume of the user's has a name that one of ours has.
pub(super) fn taken(volume: &str) -> Invalid {
    let message = format!("podSpec.extraVolumes: the name {volume:?} is taken; take another one");
    Invalid::stalled(reasons::INVALID_SPEC, message)
}

/// No two mounts want the same place, and no mount hides a file of a context.
pub(super) fn check_mounts(plan: &Plan<'_>) -> Result<(), Invalid> {
    let mut places: Vec<Place> = vec![];
    for path in plan.files.directories.keys().chain(plan.files.single.iter().map(|(path, _)| path)) {
        places.push(Place::mount(path, format!("a context mounted at {path}")));
    }
    for credential in plan.inputs.spec.credentials.iter().flatten() {
        if let Some(path) = credential.mount_path.as_deref().filter(|p| !p.is_empty()) {
            let path = paths::resolve(&plan.workspace, path, &credential.name)?;
            places.push(Place::mount(&path, format!("credential {:?}", credential.name)));
        }
    }
    for extra in extra_mounts(plan) {
        let owner = format!("podSpec.extraVolumeMounts ({})", extra.name);
        let path = paths::resolve("", &extra.mount_path, &owner)?;
        places.push(Place::mount(&path, owner));
    }
    let copied = plan.content.files.iter().filter(|f| paths::within(&f.path, &plan.workspace));
    places.extend(plan.git.places());
    places.extend(reach::mount(plan).map(|mount| Place::mount(&mount.mount_path, "caBundle".into())));
    places.extend(copied.map(|f| Place::mount(&f.path, format!("context {:?}", f.context))));
    paths::check(&[places])
}
