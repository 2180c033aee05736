//! Every object of an agent, from its inputs: same inputs, same bytes.

pub mod alone;
mod containers;
mod credentials;
mod env;
mod files;
mod git;
mod images;
pub mod layout;
mod objects;
mod parts;
mod pod;
mod reach;
mod security;
mod sidecar;

pub use alone::{Alone, alone};
pub use git::digests;
pub use objects::{auth_secret, owner};

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    Inputs, Invalid, Pieces, beside, config,
    content::{self, Content},
    effect::Parts,
    gate::Pending,
    hash, verify,
};
use crate::{
    api::{
        ExtraPort,
        content::Manifest,
        names::{self, annotation, reasons},
    },
    object::Object,
};

/// What an agent's objects should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// The Deployment, without the annotations of [`super::state`].
    pub deployment: Object,
    /// The Service.
    pub service: Object,
    /// The ConfigMap of gathered text, which changes under the running server.
    pub context: Object,
    /// The immutable ConfigMap of everything else.
    pub files: Object,
    /// The ConfigMap that says which content from Git is exchanged in the running pod; `None` where there is none.
    pub exchange: Option<Exchange>,
    /// What was decided for the Git inputs that change with the pod template.
    pub pieces: Pieces,
    /// [`Inputs::unread`].
    pub unread: BTreeSet<String>,
    /// Hash of the gathered text.
    pub text_hash: String,
    /// What the gathered text is made of, context by context.
    pub texts: Parts,
    /// Hash of pod template and suspension: what the gate compares.
    pub hash: String,
    /// What the pod template is made of, part by part.
    pub parts: Parts,
    /// Whether there is to be no pod.
    pub suspended: bool,
    /// Whether the sidecar's image is the controller's own, which is no reason for a rollout.
    pub own_system_image: bool,
}

/// Content from Git that is exchanged in the running pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    /// The ConfigMap, without the annotations of [`super::state`].
    pub object: Object,
    /// What it holds.
    pub manifest: Manifest,
    /// Hash of the manifest.
    pub hash: String,
    /// Hash of which pieces it has, and where: each pod template has one that fits.
    pub shape: String,
    /// What it is made of, piece by piece.
    pub parts: Parts,
    /// What was decided for each.
    pub pieces: Pieces,
}

/// Everything that was read from the inputs and checked; from here on nothing fails.
struct Plan<'a> {
    inputs: &'a Inputs<'a>,
    name: &'a str,
    workspace: String,
    images: images::Images,
    config: Option<config::Config>,
    content: Content,
    credentials: credentials::Credentials,
    git: git::Git,
    files: files::Files,
}

impl Desired {
    /// Whether something that waits may be wanted still: what it is made of was not read since.
    pub fn may_still_wait(&self, pending: Option<&Pending>) -> bool {
        pending.is_some_and(|pending| !pending.causes.is_disjoint(&self.unread))
    }
}

/// Builds every object, or says why not.
pub fn build(inputs: &Inputs<'_>) -> Result<Desired, Invalid> {
    let plan = plan(inputs)?;
    let mut template = pod::template(&plan);
    let parts = parts::parts(&plan, &template);
    let mut hashed = template.clone();
    parts::without_grace(&mut hashed);
    if plan.images.own_system {
        parts::without_system_image(&mut hashed);
    }
    let suspended = inputs.suspended;
    let hash = hash::short(&serde_json::json!([hashed, suspended]));
    if verify::wanted(inputs.spec).is_some() {
        // Which pods are of the revision that is verified.
        template["metadata"]["annotations"][annotation::TEMPLATE_HASH] = hash.as_str().into();
    }
    Ok(Desired {
        hash,
        text_hash: hash::text(&plan.content.text),
        texts: parts::texts(&plan),
        deployment: objects::deployment(&plan, &template),
        service: objects::service(&plan),
        context: objects::context(&plan),
        files: objects::files(&plan),
        exchange: exchange(&plan),
        pieces: plan.git.fixed_pieces.clone(),
        unread: inputs.unread.clone(),
        parts,
        suspended,
        own_system_image: plan.images.own_system,
    })
}

