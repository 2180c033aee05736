//! Revisions that were in use: kept once they are ready, and put in the place of what is wanted where an Agent is pinned.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use serde_json::{Map, Value, json};

use super::{
    Agents,
    act::{Acted, Who},
    observe::{self, Seen},
    write,
};
use crate::{
    agent::{
        Desired,
        decide::Action,
        fleet::steps,
        history::{self, Entry, Record},
        report,
        state::Annotations,
    },
    api::{
        Agent,
        names::{self, annotation, reasons},
    },
    controller::artifacts::Purpose,
    status::{Class, Failure},
};

/// A revision as it was read: the hash of its record, and that.
pub(super) type Pin = (String, Arc<Record>);

impl Agents {
    /// The revisions of an agent that are kept, newest first: those that the controller wrote.
    pub(super) fn revisions(&self, agent: &Agent) -> Vec<Entry> {
        let (namespace, name) = (agent.namespace().unwrap_or_default(), agent.name_any());
        let map = self.config_maps.get(&namespace, &names::agent::history(&name));
        map.filter(|map| self.is_sealed(agent, map.annotations()))
            .map(|map| history::entries(map.annotations()))
            .unwrap_or_default()
    }

    fn is_sealed(&self, agent: &Agent, marks: &Annotations) -> bool {
        let (Some(text), Some(seal)) = (marks.get(history::ENTRIES), marks.get(history::ENTRIES_SEAL)) else {
            return false;
        };
        let (namespace, uid) = (agent.namespace().unwrap_or_default(), agent.uid().unwrap_or_default());
        self.context.seal.fits(Purpose::Revisions, &namespace, &uid, text, seal)
    }

    /// What is wanted of the agent: `newest`, or the revision that it is pinned to. `broken`: why nothing could be made of
    /// the newest spec, where `newest` is only the [frame](history::frame) of a kept one.
    pub(super) async fn pinned(
        &self,
        agent: &Agent,
        newest: Desired,
        broken: Option<&Failure>,
        acted: &mut Acted,
    ) -> Result<Desired, Failure> {
        let key = (agent.namespace().unwrap_or_default(), agent.name_any());
        let Some(wanted) = agent.annotations().get(annotation::PINNED_TO).filter(|text| !text.trim().is_empty()) else {
            self.pins.lock().remove(&key);
            return Ok(newest);
        };
        let entries = self.revisions(agent);
        let entry = history::find(&entries, wanted).map_err(|known| unknown(&known))?;
        let files = self.config_maps.get(&key.0, &entry.files);
        let record = self.record(agent, entry).await?.filter(|_| files.is_some());
        let lost = || {
            unknown(&format!(
                "what revision {} consists of is gone",
                history::named(&entry.id, entry.revision.as_deref())
            ))
        };
        let record = record.ok_or_else(lost)?;
        let pinned = record.instead_of(&newest).ok_or_else(lost)?;
        acted.pinned = Some(report::Pinned {
            id: entry.id.clone(),
            revision: entry.revision.clone(),
            newest: broken
                .map_or_else(|| Ok(history::id(&newest)), |why| Err(format!("{}: {}", why.reason, why.message))),
            newest_revision: agent.annotations().get(annotation::REVISION).cloned(),
        });
        if broken.is_none() {
            acted.kept = steps::between(&pinned, &newest, &key.0);
        }
        if let Some(git) = &mut acted.git {
            git.pin(&entry.id, record.all_pieces());
        }
        self.pins.lock().insert(key, (entry.hash.clone(), record));
        Ok(pinned)
    }

    /// What a kept revision needs where nothing can be made of the newest spec, for an agent that is pinned to one.
    ///
    /// # Errors
    /// `broken`, where it is not, or where that may pass by itself.
    pub(super) fn without_newest(&self, agent: &Agent, broken: &Failure) -> Result<(Seen, Desired), Failure> {
        let is_pinned = agent.annotations().get(annotation::PINNED_TO).is_some_and(|text| !text.trim().is_empty());
        if !is_pinned || broken.class == Class::Transient {
            return Err(broken.clone());
        }
        let live = self.own_deployment(agent).map(|live| json!(&*live));
        let frame = history::frame(agent, live.as_ref())?;
        Ok((self.without_spec(agent), frame))
    }

    /// The newest revision of this pod template.
    pub(super) async fn record_of(&self, agent: &Agent, template: &str) -> Result<Option<Arc<Record>>, Failure> {
        match self.revisions(agent).iter().find(|entry| entry.template == template) {
            Some(entry) => self.record(agent, entry).await,
            None => Ok(None),
        }
    }

