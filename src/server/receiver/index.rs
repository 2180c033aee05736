//! Which path belongs to which Repository (pure).

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use hmac::{Hmac, KeyInit, Mac};
use kube::ResourceExt;
use sha2::Sha256;

use super::forge::Follows;
use crate::api::{Forge, Repository, webhook};

/// A Repository with a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Who calls.
    pub forge: Forge,
    /// Name of the Secret with the token.
    pub secret: String,
    /// Events that ask for a look; the usual ones where empty.
    pub events: Vec<String>,
    /// What it follows.
    pub follows: Follows,
    /// Whether it is left alone.
    pub suspended: bool,
    /// `status.webhookPath`.
    pub path: String,
}

type Key = [u8; 32];

/// All paths. Looking one up takes a time that does not depend on how much of it was guessed.
pub struct Index {
    salt: Key,
    by_path: HashMap<Key, Vec<Arc<Target>>>,
    by_uid: HashMap<String, Key>,
}

impl Index {
    /// An empty one. `salt` must be random.
    pub fn new(salt: Key) -> Self {
        Self { salt, by_path: HashMap::new(), by_uid: HashMap::new() }
    }

    /// Takes up a Repository as it is now.
    pub fn apply(&mut self, object: &Repository) {
        let uid = object.uid().unwrap_or_default();
        self.remove(&uid);
        let Some(target) = target(object) else { return };
        let key = self.key(&target.path);
        self.by_uid.insert(uid, key);
        self.by_path.entry(key).or_default().push(Arc::new(target));
    }

    /// Forgets a Repository.
    pub fn remove(&mut self, uid: &str) {
        let Some(key) = self.by_uid.remove(uid) else { return };
        if let Entry::Occupied(mut targets) = self.by_path.entry(key) {
            targets.get_mut().retain(|target| target.uid != uid);
            if targets.get().is_empty() {
                targets.remove();
            }
        }
    }

    /// Those that claim a path: one, unless somebody wrote another's path into a status. The token decides.
    pub fn find(&self, path: &str) -> Vec<Arc<Target>> {
        self.by_path.get(&self.key(path)).cloned().unwrap_or_default()
    }

    /// Number of Repositories with a webhook.
    pub fn len(&self) -> usize {
        self.by_uid.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_uid.is_empty()
    }

    fn key(&self, path: &str) -> Key {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.salt) else { return self.salt };
        mac.update(path.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

fn target(object: &Repository) -> Option<Target> {
    let webhook = object.spec.webhook.as_ref()?;
    let path = object.status.as_ref()?.webhook_path.clone()?;
    webhook::digits(&path)?;
    Some(Target {
        namespace: object.namespace()?,
        name: object.name_any(),
        uid: object.uid()?,
        forge: webhook.forge,
        secret: webhook.secret_ref.name.clone(),
        events: webhook.events.clone(),
        follows: Follows::of(object.spec.reference.as_ref()),
        suspended: object.spec.suspend == Some(true),
        path,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn repository(name: &str, path: Option<&str>) -> Repository {
        let status = json!({"webhookPath": path, "conditions": []});
        serde_json::from_value(json!({
            "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Repository",
            "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}")},
            "spec": {"url": "https://h/a", "webhook": {"type": "GitHub", "secretRef": {"name": "hook"}}},
            "status": if path.is_some() { status } else { json!({}) },
        }))
        .unwrap()
    }

    #[test]
    fn paths_come_move_and_go() {
        let path = |digit: &str| format!("/hooks/{}", digit.repeat(64));
        let names = |index: &Index, path: &str| -> Vec<_> { index.find(path).iter().map(|t| t.name.clone()).collect() };
        let mut index = Index::new([7; 32]);
        index.apply(&repository("a", None));
        index.apply(&repository("b", Some("/hooks/short")));
        assert!(index.is_empty());
        index.apply(&repository("a", Some(&path("1"))));
        assert_eq!((names(&index, &path("1")), names(&index, &path("2"))), (vec!["a".into()], vec![]));
        index.apply(&repository("a", Some(&path("2"))));
        index.apply(&repository("b", Some(&path("2"))));
        assert_eq!((names(&index, &path("1")).len(), names(&index, &path("2")).len(), index.len()), (0, 2, 2));
        index.remove("uid-a");
        assert_eq!(names(&index, &path("2")), ["b"]);
        let mut without = repository("b", Some(&path("2")));
        without.spec.webhook = None;
        index.apply(&without);
        assert!(index.is_empty() && index.by_path.is_empty());
    }
}
