//! What a change does to the Agents that run: the same classes as the controller decides by.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use jiff::Timestamp;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{apps::v1::Deployment, core::v1::ConfigMap},
};
use kube::{Api, Client, Resource, ResourceExt};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::pace;
use crate::{
    agent::{
        self, ConfigMapData, Pieces, Side,
        decide::policy,
        effect::Class,
        fleet::{Labels, Outlook, Steps},
        gate::Protect,
        state,
    },
    api::{Agent, AgentSpec, AgentTemplate, GROUP, PilothouseConfig, PilothouseConfigSpec, names},
    apply::Difference,
    object::ObjectId,
    plan::Plan,
};

/// How a change reaches an Agent.
#[derive(Clone, Debug, Serialize)]
pub(in crate::cli) struct Effect {
    /// `None`, `Live`, `Reload`, `Rollout` or `Recreate`; absent where the Agent would be refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// Names of the parts that differ, sorted.
    pub causes: BTreeSet<String>,
    /// What that means, in words.
    pub message: String,
    /// What the pace of the fleet means for it; absent where none is set, and where it is none of its business.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pace: Option<Outlook>,
    /// Labels of the Agent as it would be.
    #[serde(skip)]
    pub labels: Labels,
    /// What it consists of.
    #[serde(skip)]
    pub steps: Steps,
    /// The Agent as it is, and its spec as it is and as it would be, merged with its template.
    #[serde(skip)]
    pub agent: Option<Box<(Agent, AgentSpec, AgentSpec)>>,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(class) = self.class.filter(|c| *c != Class::None) {
            let causes: Vec<&str> = self.causes.iter().map(String::as_str).collect();
            write!(f, "{class:?} ({}): ", causes.join(", "))?;
        }
        f.write_str(&self.message)?;
        self.pace.as_ref().map_or(Ok(()), |pace| write!(f, "; {pace}"))
    }
}

/// The effect on each Agent of the plan that is live and that something reaches. What cannot be read counts as
/// unchanged.
pub(super) async fn effects(
    client: &Client,
    plan: &Plan,
    differences: &[Difference],
    now: Timestamp,
) -> BTreeMap<ObjectId, Effect> {
    let agents = plan.steps().map(|step| &step.id).filter(|id| id.kind == "Agent" && id.group == GROUP);
    let changes = Changes { client, differences };
    let config = changes.config().await;
    let mut found = BTreeMap::new();
    for id in agents {
        if let Some(effect) = Box::pin(changes.effect(id, config.as_ref())).await {
            found.insert(id.clone(), effect);
        }
    }
    pace::look(&mut found, config.as_ref(), now);
    found
}

/// An object before and after.
type Both<T> = (Option<T>, Option<T>);

struct Changes<'a> {
    client: &'a Client,
    differences: &'a [Difference],
}

