//! From rendered objects to objects of one cluster and one Sync.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::{
    error::{ApiError, Problem},
    kinds::Kinds,
};
use crate::{
    api::names::{label, label_value, reasons},
    object::{Gvk, Object},
    plan::{Origin, Wanted},
};

/// The Sync that applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Puts every namespaced object into `target`, whatever its manifest says, takes the namespace from all others, and
/// labels them with their Sync. Kinds that are defined among `rendered` need not be in the cluster yet.
pub async fn prepare(
    kinds: &Kinds,
    rendered: Vec<(Object, Origin)>,
    target: &str,
    owner: Option<&Owner>,
) -> Result<Vec<Wanted>, Vec<Problem>> {
    let defined = definitions(rendered.iter().map(|(object, _)| object));
    let mut wanted = Vec::with_capacity(rendered.len());
    let mut problems = vec![];
    for (mut object, origin) in rendered {
        let gvk = object.gvk();
        let key = (gvk.group.to_string(), gvk.kind.to_string());
        let namespaced = match defined.get(&key) {
            Some(namespaced) => Ok(Some(*namespaced)),
            None => kinds.resolve(&gvk).await.map(|found| found.map(|r| r.namespaced)),
        };
        match namespaced {
            Ok(Some(true)) => object.set_namespace(target),
            Ok(Some(false)) => {
                if let Some(meta) = object.value_mut().get_mut("metadata").and_then(Value::as_object_mut) {
                    meta.remove("namespace");
                }
            }
            Ok(None) => problems.push(unknown(&object, &gvk, origin.clone())),
            Err(error) => return Err(vec![unavailable(&object, origin, &error)]),
        }
        if let Some(owner) = owner {
            set_labels(&mut object, owner);
        }
        wanted.push(Wanted { object, origin });
    }
    if problems.is_empty() { Ok(wanted) } else { Err(problems) }
}

fn unknown(object: &Object, gvk: &Gvk, origin: Origin) -> Problem {
    let message = format!("the cluster has no kind {} in {}; install its definition", gvk.kind, gvk.api_version());
    Problem {
        object: object.id().short(),
        origin: Some(origin),
        reason: reasons::KIND_NOT_FOUND,
        message,
        transient: false,
    }
}

fn unavailable(object: &Object, origin: Origin, error: &ApiError) -> Problem {
    Problem {
        object: object.id().short(),
        origin: Some(origin),
        reason: reasons::CLUSTER_UNAVAILABLE,
        message: error.to_string(),
        transient: true,
    }
}

/// Group and kind of what `CustomResourceDefinition`s among the objects define, and whether it is namespaced.
fn definitions<'a>(objects: impl Iterator<Item = &'a Object>) -> HashMap<(String, String), bool> {
    let text = |object: &Object, pointer: &str| object.value().pointer(pointer)?.as_str().map(str::to_owned);
    objects
        .filter(|object| object.kind() == "CustomResourceDefinition")
        .filter_map(|object| {
            let namespaced = text(object, "/spec/scope")? == "Namespaced";
            Some(((text(object, "/spec/group")?, text(object, "/spec/names/kind")?), namespaced))
        })
        .collect()
}

fn set_labels(object: &mut Object, owner: &Owner) {
    let Some(meta) = object.value_mut().get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let labels = meta.entry("labels").or_insert_with(|| Value::Object(Map::new()));
    if labels.is_null() {
        *labels = json!({});
    }
    if let Some(labels) = labels.as_object_mut() {
        labels.insert(label::SYNC_NAME.into(), label_value(&owner.name).into());
        labels.insert(label::SYNC_NAMESPACE.into(), label_value(&owner.namespace).into());
    }
}