    /// What an entry stands for; `None` where it is not there any more, or not what was kept.
    async fn record(&self, agent: &Agent, entry: &Entry) -> Result<Option<Arc<Record>>, Failure> {
        let key = (agent.namespace().unwrap_or_default(), agent.name_any());
        let read = self.pins.lock().get(&key).cloned();
        if let Some((_, record)) = read.filter(|(hash, _)| *hash == entry.hash) {
            return Ok(Some(record));
        }
        let map = write::get::<ConfigMap>(&self.context.client, &key.0, &names::agent::history(&key.1)).await?;
        let text = map.and_then(|map| map.data?.remove(&entry.id));
        Ok(text.and_then(|text| Record::read(&text, entry)).map(Arc::new))
    }

    /// Keeps what is in use, once all of it is and its pod is ready.
    pub(super) async fn keep_revision(
        &self,
        who: &Who<'_>,
        desired: &Desired,
        acted: &mut Acted,
    ) -> Result<(), Failure> {
        let settled = |action: &Option<Action>| matches!(action, Some(Action::Keep));
        let whole =
            settled(&acted.server) && settled(&acted.text) && (acted.exchange.is_none() || settled(&acted.exchange));
        if !whole || desired.suspended || acted.back.is_some() || acted.pinned.is_some() {
            return Ok(());
        }
        let Some(deployment) = self.own_deployment(who.agent) else { return Ok(()) };
        let (id, entries) = (history::id(desired), self.revisions(who.agent));
        let known = entries.first().is_some_and(|entry| entry.id == id);
        if known || report::server(Some(&deployment)) != report::Server::Ready {
            return Ok(());
        }
        if observe::applied_hash(&deployment).as_ref() != Some(&desired.hash) {
            return Ok(());
        }
        if self.firsts.is_late(&who.namespace, &who.name) {
            acted.later();
            return Ok(());
        }
        let live = json!(&*deployment);
        let record = Record::of(desired, live.pointer("/spec/template").unwrap_or(&Value::Null));
        let revision = who.agent.annotations().get(annotation::REVISION).cloned();
        let entry = record.entry(id, revision, self.context.now());
        let kept = history::with(&entries, &entry);
        if kept.first() != Some(&entry) {
            return Ok(()); // too large
        }
        self.write_history(who, desired, &kept, (&entry.id, &record.to_json()), acted).await
    }

    async fn write_history(
        &self,
        who: &Who<'_>,
        desired: &Desired,
        kept: &[Entry],
        record: (&str, &str),
        acted: &mut Acted,
    ) -> Result<(), Failure> {
        let Some(wanted) = history::object(desired, kept, &[record]) else { return Ok(()) };
        let (client, name) = (&self.context.client, wanted.name());
        let mut marks = self.sealed(who.agent, &wanted);
        let text = wanted.annotation(history::ENTRIES).unwrap_or_default();
        let uid = who.agent.uid().unwrap_or_default();
        marks
            .insert(history::ENTRIES_SEAL.into(), self.context.seal.of(Purpose::Revisions, &who.namespace, &uid, text));
        let live = self.config_maps.get(&who.namespace, name);
        let written = match &live {
            None => {
                let body = write::body(&wanted, marks, None);
                write::create::<ConfigMap>(client, &who.namespace, &body, who.agent).await?
            }
            // Of one that is not the controller's word nothing is kept.
            Some(live) if !self.is_sealed(who.agent, live.annotations()) => {
                write::delete::<ConfigMap>(client, &who.namespace, name, &live.uid().unwrap_or_default()).await?;
                None
            }
            Some(live) => {
                let old = history::entries(live.annotations());
                let gone = old.iter().filter(|old| kept.iter().all(|entry| entry.id != old.id));
                let mut data: Map<String, Value> = gone.map(|entry| (entry.id.clone(), Value::Null)).collect();
                data.insert(record.0.into(), json!(record.1));
                let mut annotations = wanted.value()["metadata"]["annotations"].clone();
                for key in [annotation::ARTIFACTS, annotation::ARTIFACTS_SEAL] {
                    annotations[key] = json!(wanted.annotation(key).or(marks.get(key).map(String::as_str)));
                }
                annotations[history::ENTRIES_SEAL] = json!(marks[history::ENTRIES_SEAL]);
                let version = live.resource_version();
                let patch = json!({"metadata": {"resourceVersion": version, "annotations": annotations}, "data": data});
                write::merge::<ConfigMap>(client, &who.namespace, name, patch).await?
            }
        };
        self.took(written.as_ref());
        if written.is_none() {
            self.config_maps.forget(&who.namespace, name);
            acted.soon();
        }
        Ok(())
    }
}

fn unknown(why: &str) -> Failure {
    let message = format!(
        "{why}; what runs goes on. Change the annotation {}, or release the agent: pilothouse rollback agent NAME --release",
        annotation::PINNED_TO
    );
    Failure::stalled(reasons::REVISION_UNKNOWN, message)
}