impl Changes<'_> {
    async fn effect(&self, id: &ObjectId, config: Option<&PilothouseConfigSpec>) -> Option<Effect> {
        let own = self.differences.iter().any(|d| d.id == *id);
        let (Some(old), Some(new)) = self.both::<Agent>(&id.namespace, &id.name).await else { return None };
        let (old_template, new_template) = (self.template(&old).await.0, self.template(&new).await.1);
        let unknown = |agent: &Agent, template: Option<_>| agent.spec.template_ref.is_some() && template.is_none();
        if unknown(&old, old_template.as_ref()) != unknown(&new, new_template.as_ref()) {
            // It waited for its template, or will: nothing was built of it, or nothing will be.
            return None;
        }
        let (old_maps, new_maps) =
            self.config_maps(&id.namespace, [(&old, &old_template), (&new, &new_template)]).await;
        let pieces = self.pieces(id).await;
        let side = |agent, template: &'_ Option<AgentTemplate>| (agent, template.as_ref().map(|t| t.spec.clone()));
        let ((old, old_template), (new, new_template)) = (side(old, &old_template), side(new, &new_template));
        let old_side =
            Side { agent: &old, template: old_template.as_ref(), config, pieces: &pieces, config_maps: &old_maps };
        let new_side =
            Side { agent: &new, template: new_template.as_ref(), config, pieces: &pieces, config_maps: &new_maps };
        let Ok((effect, steps)) = agent::preview_steps(&old_side, &new_side) else { return refused(&new_side) };
        let before = agent::merge(&old.spec, old_template.as_ref());
        let after = agent::merge(&new.spec, new_template.as_ref());
        (own || effect.class != Class::None).then(|| Effect {
            message: words(effect.class, &new_side).into(),
            class: Some(effect.class),
            causes: effect.causes,
            pace: None,
            labels: new.labels().clone(),
            steps,
            agent: Some(Box::new((old, before, after))),
        })
    }

    /// What is applied for its Git inputs, as its objects say.
    async fn pieces(&self, id: &ObjectId) -> Pieces {
        let namespace = &id.namespace;
        let deployments = Api::<Deployment>::namespaced(self.client.clone(), namespace);
        let maps = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
        let deployment = deployments.get_metadata_opt(&names::agent::deployment(&id.name)).await.ok().flatten();
        let map = maps.get_metadata_opt(&names::agent::content(&id.name)).await.ok().flatten();
        let marks = (deployment.map(|d| d.annotations().clone()), map.map(|m| m.annotations().clone()));
        let (mut fixed, hot) = state::applied_pieces(marks.0.as_ref(), marks.1.as_ref());
        fixed.extend(hot);
        fixed
    }

    /// As it is, and as it would be.
    async fn both<K>(&self, namespace: &str, name: &str) -> Both<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + fmt::Debug + DeserializeOwned,
    {
        let kind = K::kind(&());
        let found = self.differences.iter().find(|d| {
            d.id.kind == kind && d.id.group == K::group(&()) && d.id.namespace == namespace && d.id.name == name
        });
        let typed = |value: &Option<Value>| value.as_ref().and_then(|v| K::deserialize(v).ok());
        if let Some(difference) = found {
            return (typed(&difference.before), typed(&difference.after));
        }
        let live = Api::<K>::namespaced(self.client.clone(), namespace).get_opt(name).await.ok().flatten();
        (live.clone(), live)
    }

    async fn template(&self, agent: &Agent) -> Both<AgentTemplate> {
        let Some(reference) = &agent.spec.template_ref else { return (None, None) };
        self.both(agent.metadata.namespace.as_deref().unwrap_or_default(), &reference.name).await
    }

    /// What both sides read, before and after.
    async fn config_maps(
        &self,
        namespace: &str,
        sides: [(&Agent, &Option<AgentTemplate>); 2],
    ) -> (BTreeMap<String, ConfigMapData>, BTreeMap<String, ConfigMapData>) {
        let specs = sides.map(|(a, t)| agent::merge(&a.spec, t.as_ref().map(|t| &t.spec)));
        let names: BTreeSet<String> = specs.iter().flat_map(|spec| agent::references(spec).config_maps).collect();
        let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
        for name in names {
            let (before, after) = self.both::<ConfigMap>(namespace, &name).await;
            old.extend(before.map(|map| (name.clone(), data(map))));
            new.extend(after.map(|map| (name, data(map))));
        }
        (old, new)
    }

    async fn config(&self) -> Option<PilothouseConfigSpec> {
        let all = Api::<PilothouseConfig>::all(self.client.clone());
        all.get_opt(names::CONFIG).await.ok().flatten().map(|config| config.spec)
    }
}

fn data(map: ConfigMap) -> ConfigMapData {
    ConfigMapData {
        text: map.data.unwrap_or_default(),
        binary: map.binary_data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect(),
    }
}

/// Where the new one cannot be built. If it is the old one, which is being repaired, there is nothing to compare with.
fn refused(new: &Side<'_>) -> Option<Effect> {
    let failure = agent::preview(new, new).err()?;
    let message = format!("refused ({}): {}; what runs goes on", failure.reason, failure.message);
    let (labels, steps) = (Labels::new(), Steps::new());
    Some(Effect { class: None, causes: BTreeSet::new(), message, pace: None, labels, steps, agent: None })
}

fn words(class: Class, new: &Side<'_>) -> &'static str {
    let policy = policy(&agent::merge(&new.agent.spec, new.template));
    let waits = policy.protect != Protect::None;
    match class {
        Class::None => "nothing of it is for its pod",
        Class::Live => "the running server reads it, nothing restarts",
        Class::Reload => "exchanged in the running pod when the server is idle, which then reads its skills anew",
        Class::Rollout | Class::Recreate if waits => "a new pod; waits for running work",
        Class::Rollout | Class::Recreate => "a new pod, at once",
    }
}
