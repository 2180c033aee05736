//! Writes: server-side apply of generated objects, never over an object that is not ours.

use std::{fmt::Debug, time::Duration};

use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    core::PartialObjectMeta,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    agent::{
        decide::object_hash,
        state::{Annotations, OBJECT_HASH},
    },
    api::names::{manager, reasons},
    object::Object,
    status::Failure,
};

/// No single request may take longer.
const LIMIT: Duration = Duration::from_secs(30);

/// Kinds that are generated.
pub(super) trait Generated:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug
{
}
impl<K> Generated for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug
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

/// Creates an object that never changes, which costs the API server less than an apply; `None` when it is there.
pub(super) async fn create<K: Generated + Serialize>(
    client: &Client,
    namespace: &str,
    body: &Value,
) -> Result<Option<K>, Failure> {
    let object: K = serde_json::from_value(body.clone())
        .map_err(|e| Failure::stalled(reasons::INTERNAL_ERROR, format!("a generated object cannot be read: {e}")))?;
    let name = object.meta().name.clone().unwrap_or_default();
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let params = PostParams { field_manager: Some(manager::AGENT.into()), ..PostParams::default() };
    let what = format!("writing {} {name}", K::kind(&()));
    match timeout(LIMIT, api.create(&params, &object)).await {
        Ok(Err(kube::Error::Api(status))) if status.is_already_exists() => Ok(None),
        Ok(answer) => answer.map(Some).map_err(|error| failure(&what, &error)),
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
