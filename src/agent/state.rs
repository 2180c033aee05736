//! What the annotations of an agent's Deployment and ConfigMap remember between reconciles.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Pieces,
    effect::Parts,
    gate::{self, Pending},
    hash::canonical,
    pieces,
};
use crate::api::names::annotation;

/// Deployment, ConfigMap of gathered text: the parts of what was applied, as JSON.
pub const PARTS: &str = "pilothouse.dev/template-parts";
/// Deployment: its generation since which the pod template is what it is. (Every change of an annotation makes a new
/// generation too.)
pub const TEMPLATE_GENERATION: &str = "pilothouse.dev/template-generation";
/// Deployment, `ConfigMap` of exchangeable content: what was decided for the Git inputs of it, as JSON of [`Pieces`].
pub const PIECES: &str = "pilothouse.dev/pieces";
/// Beside [`PIECES`]: that the controller wrote it, for this Agent.
pub const PIECES_SEAL: &str = "pilothouse.dev/pieces-seal";
/// `ConfigMap` of exchangeable content: hash of which pieces it has, and where.
pub const SHAPE: &str = "pilothouse.dev/content-shape";
/// `ConfigMap` of exchangeable content: since when the pods are to have it, waiting included, RFC 3339.
pub const SINCE: &str = "pilothouse.dev/content-since";
/// In the place of that time: somebody holds what pods lack. It begins when that ends.
pub const HELD: &str = "held";
/// Every object we generate: hash of it as we want it, so that a field that is wanted no more is noticed too.
pub const OBJECT_HASH: &str = "pilothouse.dev/object-hash";
/// The version after which no earlier write could land; written where the answer to one did not come.
pub const FENCE: &str = "pilothouse.dev/write-fence";
/// Deployment, ConfigMaps: the value of [`annotation::ROLLOUT`] that was there when they were applied last.
pub const ROLLOUT_SEEN: &str = "pilothouse.dev/rollout-seen";
/// Deployment: the newest revision that got ready before the present one, as JSON; only where `autoRollback` asks.
pub const LAST_GOOD: &str = "pilothouse.dev/last-good";
/// Deployment: hash of the pod template that did not get ready, while the last good one runs in its place.
pub const FAILED_HASH: &str = "pilothouse.dev/failed-hash";
/// Deployment: why it did not.
pub const FAILED_WHY: &str = "pilothouse.dev/failed-why";
/// Before the hash of an object that was created and not applied since: its fields are owned by a creation, and have to
/// become those of an apply before an apply can take any of them away.
const CREATED: &str = "created/";

/// Annotations, as Kubernetes has them.
pub type Annotations = BTreeMap<String, String>;

/// The state of the gate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Hash of what was applied; `None` on an object that was never applied by us.
    pub applied: Option<String>,
    /// Its parts.
    pub parts: Parts,
    /// What waits.
    pub pending: Option<Pending>,
    /// What the annotation `pilothouse.dev/rollout` was when this was applied.
    pub rollout_seen: Option<String>,
    /// What did not get ready and was taken back.
    pub failed: Option<Failed>,
}

/// A revision that did not get ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Its hash.
    pub hash: String,
    /// Why; may be empty.
    pub why: String,
}

impl State {
    /// Reads the annotations of a Deployment. What cannot be read counts as absent: a lost clock starts anew, and
    /// lost parts make every part a cause.
    pub fn of_deployment(annotations: &Annotations) -> Self {
        Self::of(annotations, annotation::TEMPLATE_HASH)
    }

    /// Reads the annotations of the ConfigMap of gathered text.
    pub fn of_context(annotations: &Annotations) -> Self {
        Self::of(annotations, annotation::CONTEXT_HASH)
    }

    /// Reads the annotations of the ConfigMap of exchangeable content.
    pub fn of_content(annotations: &Annotations) -> Self {
        Self::of(annotations, annotation::CONTENT_HASH)
    }

    fn of(annotations: &Annotations, hash: &str) -> Self {
        let parts = annotations.get(PARTS).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let get = |key: &str| annotations.get(key).filter(|text| !text.is_empty()).cloned();
        let why = get(FAILED_WHY).unwrap_or_default();
        Self {
            applied: annotations.get(hash).cloned(),
            parts,
            pending: pending(annotations),
            rollout_seen: get(ROLLOUT_SEEN),
            failed: get(FAILED_HASH).map(|hash| Failed { hash, why }),
        }
    }
}

/// The value of [`OBJECT_HASH`] in a creation.
pub fn created(hash: &str) -> String {
    format!("{CREATED}{hash}")
}

/// The hash that an object carries, of what was created or applied last.
pub fn object_hash(annotations: &Annotations) -> Option<&str> {
    annotations.get(OBJECT_HASH).map(|mark| mark.strip_prefix(CREATED).unwrap_or(mark))
}

