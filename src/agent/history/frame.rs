//! What is around a kept revision where nothing can be made of the newest spec (pure).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    agent::{Desired, Inputs, Invalid, Pieces, build, build::layout, wants_suspension},
    api::{Agent, AgentSpec, PilothouseConfigSpec, names::annotation},
    object::Object,
};

/// Stands for what the kept revision has.
const KEPT: &str = "kept";
/// What of a Deployment is not its pod template's and yet follows from the spec.
const AROUND: [&str; 3] = ["/metadata/labels", "/spec/strategy", "/spec/progressDeadlineSeconds"];

/// The objects of an agent of which identity, port and suspension alone are known. `live` is the JSON of its Deployment:
/// what is around the pod template stays as it is.
///
/// # Errors
/// The identity itself is of no use.
pub fn frame(agent: &Agent, live: Option<&Value>) -> Result<Desired, Invalid> {
    let text = || Some(KEPT.to_string());
    let spec = AgentSpec { workspace_dir: Some("/workspace".into()), port: agent.spec.port, ..AgentSpec::default() };
    let config =
        PilothouseConfigSpec { agent_image: text(), executor_image: text(), ..PilothouseConfigSpec::default() };
    let marks = live.and_then(|live| live.pointer("/metadata/annotations"));
    let mut desired = build(&Inputs {
        agent,
        spec: &spec,
        config: Some(&config),
        system_image: Some(KEPT),
        layout: layout::NEWEST,
        upgrade: None,
        upgraded: marks.and_then(|marks| marks.get(annotation::UPGRADE)?.as_str()),
        grace: None,
        voice_address: None,
        suspended: wants_suspension(agent),
        pieces: &Pieces::new(),
        unread: &BTreeSet::new(),
        config_maps: &BTreeMap::new(),
        secrets: &BTreeMap::new(),
    })?;
    let mut deployment = desired.deployment.value().clone();
    for pointer in AROUND {
        if let (Some(place), Some(value)) = (deployment.pointer_mut(pointer), live.and_then(|l| l.pointer(pointer))) {
            *place = value.clone();
        }
    }
    if let Ok(deployment) = Object::new(deployment) {
        desired.deployment = deployment;
    }
    Ok(desired)
}
