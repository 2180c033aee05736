//! Which Sync owns which object: no object has two owners.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{api::InventoryEntry, object::ObjectId};

/// The objects of all inventories and their owners, `namespace/name` of Syncs.
///
/// A claim is *proven* once an apply of the object has passed with the Sync's own account. The first to prove a claim has
/// the object until it gives it up. An unproven one (an inventory read at a start, an apply under way) keeps nobody
/// from anything that the live object does not confirm: whoever writes a name into files must not get in the way of
/// those who may change the object.
///
/// A Sync that wants an object of another one, and may apply it, is written down as its heir: the owner then hands the
/// object over instead of deleting it, so that moving a manifest from one Sync's path to another's never deletes the
/// object.
#[derive(Debug, Default)]
pub struct Claims {
    owners: HashMap<ObjectId, Holder>,
    held: HashMap<String, BTreeSet<ObjectId>>,
    heirs: HashMap<ObjectId, BTreeSet<String>>,
    legacies: HashMap<ObjectId, InventoryEntry>,
    /// Who has handed over what, and lists it until the heir has applied it.
    givers: HashMap<ObjectId, String>,
}

/// A Sync that has an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its `namespace/name`.
    pub sync: String,
    /// Whether an apply of the object has passed with its account.
    pub proven: bool,
}

