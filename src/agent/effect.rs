//! Effect classes: what changed, and how mildly it can arrive.
//!
//! An agent's objects are described by *parts*: names such as `image`, `env` or `credentials/github` with a hash of
//! what each contributes. The applied parts are remembered in an annotation, so that the controller, `pilothouse diff`
//! and a review of a pull request all name the same causes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Desired;
use crate::api::content::SKILLS;

/// Name of the part that gathered text is; `text/NAME` is what the context of that name adds to it.
pub const TEXT: &str = "text";
/// Name of the part that suspension is.
pub const SUSPEND: &str = "suspend";
/// Everything of the pod template that no other part names.
pub const TEMPLATE: &str = "template";
/// The pod template is not what was applied: somebody else changed it.
pub const DRIFT: &str = "drift";

/// Parts with their hashes.
pub type Parts = BTreeMap<String, String>;

/// How a change arrives, mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Class {
    /// Nothing changes.
    None,
    /// Files change under the running server; it reads them anew for the next prompt.
    Live,
    /// The server reads anew what it keeps: skills. Configuration still comes by Rollout.
    Reload,
    /// New pods, through the gate.
    Rollout,
    /// What the cluster forbids to change in place. Not used yet: no part of what is generated is such a field.
    Recreate,
}

/// What changed and how it arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// The mildest class that makes every change effective.
    pub class: Class,
    /// Names of the parts that differ, sorted.
    pub causes: BTreeSet<String>,
}

/// Compares two versions of an agent's objects by their parts.
pub fn classify(old: &Parts, new: &Parts) -> Effect {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let causes: BTreeSet<String> = names.into_iter().filter(|n| old.get(*n) != new.get(*n)).cloned().collect();
    let class = causes.iter().map(|cause| class_of(cause)).max().unwrap_or(Class::None);
    Effect { class, causes }
}

/// Compares two versions of an agent's objects, gathered text included.
pub fn between(old: &Desired, new: &Desired) -> Effect {
    let mut effect = classify(&old.parts, &new.parts);
    if old.text_hash != new.text_hash {
        let mut causes = classify(&old.texts, &new.texts).causes;
        if causes.is_empty() {
            // Only their order.
            causes.insert(TEXT.into());
        }
        effect.causes.extend(causes);
        effect.class = effect.class.max(Class::Live);
    }
    let parts = |desired: &Desired| desired.exchange.as_ref().map(|e| e.parts.clone()).unwrap_or_default();
    let exchanged = exchanged(&parts(old), &parts(new));
    effect.class = effect.class.max(exchanged.class);
    effect.causes.extend(exchanged.causes);
    effect
}

/// Compares what is exchanged in the running pod. What only one of the two has comes or goes with a pod template, which
/// names it by itself.
pub fn exchanged(old: &Parts, new: &Parts) -> Effect {
    let differs = |(id, hash): &(&String, &String)| new.get(*id).is_some_and(|other| other != *hash);
    let causes: BTreeSet<String> = old.iter().filter(differs).map(|(id, _)| id.clone()).collect();
    let class = causes.iter().map(|id| class_of_exchange(id)).max().unwrap_or(Class::None);
    Effect { class, causes }
}

/// Skills are kept by the server; contexts it reads as files.
fn class_of_exchange(id: &str) -> Class {
    if id.starts_with(SKILLS) { Class::Reload } else { Class::Live }
}

fn class_of(part: &str) -> Class {
    match part {
        _ if part.split('/').next() == Some(TEXT) => Class::Live,
        _ => Class::Rollout,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(list: &[(&str, &str)]) -> Parts {
        list.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    #[test]
    fn the_strongest_part_decides() {
        let old = parts(&[("image", "1"), ("text", "1"), ("credentials/a", "1"), ("env", "1")]);
        let table = [
            (vec![], Class::None),
            (vec!["text"], Class::Live),
            (vec!["text/rules"], Class::Live),
            (vec!["texture"], Class::Rollout),
            (vec!["image"], Class::Rollout),
            (vec!["credentials/a", "text"], Class::Rollout),
            (vec!["credentials/b"], Class::Rollout),
            (vec!["env", "image"], Class::Rollout),
        ];
        for (changed, class) in table {
            let mut new = old.clone();
            for name in &changed {
                new.insert((*name).into(), "2".into());
            }
            let effect = classify(&old, &new);
            assert_eq!(effect.class, class, "{changed:?}");
            assert_eq!(effect.causes.iter().map(String::as_str).collect::<Vec<_>>(), changed);
        }
        assert_eq!(classify(&old, &parts(&[])).causes.len(), 4, "a part that vanished has changed");
    }

    proptest! {
        #[test]
        fn the_same_parts_have_no_effect_and_order_does_not_matter(
            a in prop::collection::btree_map("[a-z]{1,3}", "[0-9]", 0..6),
            b in prop::collection::btree_map("[a-z]{1,3}", "[0-9]", 0..6),
        ) {
            prop_assert_eq!(classify(&a, &a).class, Class::None);
            prop_assert_eq!(classify(&a, &b), classify(&b, &a));
        }
    }
}
