//! What an agent's decisions are made from.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod, Secret, Service},
};
use kube::{Resource, ResourceExt, core::PartialObjectMeta};

use super::{
    Agents,
    contents::{Content, Password},
    sources, write,
};
use crate::{
    agent::{self, Desired, Inputs, Invalid, Pieces, References, Wanted, state, upgrade},
    api::{
        Agent, AgentSpec, PilothouseConfig,
        names::{self, annotation, condition, reasons},
        not_yet,
    },
    controller::{Context, runtime::Packed},
    status::Failure,
    task,
};

/// Names of other objects that a message has.
const NAMED: usize = 5;

/// Metadata of a ConfigMap.
pub(super) type ConfigMapMeta = PartialObjectMeta<ConfigMap>;

/// What was read.
pub(super) struct Seen {
    pub spec: AgentSpec,
    pub template_generation: Option<i64>,
    pub deployment: Option<Arc<Deployment>>,
    config: Option<Arc<PilothouseConfig>>,
    content: Content,
    wanted: Vec<Wanted>,
    /// Ids of those that are followed and of which nobody has said anything yet.
    unread: BTreeSet<String>,
    pub git: sources::Read,
    system_image: Option<String>,
    layout: u32,
    voice_address: Option<String>,
    suspended: bool,
    /// Of the spec only `rollout` was read, since nothing could be made of the rest.
    pub stands_in: bool,
}

impl Agents {
    /// Reads what the decisions need, and makes the agent's password where there is none.
    pub(super) async fn observe(&self, agent: &Arc<Agent>) -> Result<Seen, Failure> {
        let (namespace, name) = (agent.namespace().unwrap_or_default(), agent.name_any());
        let template_name = agent.spec.template_ref.as_ref().map(|t| t.name.clone());
        self.referrers.set(&namespace, &name, template_name.as_deref(), &agent::references(&agent.spec));
        refuse(&not_yet::unsupported(&agent.spec), "")?;
        let template = match &template_name {
            Some(template) => Some(self.template(&namespace, template)?),
            None => None,
        };
        if let Some(template) = &template {
            refuse(&not_yet::unsupported(&template.spec), &format!("AgentTemplate {}: ", template.name_any()))?;
        }
        let config = config(&self.context);
        let spec = agent::merge(&agent.spec, template.as_ref().map(|t| &t.spec));
        let settings = &self.context.settings;
        if settings.namespace == namespace {
            agent::refuse_own(&spec, settings.own_account())?;
        }
        let wanted = agent::wanted(&spec)?;
        let git = self.git_inputs(agent, &wanted).await?;
        let references = agent::references(&spec);
        self.referrers.set(&namespace, &name, template_name.as_deref(), &references);
        let password = self.password(agent).await?;
        let content = self.read(&namespace, &name, &references, &password).await?;
        Ok(Seen {
            spec,
            template_generation: template.and_then(|t| t.metadata.generation),
            deployment: self.own_deployment(agent),
            config,
            content,
            unread: unread(&wanted, &git),
            wanted,
            git,
            system_image: self.context.settings.system_image.clone(),
            layout: self.context.settings.layout,
            voice_address: self.context.settings.voice_address.clone(),
            suspended: agent::wants_suspension(agent),
            stands_in: false,
        })
    }

    /// What decisions about a kept revision need where nothing can be made of the newest spec: how it is to roll out.
    pub(super) fn without_spec(&self, agent: &Agent) -> Seen {
        let namespace = agent.namespace().unwrap_or_default();
        let named = agent.spec.template_ref.as_ref();
        let template = named.and_then(|template| self.context.caches.templates.get(&namespace, &template.name));
        let merged = agent::merge(&agent.spec, template.as_ref().map(|t| &t.spec));
        Seen {
            spec: AgentSpec { rollout: merged.rollout, ..AgentSpec::default() },
            template_generation: template.and_then(|t| t.metadata.generation),
            deployment: self.own_deployment(agent),
            config: config(&self.context),
            content: Content::default(),
            wanted: vec![],
            unread: BTreeSet::new(),
            git: sources::Read::default(),
            system_image: self.context.settings.system_image.clone(),
            layout: self.context.settings.layout,
            voice_address: self.context.settings.voice_address.clone(),
            suspended: agent::wants_suspension(agent),
            stands_in: true,
        }
    }

