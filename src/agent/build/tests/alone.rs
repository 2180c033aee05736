//! The same agent as a pod for one Task.

use k8s_openapi::api::core::v1::{Container, Volume};

use super::*;
use crate::agent::build::alone::MAIN;

fn alone(world: &World) -> Alone {
    world.inputs(|inputs| super::super::alone(inputs, Some("PEM"))).unwrap()
}

fn containers(alone: &Alone) -> Vec<&Container> {
    alone.spec.init_containers.iter().flatten().chain(&alone.spec.containers).collect()
}

fn volumes(alone: &Alone) -> &[Volume] {
    alone.spec.volumes.as_deref().unwrap_or_default()
}

fn with_command() -> World {
    let mut world = full();
    world.spec["command"] = json!(["make", "it; rm -rf /"]);
    world
}

/// Agents of all kinds.
fn worlds() -> Vec<World> {
    let mut volume = full();
    // Names like ours are the user's.
    volume.spec["podSpec"]["extraVolumes"] = json!([{"name": "files-x", "configMap": {"name": "mine"}}]);
    volume.spec["podSpec"]["extraVolumeMounts"] = json!([]);
    volume.spec["podSpec"]["systemContainers"] = json!({});
    vec![minimal(), full(), with_command(), git::rich(), volume]
}

#[test]
fn the_pod_is_whole_by_itself() {
    for world in worlds() {
        let alone = alone(&world);
        let names: BTreeSet<_> = volumes(&alone).iter().map(|v| v.name.as_str()).collect();
        for mount in containers(&alone).into_iter().flat_map(|c| c.volume_mounts.iter().flatten()) {
            assert!(names.contains(mount.name.as_str()), "{} is no volume", mount.name);
        }
        for volume in volumes(&alone) {
            assert!(volume.secret.as_ref().is_none_or(|s| !s.secret_name.as_ref().unwrap().ends_with("-server-auth")));
            let Some(map) = volume.config_map.as_ref().filter(|map| map.name != "mine") else { continue };
            assert_eq!(map.name, alone.files, "{}: an agent of the same name has the others", volume.name);
            for item in map.items.iter().flatten() {
                let has = alone.data.contains_key(&item.key) || alone.binary.contains_key(&item.key);
                assert!(has, "{}: no key {}", volume.name, item.key);
            }
        }
        assert!(alone.files.starts_with("coder-task-files-") && alone.spec.readiness_gates.is_none());
        assert_eq!(alone.spec.restart_policy.as_deref(), Some("Never"));
    }
}

#[test]
fn a_volume_may_be_called_as_the_container() {
    let volume = |name: &str| {
        let mut world = minimal();
        world.spec["podSpec"] = json!({"extraVolumes": [{"name": name, "emptyDir": {}}]});
        world.inputs(|inputs| super::super::alone(inputs, None))
    };
    assert!(volumes(&volume(MAIN).unwrap()).iter().any(|v| v.name == MAIN));
    let refused = volume("pilothouse-task").unwrap_err();
    assert!(refused.message.contains("\"pilothouse-task\" is taken"), "{}", refused.message);
}

#[test]
fn the_server_ends_with_the_container_that_counts() {
    let alone = alone(&full());
    let before: Vec<_> = alone.spec.init_containers.as_ref().unwrap().iter().collect();
    let shape: Vec<_> = before.iter().map(|c| (c.name.as_str(), c.restart_policy.as_deref())).collect();
    let (init, sidecar, server) = (layout::OPENCODE_INIT, layout::SIDECAR, layout::SERVER);
    assert_eq!(shape, [(init, None), (sidecar, Some("Always")), (server, Some("Always"))]);
    assert!(alone.spec.containers.is_empty() && !alone.has_command(), "whose client it is adds it");
    let server = before[2];
    // The user's hook stays; ours would wait for work that has ended.
    assert!(server.lifecycle.as_ref().unwrap().pre_stop.as_ref().unwrap().exec.is_some());
    assert!(self::alone(&minimal()).spec.init_containers.unwrap()[2].lifecycle.is_none());
    assert!(server.startup_probe.is_some() && server.liveness_probe.is_some() && server.readiness_probe.is_none());
    let env = |c: &Container, name: &str| -> Option<String> {
        c.env.iter().flatten().find(|e| e.name == name).and_then(|e| e.value.clone())
    };
    assert_eq!(env(server, "TASK_NAME").as_deref(), Some("coder"));
    assert_eq!(env(before[1], "PILOTHOUSE_ALONE").as_deref(), Some("true"));
    assert!(before[1].lifecycle.is_none(), "nobody asks it to let work end");
}

