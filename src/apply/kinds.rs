//! Which kinds the cluster has, under which names, and whether they live in namespaces.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::RwLock;
use serde_json::Value;
use tokio::{sync::Mutex, time::Instant};

use super::{
    account::{Account, segment},
    error::ApiError,
};
use crate::object::{Gvk, ObjectId, is_api_version};

/// A kind that was not found is looked up again after this long.
const NOT_BEFORE: Duration = Duration::from_secs(1);
/// Discovery answers from memory; a group whose own server hangs must not hold up what asks for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Groups and versions that are remembered although nothing is known of them.
const MAX_EMPTY: usize = 256;

/// How a kind is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// `group/version`, or `v1`.
    pub api_version: String,
    /// Name in URLs.
    pub plural: String,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

impl Resource {
    pub(super) fn collection(&self, id: &ObjectId) -> String {
        let root = if self.api_version.contains('/') { "apis" } else { "api" };
        let api_version = self.api_version.split('/').map(segment).collect::<Vec<_>>().join("/");
        let place = if self.namespaced { format!("namespaces/{}/", segment(&id.namespace)) } else { String::new() };
        format!("/{root}/{api_version}/{place}{}", segment(&self.plural))
    }

    pub(super) fn url(&self, id: &ObjectId) -> String {
        format!("{}/{}", self.collection(id), segment(&id.name))
    }
}

enum Known {
    Yes(Resource),
    No,
    Ask,
}

type ByKind = Arc<BTreeMap<String, Resource>>;

/// Discovery, by group and version, on demand. Read with the controller's own rights: every account may.
pub struct Kinds {
    account: Account,
    known: RwLock<HashMap<String, (Instant, ByKind)>>,
    /// One look-up of a group and version at a time: many Syncs ask for the same at a start.
    asking: parking_lot::Mutex<HashMap<String, Arc<Mutex<()>>>>,
}

impl Kinds {
    /// Nothing is asked before it is needed.
    pub fn new(account: Account) -> Self {
        Self { account, known: RwLock::default(), asking: parking_lot::Mutex::default() }
    }

    /// The resource of a kind; `None` when the cluster does not have it.
    pub async fn resolve(&self, gvk: &Gvk) -> Result<Option<Resource>, ApiError> {
        let version = gvk.api_version();
        if !is_api_version(&version) {
            return Ok(None);
        }
        if let Known::Yes(found) = self.cached(&version, &gvk.kind) {
            return Ok(Some(found));
        }
        let turn = self.asking.lock().entry(version.clone()).or_default().clone();
        let found = {
            let _one = turn.lock().await;
            self.look_up(&version, &gvk.kind).await
        };
        drop(turn);
        // Nobody else waits for this turn: it is forgotten.
        self.asking.lock().retain(|_, turn| Arc::strong_count(turn) > 1);
        found
    }

    async fn look_up(&self, version: &str, kind: &str) -> Result<Option<Resource>, ApiError> {
        match self.cached(version, kind) {
            Known::Yes(found) => return Ok(Some(found)),
            Known::No => return Ok(None),
            Known::Ask => {}
        }
        let patience = tokio::time::timeout(PATIENCE, self.fetch(version)).await;
        let fetched = patience.map_err(|_| {
            ApiError::Unavailable(format!("{version} is not described within {} s", PATIENCE.as_secs()))
        })??;
        let fetched = Arc::new(fetched);
        let mut known = self.known.write();
        known.insert(version.to_owned(), (Instant::now(), fetched.clone()));
        forget_empty(&mut known);
        Ok(fetched.get(kind).cloned())
    }

    /// A kind that was found is taken however old the answer, one that was not for [`NOT_BEFORE`] only.
    fn cached(&self, version: &str, kind: &str) -> Known {
        let known = self.known.read();
        let Some((asked, kinds)) = known.get(version) else { return Known::Ask };
        match kinds.get(kind) {
            Some(resource) => Known::Yes(resource.clone()),
            None if asked.elapsed() < NOT_BEFORE => Known::No,
            None => Known::Ask,
        }
    }

    /// Definitions have changed: ask again.
    pub fn forget_group(&self, group: &str) {
        let of_group = |version: &String| version.split_once('/').map_or("", |(g, _)| g) == group;
        self.known.write().retain(|version, _| !of_group(version));
    }

    async fn fetch(&self, version: &str) -> Result<BTreeMap<String, Resource>, ApiError> {
        let root = if version.contains('/') { "apis" } else { "api" };
        let path = version.split('/').map(segment).collect::<Vec<_>>().join("/");
        match self.account.read_path(&format!("/{root}/{path}")).await {
            Ok(list) => Ok(resources(version, &list)),
            Err(ApiError::NotFound(_)) => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        }
    }
}

/// Versions that the cluster does not have come from Git in any number: the old ones go.
fn forget_empty(known: &mut HashMap<String, (Instant, ByKind)>) {
    if known.values().filter(|(_, kinds)| kinds.is_empty()).count() > MAX_EMPTY {
        known.retain(|_, (asked, kinds)| !kinds.is_empty() || asked.elapsed() < NOT_BEFORE);
    }
}

fn resources(version: &str, list: &Value) -> BTreeMap<String, Resource> {
    let entries = list.get("resources").and_then(Value::as_array).into_iter().flatten();
    entries
        .filter_map(|entry| {
            let plural = entry.get("name")?.as_str().filter(|name| !name.contains('/'))?;
            let namespaced = entry.get("namespaced")?.as_bool()?;
            let resource = Resource { api_version: version.into(), plural: plural.into(), namespaced };
            Some((entry.get("kind")?.as_str()?.to_owned(), resource))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_there_is_forgotten() {
        let mut known = HashMap::new();
        let there: ByKind =
            Arc::new(resources("v1", &json!({"resources": [{"name": "a", "namespaced": true, "kind": "A"}]})));
        let long_ago = Instant::now().checked_sub(NOT_BEFORE).unwrap();
        known.insert("v1".to_owned(), (long_ago, there));
        for n in 0..=MAX_EMPTY {
            known.insert(format!("x{n}/v1"), (long_ago, ByKind::default()));
            forget_empty(&mut known);
            assert!(known.len() <= MAX_EMPTY + 1);
        }
        assert_eq!(known.keys().collect::<Vec<_>>(), ["v1"]);
    }

    #[test]
    fn subresources_are_no_kinds() {
        let list = json!({"resources": [
            {"name": "deployments", "namespaced": true, "kind": "Deployment"},
            {"name": "deployments/scale", "namespaced": true, "kind": "Scale"},
        ]});
        let found = resources("apps/v1", &list);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["Deployment"]);
        let id = ObjectId::parse("n_a/b_apps_Deployment").unwrap();
        assert_eq!(found["Deployment"].url(&id), "/apis/apps/v1/namespaces/n/deployments/a%2Fb");
    }
}