    async fn git_inputs(&self, agent: &Agent, wanted: &[Wanted]) -> Result<sources::Read, Failure> {
        let namespace = agent.namespace().unwrap_or_default();
        let content = self.config_maps.get(&namespace, &names::agent::content(&agent.name_any()));
        let content = content.filter(|map| is_ours(map.owner_references(), agent));
        let mut applied: Pieces = content.map(|map| self.recall(agent, map.annotations())).unwrap_or_default();
        applied.extend(self.own_deployment(agent).map(|d| self.recall(agent, d.annotations())).unwrap_or_default());
        self.git.read(agent, wanted, &applied).await
    }

    fn template(&self, namespace: &str, name: &str) -> Result<Arc<crate::api::AgentTemplate>, Failure> {
        let templates = &self.context.caches.templates;
        templates.get(namespace, name).ok_or_else(|| {
            let there = templates.filter(|template| template.metadata.namespace.as_deref() == Some(namespace));
            let others = there_are(there.iter().map(|template| template.name_any()).collect());
            Failure::waiting(reasons::TEMPLATE_NOT_FOUND, format!("waiting for AgentTemplate {name:?}; {others}"))
        })
    }

    async fn read(
        &self,
        namespace: &str,
        name: &str,
        references: &References,
        password: &Password,
    ) -> Result<Content, Failure> {
        self.contents.read(namespace, name, references, password).await
    }

    /// The password, made on the first reconcile.
    async fn password(&self, agent: &Agent) -> Result<Password, Failure> {
        let (namespace, name) = (agent.namespace().unwrap_or_default(), agent.name_any());
        let secret = names::agent::auth(&name);
        if let Some(found) = self.context.caches.secrets.get(&namespace, &secret) {
            ours("Secret", &secret, found.owner_references(), agent)?;
        }
        if let Some(password) = self.contents.password(&namespace, &name).await? {
            return Ok(password);
        }
        self.make_password(agent).await
    }

    async fn make_password(&self, agent: &Agent) -> Result<Password, Failure> {
        let namespace = agent.namespace().unwrap_or_default();
        let secret = agent::build::auth_secret(agent, "opencode", &random_password());
        let name = secret.name_any();
        let client = &self.context.client;
        let written = if let Some(made) = write::post_object(client, &namespace, &secret).await? {
            made
        } else {
            // Ours from a moment ago, which the cache does not show yet, or somebody else's.
            let found = write::get::<Secret>(client, &namespace, &name).await?;
            let found = found.ok_or_else(|| Failure::transient(reasons::APPLY_FAILED, "the Secret vanished"))?;
            ours("Secret", &name, found.owner_references(), agent)?;
            found
        };
        let password = Password::of(&written).ok_or_else(|| {
            Failure::waiting(reasons::SECRET_INVALID, format!("Secret {name:?} has no key \"password\": delete it"))
        })?;
        self.contents.made(&namespace, &agent.name_any(), password.clone());
        Ok(password)
    }

    /// The agent's Deployment, unless it is somebody else's.
    pub(super) fn own_deployment(&self, agent: &Agent) -> Option<Arc<Deployment>> {
        self.own_packed(agent).map(|packed| packed.whole())
    }

    /// The same for its metadata.
    pub(super) fn own_packed(&self, agent: &Agent) -> Option<Arc<Packed<Deployment>>> {
        let namespace = agent.namespace().unwrap_or_default();
        let found = self.deployments.get(&namespace, &names::agent::deployment(&agent.name_any()))?;
        is_ours(found.owner_references(), agent).then_some(found)
    }

    /// Every object of a generated name is ours or does not exist, as far as that is known: a creation never touches
    /// what is there, and tells.
    ///
    /// Objects without our label are not in the caches. Of a Service that the agent cannot have it is to be known before
    /// the Deployment is made; and after a conflict everything is asked for, so that nothing is written in vain.
    pub(super) async fn check_names(&self, agent: &Agent) -> Result<(), Failure> {
        let (namespace, name) = (agent.namespace().unwrap_or_default(), agent.name_any());
        let client = &self.context.client;
        let (deployment, service) = (names::agent::deployment(&name), names::agent::service(&name));
        let conflict = has_conflict(agent);
        let present = self.deployments.get(&namespace, &deployment);
        match &present {
            Some(found) => ours("Deployment", &deployment, found.owner_references(), agent)?,
            None if conflict => {
                if let Some(found) = write::get_metadata::<Deployment>(client, &namespace, &deployment).await? {
                    ours("Deployment", &deployment, found.owner_references(), agent)?;
                }
            }
            None => {}
        }
        match self.services.get(&namespace, &service) {
            Some(found) => ours("Service", &service, found.owner_references(), agent)?,
            None if conflict || present.is_none() => {
                let found = if conflict {
                    write::get_metadata::<Service>(client, &namespace, &service).await?
                } else {
                    write::peek_metadata::<Service>(client, &namespace, &service).await?
                };
                if let Some(found) = found {
                    ours("Service", &service, found.owner_references(), agent)?;
                }
            }
            None => {}
        }
        for map in [names::agent::context(&name), names::agent::content(&name), names::agent::history(&name)] {
            if let Some(found) = self.config_maps.get(&namespace, &map) {
                ours("ConfigMap", &map, found.owner_references(), agent)?;
            }
        }
        Ok(())
    }

