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
use crate::object::{Gvk, ObjectId};

/// A kind that was not found is looked up again after this long.
const NOT_BEFORE: Duration = Duration::from_secs(1);

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
    /// One look-up at a time: many Syncs ask for the same at a start.
    asking: Mutex<()>,
}

impl Kinds {
    /// Nothing is asked before it is needed.
    pub fn new(account: Account) -> Self {
        Self { account, known: RwLock::default(), asking: Mutex::default() }
    }

    /// The resource of a kind; `None` when the cluster does not have it.
    pub async fn resolve(&self, gvk: &Gvk) -> Result<Option<Resource>, ApiError> {
        let version = gvk.api_version();
        if let Known::Yes(found) = self.cached(&version, &gvk.kind) {
            return Ok(Some(found));
        }
        let _one = self.asking.lock().await;
        match self.cached(&version, &gvk.kind) {
            Known::Yes(found) => return Ok(Some(found)),
            Known::No => return Ok(None),
            Known::Ask => {}
        }
        let fetched = Arc::new(self.fetch(&version).await?);
        self.known.write().insert(version, (Instant::now(), fetched.clone()));
        Ok(fetched.get(&*gvk.kind).cloned())
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
