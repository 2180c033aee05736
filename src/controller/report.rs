//! The last step of a reconcile: one status patch, then events.

use std::{collections::HashMap, sync::Arc};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tracing::debug;

use super::{
    events::Recorder,
    request::limited,
    runtime::{Crew, Kind},
};
use crate::{
    api::names::reasons,
    status::{Failure, Note},
};

/// Field manager of the status subresource.
pub const STATUS_MANAGER: &str = "pilothouse-status";
/// Batches of events that may wait to be published.
const EVENTS: usize = 4096;

/// Writes statuses and publishes events.
#[derive(Clone)]
pub struct Reports {
    client: Client,
    events: mpsc::Sender<(ObjectReference, Vec<Note>)>,
    /// What was last written for an object, and at which `resourceVersion` the writer had seen it: the cache may
    /// still show the old status when the object is reconciled again.
    written: Arc<Mutex<HashMap<String, Written>>>,
}

/// Whether the object of a status is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It has the status now.
    There,
    /// It, or at least the one of this uid, is gone.
    Gone,
}

struct Written {
    seen: String,
    /// Hash of the status.
    status: [u8; 32],
}

impl Reports {
    /// Events name `instance` (the pod) as their reporter. They are published one at a time by a loop of the crew: the
    /// work that they tell of goes first.
    pub fn new(client: Client, instance: &str, crew: &Crew) -> Self {
        let recorder = Recorder::new(client.clone(), instance);
        let (events, waiting) = mpsc::channel(EVENTS);
        let writer = Arc::new(tokio::sync::Mutex::new((recorder, waiting)));
        crew.keep("events", move || write(writer.clone()));
        Self { client, events, written: Arc::default() }
    }

    /// Writes `status` unless `object` has exactly that already. An object that is gone meanwhile is no failure:
    /// the answer says so.
    ///
    /// `null`s and empty lists count as absent, so that a status built from typed values compares with what the API
    /// server keeps.
    pub async fn status<K>(
        &self,
        object: &K,
        current: &impl Serialize,
        status: &impl Serialize,
    ) -> Result<Presence, Failure>
    where
        K: Kind,
    {
        let Some(status) = self.unwritten(object, current, status)? else { return Ok(Presence::There) };
        let hash = hash(&status);
        let (uid, seen) = (object.uid().unwrap_or_default(), object.resource_version().unwrap_or_default());
        let name = object.name_any();
        let body = json!({
            "apiVersion": K::api_version(&()), "kind": K::kind(&()),
            "metadata": { "name": name, "namespace": object.namespace(), "uid": uid },
            "status": status,
        });
        let params = PatchParams::apply(STATUS_MANAGER).force();
        let api = self.api(object);
        match limited("writing the status", api.patch_status(&name, &params, &Patch::Apply(body))).await? {
            Ok(_) => {
                self.written.lock().insert(uid, Written { seen, status: hash });
                Ok(Presence::There)
            }
            // The uid in the body makes a recreated object a conflict: it gets its own reconcile.
            Err(kube::Error::Api(s)) if s.is_not_found() || s.is_conflict() => Ok(Presence::Gone),
            Err(error) => {
                Err(Failure::transient(reasons::STATUS_WRITE_FAILED, format!("cannot write the status: {error}")))
            }
        }
    }

    /// Whether [`status`](Self::status) would write.
    ///
    /// # Errors
    /// [`Failure`] where a status is none.
    pub fn is_new<K: Kind>(
        &self,
        object: &K,
        current: &impl Serialize,
        status: &impl Serialize,
    ) -> Result<bool, Failure> {
        Ok(self.unwritten(object, current, status)?.is_some())
    }

    /// The status, if it is another one than there is or was written last.
    fn unwritten<K: Kind>(
        &self,
        object: &K,
        current: &impl Serialize,
        status: &impl Serialize,
    ) -> Result<Option<Value>, Failure> {
        let (current, status) = (tidy(current)?, tidy(status)?);
        let uid = object.uid().unwrap_or_default();
        let seen = object.resource_version().unwrap_or_default();
        let written = self.written.lock().get(&uid).is_some_and(|w| w.seen == seen && w.status == hash(&status));
        Ok((current != status && !written).then_some(status))
    }

    fn api<K: Kind>(&self, object: &K) -> Api<DynamicObject> {
        let resource = ApiResource::erase::<K>(&());
        match object.namespace() {
            Some(ns) => Api::namespaced_with(self.client.clone(), &ns, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// Publishes events in the background; an event that cannot be written is logged, never a failure. When too many
    /// wait already they are left out.
    pub fn events<K: Kind>(&self, object: &K, notes: Vec<Note>) {
        if notes.is_empty() {
            return;
        }
        if self.events.try_send((object.object_ref(&()), notes)).is_err() {
            debug!("too many events wait; those of {} are left out", object.name_any());
        }
    }

    /// Forgets what was written for an object that is gone.
    pub fn forget(&self, uid: &str) {
        self.written.lock().remove(uid);
    }
}

/// Who writes events, and what waits for it.
type Writer = (Recorder, mpsc::Receiver<(ObjectReference, Vec<Note>)>);

/// Writes what waits, until nobody can report any more.
async fn write(writer: Arc<tokio::sync::Mutex<Writer>>) {
    let (recorder, waiting) = &mut *writer.lock().await;
    while let Some((reference, notes)) = waiting.recv().await {
        for note in notes {
            if let Err(error) = recorder.publish(&note, &reference).await {
                debug!("event {} not written: {error}", note.reason);
            }
        }
    }
}

/// Statuses of one type have their fields in one order: the same one has the same text.
fn hash(status: &Value) -> [u8; 32] {
    Sha256::digest(status.to_string()).into()
}

fn tidy(status: &impl Serialize) -> Result<Value, Failure> {
    let mut value = serde_json::to_value(status)
        .map_err(|e| Failure::stalled(reasons::INTERNAL_ERROR, format!("a status cannot be serialised: {e}")))?;
    prune(&mut value);
    Ok(if value.is_null() { json!({}) } else { value })
}

/// Drops `null`s, and empty lists and mappings that stay after it.
fn prune(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(prune);
            map.retain(|_, v| !is_empty(v));
        }
        Value::Array(list) => list.iter_mut().for_each(prune),
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_null_and_empty_are_the_same() {
        let full = json!({"a": null, "b": [], "c": {"d": null}, "e": [{"f": null, "g": 0}], "h": false});
        assert_eq!(tidy(&full).unwrap(), json!({"e": [{"g": 0}], "h": false}));
        assert_eq!(tidy(&Value::Null).unwrap(), json!({}));
    }
}
