//! Writes: server-side apply of generated objects, never over an object that is not ours.

use std::{collections::BTreeMap, fmt::Debug};

use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, GetParams, Patch, PatchParams, PostParams},
    core::{PartialObjectMeta, Status},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

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
    controller::request::{ADMITTED, limited_to},
    object::Object,
    status::Failure,
};

/// Kinds that are generated.
pub(super) trait Generated:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Serialize + DeserializeOwned + Debug
{
}
impl<K> Generated for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Serialize + DeserializeOwned + Debug
{
}

/// Runs a request for [`ADMITTED`] at most: generated objects pass the webhooks of others.
async fn limited<T>(what: &str, request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    limited_to(ADMITTED, what, request).await?.map_err(|error| failure(what, &error))
}

/// The same; `None` where the API server refuses it in an `expected` way.
async fn unless<T>(
    what: &str,
    expected: fn(&Status) -> bool,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<Option<T>, Failure> {
    let request = async {
        match request.await {
            Err(kube::Error::Api(status)) if expected(&status) => Ok(None),
            answer => answer.map(Some),
        }
    };
    limited(what, request).await
}

/// It is gone, or is not what the request expected any more.
fn is_passe(status: &Status) -> bool {
    status.is_not_found() || status.is_conflict()
}

fn failure(what: &str, error: &kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) if status.is_forbidden() => {
            Failure::transient(reasons::FORBIDDEN, format!("{what}: the controller lacks rights: {}", status.message))
        }
        kube::Error::Api(status) if status.is_invalid() => {
            Failure::stalled(reasons::INVALID_SPEC, format!("{what}: {}", status.message))
        }
        // It gave up, or something behind it did: what was asked for may be done, or may still be.
        kube::Error::Api(status) if status.code >= 500 => {
            Failure::transient(reasons::CLUSTER_UNAVAILABLE, format!("{what}: {}", status.message))
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
    let body = Patch::Apply(body);
    let written = api.patch(name, &params, &body);
    unless(&format!("writing {} {name}", K::kind(&())), Status::is_conflict, written).await
}

/// Creates an object; `None` where one of its name is there.
pub(super) async fn post<K: Generated>(client: &Client, namespace: &str, body: &Value) -> Result<Option<K>, Failure> {
    let object: K = serde_json::from_value(body.clone())
        .map_err(|e| Failure::stalled(reasons::INTERNAL_ERROR, format!("a generated {}: {e}", K::kind(&()))))?;
    post_object(client, namespace, &object).await
}

/// The same of an object with its type.
pub(super) async fn post_object<K: Generated>(
    client: &Client,
    namespace: &str,
    object: &K,
) -> Result<Option<K>, Failure> {
    let params = PostParams { field_manager: Some(manager::AGENT.into()), ..PostParams::default() };
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let what = format!("creating {} {}", K::kind(&()), object.name_any());
    unless(&what, Status::is_already_exists, api.create(&params, object)).await
}

/// Changes parts of an object; `None` for an object that is gone, or of another version than `patch` says.
pub(super) async fn merge<K: Generated>(
    client: &Client,
    namespace: &str,
    name: &str,
    patch: Value,
) -> Result<Option<K>, Failure> {
    let params = PatchParams { field_manager: Some(manager::AGENT.into()), ..PatchParams::default() };
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let patch = Patch::Merge(patch);
    let written = api.patch(name, &params, &patch);
    unless(&format!("writing {} {name}", K::kind(&())), is_passe, written).await
}

/// Changes metadata; `None` for an object that is gone, or of another version than `patch` says.
pub(super) async fn merge_metadata<K: Generated>(
    client: &Client,
    namespace: &str,
    name: &str,
    patch: Value,
) -> Result<Option<PartialObjectMeta<K>>, Failure> {
    let params = PatchParams { field_manager: Some(manager::AGENT.into()), ..PatchParams::default() };
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let patch = Patch::Merge(patch);
    let written = api.patch_metadata(name, &params, &patch);
    unless(&format!("writing {} {name}", K::kind(&())), is_passe, written).await
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
    let written = merge_metadata::<K>(client, namespace, name, patch).await?;
    Ok(written.and_then(|adopted| adopted.resource_version()))
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
    let (params, body) = (PatchParams::apply(manager::AGENT), Patch::Apply(body));
    let written = api.patch_metadata(&name, &params, &body);
    unless(&format!("labelling Agent {name}"), is_passe, written).await.map(drop)
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
    unless(&format!("deleting {} {name}", K::kind(&())), is_passe, api.delete(name, &params)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Pod, Secret};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_without_an_answer_ends() {
        let silent = tower::service_fn(|_: http::Request<kube::client::Body>| {
            std::future::pending::<Result<http::Response<kube::client::Body>, std::convert::Infallible>>()
        });
        let client = Client::new(silent, "n");
        let secret = Secret {
            metadata: kube::core::ObjectMeta { name: Some("s".into()), ..Default::default() },
            ..Secret::default()
        };
        let made = post_object(&client, "n", &secret).await.unwrap_err();
        let touched = merge_metadata::<Pod>(&client, "n", "p", json!({})).await.unwrap_err();
        let deleted = delete::<Pod>(&client, "n", "p", "u").await.unwrap_err();
        for (failure, what) in [(made, "creating Secret s"), (touched, "writing Pod p"), (deleted, "deleting Pod p")] {
            assert_eq!((failure.reason, failure.message), (reasons::TIMEOUT, format!("{what}: no answer in 35 s")));
        }
    }
}
