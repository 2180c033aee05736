//! What a change of an Agent would do, for who cannot read everything that the controller reads (pure).

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ConfigMapData, Desired, Inputs, Invalid, Pieces, Resolved, SecretKeys, Wanted, build,
    effect::{Effect, between},
    fleet::{Steps, steps},
    merge, references, wanted, wants_suspension,
};
use crate::api::{Agent, AgentSpec, AgentTemplateSpec, PilothouseConfigSpec};

/// Stands for an image that the cluster's settings or the controller's flags give.
const UNKNOWN_IMAGE: &str = "unknown";

/// One side of the comparison.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// The Agent, with its annotations.
    pub agent: &'a Agent,
    /// The template that it names, where that is known.
    pub template: Option<&'a AgentTemplateSpec>,
    /// The cluster's settings, where they are known.
    pub config: Option<&'a PilothouseConfigSpec>,
    /// What is applied for its Git inputs, as far as that is known: whether a path is a file.
    pub pieces: &'a Pieces,
    /// `ConfigMaps` in the Agent's namespace, those that are known, by name.
    pub config_maps: &'a BTreeMap<String, ConfigMapData>,
}

/// The effect of going from `old` to `new`. What is unknown on both sides (Secrets always, `ConfigMaps` that are not
/// given, images from elsewhere) counts as the same.
///
/// # Errors
/// Why one of them could not be built: its spec is invalid.
pub fn preview(old: &Side<'_>, new: &Side<'_>) -> Result<Effect, Invalid> {
    Ok(preview_steps(old, new)?.0)
}

/// The same, and what the change consists of: steps of the same name are the same change, at all agents that are compared
/// like this.
///
/// # Errors
/// As [`preview`].
pub fn preview_steps(old: &Side<'_>, new: &Side<'_>) -> Result<(Effect, Steps), Invalid> {
    let namespace = new.agent.metadata.namespace.as_deref().unwrap_or_default();
    let (old, new) = (desired(old)?, desired(new)?);
    Ok((between(&old, &new), steps::between(&old, &new, namespace)))
}

fn desired(side: &Side<'_>) -> Result<Desired, Invalid> {
    let mut spec = merge(&side.agent.spec, side.template);
    let mut config = side.config.cloned().unwrap_or_default();
    for image in [&mut config.agent_image, &mut config.executor_image] {
        image.get_or_insert_with(|| UNKNOWN_IMAGE.into());
    }
    // Of an unknown template nothing else is needed to build.
    spec.workspace_dir.get_or_insert_with(|| "/workspace".into());
    build(&Inputs {
        agent: side.agent,
        spec: &spec,
        config: Some(&config),
        system_image: Some(UNKNOWN_IMAGE),
        grace: None,
        layout: crate::agent::build::layout::NEWEST,
        upgrade: None,
        upgraded: None,
        voice_address: None,
        suspended: wants_suspension(side.agent),
        pieces: &unknown_pieces(&spec, side.pieces)?,
        unread: &BTreeSet::new(),
        config_maps: &config_maps(&spec, side.config_maps),
        secrets: &secrets(&spec),
    })
}

/// A commit for each Git input that stands for the one it is at: the same as long as its source is the same. What was a
/// file counts as one.
fn unknown_pieces(spec: &AgentSpec, known: &Pieces) -> Result<Pieces, Invalid> {
    let piece = |wanted: Wanted| {
        let hash = wanted.source_hash();
        let is_file = known.get(&wanted.id).is_some_and(|known| known.is_file);
        let rest = Resolved { is_file, ..Resolved::default() };
        (wanted.id, Resolved { revision: hash.clone(), digest: hash.clone(), source_hash: hash, ..rest })
    };
    Ok(wanted(spec)?.into_iter().map(piece).collect())
}

/// What is known, and for what is not the keys that the spec names.
fn config_maps(spec: &AgentSpec, known: &BTreeMap<String, ConfigMapData>) -> BTreeMap<String, ConfigMapData> {
    let mut maps: BTreeMap<String, ConfigMapData> =
        references(spec).config_maps.into_iter().map(|name| (name, ConfigMapData::default())).collect();
    for reference in spec.contexts.iter().flatten().filter_map(|c| c.config_map.as_ref()) {
        let map = maps.entry(reference.name.clone()).or_default();
        map.text.extend(reference.key.iter().map(|key| (key.clone(), String::new())));
    }
    for (name, data) in known {
        if let Some(map) = maps.get_mut(name) {
            map.text.retain(|key, _| !data.binary.contains_key(key));
            map.text.extend(data.text.clone());
            map.binary.clone_from(&data.binary);
        }
    }
    maps
}

