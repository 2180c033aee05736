//! Deletes what left the files.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    account::Account,
    error::{ApiError, Problem, Tried, explain},
    execute::gvk_of,
    kinds::Kinds,
    prepare::Owner,
};
use crate::{
    api::{InventoryEntry, names::reasons},
    object::ObjectId,
    plan::prune::{Verdict, Why, verdict},
};

/// What came of a prune.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Deleted now.
    pub deleted: Vec<ObjectId>,
    /// Leaves the inventory: deleted, gone before, kept on purpose, or handed over.
    pub gone: BTreeSet<ObjectId>,
    /// Left alone on purpose.
    pub kept: Vec<(ObjectId, Why)>,
    /// Deleted later.
    pub later: Vec<(ObjectId, Why)>,
    /// What failed; stays in the inventory.
    pub problems: Vec<Problem>,
    /// Of these nobody knows whether the API server has deleted them: it did not answer.
    pub unsure: BTreeSet<ObjectId>,
}

/// Deletes `ids` of the Sync `owner` in order, each only if its live object may be. `inherited` says which another Sync
/// has, or takes over.
pub async fn prune(
    account: &Account,
    kinds: &Kinds,
    ids: &[ObjectId],
    inventory: &[InventoryEntry],
    owner: &Owner,
    inherited: impl Fn(&ObjectId) -> bool,
) -> Pruned {
    let entries: BTreeMap<&str, &InventoryEntry> = inventory.iter().map(|e| (e.id.as_str(), e)).collect();
    let mut pruned = Pruned::default();
    for id in ids {
        if inherited(id) {
            pruned.gone.insert(id.clone());
            continue;
        }
        let Some(entry) = entries.get(id.to_string().as_str()) else { continue };
        match one(account, kinds, id, entry, owner).await {
            Ok(None) => drop(pruned.gone.insert(id.clone())),
            Ok(Some(Verdict::Delete { .. })) => {
                pruned.deleted.push(id.clone());
                pruned.gone.insert(id.clone());
            }
            Ok(Some(Verdict::Keep(why))) => {
                pruned.kept.push((id.clone(), why));
                pruned.gone.insert(id.clone());
            }
            Ok(Some(Verdict::Later(why))) => pruned.later.push((id.clone(), why)),
            Err(problem) => {
                if problem.reason == reasons::CLUSTER_UNAVAILABLE {
                    pruned.unsure.insert(id.clone());
                }
                pruned.problems.push(problem);
            }
        }
    }
    pruned
}

async fn one(
    account: &Account,
    kinds: &Kinds,
    id: &ObjectId,
    entry: &InventoryEntry,
    owner: &Owner,
) -> Result<Option<Verdict>, Problem> {
    let failed = |plural: &str, verb, error: &ApiError| {
        let tried = Tried { verb, plural, namespace: &id.namespace };
        let (reason, message) = explain(account, tried, error);
        let reason = if reason == reasons::APPLY_FAILED { reasons::PRUNE_FAILED } else { reason };
        Problem { object: id.short(), origin: None, reason, message, transient: error.is_transient() }
    };
    let resource = kinds.resolve(&gvk_of(id, &entry.v)).await.map_err(|e| failed(&id.kind, "get", &e))?;
    // Without its definition no object of the kind is left.
    let Some(resource) = resource else { return Ok(None) };
    let live = account.get(&resource, id).await.map_err(|e| failed(&resource.plural, "get", &e))?;
    let Some(live) = live else { return Ok(None) };
    let ours = Some((owner.namespace.as_str(), owner.name.as_str()));
    let verdict = verdict(id, &live, ours, entry.uid.as_deref());
    if let Verdict::Delete { uid } = &verdict {
        account.delete(&resource, id, uid).await.map_err(|e| failed(&resource.plural, "delete", &e))?;
    }
    Ok(Some(verdict))
}
