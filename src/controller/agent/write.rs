//! Writes: server-side apply of generated objects, never over an object that is not ours.

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    core::PartialObjectMeta,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::observe::ours;
use crate::{
    agent::{
        decide::object_hash,
        state::{Annotations, OBJECT_HASH},
    },
    api::{
        API_VERSION, Agent,
        names::{PREFIX, manager, reasons},
    },
    object::Object,
    status::Failure,
};

/// No single request may take longer.
const LIMIT: Duration = Duration::from_secs(30);

/// Kinds that are generated.
pub(super) trait Generated:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Serialize + DeserializeOwned + Debug
{
}
impl<K> Generated for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Serialize + DeserializeOwned + Debug
{
}

/// Runs a request with a limit on its time.
pub(super) async fn limited<T>(what: &str, request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match timeout(LIMIT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(failure(what, &error)),
        Err(_) => Err(Failure::transient(reasons::TIMEOUT, format!("{what}: no answer in {} s", LIMIT.as_secs()))),
    }
}

fn failure(what: &str, error: &kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) if status.is_forbidden() => {
            Failure::transient(reasons::FORBIDDEN, format!("{what}: the controller lacks rights: {}", status.message))
        }
        kube::Error::Api(status) if status.is_invalid() => {
            Failure::stalled(reasons::INVALID_SPEC, format!("{what}: {}", status.message))
        }
        kube::Error::Api(status) => Failure::transient(reasons::APPLY_FAILED, format!("{what}: {}", status.message)),
        error => Failure::transient(reasons::CLUSTER_UNAVAILABLE, format!("{what}: {error}")),
    }
}

/// `None` for an object that does not exist.
pub(super) async fn get<K: Generated>(client: &Client, namespace: &str, name: &str) -> Result<Option<K>, Failure> {
    let api = Api::<K>::namespaced(client.clone(), namespace);
    limited(&format!("reading {} {name}", K::kind(&())), api.get_opt(name)).await
}

/// `None` for an object that does not exist; metadata alone.
pub(super) async fn get_metadata<K: Generated>(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Option<PartialObjectMeta<K>>, Failure> {
    let api = Api::<K>::namespaced(client.clone(), namespace);
    limited(&format!("reading {} {name}", K::kind(&())), api.get_metadata_opt(name)).await
}

/// What is applied: the object with its hash and further annotations.
pub(super) fn body(object: &Object, annotations: Annotations, resource_version: Option<&str>) -> Value {
    let mut body = object.clone();
    body.set_annotation(OBJECT_HASH, &object_hash(object.value()));
    for (key, value) in annotations {
        body.set_annotation(&key, &value);
    }
    let mut body = body.into_value();
    if let Some(version) = resource_version {
        body["metadata"]["resourceVersion"] = json!(version);
    }
    body
}

/// What is there, as we would apply it, with further annotations: the template stays as it is, only annotations
/// change. Fields that nobody asked for (defaults) become ours by this, and nobody's again with the next real apply.
pub(super) fn remember(live: &Value, api_version: &str, kind: &str, annotations: &Annotations) -> Value {
    let of = |pointer: &str| live.pointer(pointer).cloned().unwrap_or(Value::Null);
    let kept = live.pointer("/metadata/annotations").and_then(Value::as_object);
    let mut marks: BTreeMap<String, Value> = kept
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.starts_with(PREFIX))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    marks.extend(annotations.iter().map(|(key, value)| (key.clone(), json!(value))));
    let mut body = json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": {
            "name": of("/metadata/name"), "namespace": of("/metadata/namespace"),
            "resourceVersion": of("/metadata/resourceVersion"),
            "labels": of("/metadata/labels"), "ownerReferences": of("/metadata/ownerReferences"),
            "annotations": marks,
        },
    });
    for field in ["spec", "data", "binaryData", "immutable"] {
        if let Some(value) = live.get(field) {
            body[field] = value.clone();
        }
    }
    body
}

/// Applies `body`; `None` when its `resourceVersion` is not the newest any more.
pub(super) async fn apply<K: Generated>(client: &Client, namespace: &str, body: &Value) -> Result<Option<K>, Failure> {
    let name = body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let params = PatchParams::apply(manager::AGENT).force();
    let what = format!("writing {} {name}", K::kind(&()));
    match timeout(LIMIT, api.patch(name, &params, &Patch::Apply(body))).await {
        Ok(Err(kube::Error::Api(status))) if status.is_conflict() => Ok(None),
        Ok(answer) => answer.map(Some).map_err(|error| failure(&what, &error)),
        Err(_) => Err(Failure::transient(reasons::TIMEOUT, format!("{what}: no answer in {} s", LIMIT.as_secs()))),
    }
}

/// Creates an object; `None` where one of its name is there.
pub(super) async fn post<K: Generated>(client: &Client, namespace: &str, body: &Value) -> Result<Option<K>, Failure> {
    let object: K = serde_json::from_value(body.clone())
        .map_err(|e| Failure::stalled(reasons::INTERNAL_ERROR, format!("a generated {}: {e}", K::kind(&()))))?;
    let what = format!("creating {} {}", K::kind(&()), object.name_any());
    let params = PostParams { field_manager: Some(manager::AGENT.into()), ..PostParams::default() };
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let created = async {
        match api.create(&params, &object).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(None),
            answer => answer.map(Some),
        }
    };
    limited(&what, created).await
}

