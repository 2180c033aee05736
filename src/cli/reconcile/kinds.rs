//! The kinds, in all of their names.

use kube::{
    Api, Client, CustomResourceExt, Resource,
    api::{ApiResource, DynamicObject},
};

use crate::api::{Agent, AgentTemplate, CronTask, PilothouseConfig, Repository, Sync, Task};

/// A kind that was named.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) kind: &'static str,
    pub(super) namespaced: bool,
    resource: ApiResource,
    names: Vec<String>,
}

impl Named {
    fn of<K: CustomResourceExt + Resource<DynamicType = ()>>(kind: &'static str) -> Self {
        let crd = K::crd();
        let names = crd.spec.names;
        let mut all = vec![names.kind.to_lowercase(), names.plural];
        all.extend(names.singular);
        all.extend(names.short_names.unwrap_or_default());
        Self { kind, namespaced: crd.spec.scope == "Namespaced", resource: ApiResource::erase::<K>(&()), names: all }
    }

    pub(super) fn api(&self, client: &Client, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &self.resource),
            None => Api::all_with(client.clone(), &self.resource),
        }
    }
}

fn all() -> Vec<Named> {
    vec![
        Named::of::<Repository>("Repository"),
        Named::of::<Sync>("Sync"),
        Named::of::<Agent>("Agent"),
        Named::of::<AgentTemplate>("AgentTemplate"),
        Named::of::<Task>("Task"),
        Named::of::<CronTask>("CronTask"),
        Named::of::<PilothouseConfig>("PilothouseConfig"),
    ]
}

/// The kind that `text` names: its name, plural or short name, in any case, with or without our group.
pub(super) fn named(text: &str) -> anyhow::Result<Named> {
    let lower = text.to_lowercase();
    let short = lower.split_once('.').filter(|(_, g)| *g == crate::api::GROUP).map_or(lower.as_str(), |(kind, _)| kind);
    let known = [
        "repository (repo)",
        "sync",
        "agent (ag)",
        "agenttemplate (agt)",
        "task (tk)",
        "crontask (ct)",
        "pilothouseconfig (phc)",
    ];
    all()
        .into_iter()
        .find(|kind| kind.names.iter().any(|name| name == short))
        .ok_or_else(|| anyhow::anyhow!("{text:?} is no kind of Pilothouse; there are: {}", known.join(", ")))
}