fn secrets(spec: &AgentSpec) -> BTreeMap<String, SecretKeys> {
    let mut secrets: BTreeMap<String, SecretKeys> = BTreeMap::new();
    for reference in spec.credentials.iter().flatten().map(|c| &c.secret_ref) {
        let key = reference.key.clone().unwrap_or_else(|| "unknown".into());
        secrets.entry(reference.name.clone()).or_default().0.insert(key, String::new());
    }
    secrets
}

/// The objects of an agent of this spec, for tests.
#[cfg(test)]
pub(super) fn sample(spec: &serde_json::Value) -> Desired {
    sample_named("coder", spec)
}

/// The same of an agent with this name.
#[cfg(test)]
pub(super) fn sample_named(name: &str, spec: &serde_json::Value) -> Desired {
    let mut agent = Agent::new(name, serde_json::from_value(spec.clone()).unwrap());
    agent.metadata.namespace = Some("team".into());
    desired(&Side {
        agent: &agent,
        template: None,
        config: None,
        pieces: &Pieces::new(),
        config_maps: &BTreeMap::new(),
    })
    .unwrap()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::agent::effect::Class;

    fn agent(spec: &Value) -> Agent {
        let mut agent = Agent::new("coder", serde_json::from_value(spec.clone()).unwrap());
        agent.metadata.namespace = Some("team".into());
        agent
    }

    fn spec() -> Value {
        json!({
            "templateRef": {"name": "unknown"},
            "contexts": [
                {"name": "rules", "type": "Text", "text": "Be kind."},
                {"name": "book", "type": "ConfigMap", "configMap": {"name": "books", "key": "k"}},
                {"name": "dir", "type": "ConfigMap", "configMap": {"name": "more"}, "mountPath": "/opt/more"},
            ],
            "credentials": [
                {"name": "one", "secretRef": {"name": "keys", "key": "token"}, "env": "TOKEN"},
                {"name": "all", "secretRef": {"name": "keys"}},
            ],
        })
    }

    #[test]
    fn what_is_known_differs_and_what_is_not_is_the_same() {
        let map = |text: &str| {
            let text = BTreeMap::from([("k".to_string(), text.to_string())]);
            BTreeMap::from([("books".to_string(), ConfigMapData { text, ..ConfigMapData::default() })])
        };
        let (none, pieces) = (BTreeMap::new(), Pieces::new());
        let old = agent(&spec());
        let old = Side { agent: &old, template: None, config: None, pieces: &pieces, config_maps: &none };
        let with = |pointer: &str, value: Value| {
            let mut spec = spec();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            spec.pointer_mut(parent).unwrap()[key] = value;
            agent(&spec)
        };
        let table = vec![
            (with("/profile", json!("x")), Class::None, &[][..]),
            (with("/contexts/0/text", json!("Be strict.")), Class::Live, &["text/rules"]),
            (with("/executorImage", json!("devbox:2")), Class::Rollout, &["image"]),
            (with("/config", json!({"model": "p/m"})), Class::Rollout, &["config"]),
            (with("/suspend", json!(true)), Class::Rollout, &["suspend"]),
        ];
        for (new, class, causes) in &table {
            let effect = preview(&old, &Side { agent: new, ..old }).unwrap();
            assert_eq!(effect.class, *class, "{causes:?}");
            assert_eq!(effect.causes.iter().map(String::as_str).collect::<Vec<_>>(), *causes);
        }
        let (before, after) = (map("one"), map("two"));
        let effect = preview(&Side { config_maps: &before, ..old }, &Side { config_maps: &after, ..old }).unwrap();
        assert_eq!(effect.causes.into_iter().collect::<Vec<_>>(), ["text/book"]);
        assert!(preview(&old, &Side { agent: &with("/config", json!("{")), ..old }).is_err());
    }

    /// A mount of a single file stays with the file that was there first, so a new one needs a new pod.
    #[test]
    fn a_single_file_outside_of_the_workspace_comes_by_a_rollout() {
        let none = BTreeMap::new();
        let of = |repository: &str| {
            let git = json!({"repository": repository, "path": "p.md", "sync": {"enabled": true}});
            let item = json!({"name": "one", "type": "Git", "mountPath": "/opt/one.md", "git": git});
            agent(&json!({"workspaceDir": "/w", "contexts": [item]}))
        };
        let (old, new) = (of("u1"), of("u2"));
        for (is_file, class) in [(true, Class::Rollout), (false, Class::Live)] {
            let pieces = Pieces::from([("contexts/one".to_string(), Resolved { is_file, ..Resolved::default() })]);
            let side = |agent| Side { agent, template: None, config: None, pieces: &pieces, config_maps: &none };
            let effect = preview(&side(&old), &side(&new)).unwrap();
            assert_eq!((effect.class, effect.causes.len()), (class, 1), "{is_file}");
        }
    }
}
