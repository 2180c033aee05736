//! What was written of what an agent feels: read from the bodies in the audit log, so nothing is missed and each change has
//! the moment in which the API server had it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::watched::{Key, What};
use crate::common::audit::Request;

/// The audit log has bodies of what is judged.
pub(super) const POLICY: &str = r#"apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: RequestResponse
  verbs: [create, update, patch]
  resources: [{group: apps, resources: [deployments]}, {group: "", resources: [configmaps]}]
- level: Metadata
"#;

/// A change that an agent feels.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) agent: Key,
    pub(super) what: What,
    /// Of what was applied.
    pub(super) hash: String,
    /// When the API server had it, and when it had answered.
    pub(super) received: Timestamp,
    pub(super) answered: Timestamp,
    /// Since when it had waited; of content, since when the pods are to have it.
    pub(super) since: Option<Timestamp>,
    /// An API server was killed between the write before this one and this one, and may have carried it out already without a
    /// line in its log: between these moments then.
    pub(super) unlogged: Option<(Timestamp, Timestamp)>,
}

/// The last that is known of an object.
struct Last {
    version: u64,
    part: Option<Value>,
    pending_since: Option<Timestamp>,
    answered: Timestamp,
}

/// All objects, and what became of them.
#[derive(Default)]
pub(super) struct Written {
    objects: BTreeMap<String, Last>,
    pub(super) changes: Vec<Change>,
}

/// Whose object it is, what it is for the agent, and the part that counts.
fn meaning(object: &str) -> Option<(Key, What, &'static str, &'static str)> {
    let (namespace, rest) = object.split_once('/')?;
    let (resource, name) = rest.split_once('/')?;
    let (agent, what, part, hash) = match resource {
        "deployments" => (name.strip_suffix("-server")?, What::Template, "/spec/template", "template-hash"),
        "configmaps" if name.ends_with("-server-context") => {
            (name.strip_suffix("-server-context")?, What::Text, "/data", "context-hash")
        }
        "configmaps" => (name.strip_suffix("-server-content")?, What::Content, "/data", "content-hash"),
        _ => return None,
    };
    Some((format!("{namespace}/{agent}"), what, part, hash))
}

impl Written {
    /// Takes in writes that went well. API servers were killed at these moments.
    pub(super) fn read(&mut self, writes: &mut [Request], kills: &[Timestamp]) {
        let version =
            |w: &Request| w.body.as_ref().and_then(|b| b["metadata"]["resourceVersion"].as_str()?.parse().ok());
        let mut new: Vec<(u64, &mut Request)> = writes.iter_mut().filter_map(|w| Some((version(w)?, w))).collect();
        new.sort_by_key(|(version, _)| *version);
        for (version, write) in new {
            if let Some(body) = write.body.take() {
                self.take(version, write, body, kills);
            }
        }
    }

    fn take(&mut self, version: u64, write: &Request, mut body: Value, kills: &[Timestamp]) {
        let object = write.object();
        let Some((agent, what, pointer, hash)) = meaning(&object) else { return };
        let last = self.objects.get(&object);
        if last.is_some_and(|last| last.version >= version) {
            return;
        }
        let get = |name: &str| {
            let of = body.pointer("/metadata/annotations").and_then(|a| a.get(format!("pilothouse.dev/{name}")));
            of.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let time = |name: &str| get(name).parse::<Timestamp>().ok();
        let (hash, pending_since, content_since) = (get(hash), time("pending-since"), time("content-since"));
        // Only metadata was asked for: the rest did not change.
        let part = body.pointer_mut(pointer).map(Value::take).or_else(|| last.and_then(|last| last.part.clone()));
        if let Some(last) = last.filter(|last| last.part.is_some() && last.part != part) {
            let killed = kills.iter().filter(|at| (last.answered..=write.received).contains(at)).max();
            self.changes.push(Change {
                agent,
                what,
                hash,
                received: write.received,
                answered: write.answered,
                since: if what == What::Content { content_since } else { last.pending_since },
                unlogged: killed.map(|at| (last.answered, *at)),
            });
        }
        self.objects.insert(object, Last { version, part, pending_since, answered: write.answered });
    }
}
