//! How much of a Sync's status its inventory may take.
//!
//! The API server stores an object as one value of at most 1.5 MiB. A status that does not fit cannot be written, and as
//! nothing is applied that is not listed before, nothing would ever be applied again, for a reason that no status tells.

use std::collections::BTreeMap;

use super::{Refusal, Step, is_agent, is_task};
use crate::{api::InventoryEntry, object::ObjectId};

/// Bytes of all entries of an inventory, as they are stored. The third that is left is for the Sync's spec, and for
/// what else its status says.
pub const MAX_INVENTORY: usize = 1 << 20;

/// An uid is as long as this one.
const UID: &str = "00000000-0000-0000-0000-000000000000";

/// Refuses an inventory that would be too large: `superset`, with what the steps add to its entries. Of these, `gone`
/// have left the files.
pub(super) fn check(
    superset: &BTreeMap<ObjectId, InventoryEntry>,
    steps: &BTreeMap<ObjectId, Step>,
    gone: &[ObjectId],
) -> Result<(), Refusal> {
    let size = |(id, entry): (&ObjectId, &InventoryEntry)| largest(entry, steps.get(id));
    let bytes: usize = superset.iter().map(size).sum();
    if bytes <= MAX_INVENTORY {
        return Ok(());
    }
    let old: usize = gone.iter().filter_map(|id| superset.get_key_value(id)).map(size).sum();
    let (objects, kib) = (superset.len(), bytes.div_ceil(1 << 10));
    let advice = if bytes - old <= MAX_INVENTORY {
        format!(
            "{} of them have left the files, and are listed until that is done: take objects out with one push, and add \
             others with the next",
            gone.len()
        )
    } else {
        "split the Sync: give each part of the files a folder and a Sync of its own".into()
    };
    Err(Refusal::TooLarge { objects, kib, advice })
}

/// Bytes that an entry comes to, whatever becomes of its step.
fn largest(entry: &InventoryEntry, step: Option<&Step>) -> usize {
    let Some(step) = step.filter(|step| is_task(&step.id) || is_agent(&step.id)) else { return bytes(entry) };
    let mut entry = InventoryEntry { spec_hash: Some(step.digest.clone()), ..entry.clone() };
    if is_task(&step.id) {
        entry.uid.get_or_insert_with(|| UID.into());
        entry.finished = Some(true);
    }
    bytes(&entry)
}

/// With the comma after it.
fn bytes(entry: &InventoryEntry) -> usize {
    serde_json::to_vec(entry).map_or(0, |text| text.len() + 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        object::Object,
        plan::{
            Outcome, Plan,
            tests::{object, planned},
        },
    };

    /// So many objects whose names begin with `first` and have so many letters.
    fn many(kind: &str, first: char, count: usize, letters: usize) -> Vec<Object> {
        let name = |n: usize| format!("{first}{n:0width$}", width = letters - 1);
        (0..count).map(|n| object(kind, &name(n), 1)).collect()
    }

    fn stored(entries: &[InventoryEntry]) -> usize {
        serde_json::to_vec(entries).unwrap().len()
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_to_do() {
        let plan = planned(many("ConfigMap", 'a', 10_000, 40), &[]).unwrap();
        assert!((MAX_INVENTORY / 2..MAX_INVENTORY).contains(&stored(&plan.superset)), "{}", stored(&plan.superset));
        let refused = planned(many("ConfigMap", 'a', 10_000, 253), &[]).unwrap_err().to_string();
        let want = "the list of 10000 objects would take 2784 KiB of the Sync's status, which has 1024 KiB for it; split \
                    the Sync: give each part of the files a folder and a Sync of its own";
        assert_eq!(refused, want);
    }

    #[test]
    fn what_goes_counts_until_it_is_gone() {
        let before = planned(many("ConfigMap", 'a', 7_000, 63), &[]).unwrap().superset;
        let others = || many("ConfigMap", 'b', 7_000, 63);
        assert!(planned(others(), &[]).is_ok());
        let refused = planned(others(), &before).unwrap_err().to_string();
        assert!(
            refused.contains("the list of 14000 objects") && refused.contains("with one push, and add"),
            "{refused}"
        );
        // One that another version has let grow gets smaller.
        let large: Vec<InventoryEntry> = many("ConfigMap", 'a', 10_000, 253)
            .iter()
            .map(|object| InventoryEntry { id: object.id().to_string(), v: "v1".into(), ..InventoryEntry::default() })
            .collect();
        let plan = planned(many("ConfigMap", 'a', 9_000, 253), &large).unwrap();
        assert_eq!((plan.prune.len(), plan.grows), (1_000, false));
    }

    /// The inventory at the end, with all that is known of what runs once.
    fn settled(plan: &Plan) -> Vec<InventoryEntry> {
        let done = || Outcome::Task { uid: UID.into(), finished: true };
        let outcome = |id: &ObjectId| if is_task(id) { done() } else { Outcome::Applied };
        let outcomes = plan.steps().map(|step| (step.id.clone(), outcome(&step.id))).collect();
        plan.settle(&outcomes, &BTreeSet::new(), &BTreeSet::new())
    }

    #[test]
    fn what_is_learnt_by_the_apply_is_counted_before() {
        for kind in ["Task", "Agent"] {
            let one = planned(many(kind, 'a', 1, 253), &[]).unwrap();
            // Without the brackets, and with a comma.
            let (first, last) = (stored(&one.superset) - 1, stored(&settled(&one)) - 1);
            assert!(first < last, "what is written first says less");
            let fits = MAX_INVENTORY / last;
            assert!(fits * first < MAX_INVENTORY - last);
            assert!(planned(many(kind, 'a', fits, 253), &[]).is_ok(), "{fits} of kind {kind}");
            assert!(planned(many(kind, 'a', fits + 1, 253), &[]).is_err(), "{} of kind {kind}", fits + 1);
        }
    }
}
