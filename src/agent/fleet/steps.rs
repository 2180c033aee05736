//! What a change consists of: parts that get a value, named so that the same step has the same name at every agent.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::Of;
use crate::{
    agent::{
        Desired,
        effect::{self, DRIFT},
        hash,
        state::Annotations,
    },
    api::{
        agent::{FleetStatus, SettledStep},
        names::label,
    },
};

/// Parts that get a value, as `part=value`.
pub type Steps = BTreeSet<String>;

/// Deployment, ConfigMaps: the steps of the changes that are applied and were not settled when that was written.
pub const CHANGE: &str = "pilothouse.dev/fleet-change";
/// Most steps that are remembered, of one object and in a status.
const MOST: usize = 64;

/// The steps of a change to `desired` whose causes are these.
pub fn steps(of: Of, desired: &Desired, namespace: &str, causes: &BTreeSet<String>) -> Steps {
    causes.iter().map(|part| format!("{part}={}", value(of, desired, namespace, part))).take(MOST).collect()
}

fn value(of: Of, desired: &Desired, namespace: &str, part: &str) -> String {
    let parts = match of {
        Of::Server => &desired.parts,
        Of::Text => &desired.texts,
        Of::Content => match &desired.exchange {
            Some(exchange) => &exchange.parts,
            None => return "gone".into(),
        },
    };
    match part {
        // Somebody else's change of this one agent.
        DRIFT => desired.hash.clone(),
        "labels" => labels(desired),
        // Hashed with a key that each agent has of its own; a Secret is one namespace's.
        _ if part.starts_with("credentials/") => namespace.into(),
        _ => parts.get(part).map_or_else(|| "gone".into(), |hash| hash.chars().take(16).collect()),
    }
}

/// All but the agent's own name.
fn labels(desired: &Desired) -> String {
    let mut labels = desired.deployment.value().pointer("/spec/template/metadata/labels").cloned().unwrap_or_default();
    if let Some(labels) = labels.as_object_mut() {
        labels.remove(label::AGENT);
        labels.remove(label::INSTANCE);
    }
    hash::short(&json!(labels))
}

