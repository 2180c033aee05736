//! Writes: server-side apply of generated objects, never over an object that is not ours.

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, GetParams, Patch, PatchParams, PostParams},
    core::PartialObjectMeta,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::observe::ours;
use crate::{
    agent::{
        decide::object_hash,
        state::{self, Annotations, OBJECT_HASH},
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

/// The same from the API server's own cache: cheaper, and perhaps a moment old.
pub(super) async fn peek_metadata<K: Generated>(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Option<PartialObjectMeta<K>>, Failure> {
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let any = GetParams { resource_version: Some("0".into()) };
    limited(&format!("reading {} {name}", K::kind(&())), api.get_metadata_opt_with(name, &any)).await
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

/// Writes `body`: creates it where nothing is (`live` is `None`), and applies it to what is ours. `None` when it must be
/// looked at again: somebody wrote in between, or the cache is behind.
///
/// A creation is one request; its fields become those of an apply with the first change.
pub(super) async fn write<K: Generated>(
    client: &Client,
    namespace: &str,
    mut body: Value,
    live: Option<&Annotations>,
    agent: &Agent,
) -> Result<Option<K>, Failure> {
    let Some(live) = live else {
        mark(&mut body, state::created);
        return create::<K>(client, namespace, &body, agent).await;
    };
    if !state::is_applied(live) {
        let Some(version) = adopt::<K>(client, namespace, &body, agent).await? else { return Ok(None) };
        body["metadata"]["resourceVersion"] = json!(version);
        mark(&mut body, str::to_string);
    }
    apply(client, namespace, &body).await
}

/// Says with its hash how an object is written.
fn mark(body: &mut Value, how: fn(&str) -> String) {
    let mark = body.pointer_mut("/metadata/annotations").and_then(|a| a.get_mut(OBJECT_HASH));
    if let Some(mark) = mark {
        let hash = mark.as_str().unwrap_or_default();
        *mark = json!(how(hash.rsplit('/').next().unwrap_or(hash)));
    }
}

/// Turns the fields that a creation owns into fields that an apply owns: a later apply takes away only those. The
/// answer is the version then; `None` when the object is not the one that `body` was decided for.
async fn adopt<K: Generated>(
    client: &Client,
    namespace: &str,
    body: &Value,
    agent: &Agent,
) -> Result<Option<String>, Failure> {
    let name = body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let Some(found) = get_metadata::<K>(client, namespace, name).await? else { return Ok(None) };
    ours(&K::kind(&()), name, found.owner_references(), agent)?;
    let metadata = found.metadata;
    if body.pointer("/metadata/resourceVersion").and_then(Value::as_str) != metadata.resource_version.as_deref() {
        return Ok(None);
    }
    let mut fields = metadata.managed_fields.clone().unwrap_or_default();
    for entry in fields.iter_mut().filter(|f| f.manager.as_deref() == Some(manager::AGENT) && f.subresource.is_none()) {
        entry.operation = Some("Apply".into());
    }
    let patch = json!({ "metadata": {
        "resourceVersion": metadata.resource_version, "managedFields": fields,
    } });
    let params = PatchParams { field_manager: Some(manager::AGENT.into()), ..PatchParams::default() };
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let written = async {
        match api.patch_metadata(name, &params, &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => Ok(None),
            answer => answer.map(|adopted| adopted.resource_version()),
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
