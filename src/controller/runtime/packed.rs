//! Objects of which a cache holds the metadata, and the rest as text.
//!
//! A typed pod template is mostly empty fields: a Deployment of an agent takes five times as much memory as its JSON.

use std::{
    borrow::Cow,
    sync::{Arc, Weak},
};

use kube::{Resource, core::ObjectMeta};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// An object as it is kept. Cheap to read for its metadata; the rest is read anew for whoever needs it.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "K", bound = "K: Resource + Serialize + DeserializeOwned")]
pub struct Packed<K> {
    metadata: ObjectMeta,
    /// Everything but the metadata.
    rest: Box<str>,
    /// What was read last, while somebody still has it.
    whole: Arc<Mutex<Weak<K>>>,
}

impl<K: Resource + Serialize> From<K> for Packed<K> {
    fn from(mut object: K) -> Self {
        let metadata = std::mem::take(object.meta_mut());
        // Types of Kubernetes have no maps with keys that are no text: this cannot fail.
        let rest = serde_json::to_string(&object).unwrap_or_default().into_boxed_str();
        Self { metadata, rest, whole: Arc::default() }
    }
}

impl<K: Resource + DeserializeOwned> Packed<K> {
    /// The whole object. While an answer is held the next one is the same.
    ///
    /// # Panics
    /// Never: it reads what was written here.
    #[allow(clippy::expect_used, reason = "an object that lacks its spec must never be taken for the real one")]
    pub fn whole(&self) -> Arc<K> {
        let mut last = self.whole.lock();
        if let Some(whole) = last.upgrade() {
            return whole;
        }
        let mut object: K = serde_json::from_str(&self.rest).expect("what was written here can be read");
        *object.meta_mut() = self.metadata.clone();
        let whole = Arc::new(object);
        *last = Arc::downgrade(&whole);
        whole
    }
}

impl<K: Resource<DynamicType = ()>> Resource for Packed<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        // What was read has the metadata of before.
        self.whole = Arc::default();
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use kube::ResourceExt;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_is_the_same_after_it_was_packed() {
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "a", "namespace": "n", "resourceVersion": "7", "annotations": {"a": "b"}},
            "spec": {
                "replicas": 1, "selector": {"matchLabels": {"a": "b"}},
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {
                    "containers": [{"name": "c", "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
                        "livenessProbe": {"httpGet": {"port": "http"}}}],
                    "volumes": [{"name": "v", "configMap": {"name": "m", "defaultMode": 420}}]}},
            },
            "status": {"observedGeneration": 3, "conditions": [{"type": "Available", "status": "True",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        });
        let typed: Deployment = serde_json::from_value(object.clone()).unwrap();
        let packed: Packed<Deployment> = serde_json::from_value(object).unwrap();
        assert_eq!((packed.name_any(), packed.resource_version()), ("a".into(), Some("7".into())));
        assert_eq!(*packed.whole(), typed);
        assert_eq!(Packed::<Deployment>::kind(&()), "Deployment");
    }

    #[test]
    fn it_is_read_once_for_all_who_have_it() {
        let packed = Packed::from(Deployment::default());
        let one = packed.whole();
        assert!(Arc::ptr_eq(&one, &packed.whole()));
        drop(one);
        assert_eq!(packed.whole.lock().strong_count(), 0, "nothing is kept for nobody");
    }

    #[test]
    fn what_is_changed_is_not_what_was_read() {
        let mut packed = Packed::from(Deployment::default());
        let before = packed.whole();
        packed.annotations_mut().insert("a".into(), "b".into());
        assert_ne!(before.annotations(), packed.whole().annotations());
    }
}