/// Creates an object of `agent`. One of its name that is there already is left alone: somebody else's is a
/// `NameConflict`, our own (the cache is behind) is `None`.
pub(super) async fn create<K: Generated>(
    client: &Client,
    namespace: &str,
    body: &Value,
    agent: &Agent,
) -> Result<Option<K>, Failure> {
    let made = post::<K>(client, namespace, body).await?;
    let name = body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    if made.is_none()
        && let Some(found) = get_metadata::<K>(client, namespace, name).await?
    {
        ours(&K::kind(&()), name, found.owner_references(), agent)?;
    }
    Ok(made)
}

/// Whether an object was written completely: what was created carries its hash only once its fields are those of an
/// apply.
pub(super) fn is_marked(live: &Value) -> bool {
    live.pointer("/metadata/annotations").is_some_and(|a| a.get(OBJECT_HASH).is_some())
}

/// Writes `body`: creates it where nothing is (`marked` is `None`), and applies it to what is ours. `None` when it must
/// be looked at again: somebody wrote in between, or the cache is behind.
pub(super) async fn write<K: Generated>(
    client: &Client,
    namespace: &str,
    body: &Value,
    marked: Option<bool>,
    agent: &Agent,
) -> Result<Option<K>, Failure> {
    let name = body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    match marked {
        Some(true) => apply(client, namespace, body).await,
        Some(false) => {
            if let Some(found) = get_metadata::<K>(client, namespace, name).await? {
                ours(&K::kind(&()), name, found.owner_references(), agent)?;
                adopt::<K>(client, namespace, &found.metadata, "none").await?;
            }
            Ok(None)
        }
        None => {
            let (body, hash) = unmarked(body);
            match create::<K>(client, namespace, &body, agent).await? {
                Some(created) => adopt(client, namespace, created.meta(), &hash).await,
                None => Ok(None),
            }
        }
    }
}

fn unmarked(body: &Value) -> (Value, String) {
    let mut body = body.clone();
    let annotations = body.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
    let hash = annotations.and_then(|a| a.remove(OBJECT_HASH));
    (body, hash.and_then(|h| h.as_str().map(String::from)).unwrap_or_default())
}

/// Turns the fields that a creation owns into fields that an apply owns (a later apply takes away only those), and
/// marks the object in the same write.
async fn adopt<K: Generated>(
    client: &Client,
    namespace: &str,
    metadata: &ObjectMeta,
    hash: &str,
) -> Result<Option<K>, Failure> {
    let mut fields = metadata.managed_fields.clone().unwrap_or_default();
    for entry in fields.iter_mut().filter(|f| f.manager.as_deref() == Some(manager::AGENT) && f.subresource.is_none()) {
        entry.operation = Some("Apply".into());
    }
    let patch = json!({ "metadata": {
        "resourceVersion": metadata.resource_version, "managedFields": fields, "annotations": { OBJECT_HASH: hash },
    } });
    let name = metadata.name.clone().unwrap_or_default();
    let params = PatchParams { field_manager: Some(manager::AGENT.into()), ..PatchParams::default() };
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let written = async {
        match api.patch(&name, &params, &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => Ok(None),
            answer => answer.map(Some),
        }
    };
    limited(&format!("writing {} {name}", K::kind(&())), written).await
}

/// Sets our label on an Agent, or takes it off; the one of another manager stays. The uid keeps an Agent that was
/// deleted meanwhile from being created by this.
pub(super) async fn label(client: &Client, agent: &Agent, key: &str, value: Option<&str>) -> Result<(), Failure> {
    let (namespace, name) = (agent.namespace().unwrap_or_default(), agent.name_any());
    let labels: BTreeMap<_, _> = value.map(|value| (key, value)).into_iter().collect();
    let body = json!({
        "apiVersion": API_VERSION, "kind": "Agent",
        "metadata": { "name": name, "namespace": namespace, "uid": agent.uid(), "labels": labels },
    });
    let api = Api::<Agent>::namespaced(client.clone(), &namespace);
    let what = format!("labelling Agent {name}");
    match timeout(LIMIT, api.patch_metadata(&name, &PatchParams::apply(manager::AGENT), &Patch::Apply(body))).await {
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() || status.is_conflict() => Ok(()),
        Ok(answer) => answer.map(|_| ()).map_err(|error| failure(&what, &error)),
        Err(_) => Err(Failure::transient(reasons::TIMEOUT, format!("{what}: no answer in {} s", LIMIT.as_secs()))),
    }
}

/// Deletes an object of this uid; one that is gone is fine.
pub(super) async fn delete<K: Generated>(
    client: &Client,
    namespace: &str,
    name: &str,
    uid: &str,
) -> Result<(), Failure> {
    let preconditions = kube::api::Preconditions { uid: Some(uid.into()), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    let api = Api::<K>::namespaced(client.clone(), namespace);
    match timeout(LIMIT, api.delete(name, &params)).await {
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() || status.is_conflict() => Ok(()),
        Ok(answer) => answer.map(|_| ()).map_err(|error| failure(&format!("deleting {name}"), &error)),
        Err(_) => Err(Failure::transient(reasons::TIMEOUT, format!("deleting {name}: no answer"))),
    }
}