impl Claims {
    /// `owner` holds what its inventory lists; what others hold stays theirs. The uid of an entry is written after the
    /// object was made, so it proves the claim.
    pub fn load<'a>(&mut self, owner: &str, inventory: impl Iterator<Item = &'a InventoryEntry>) {
        for entry in inventory {
            if let Some(id) = ObjectId::parse(&entry.id) {
                let unproven = !self.take(owner, &id).is_some_and(|other| other.proven);
                if unproven && entry.uid.is_some() {
                    self.give(owner, &id, true);
                }
            }
        }
    }

    /// Claims `ids` for `owner`, unproven. Returned is what another Sync has.
    pub fn claim<'a>(&mut self, owner: &str, ids: impl Iterator<Item = &'a ObjectId>) -> BTreeMap<ObjectId, Holder> {
        ids.filter_map(|id| Some((id.clone(), self.take(owner, id)?))).collect()
    }

    /// The live object does not belong to `from`, whose claim is unproven: `owner` has it now, unproven.
    pub fn take_over(&mut self, owner: &str, id: &ObjectId, from: &str) {
        if self.owners.get(id).is_some_and(|h| h.sync == from && !h.proven) {
            self.give(owner, id, false);
        }
    }

    /// The live object says that it is the one of `sync`. Nothing where `sync` has given it up meanwhile.
    pub fn confirm(&mut self, sync: &str, id: &ObjectId) {
        if let Some(holder) = self.owners.get_mut(id).filter(|h| h.sync == sync) {
            holder.proven = true;
        }
    }

    /// An apply of `ids` has passed with the account of `owner`. Returned is what another Sync has proven before, and its
    /// name.
    pub fn prove<'a>(&mut self, owner: &str, ids: impl Iterator<Item = &'a ObjectId>) -> BTreeMap<ObjectId, String> {
        let mut lost = BTreeMap::new();
        for id in ids {
            match self.owners.get_mut(id) {
                Some(holder) if holder.sync == owner => holder.proven = true,
                Some(holder) if holder.proven => drop(lost.insert(id.clone(), holder.sync.clone())),
                _ => self.give(owner, id, true),
            }
            if !lost.contains_key(id) {
                self.legacies.remove(id);
            }
        }
        lost
    }

    /// `sync` is heir of `ids`, and of what it was heir of before among `unsure`, and of nothing else.
    pub fn inherit(&mut self, sync: &str, ids: &BTreeSet<ObjectId>, unsure: &BTreeSet<ObjectId>) {
        self.renounce(sync, unsure);
        for id in ids {
            self.heirs.entry(id.clone()).or_default().insert(sync.to_owned());
        }
    }

    /// The Sync that has `id`.
    pub fn owner(&self, id: &ObjectId) -> Option<&str> {
        self.owners.get(id).map(|h| h.sync.as_str())
    }

    /// Whether a Sync other than `sync` has `id`, or is to have it.
    pub fn is_passed_on(&self, id: &ObjectId, sync: &str) -> bool {
        let has_it = self.owners.get(id).is_some_and(|h| h.sync != sync && h.proven);
        has_it || self.heirs.contains_key(id) || self.is_given(id, sync)
    }

    /// Whether `giver` has handed `id` over to a Sync that is about to apply it.
    fn is_given(&self, id: &ObjectId, giver: &str) -> bool {
        let of_giver = self.givers.get(id).is_some_and(|g| g == giver);
        of_giver && self.owners.get(id).is_some_and(|h| h.sync != giver)
    }

    /// Keeps for the heir of an object what the inventory of its owner, `giver`, knew about it. Returned are the entries
    /// of objects that no heir has applied yet: until one has, they are in no other inventory.
    pub fn bequeath(&mut self, giver: &str, entries: impl Iterator<Item = InventoryEntry>) -> Vec<InventoryEntry> {
        let mut open = vec![];
        for entry in entries {
            let Some(id) = ObjectId::parse(&entry.id) else { continue };
            let has_heir = self.heirs.contains_key(&id);
            let is_done = self.owners.get(&id).is_some_and(|h| h.sync != giver && h.proven);
            if !is_done && (has_heir || self.is_given(&id, giver)) {
                self.givers.insert(id.clone(), giver.to_owned());
                open.push(entry.clone());
            }
            if has_heir {
                self.legacies.insert(id, entry);
            }
        }
        open
    }

    /// `heir` has applied `ids`. Returned are those that another Sync has handed over and still lists, and its name.
    pub fn receive<'a>(&mut self, heir: &str, ids: impl Iterator<Item = &'a ObjectId>) -> BTreeMap<ObjectId, String> {
        let received = ids.filter_map(|id| Some((id.clone(), self.givers.remove(id)?)));
        received.filter(|(_, giver)| giver != heir).collect()
    }

    /// What the former owners of `ids` knew about them.
    pub fn legacies<'a>(&self, ids: impl Iterator<Item = &'a ObjectId>) -> Vec<InventoryEntry> {
        ids.filter_map(|id| self.legacies.get(id)).cloned().collect()
    }

    /// `owner` holds exactly `ids` from now on. Returned are the heirs of what it gave up.
    pub fn keep(&mut self, owner: &str, ids: &BTreeSet<ObjectId>) -> BTreeSet<String> {
        let held = self.held.remove(owner).unwrap_or_default();
        let mut heirs = BTreeSet::new();
        for id in &held {
            if ids.contains(id) {
                self.held.entry(owner.to_owned()).or_default().insert(id.clone());
            } else {
                self.owners.remove(id);
                heirs.extend(self.heirs.get(id).into_iter().flatten().cloned());
            }
        }
        for id in ids {
            self.take(owner, id);
        }
        heirs
    }

    /// `owner` is gone: it holds nothing and wants nothing. Returned are the heirs of what it held.
    pub fn forget(&mut self, owner: &str) -> BTreeSet<String> {
        self.givers.retain(|_, giver| giver != owner);
        self.renounce(owner, &BTreeSet::new());
        self.keep(owner, &BTreeSet::new())
    }

    /// Gives `id` to `owner` where nobody has it; returned is who else does.
    fn take(&mut self, owner: &str, id: &ObjectId) -> Option<Holder> {
        match self.owners.get(id) {
            Some(holder) if holder.sync == owner => None,
            Some(holder) => Some(holder.clone()),
            None => {
                self.give(owner, id, false);
                None
            }
        }
    }

    fn give(&mut self, owner: &str, id: &ObjectId, proven: bool) {
        if let Some(old) = self.owners.insert(id.clone(), Holder { sync: owner.to_owned(), proven })
            && let Some(held) = self.held.get_mut(&old.sync)
        {
            held.remove(id);
        }
        self.held.entry(owner.to_owned()).or_default().insert(id.clone());
    }

    fn renounce(&mut self, sync: &str, but: &BTreeSet<ObjectId>) {
        let legacies = &mut self.legacies;
        self.heirs.retain(|id, heirs| {
            if !but.contains(id) {
                heirs.remove(sync);
            }
            if heirs.is_empty() {
                legacies.remove(id);
            }
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

    fn entry(name: &str, uid: Option<&str>) -> InventoryEntry {
        InventoryEntry { id: id(name).to_string(), uid: uid.map(Into::into), ..InventoryEntry::default() }
    }

    fn ids(names: &[&str]) -> BTreeSet<ObjectId> {
        names.iter().map(|name| id(name)).collect()
    }

    fn holder(sync: &str, proven: bool) -> Holder {
        Holder { sync: sync.into(), proven }
    }

    #[test]
    fn the_first_has_it_and_the_other_inherits() {
        let mut claims = Claims::default();
        claims.load("n/a", [entry("x", None), entry("y", None)].iter());
        assert!(claims.prove("n/a", [id("x"), id("y")].iter()).is_empty());
        let rivals = claims.claim("n/b", [id("x"), id("z")].iter());
        assert_eq!(rivals, BTreeMap::from([(id("x"), holder("n/a", true))]));
        claims.inherit("n/b", &ids(&["x"]), &BTreeSet::new());
        assert!(claims.is_passed_on(&id("x"), "n/a") && !claims.is_passed_on(&id("y"), "n/a"));
        assert_eq!(claims.keep("n/a", &ids(&["y"])), BTreeSet::from(["n/b".to_owned()]));
        assert!(claims.claim("n/b", [id("x")].iter()).is_empty());
        claims.inherit("n/b", &BTreeSet::new(), &BTreeSet::new());
        assert!(claims.prove("n/b", [id("x")].iter()).is_empty());
        assert_eq!(claims.claim("n/a", [id("x")].iter()).len(), 1);
        assert!(claims.is_passed_on(&id("x"), "n/a"), "a former owner leaves it alone");
        claims.forget("n/b");
        assert!(claims.claim("n/a", [id("x"), id("z")].iter()).is_empty());
    }

    #[test]
    fn a_claim_that_is_not_proven_yields() {
        let mut claims = Claims::default();
        claims.load("n/a", [entry("x", None), entry("task", Some("u"))].iter());
        let rivals = claims.claim("n/b", [id("x"), id("task")].iter());
        assert_eq!(rivals, BTreeMap::from([(id("x"), holder("n/a", false)), (id("task"), holder("n/a", true))]));
        claims.take_over("n/b", &id("x"), "n/a");
        claims.take_over("n/b", &id("task"), "n/a");
        assert_eq!((claims.owner(&id("x")), claims.owner(&id("task"))), (Some("n/b"), Some("n/a")));
        assert!(claims.keep("n/a", &ids(&["x", "task"])).is_empty());
        assert_eq!(claims.owner(&id("x")), Some("n/b"));
        // Of two that apply at the same time the first to end has it.
        assert!(claims.prove("n/a", [id("x")].iter()).is_empty());
        assert_eq!(claims.prove("n/b", [id("x")].iter()), BTreeMap::from([(id("x"), "n/a".to_owned())]));
        claims.keep("n/b", &BTreeSet::new());
        assert_eq!(claims.owner(&id("x")), Some("n/a"));
    }

    #[test]
    fn what_was_given_up_is_not_confirmed() {
        let mut claims = Claims::default();
        claims.load("n/a", [entry("x", None)].iter());
        claims.confirm("n/a", &id("x"));
        assert_eq!(claims.claim("n/b", [id("x")].iter()), BTreeMap::from([(id("x"), holder("n/a", true))]));
        claims.keep("n/a", &BTreeSet::new());
        claims.confirm("n/a", &id("x"));
        assert_eq!(claims.owner(&id("x")), None);
    }

    #[test]
    fn a_proof_in_an_inventory_counts_more_than_age() {
        let mut claims = Claims::default();
        claims.load("n/old", [entry("x", None)].iter());
        claims.load("n/new", [entry("x", Some("u"))].iter());
        claims.load("n/newer", [entry("x", Some("v"))].iter());
        assert_eq!(claims.owner(&id("x")), Some("n/new"));
    }

    #[test]
    fn what_is_handed_over_is_not_deleted_before_the_heir_has_it() {
        let x = || [id("x")];
        let given = || {
            let mut claims = Claims::default();
            claims.prove("n/a", x().iter());
            claims.inherit("n/b", &ids(&["x"]), &BTreeSet::new());
            assert_eq!(claims.bequeath("n/a", [entry("x", None)].into_iter()).len(), 1);
            claims.keep("n/a", &BTreeSet::new());
            // The heir comes, and is not done when the giver looks again.
            claims.claim("n/b", x().iter());
            claims.inherit("n/b", &BTreeSet::new(), &BTreeSet::new());
            assert!(claims.is_passed_on(&id("x"), "n/a"));
            assert_eq!(claims.bequeath("n/a", [entry("x", None)].into_iter()).len(), 1);
            claims
        };
        let mut claims = given();
        claims.prove("n/b", x().iter());
        assert_eq!(claims.receive("n/b", x().iter()).len(), 1);
        assert!(claims.is_passed_on(&id("x"), "n/a"));
        assert!(claims.bequeath("n/a", [entry("x", None)].into_iter()).is_empty());
        // Or it does not want it any more, or must not have it: then whoever lists it deletes it.
        let mut claims = given();
        claims.keep("n/b", &BTreeSet::new());
        assert!(!claims.is_passed_on(&id("x"), "n/a"));
        assert!(claims.bequeath("n/a", [entry("x", None)].into_iter()).is_empty());
    }

    #[test]
    fn what_is_known_goes_to_the_heir() {
        let mut claims = Claims::default();
        claims.prove("n/a", [id("x"), id("y")].iter());
        claims.inherit("n/b", &ids(&["x"]), &BTreeSet::new());
        let entries = || [entry("x", Some("u")), entry("y", Some("v"))].into_iter();
        assert_eq!(claims.bequeath("n/a", entries()), [entry("x", Some("u"))], "until the heir has it");
        assert_eq!(claims.legacies([id("x"), id("y")].iter()), [entry("x", Some("u"))]);
        claims.inherit("n/b", &BTreeSet::new(), &ids(&["x"]));
        assert_eq!(claims.legacies([id("x")].iter()).len(), 1, "it is still heir of what it could not be asked about");
        claims.keep("n/a", &BTreeSet::new());
        claims.prove("n/b", [id("x")].iter());
        assert!(claims.legacies([id("x")].iter()).is_empty());
        assert_eq!(claims.receive("n/b", [id("x")].iter()), BTreeMap::from([(id("x"), "n/a".to_owned())]));
        assert!(claims.receive("n/b", [id("x")].iter()).is_empty(), "it is told once");
        claims.inherit("n/c", &ids(&["x"]), &BTreeSet::new());
        assert!(claims.bequeath("n/a", entries()).is_empty(), "another one has it");
        assert_eq!(claims.bequeath("n/b", entries()).len(), 1);
        claims.forget("n/b");
        assert!(claims.receive("n/c", [id("x")].iter()).is_empty(), "whoever gave it is gone");
    }
}
