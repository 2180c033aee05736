//! What wakes an agent.

use std::sync::Arc;

use kube::ResourceExt;

use super::{Agents, fleet::follow, index::Of, voice::Whose};
use crate::{
    agent::fleet::Pace,
    api::names::{self, label},
    controller::runtime::{Cache, Kind, Triggers},
};

/// Attaches listeners to everything that an agent's decisions read.
pub(super) fn attach(agents: &Arc<Agents>) {
    let caches = &agents.context.caches;
    owned(&caches.deployments, &agents.triggers);
    owned(&caches.services, &agents.triggers);
    owned(&caches.agent_pods, &agents.triggers);
    owned(&caches.config_maps, &agents.triggers);
    owned(&caches.secrets, &agents.triggers);
    referred(agents, &caches.templates, Of::Template);
    referred(agents, &caches.config_maps, Of::ConfigMap);
    referred(agents, &caches.secrets, Of::Secret);
    // Before all are woken for it.
    fleet(agents);
    everybody(agents);
    authority(agents);
    tasks(agents);
    voices(agents);
}

/// Objects that carry an agent's label wake it.
fn owned<K: Kind>(cache: &Cache<K>, triggers: &Triggers<crate::api::Agent>) {
    let triggers = triggers.clone();
    cache.on_change(move |change| {
        if let Some(agent) = change.object.labels().get(label::AGENT) {
            triggers.now(&change.object.namespace().unwrap_or_default(), agent);
        }
    });
}

fn referred<K: Kind>(agents: &Arc<Agents>, cache: &Cache<K>, of: Of) {
    let weak = Arc::downgrade(agents);
    cache.on_change(move |change| {
        let Some(agents) = weak.upgrade() else { return };
        let namespace = change.object.namespace().unwrap_or_default();
        for agent in agents.referrers.of(of, &namespace, &change.object.name_any()) {
            agents.triggers.now(&namespace, &agent);
        }
    });
}

/// The cluster's settings reach every agent.
fn everybody(agents: &Arc<Agents>) {
    let weak = Arc::downgrade(agents);
    agents.context.caches.configs.on_spec_change(move |_| {
        if let Some(agents) = weak.upgrade() {
            wake_all(&agents);
        }
    });
}

/// The pace is known before anybody asks, and who there is before anybody goes.
fn fleet(agents: &Arc<Agents>) {
    let weak = Arc::downgrade(agents);
    agents.context.caches.configs.on_spec_change(move |change| {
        let Some(agents) = weak.upgrade() else { return };
        let spec = (!change.deleted).then_some(&change.object.spec);
        agents.fleet.set(Pace::of(spec.and_then(|spec| spec.fleet.as_ref())));
    });
    let weak = Arc::downgrade(agents);
    agents.context.caches.agents.on_change(move |change| {
        if let Some(agents) = weak.upgrade() {
            agents.fleet.exists(change);
        }
    });
    let (weak, changed) = (Arc::downgrade(agents), agents.fleet.changed());
    agents.context.crew.keep("fleet", move || follow(weak.clone(), changed.clone()));
}

/// A changed authority is healed by whichever agent of the namespace comes first; one that is not as it should be may
/// not come so far.
fn authority(agents: &Arc<Agents>) {
    let weak = Arc::downgrade(agents);
    agents.context.caches.config_maps.on_change(move |change| {
        if change.object.name_any() != names::AUTHORITY_CONFIG_MAP {
            return;
        }
        let Some(agents) = weak.upgrade() else { return };
        let namespace = change.object.namespace();
        for agent in agents.context.caches.agents.filter(|agent| agent.namespace() == namespace) {
            agents.triggers.now(&agent.namespace().unwrap_or_default(), &agent.name_any());
        }
    });
}

fn wake_all(agents: &Agents) {
    for agent in agents.context.caches.agents.all() {
        agents.triggers.now(&agent.namespace().unwrap_or_default(), &agent.name_any());
    }
}

fn voices(agents: &Arc<Agents>) {
    let weak = Arc::downgrade(agents);
    agents.voice.on_change(Box::new(move |whose| {
        let Some(agents) = weak.upgrade() else { return };
        match whose {
            Whose::One { namespace, agent } => agents.triggers.now(namespace, agent),
            Whose::Any => wake_all(&agents),
        }
    }));
}

/// Tasks are counted from the first one on: what the cache holds already counts too.
fn tasks(agents: &Arc<Agents>) {
    let weak = Arc::downgrade(agents);
    agents.context.caches.tasks.on_change(move |change| {
        let Some(agents) = weak.upgrade() else { return };
        for agent in agents.tasks.note(change.object, change.deleted) {
            agents.triggers.now(&change.object.namespace().unwrap_or_default(), &agent);
        }
    });
    for task in agents.context.caches.tasks.all() {
        agents.tasks.note(&task, false);
    }
}