#[test]
fn the_password_is_made_in_the_pod_and_the_agents_container_never_sees_it() {
    for world in worlds() {
        let alone = alone(&world);
        let volume = volumes(&alone).iter().find(|v| v.name == "auth").unwrap();
        assert_eq!(volume.empty_dir.as_ref().unwrap().medium.as_deref(), Some("Memory"));
        for container in containers(&alone) {
            let mount = container.volume_mounts.iter().flatten().find(|m| m.name == "auth");
            assert_eq!(mount.is_some(), container.name == layout::SIDECAR, "{}", container.name);
            assert!(mount.is_none_or(|m| m.read_only.is_none()));
        }
    }
}

#[test]
fn a_command_runs_in_the_place_of_server_and_client() {
    let alone = alone(&with_command());
    assert!(alone.has_command());
    let names: Vec<_> = containers(&alone).iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, [layout::OPENCODE_INIT, layout::SIDECAR, MAIN]);
    let main = &alone.spec.containers[0];
    let command = main.command.clone().unwrap();
    assert_eq!(command[4..], ["make", "it; rm -rf /"], "as arguments, read by no shell");
    assert!(!command[2].contains("make") && main.startup_probe.is_none() && main.liveness_probe.is_none());
    assert_eq!(main.image.as_deref(), Some("devbox@sha256:00"));
    assert!(main.env.iter().flatten().any(|e| e.name == "GITHUB_TOKEN"));
}

#[test]
fn what_is_from_git_is_named_and_follows_nothing() {
    let mut world = git::rich();
    for list in ["contexts", "skills"] {
        for item in world.spec[list].as_array_mut().unwrap() {
            item["git"]["sync"] = Value::Null;
        }
    }
    let alone = alone(&world);
    assert_eq!(alone.pieces.len(), 7);
    assert_eq!(alone.digests.split(',').count(), 7, "{}", alone.digests);
    let manifest: crate::api::content::Manifest = serde_json::from_str(&alone.data[layout::CONTENT_KEY]).unwrap();
    assert_eq!((manifest.pieces.len(), manifest.live.len()), (7, 0));
    let content = volumes(&alone).iter().find(|v| v.name == "content").unwrap();
    assert!(content.empty_dir.is_some(), "an agent of the same name has such a ConfigMap");
}

#[test]
fn the_same_content_has_the_same_name_and_no_other() {
    let name = |world: &World| alone(world).files;
    assert_eq!(name(&full()), name(&full()));
    for (pointer, value) in [("/contexts/0/text", "x"), ("/contexts/2/text", "y"), ("/config/model", "p/z")] {
        let mut other = full();
        *other.spec.pointer_mut(pointer).unwrap() = json!(value);
        assert_ne!(name(&other), name(&full()), "{pointer}");
    }
    let other = full().inputs(|inputs| super::super::alone(inputs, None)).unwrap();
    assert_ne!(other.files, name(&full()));
}

#[test]
fn what_fits_into_no_config_map_is_refused() {
    let mut world = minimal();
    let text = "x".repeat(600 * 1024);
    world.spec["contexts"] = json!([
        {"name": "a", "type": "Text", "text": text}, {"name": "b", "type": "Text", "text": text, "mountPath": "b"},
    ]);
    let refused = world.inputs(|inputs| super::super::alone(inputs, None)).unwrap_err();
    assert_eq!((refused.reason, refused.class), ("ContextTooLarge", Class::Stalled));
}
