//! The `ConfigMaps` that are written once: a pod template's files, and the authority of a namespace.

use std::{collections::HashMap, sync::Arc};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{ResourceExt, core::PartialObjectMetaExt};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Agents, act::Who, observe::ours, write};
use crate::{
    agent::{Desired, Pieces, hash, rollback, state},
    api::{
        Agent,
        names::{self, annotation, label, reasons},
    },
    controller::{artifacts::Purpose, caches::mounted_maps},
    object::Object,
    status::Failure,
};

impl Agents {
    /// The immutable ConfigMap of a pod template, written before it.
    pub(super) async fn files(&self, agent: &Agent, desired: &Desired) -> Result<(), Failure> {
        let namespace = agent.namespace().unwrap_or_default();
        if let Some(found) = self.config_maps.get(&namespace, desired.files.name()) {
            ours("ConfigMap", desired.files.name(), found.owner_references(), agent)?;
            return self.seal_again(agent, &desired.files).await;
        }
        let body = write::body(&desired.files, self.sealed(agent, &desired.files), None);
        let made = write::create::<ConfigMap>(&self.context.client, &namespace, &body, agent).await?;
        self.took(made.as_ref());
        Ok(())
    }

    /// The seal of the artifacts that an object names, if it names any.
    pub(super) fn sealed(&self, agent: &Agent, object: &Object) -> state::Annotations {
        let Some(named) = object.annotation(annotation::ARTIFACTS) else { return state::Annotations::new() };
        let namespace = agent.namespace().unwrap_or_default();
        let seal = self.context.seal.of(Purpose::Artifacts, &namespace, &agent.uid().unwrap_or_default(), named);
        [(annotation::ARTIFACTS_SEAL.into(), seal)].into()
    }

    /// What an object remembers of the agent's Git inputs. It counts where a remote cannot be reached, and what it names
    /// is sealed for the agent's pods, so it has a seal as well: nobody else may name somebody's artifact there.
    pub(super) fn remembered(&self, agent: &Agent, pieces: &Pieces) -> state::Annotations {
        let mut annotations = state::pieces_annotation(pieces);
        if let Some(text) = annotations.get(state::PIECES) {
            let (namespace, uid) = (agent.namespace().unwrap_or_default(), agent.uid().unwrap_or_default());
            let seal = self.context.seal.of(Purpose::Pieces, &namespace, &uid, text);
            annotations.insert(state::PIECES_SEAL.into(), seal);
        }
        annotations
    }

    /// What an object remembers of them that is the controller's word.
    pub(super) fn recall(&self, agent: &Agent, annotations: &state::Annotations) -> Pieces {
        let (text, seal) = (annotations.get(state::PIECES), annotations.get(state::PIECES_SEAL));
        let (Some(text), Some(seal)) = (text, seal) else { return Pieces::new() };
        let (namespace, uid) = (agent.namespace().unwrap_or_default(), agent.uid().unwrap_or_default());
        let fits = self.context.seal.fits(Purpose::Pieces, &namespace, &uid, text, seal);
        if fits { state::pieces(annotations) } else { Pieces::new() }
    }

    /// The key may be another one: somebody deleted its Secret.
    pub(super) async fn seal_again(&self, agent: &Agent, object: &Object) -> Result<(), Failure> {
        let (sealed, namespace) = (self.sealed(agent, object), agent.namespace().unwrap_or_default());
        let Some(found) = self.config_maps.get(&namespace, object.name()) else { return Ok(()) };
        if sealed.iter().all(|(key, seal)| found.annotations().get(key) == Some(seal)) {
            return Ok(());
        }
        // Of this very object as it was seen: another one of its name was not sealed by us, and wakes the agent.
        let patch = seal_patch(&*found, &sealed);
        write::merge_metadata::<ConfigMap>(&self.context.client, &namespace, object.name(), patch).await.map(drop)
    }

    /// The last two `ConfigMaps` of files stay, and whatever a pod mounts, or would after a return to the last good
    /// revision or to one that is kept.
    pub(super) async fn prune(&self, who: &Who<'_>, desired: &Desired) -> Result<(), Failure> {
        let prefix = names::agent::files_prefix(&who.name);
        let uid = who.agent.uid().unwrap_or_default();
        let mut maps = self.maps_of.objects(&who.namespace, &who.name);
        maps.retain(|map| {
            let name = map.name_any();
            name.starts_with(&prefix)
                && name != desired.files.name()
                && map.owner_references().iter().any(|o| o.uid == uid)
        });
        maps.sort_by_key(|map| std::cmp::Reverse((map.creation_timestamp().map(|t| t.0), map.name_any())));
        if maps.len() < 2 {
            return Ok(());
        }
        let used = self.used_maps(who);
        for old in maps.iter().skip(1).filter(|map| !used.contains(&map.name_any())) {
            let uid = old.uid().unwrap_or_default();
            write::delete::<ConfigMap>(&self.context.client, &who.namespace, &old.name_any(), &uid).await?;
        }
        Ok(())
    }

