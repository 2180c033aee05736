//! Which Sync owns which object: no object has two owners.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::object::ObjectId;

/// The objects of all inventories and their owners, `namespace/name` of Syncs.
///
/// The first to claim an object has it until it gives it up. A Sync that wants an object of another one is written
/// down as its heir: the owner then hands the object over instead of deleting it, so that moving a manifest from one
/// Sync's path to another's never deletes the object.
#[derive(Debug, Default)]
pub struct Claims {
    owners: HashMap<ObjectId, String>,
    held: HashMap<String, BTreeSet<ObjectId>>,
    heirs: HashMap<ObjectId, BTreeSet<String>>,
}

impl Claims {
    /// `owner` holds what its inventory lists; what others hold stays theirs.
    pub fn load(&mut self, owner: &str, inventory: impl Iterator<Item = ObjectId>) {
        for id in inventory {
            self.take(owner, id);
        }
    }

    /// Claims `ids` for `owner`. Returned is what another Sync has, and its name; `owner` becomes heir of those, and
    /// stops being heir of everything else.
    pub fn claim<'a>(&mut self, owner: &str, ids: impl Iterator<Item = &'a ObjectId>) -> BTreeMap<ObjectId, String> {
        self.renounce(owner);
        let mut taken = BTreeMap::new();
        for id in ids {
            let holder = self.take(owner, id.clone());
            if holder != owner {
                self.heirs.entry(id.clone()).or_default().insert(owner.to_owned());
                taken.insert(id.clone(), holder);
            }
        }
        taken
    }

    fn take(&mut self, owner: &str, id: ObjectId) -> String {
        let holder = self.owners.entry(id.clone()).or_insert_with(|| owner.to_owned()).clone();
        if holder == owner {
            self.held.entry(holder.clone()).or_default().insert(id);
        }
        holder
    }

    /// The Sync that has `id`.
    pub fn owner(&self, id: &ObjectId) -> Option<&str> {
        self.owners.get(id).map(String::as_str)
    }

    /// A Sync that wants `id` besides its owner; the first by name.
    pub fn heir(&self, id: &ObjectId) -> Option<&str> {
        self.heirs.get(id)?.first().map(String::as_str)
    }

    /// `owner` holds exactly `ids` from now on. Returned are the heirs of what it gave up.
    pub fn keep(&mut self, owner: &str, ids: &BTreeSet<ObjectId>) -> BTreeSet<String> {
        let held = self.held.remove(owner).unwrap_or_default();
        let mut heirs = BTreeSet::new();
        for id in held.difference(ids) {
            self.owners.remove(id);
            heirs.extend(self.heirs.get(id).into_iter().flatten().cloned());
        }
        for id in ids {
            self.take(owner, id.clone());
        }
        heirs
    }

    /// `owner` is gone: it holds nothing and wants nothing. Returned are the heirs of what it held.
    pub fn forget(&mut self, owner: &str) -> BTreeSet<String> {
        self.renounce(owner);
        self.keep(owner, &BTreeSet::new())
    }

    fn renounce(&mut self, owner: &str) {
        self.heirs.retain(|_, heirs| {
            heirs.remove(owner);
            !heirs.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> ObjectId {
        ObjectId { namespace: "n".into(), name: name.into(), group: String::new(), kind: "ConfigMap".into() }
    }

    #[test]
    fn the_first_has_it_and_the_other_inherits() {
        let mut claims = Claims::default();
        claims.load("n/a", [id("x"), id("y")].into_iter());
        assert_eq!(claims.claim("n/b", [id("x"), id("z")].iter()), BTreeMap::from([(id("x"), "n/a".to_owned())]));
        assert_eq!(claims.heir(&id("x")), Some("n/b"));
        assert_eq!(claims.keep("n/a", &BTreeSet::from([id("y")])), BTreeSet::from(["n/b".to_owned()]));
        assert!(claims.claim("n/b", [id("x")].iter()).is_empty());
        assert_eq!(claims.heir(&id("x")), None);
        assert_eq!(claims.claim("n/a", [id("x")].iter()).len(), 1);
        claims.forget("n/b");
        assert!(claims.claim("n/a", [id("x"), id("z")].iter()).is_empty());
    }
}