/// Whether the object's fields are those of an apply.
pub fn is_applied(annotations: &Annotations) -> bool {
    annotations.get(OBJECT_HASH).is_some_and(|mark| !mark.starts_with(CREATED))
}

fn pending(annotations: &Annotations) -> Option<Pending> {
    let get = |key: &str| annotations.get(key).filter(|text| !text.is_empty());
    let causes = get(annotation::PENDING_CAUSES).map(String::as_str).unwrap_or_default();
    Some(Pending {
        hash: get(annotation::PENDING_HASH)?.clone(),
        since: get(annotation::PENDING_SINCE)?.parse().ok()?,
        causes: causes.split(',').filter(|c| !c.is_empty()).map(String::from).collect::<BTreeSet<_>>(),
        held: get(annotation::PENDING_HELD).is_some_and(|held| held == "true"),
    })
}

/// Annotations that say what waits.
pub fn pending_annotations(pending: &Pending) -> Annotations {
    let causes: Vec<_> = pending.causes.iter().map(String::as_str).collect();
    Annotations::from([
        (annotation::PENDING_HASH.into(), pending.hash.clone()),
        (annotation::PENDING_SINCE.into(), pending.since.to_string()),
        (annotation::PENDING_CAUSES.into(), causes.join(",")),
        // Also where it is not: what is remembered is added to what was, nothing is taken away.
        (annotation::PENDING_HELD.into(), pending.held.to_string()),
    ])
}

/// The annotation that remembers which order of [`annotation::ROLLOUT`] an apply has carried out, or made pointless.
pub fn seen_annotation(asked: Option<&str>) -> Annotations {
    let seen = asked.filter(|value| gate::is_now(value));
    seen.map(|value| (ROLLOUT_SEEN.to_string(), value.to_string())).into_iter().collect()
}

/// Annotations that say what is applied.
pub fn applied_annotations(hash: &str, parts: &Parts) -> Annotations {
    let mut annotations = parts_annotation(parts);
    annotations.insert(annotation::TEMPLATE_HASH.into(), hash.into());
    annotations
}

/// The annotation that remembers parts.
pub fn parts_annotation(parts: &Parts) -> Annotations {
    Annotations::from([(PARTS.into(), canonical(&serde_json::json!(parts)))])
}

/// What was applied for Git inputs, as the object remembers it; the hash beside it is of the same apply.
pub fn pieces(annotations: &Annotations) -> Pieces {
    annotations.get(PIECES).map(|text| pieces::from_json(text)).unwrap_or_default()
}

/// The same of a Deployment and of the `ConfigMap` of exchangeable content together: with the pod template, and for
/// running pods. A piece that both have is on its way from one to the other, which the Deployment ends.
pub fn applied_pieces(deployment: Option<&Annotations>, content: Option<&Annotations>) -> (Pieces, Pieces) {
    let fixed = deployment.map(pieces).unwrap_or_default();
    let mut exchanged = content.map(pieces).unwrap_or_default();
    exchanged.retain(|id, _| !fixed.contains_key(id));
    (fixed, exchanged)
}

/// The annotation that remembers it; none where there are no Git inputs.
pub fn pieces_annotation(pieces: &Pieces) -> Annotations {
    if pieces.is_empty() {
        return Annotations::new();
    }
    Annotations::from([(PIECES.into(), pieces::to_json(pieces))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let pending = Pending {
            hash: "h".into(),
            since: "2026-11-21T10:00:00Z".parse().unwrap(),
            causes: ["config".to_string(), "credentials/a".to_string()].into(),
            held: true,
        };
        let parts = Parts::from([("image".into(), "1".into()), ("text".into(), "2".into())]);
        let mut annotations = applied_annotations("a", &parts);
        assert_eq!(
            State::of_deployment(&annotations),
            State { applied: Some("a".into()), parts: parts.clone(), ..State::default() }
        );
        annotations.extend(pending_annotations(&pending));
        assert_eq!(
            State::of_deployment(&annotations),
            State { applied: Some("a".into()), parts, pending: Some(pending), ..State::default() }
        );
    }

    #[test]
    fn a_creation_carries_its_hash_and_is_no_apply() {
        let marked = |mark: &str| Annotations::from([(OBJECT_HASH.into(), mark.into())]);
        let table = [
            (marked(&created("h")), Some("h"), false),
            (marked("h"), Some("h"), true),
            (Annotations::new(), None, false),
        ];
        for (annotations, hash, applied) in table {
            assert_eq!((object_hash(&annotations), is_applied(&annotations)), (hash, applied), "{annotations:?}");
        }
    }

    #[test]
    fn nonsense_counts_as_absent() {
        let annotations = Annotations::from([
            (annotation::PENDING_HASH.into(), "h".into()),
            (annotation::PENDING_SINCE.into(), "yesterday".into()),
            (PARTS.into(), "{".into()),
        ]);
        assert_eq!(State::of_deployment(&annotations), State::default());
    }
}