/// Names of the parts.
pub fn parts(steps: &Steps) -> String {
    let names: BTreeSet<_> = steps.iter().filter_map(|step| step.split('=').next()).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// All steps from what `old` is to what `new` is, whatever they come with.
pub fn between(old: &Desired, new: &Desired, namespace: &str) -> Steps {
    let exchanged = |desired: &Desired| desired.exchange.as_ref().map(|e| e.parts.clone()).unwrap_or_default();
    let changes = [
        (Of::Server, effect::classify(&old.parts, &new.parts)),
        (Of::Text, effect::classify(&old.texts, &new.texts)),
        (Of::Content, effect::exchanged(&exchanged(old), &exchanged(new))),
    ];
    changes.into_iter().flat_map(|(of, effect)| steps(of, new, namespace, &effect.causes)).take(MOST).collect()
}

/// What an object remembers.
pub fn of_annotations(annotations: Option<&Annotations>) -> Steps {
    let text = annotations.and_then(|a| a.get(CHANGE)).map(String::as_str).unwrap_or_default();
    text.split(',').filter(|step| step.contains('=')).map(String::from).collect()
}

/// What an apply of `desired` for `new` steps remembers: those, and what was applied before, is still true and not settled.
pub fn annotation(
    of: Of,
    desired: &Desired,
    namespace: &str,
    new: Steps,
    live: Option<&Annotations>,
    settled: Option<&FleetStatus>,
) -> Annotations {
    let settled: BTreeSet<&str> = settled.iter().flat_map(|s| &s.settled).map(|s| s.change.as_str()).collect();
    let holds = |step: &String| {
        let (part, is) = step.split_once('=').unwrap_or((step, ""));
        !settled.contains(step.as_str()) && value(of, desired, namespace, part) == is
    };
    let mut all = new;
    all.extend(of_annotations(live).into_iter().filter(holds));
    if all.is_empty() {
        return Annotations::new();
    }
    let list: Vec<_> = all.into_iter().take(MOST).collect();
    Annotations::from([(CHANGE.to_string(), list.join(","))])
}

/// The status after the steps in `done` have arrived, or had before, and those in `again` are on their way, also such as
/// had arrived once. The newest step of each part is kept.
pub fn settle(before: Option<&FleetStatus>, again: &Steps, done: &Steps, now: Timestamp) -> Option<FleetStatus> {
    let known = before.map(|b| b.settled.clone()).unwrap_or_default();
    let known = known.into_iter().filter(|settled| !again.contains(&settled.change));
    let mut by_part: BTreeMap<String, SettledStep> =
        known.map(|settled| (part(&settled.change).to_string(), settled)).collect();
    for step in done {
        let known = by_part.get(part(step)).is_some_and(|settled| settled.change == *step);
        if !known {
            let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
            by_part.insert(part(step).into(), SettledStep { change: step.clone(), since: Time(now) });
        }
    }
    let mut settled: Vec<_> = by_part.into_values().collect();
    settled.sort_by(|a, b| (b.since.0, &a.change).cmp(&(a.since.0, &b.change)));
    settled.truncate(MOST);
    settled.sort_by(|a, b| a.change.cmp(&b.change));
    (!settled.is_empty()).then_some(FleetStatus { settled })
}

fn part(step: &str) -> &str {
    step.split('=').next().unwrap_or(step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{effect::classify, preview::sample_named};

    fn set(list: &[&str]) -> Steps {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_same_change_has_the_same_name_at_every_agent() {
        let spec = |n: u32| {
            json!({"workspaceDir": "/w", "executorImage": format!("devbox:{n}"), "config": {"model": format!("p/{n}")},
                "serviceAccountName": format!("s{n}"), "podSpec": {"labels": {"cost": n.to_string()}},
                "contexts": [{"name": "rules", "type": "Text", "text": format!("be kind {n}")}],
                "credentials": [{"name": "key", "secretRef": {"name": "s", "key": format!("k{n}")}, "env": "KEY"}]})
        };
        let of = |agent: &str, n: u32| {
            let (old, new) = (sample_named(agent, &spec(1)), sample_named(agent, &spec(n)));
            let causes = classify(&old.parts, &new.parts).causes;
            let texts = classify(&old.texts, &new.texts).causes;
            assert!(causes.len() >= 5 && texts.len() == 1, "{causes:?} {texts:?}");
            (steps(Of::Server, &new, "team", &causes), steps(Of::Text, &new, "team", &texts))
        };
        assert_eq!(of("a", 2), of("another", 2));
        let (two, three) = (of("a", 2), of("a", 3));
        let common: Vec<_> = two.0.intersection(&three.0).collect();
        assert_eq!(common, ["credentials/key=team"], "of a Secret's content nothing is told");
        assert!(two.1.is_disjoint(&three.1));
        // Whatever else the pod template has: nothing of the agent's name.
        let (a, b) = (sample_named("a", &spec(1)), sample_named("another", &spec(1)));
        let all = a.parts.keys().cloned().collect();
        assert_eq!(steps(Of::Server, &a, "team", &all), steps(Of::Server, &b, "team", &all));
    }

    #[test]
    fn what_is_applied_is_remembered_until_it_is_settled_or_replaced() {
        let desired = sample_named("a", &json!({"workspaceDir": "/w", "executorImage": "devbox:1"}));
        let image = format!("image={}", &desired.parts["image"]);
        let live = Annotations::from([(CHANGE.into(), format!("env=old,{image}"))]);
        let remembers = |settled: Option<&FleetStatus>, new: &[&str]| {
            let marks = annotation(Of::Server, &desired, "ns", set(new), Some(&live), settled);
            of_annotations(Some(&marks))
        };
        assert_eq!(remembers(None, &[]), set(&[&image]));
        assert_eq!(remembers(None, &["command=1"]), set(&["command=1", &image]));
        let settled = settle(None, &Steps::new(), &set(&[&image]), Timestamp::UNIX_EPOCH);
        assert_eq!(remembers(settled.as_ref(), &[]), Steps::new());
        assert!(annotation(Of::Server, &desired, "ns", Steps::new(), None, None).is_empty());
    }

    #[test]
    fn of_each_part_the_newest_step_is_settled_since_it_was() {
        let at = |s: i64| Timestamp::from_second(s).unwrap();
        let list = |status: &Option<FleetStatus>| -> Vec<(String, i64)> {
            let settled = status.iter().flat_map(|s| &s.settled);
            settled.map(|s| (s.change.clone(), s.since.0.as_second())).collect()
        };
        let none = Steps::new();
        assert_eq!(settle(None, &none, &none, at(1)), None);
        let one = settle(None, &none, &set(&["env=1", "image=1"]), at(10));
        let two = settle(one.as_ref(), &none, &set(&["env=1", "image=2"]), at(20));
        assert_eq!(list(&two), [("env=1".to_string(), 10), ("image=2".to_string(), 20)]);
        let many: Steps = (0..200).map(|n| format!("contexts/{n}=1")).collect();
        let back = settle(two.as_ref(), &set(&["image=2"]), &none, at(25));
        assert_eq!(list(&back), [("env=1".to_string(), 10)], "it has to arrive once more");
        let three = settle(two.as_ref(), &none, &many, at(30));
        assert_eq!(list(&three).len(), MOST);
        assert!(!list(&three).iter().any(|(step, _)| step == "env=1"), "the oldest goes");
    }
}