    /// The agent's pods.
    pub(super) fn pods(&self, agent: &Agent) -> Vec<Arc<Pod>> {
        self.pods_of.objects(&agent.namespace().unwrap_or_default(), &agent.name_any())
    }

    /// Running and waiting Tasks. A Task whose pod is there, or is being written, runs, even if its status does not say
    /// so yet.
    pub(super) fn open_tasks(&self, namespace: &str, agent: &str) -> (usize, usize) {
        self.tasks.count(namespace, agent, |task, uid| {
            let pod = self.context.caches.task_pods.get(namespace, &names::task::pod(task));
            self.context.task_starts.is_starting(uid)
                || matches!(task::seen::read(pod.as_deref(), uid), task::PodState::Ours(_))
        })
    }

    /// Names of the pods in which a process of the server may run: all but those whose container was never started or
    /// has ended. Pods that end do not count: they finish their work by themselves.
    pub(super) fn running_pods(&self, agent: &Agent) -> Vec<String> {
        self.pods(agent).iter().filter(|pod| may_run(pod)).map(|pod| pod.name_any()).collect()
    }
}

/// Which objects of a kind there are in the namespace, five at most: the one that was meant is often among them.
fn there_are(mut names: Vec<String>) -> String {
    if names.is_empty() {
        return "there is none in this namespace".into();
    }
    names.sort();
    let others = if names.len() > NAMED { " and others" } else { "" };
    names.truncate(NAMED);
    format!("there are: {}{others}", names.join(", "))
}

/// Whether the last reconcile met an object of somebody else.
fn has_conflict(agent: &Agent) -> bool {
    let conditions = agent.status.iter().flat_map(|s| &s.conditions);
    conditions.filter(|c| c.type_ == condition::READY).any(|c| c.reason == reasons::NAME_CONFLICT)
}

fn may_run(pod: &Pod) -> bool {
    if pod.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let containers = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let mut server = containers.filter(|c| c.name == agent::build::layout::SERVER);
    server.any(|c| c.state.as_ref().is_some_and(|s| s.running.is_some()))
}

impl Seen {
    /// Builds the objects. A newer image of the controller alone replaces no pod, nor does another time that pods have
    /// to end, or a newer layout: the applied ones are kept until another cause comes, or somebody asks.
    pub(super) fn build(&self, agent: &Agent) -> Result<Desired, Invalid> {
        let running = self.deployment.as_deref().map(upgrade::running).unwrap_or_default();
        let asked = agent.annotations().get(annotation::UPGRADE).map(String::as_str);
        let due = self.deployment.is_some() && running.is_due(asked, self.layout, self.own_image());
        let (made_for, handled) = (running.made_for.as_deref(), asked.or(running.handled.as_deref()));
        let newest = Inputs {
            upgrade: if due { asked } else { made_for },
            upgraded: if self.deployment.is_some() { handled } else { None },
            ..self.inputs(agent)
        };
        if let (Some(deployment), false, true) = (self.deployment.as_deref(), due, running.is_kept(self.layout)) {
            let kept = Inputs {
                system_image: running.image.as_deref().or(newest.system_image),
                layout: running.layout.unwrap_or(self.layout),
                grace: running.grace,
                ..newest.clone()
            };
            let desired = agent::build(&kept)?;
            if applied_hash(deployment).as_ref() == Some(&desired.hash) {
                return Ok(desired);
            }
        }
        agent::build(&newest)
    }

    /// The Git inputs, for the report.
    pub(super) fn inputs_seen(&self) -> agent::report::Git {
        let states = || self.git.states.iter();
        agent::report::Git {
            wanted: self.wanted.clone(),
            newest: self.git.pieces.clone(),
            observed: states().filter_map(|(id, state)| Some((id.clone(), state.observed.clone()?))).collect(),
            notes: states()
                .filter_map(|(id, state)| Some((id.clone(), state.problem.as_ref()?.message.clone())))
                .collect(),
            ..agent::report::Git::default()
        }
    }