fn exchange(plan: &Plan<'_>) -> Option<Exchange> {
    let git = &plan.git;
    (!git.hot.pieces.is_empty()).then(|| Exchange {
        object: objects::exchange(plan),
        manifest: git.hot.clone(),
        hash: git.hot.hash(),
        shape: git.fixed.shape.clone(),
        parts: git.hot_parts.clone(),
        pieces: git.hot_pieces.clone(),
    })
}

fn plan<'a>(inputs: &'a Inputs<'a>) -> Result<Plan<'a>, Invalid> {
    let spec = inputs.spec;
    let name = inputs.agent.metadata.name.as_deref().unwrap_or_default();
    let workspace = workspace(spec.workspace_dir.as_deref())?;
    beside::check(spec)?;
    check_ports(spec.extra_ports.as_deref().unwrap_or_default())?;
    let images = images::images(inputs)?;
    let content = content::content(inputs, &workspace)?;
    let git = git::git(inputs, &workspace)?;
    let config = config::config(spec.config.as_ref(), &git.skill_paths)?;
    let credentials = credentials::credentials(inputs, &workspace)?;
    reach::check(inputs)?;
    let files = files::files(name, &workspace, config.as_ref(), &content, &git);
    let plan = Plan { inputs, name, workspace, images, config, content, credentials, git, files };
    containers::check_volumes(&plan)?;
    containers::check_mounts(&plan)?;
    Ok(plan)
}

fn workspace(path: Option<&str>) -> Result<String, Invalid> {
    let Some(path) = path else {
        return Err(Invalid::stalled(
            reasons::INVALID_SPEC,
            "spec.workspaceDir is required, here or in the template: an absolute path such as /workspace",
        ));
    };
    content::paths::resolve("", path, "workspaceDir")
}

fn check_ports(ports: &[ExtraPort]) -> Result<(), Invalid> {
    let bad = |port: &ExtraPort, why: &str| {
        let message = format!("extraPorts: {} ({}) {why}", port.name, port.port);
        Err(Invalid::stalled(reasons::INVALID_SPEC, message))
    };
    for (index, port) in ports.iter().enumerate() {
        if port.port == layout::DOOR_PORT {
            return bad(port, "is taken by the door of the agent's server; take another port");
        }
        if [layout::DOOR_NAME, "http"].contains(&port.name.as_str()) {
            return bad(port, "has a name that the agent itself uses; take another name");
        }
        let twin = |other: &&ExtraPort| {
            other.name == port.name || (other.port == port.port && other.protocol == port.protocol)
        };
        if ports[..index].iter().find(twin).is_some() {
            return bad(port, "is there twice, by name or by port");
        }
    }
    Ok(())
}

/// `pilothouse.dev/agent` and the common labels.
fn labels(plan: &Plan<'_>) -> std::collections::BTreeMap<String, String> {
    let extra = plan.inputs.spec.pod_spec.as_ref().map(|p| p.labels.clone()).unwrap_or_default();
    // Ours win: the selector depends on them.
    extra.into_iter().chain(own_labels(plan.name)).collect()
}

fn own_labels(agent: &str) -> Vec<(String, String)> {
    [
        (names::label::AGENT, agent),
        (names::label::NAME, names::value::AGENT_NAME),
        (names::label::INSTANCE, agent),
        (names::label::COMPONENT, names::value::SERVER),
        (names::label::MANAGED_BY, names::value::MANAGED_BY),
    ]
    .map(|(key, value)| (key.to_string(), value.to_string()))
    .into()
}

/// A typed object as JSON. The types of Kubernetes always have one.
fn json(typed: &impl serde::Serialize) -> Value {
    serde_json::to_value(typed).unwrap_or_default()
}

#[cfg(test)]
mod tests;
