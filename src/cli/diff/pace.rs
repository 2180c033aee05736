//! What the pace of the fleet means for a change of several agents.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::ResourceExt;

use super::effects::Effect;
use crate::{
    agent::{
        effect::Class,
        fleet::{Pace, Planned, outlook},
        gate::{self, Ask},
    },
    api::{PilothouseConfigSpec, names::annotation},
    object::ObjectId,
};

/// Says it in each effect that the pace is about.
pub(super) fn look(effects: &mut BTreeMap<ObjectId, Effect>, config: Option<&PilothouseConfigSpec>, now: Timestamp) {
    let Some(pace) = Pace::of(config.and_then(|config| config.fleet.as_ref())) else { return };
    let mut paced: Vec<&mut Effect> = effects.values_mut().filter(|effect| is_paced(effect)).collect();
    let changes: Vec<Planned<'_>> = paced
        .iter()
        .map(|effect| Planned { labels: &effect.labels, steps: &effect.steps, kept: is_kept(effect) })
        .collect();
    let outlooks = outlook(&pace, &changes, now);
    for (effect, outlook) in paced.iter_mut().zip(outlooks) {
        effect.pace = Some(outlook).filter(|_| !is_kept(effect));
    }
}

/// Without a pod, before or after it, an agent is in nobody's way.
fn is_paced(effect: &Effect) -> bool {
    let changes = effect.class.is_some_and(|class| class != Class::None);
    effect.agent.as_ref().is_some_and(|agent| {
        let (old, _, after) = &**agent;
        let rests = old.status.as_ref().is_some_and(|status| status.suspended == Some(true));
        changes && !rests && after.suspend != Some(true)
    })
}

/// Whether a person keeps it back.
fn is_kept(effect: &Effect) -> bool {
    effect.agent.as_ref().is_some_and(|agent| {
        let marks = agent.0.annotations();
        let asked = marks.get(annotation::ROLLOUT).map(String::as_str);
        marks.contains_key(annotation::PINNED_TO) || matches!(gate::asked(asked, None, &[]), Ask::Hold { .. })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::{Agent, AgentSpec};

    fn effect(ring: &str, marks: serde_json::Value, suspend: bool) -> Effect {
        let mut agent = Agent::new("a", AgentSpec::default());
        agent.metadata.annotations = serde_json::from_value(marks).unwrap();
        let after = AgentSpec { suspend: Some(suspend), ..AgentSpec::default() };
        Effect {
            class: Some(Class::Rollout),
            causes: ["image".to_string()].into(),
            message: "a new pod".into(),
            labels: [("ring".to_string(), ring.to_string())].into(),
            steps: ["image=1".to_string()].into(),
            pace: None,
            agent: Some(Box::new((agent, AgentSpec::default(), after))),
        }
    }

    #[test]
    fn each_agent_that_the_pace_is_about_says_its_wave() {
        let config = json!({"fleet": {"waves": [{"selector": {"matchLabels": {"ring": "0"}}, "soak": "1h"}]}});
        let config: PilothouseConfigSpec = serde_json::from_value(config).unwrap();
        let all = [
            ("a", effect("0", json!({}), false)),
            ("b", effect("1", json!({}), false)),
            ("c", effect("0", json!({annotation::PINNED_TO: "x"}), false)),
            ("d", effect("0", json!({annotation::ROLLOUT: "hold: Jo"}), false)),
            ("e", effect("1", json!({}), true)),
        ];
        let id = |name: &str| ObjectId {
            namespace: "team".into(),
            name: name.into(),
            group: crate::api::GROUP.into(),
            kind: "Agent".into(),
        };
        let mut effects: BTreeMap<_, _> = all.into_iter().map(|(name, effect)| (id(name), effect)).collect();
        look(&mut effects, None, Timestamp::UNIX_EPOCH);
        assert!(effects.values().all(|effect| effect.pace.is_none()), "no pace is set");
        look(&mut effects, Some(&config), Timestamp::UNIX_EPOCH);
        let said = |name: &str| effects[&id(name)].pace.as_ref().map(ToString::to_string);
        assert_eq!(said("a").as_deref(), Some("wave 1 of 2, 10% of the agents at a time"));
        let late = said("b").unwrap();
        assert!(late.starts_with("wave 2 of 2") && late.ends_with("nobody knows until when"), "{late}");
        assert_eq!((said("c"), said("d"), said("e")), (None, None, None));
        assert!(effects[&id("b")].to_string().contains("a new pod; wave 2 of 2"), "{}", effects[&id("b")]);
    }
}