    /// Whether something waits for Git inputs of which nobody has said anything yet.
    pub(super) fn waits_unread(&self, content: Option<&state::Annotations>) -> bool {
        let deployment = self.deployment.as_deref().map(ResourceExt::annotations).map(state::State::of_deployment);
        let states = deployment.into_iter().chain(content.map(state::State::of_content));
        states.filter_map(|state| state.pending).any(|pending| !pending.causes.is_disjoint(&self.unread))
    }

    /// Whether the pod template of this hash is the one that is applied.
    pub(super) fn has_applied(&self, hash: &str) -> bool {
        self.deployment.as_deref().and_then(applied_hash).as_deref() == Some(hash)
    }

    /// Whether no pod is wanted by what is applied.
    pub(super) fn has_no_pods(&self) -> bool {
        self.deployment.as_deref().is_some_and(has_no_pods)
    }

    /// The controller's own image, where sidecars have it.
    fn own_image(&self) -> Option<&str> {
        let named = self.config.as_deref().and_then(|c| c.spec.system_image.as_ref()?.image.as_deref());
        self.system_image.as_deref().filter(|_| named.is_none_or(str::is_empty))
    }

    fn inputs<'a>(&'a self, agent: &'a Agent) -> Inputs<'a> {
        Inputs {
            agent,
            spec: &self.spec,
            config: self.config.as_deref().map(|c| &c.spec),
            system_image: self.system_image.as_deref(),
            layout: self.layout,
            upgrade: None,
            upgraded: None,
            grace: None,
            voice_address: self.voice_address.as_deref(),
            suspended: self.suspended,
            pieces: &self.git.pieces,
            unread: &self.unread,
            config_maps: &self.content.config_maps,
            secrets: &self.content.secrets,
        }
    }
}

fn unread(wanted: &[Wanted], git: &sources::Read) -> BTreeSet<String> {
    let silent = |id: &str| git.states.get(id).is_none_or(|state| state.observed.is_none());
    wanted.iter().filter(|w| w.sync.is_some() && silent(&w.id)).map(|w| w.id.clone()).collect()
}

fn refuse(fields: &[not_yet::FieldPath], of: &str) -> Result<(), Failure> {
    if fields.is_empty() {
        return Ok(());
    }
    Err(Failure::stalled(reasons::NOT_YET_SUPPORTED, format!("{of}{}", not_yet::message(fields))))
}

/// The configuration singleton.
pub(super) fn config(context: &Context) -> Option<Arc<PilothouseConfig>> {
    context.caches.configs.get("", names::CONFIG)
}

fn is_ours(owners: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference], agent: &Agent) -> bool {
    let uid = agent.uid().unwrap_or_default();
    owners.iter().any(|o| o.controller == Some(true) && o.uid == uid)
}

/// An object of a generated name that is somebody else's is a `NameConflict`.
pub(super) fn ours(
    kind: &str,
    name: &str,
    owners: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference],
    agent: &Agent,
) -> Result<(), Failure> {
    if is_ours(owners, agent) {
        return Ok(());
    }
    let message = format!(
        "{kind} {name:?} exists and does not belong to this Agent; it is left alone: rename the Agent, or delete it"
    );
    Err(Failure::waiting(reasons::NAME_CONFLICT, message))
}

/// 32 random bytes.
fn random_password() -> String {
    use base64::Engine;
    let bytes: [u8; 32] = rand::random();
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// Hash of the pod template that was applied.
pub(super) fn applied_hash(deployment: &Deployment) -> Option<String> {
    state::State::of_deployment(deployment.annotations()).applied
}

/// No pod is wanted.
pub(super) fn has_no_pods(deployment: &Deployment) -> bool {
    deployment.spec.as_ref().and_then(|s| s.replicas) == Some(0)
}

/// Layout of the pods.
pub(super) fn layout(deployment: &Deployment) -> Option<i32> {
    let metadata = deployment.spec.as_ref()?.template.metadata.as_ref()?;
    metadata.annotations.as_ref()?.get(annotation::LAYOUT)?.parse().ok()
}

/// Image of the server's container.
pub(super) fn image(deployment: &Deployment) -> Option<String> {
    let pod = deployment.spec.as_ref()?.template.spec.as_ref()?;
    pod.containers.iter().find(|c| c.name == agent::build::layout::SERVER)?.image.clone()
}

/// Address inside the cluster.
pub(super) fn url(agent: &Agent, config: Option<&PilothouseConfig>) -> String {
    let domain = config.and_then(|c| c.spec.cluster_domain.clone()).unwrap_or_else(|| "cluster.local".into());
    let namespace = agent.meta().namespace.clone().unwrap_or_default();
    format!("http://{}.{namespace}.svc.{domain}:{}", agent.name_any(), agent.spec.port)
}
