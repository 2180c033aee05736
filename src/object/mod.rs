//! A generic Kubernetes object, and YAML in and out (pure).

pub mod yaml;

use std::{fmt, sync::Arc};

use serde_json::{Map, Value};

/// Group, version and kind. The core group is the empty text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gvk {
    /// API group, `""` for core.
    pub group: Arc<str>,
    /// API version such as `v1`.
    pub version: Arc<str>,
    /// Kind such as `ConfigMap`.
    pub kind: Arc<str>,
}

impl Gvk {
    /// Splits `apiVersion` at its slash.
    pub fn new(api_version: &str, kind: &str) -> Self {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Self { group: group.into(), version: version.into(), kind: kind.into() }
    }

    /// `group/version`, or `version` for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// Whether a text can be an `apiVersion`: `v1`, or `group/v1`, in lower case.
pub fn is_api_version(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let (group, version) = text.split_once('/').unwrap_or(("core", text));
    text.len() <= 253
        && !group.is_empty()
        && group.chars().all(|c| plain(c) || c == '.' || c == '-')
        && version.strip_prefix('v').is_some_and(|rest| !rest.is_empty() && rest.chars().all(plain))
}

impl fmt::Display for Gvk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.api_version(), self.kind)
    }
}

/// What identifies an object in a cluster whatever its version; the key of inventories.
///
/// Displayed as `<namespace>_<name>_<group>_<kind>`, the namespace empty for cluster-scoped objects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// Namespace, `""` for cluster-scoped objects.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// API group, `""` for core.
    pub group: String,
    /// Kind.
    pub kind: String,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}_{}_{}", self.namespace, self.name, self.group, self.kind)
    }
}

impl ObjectId {
    /// Parses what [`Display`](fmt::Display) writes. Kubernetes names hold no `_`, except RBAC's, which may hold `:`
    /// only, so the outer three separators are unambiguous.
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, rest) = text.split_once('_')?;
        let (rest, kind) = rest.rsplit_once('_')?;
        let (name, group) = rest.rsplit_once('_')?;
        Some(Self { namespace: namespace.into(), name: name.into(), group: group.into(), kind: kind.into() })
    }

    /// `Kind/namespace/name` for messages, without the group.
    pub fn short(&self) -> String {
        if self.namespace.is_empty() {
            format!("{}/{}", self.kind, self.name)
        } else {
            format!("{}/{}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// Why a JSON value is no [`Object`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// Not a mapping.
    #[error("a manifest must be a mapping with apiVersion, kind and metadata.name")]
    NotAMapping,
    /// A required text is missing, empty or not a text.
    #[error("{0} is required and must be a text")]
    Missing(&'static str),
}

/// A Kubernetes object: a JSON mapping whose `apiVersion`, `kind` and `metadata.name` are known to be there.
#[derive(Clone, PartialEq)]
pub struct Object(Value);

impl fmt::Debug for Object {
    /// Identity only: the content may be a Secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Object({})", self.id())
    }
}

impl Object {
    /// Checks that `value` is an object with an identity.
    pub fn new(value: Value) -> Result<Self, ObjectError> {
        let map = value.as_object().ok_or(ObjectError::NotAMapping)?;
        let text = |v: Option<&Value>| v.and_then(Value::as_str).is_some_and(|s| !s.is_empty());
        if !text(map.get("apiVersion")) {
            return Err(ObjectError::Missing("apiVersion"));
        }
        if !text(map.get("kind")) {
            return Err(ObjectError::Missing("kind"));
        }
        if !text(map.get("metadata").and_then(|m| m.get("name"))) {
            return Err(ObjectError::Missing("metadata.name"));
        }
        Ok(Self(value))
    }

    fn text(&self, pointer: &str) -> &str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// Group, version and kind.
    pub fn gvk(&self) -> Gvk {
        Gvk::new(self.text("/apiVersion"), self.kind())
    }

    /// `kind`.
    pub fn kind(&self) -> &str {
        self.text("/kind")
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// `metadata.namespace`, if set.
    pub fn namespace(&self) -> Option<&str> {
        self.0.pointer("/metadata/namespace").and_then(Value::as_str).filter(|s| !s.is_empty())
    }

    /// The object's identity.
    pub fn id(&self) -> ObjectId {
        ObjectId {
            namespace: self.namespace().unwrap_or_default().into(),
            name: self.name().into(),
            group: self.gvk().group.to_string(),
            kind: self.kind().into(),
        }
    }

    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.0.get("metadata")?.get("labels")?.get(key)?.as_str()
    }

    /// An annotation's value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.0.get("metadata")?.get("annotations")?.get(key)?.as_str()
    }

    /// Sets `metadata.namespace`.
    pub fn set_namespace(&mut self, namespace: &str) {
        self.metadata_mut().insert("namespace".into(), namespace.into());
    }

    /// Sets an annotation.
    pub fn set_annotation(&mut self, key: &str, value: &str) {
        let slot = self.metadata_mut().entry("annotations").or_insert_with(|| Value::Object(Map::new()));
        if !slot.is_object() {
            *slot = Value::Object(Map::new());
        }
        if let Some(map) = slot.as_object_mut() {
            map.insert(key.into(), value.into());
        }
    }

    fn metadata_mut(&mut self) -> &mut Map<String, Value> {
        // `new` checked that metadata is a mapping; the fallback keeps this total.
        let slot = &mut self.0["metadata"];
        if !slot.is_object() {
            *slot = Value::Object(Map::new());
        }
        match slot {
            Value::Object(map) => map,
            _ => unreachable!("replaced by a mapping above"),
        }
    }

    /// The JSON value.
    pub fn value(&self) -> &Value {
        &self.0
    }

    /// The JSON value, for changes that keep the identity's fields.
    pub fn value_mut(&mut self) -> &mut Value {
        &mut self.0
    }

    /// Takes the JSON value out.
    pub fn into_value(self) -> Value {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn identity_round_trips() {
        for text in ["ns_name_apps_Deployment", "_x__Namespace", "a_b.c__ConfigMap"] {
            assert_eq!(ObjectId::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(ObjectId::parse("nope"), None);
    }

    #[test]
    fn new_names_what_is_missing() {
        let missing = |v| Object::new(v).unwrap_err();
        assert_eq!(missing(json!([])), ObjectError::NotAMapping);
        assert_eq!(missing(json!({"kind": "A"})), ObjectError::Missing("apiVersion"));
        assert_eq!(
            missing(json!({"apiVersion": "v1", "kind": "A", "metadata": null})),
            ObjectError::Missing("metadata.name")
        );
    }
}