    fn used_maps(&self, who: &Who<'_>) -> Vec<String> {
        let deployment = self.own_deployment(who.agent);
        let mut used = deployment.map(|d| rollback::mounted(&json!(&*d))).unwrap_or_default();
        used.extend(self.revisions(who.agent).into_iter().map(|entry| entry.files));
        for pod in self.pods(who.agent) {
            used.extend(mounted_maps(&pod).map(String::from));
        }
        used
    }

    /// Remembers a ConfigMap that was just written.
    pub(super) fn took(&self, map: Option<&ConfigMap>) {
        if let Some(map) = map {
            self.config_maps.wrote(map.metadata.clone().into_response_partial::<ConfigMap>());
        }
    }

    /// The certificate that sidecars trust, one ConfigMap a namespace. It belongs to no agent and stays. Its data is
    /// compared once for each of its versions.
    pub(super) async fn authority(&self, namespace: &str) -> Result<(), Failure> {
        let Some(certificate) = self.voice.authority() else { return Ok(()) };
        let hash = hash::text(&certificate);
        if self.has_authority(namespace, &hash) {
            return Ok(());
        }
        let turn = self.authority_turns.of(namespace);
        let _turn = turn.lock().await;
        if self.has_authority(namespace, &hash) {
            return Ok(());
        }
        let map = self.write_authority(namespace, &certificate, &hash).await?;
        self.took(Some(&map));
        let version = map.resource_version().unwrap_or_default();
        self.authorities.lock().insert(namespace.into(), (version, hash));
        Ok(())
    }

    /// Whether what is there now was compared already.
    fn has_authority(&self, namespace: &str, hash: &str) -> bool {
        let present = self.config_maps.get(namespace, names::AUTHORITY_CONFIG_MAP);
        let Some(version) = present.and_then(|p| p.resource_version()) else { return false };
        self.authorities.lock().get(namespace).is_some_and(|(v, h)| *v == version && h == hash)
    }

    async fn write_authority(&self, namespace: &str, certificate: &str, hash: &str) -> Result<ConfigMap, Failure> {
        let (client, name) = (&self.context.client, names::AUTHORITY_CONFIG_MAP);
        let mut body = authority(namespace, certificate, hash);
        let Some(found) = write::get::<ConfigMap>(client, namespace, name).await? else {
            return write::post::<ConfigMap>(client, namespace, &body).await?.ok_or_else(again);
        };
        if found.labels().get(label::MANAGED_BY).map(String::as_str) != Some(names::value::MANAGED_BY) {
            let message = format!(
                "ConfigMap {name:?} exists and is not Pilothouse's (label {}={}); it is left alone: delete it, sidecars \
                 need the one of this name",
                label::MANAGED_BY,
                names::value::MANAGED_BY
            );
            return Err(Failure::waiting(reasons::NAME_CONFLICT, message));
        }
        let data = found.data.as_ref().and_then(|d| d.get(names::AUTHORITY_KEY));
        if data.map(String::as_str) == Some(certificate) {
            return Ok(found);
        }
        body["metadata"]["resourceVersion"] = json!(found.resource_version());
        write::apply::<ConfigMap>(client, namespace, &body).await?.ok_or_else(again)
    }
}

/// Who sees to the authority of a namespace, by namespace.
#[derive(Default)]
pub(super) struct Turns(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// The turn of a namespace; others do not wait for it.
    fn of(&self, namespace: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock();
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(namespace.to_owned()).or_default().clone()
    }
}

fn seal_patch(found: &impl ResourceExt, sealed: &state::Annotations) -> Value {
    json!({ "metadata": { "uid": found.uid(), "resourceVersion": found.resource_version(), "annotations": sealed } })
}

/// Another agent's reconcile, or somebody else, wrote it in between.
fn again() -> Failure {
    let message = format!("ConfigMap {} was just written by somebody else", names::AUTHORITY_CONFIG_MAP);
    Failure::transient(reasons::APPLY_FAILED, message)
}

fn authority(namespace: &str, certificate: &str, hash: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": names::AUTHORITY_CONFIG_MAP, "namespace": namespace,
            "labels": { label::MANAGED_BY: names::value::MANAGED_BY },
            "annotations": { state::OBJECT_HASH: hash },
        },
        "data": { names::AUTHORITY_KEY: certificate },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_do_not_wait_for_each_other() {
        let turns = Turns::default();
        let (first, same, other) = (turns.of("a"), turns.of("a"), turns.of("b"));
        let held = first.try_lock();
        assert!(held.is_ok() && same.try_lock().is_err(), "one at a time in a namespace");
        assert!(other.try_lock().is_ok());
        drop((held, same, other));
        drop(first);
        drop(turns.of("c"));
        turns.of("d");
        assert_eq!(turns.0.lock().keys().collect::<Vec<_>>(), ["d"], "nobody waits in the others");
    }

    #[test]
    fn a_seal_is_for_the_object_that_was_seen() {
        let map: ConfigMap =
            serde_json::from_value(json!({"metadata": {"name": "m", "uid": "u", "resourceVersion": "7"}})).unwrap();
        let patch = seal_patch(&map, &[("seal".into(), "s".into())].into());
        assert_eq!(patch, json!({"metadata": {"uid": "u", "resourceVersion": "7", "annotations": {"seal": "s"}}}));
    }
}
