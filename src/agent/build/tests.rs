mod alone;
mod git;
mod reach;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    agent::{ConfigMapData, Pieces, SecretKeys, effect, merge},
    api::{Agent, AgentSpec, PilothouseConfigSpec},
    status::Class,
};

const PASSWORD: &[u8] = b"agent password";

/// Everything that an agent reads.
#[derive(Clone)]
struct World {
    spec: Value,
    config: Value,
    maps: Value,
    secrets: Value,
    pieces: Pieces,
    suspended: bool,
    system_image: &'static str,
    voice: &'static str,
    grace: Option<i64>,
    layout: u32,
    upgrade: Option<&'static str>,
}

impl World {
    fn of(spec: Value) -> Self {
        Self {
            spec,
            config: json!({"agentImage": "agents:1", "executorImage": "devbox:1"}),
            maps: json!({}),
            secrets: json!({}),
            pieces: Pieces::new(),
            suspended: false,
            system_image: "pilothouse:1",
            voice: "pilothouse.system.svc:9443",
            grace: None,
            layout: layout::NEWEST,
            upgrade: None,
        }
    }

    fn build(&self) -> Result<Desired, Invalid> {
        self.inputs(build)
    }

    fn inputs<T>(&self, made: impl FnOnce(&Inputs<'_>) -> T) -> T {
        let spec: AgentSpec = serde_json::from_value(self.spec.clone()).unwrap();
        let mut agent = Agent::new("coder", spec.clone());
        agent.metadata.namespace = Some("team".into());
        agent.metadata.uid = Some("0b0e9c1e-0000-4000-8000-000000000001".into());
        let config: PilothouseConfigSpec = serde_json::from_value(self.config.clone()).unwrap();
        let text =
            |v: &Value| ConfigMapData { text: serde_json::from_value(v.clone()).unwrap(), ..ConfigMapData::default() };
        let keys = |v: &Value| {
            let values: BTreeMap<String, String> = serde_json::from_value(v.clone()).unwrap();
            SecretKeys::new(PASSWORD, values.iter().map(|(k, v)| (k.as_str(), v.as_bytes())))
        };
        let each = |v: &Value| v.as_object().unwrap().clone();
        made(&Inputs {
            agent: &agent,
            spec: &merge(&spec, None),
            config: Some(&config),
            grace: self.grace,
            layout: self.layout,
            upgrade: self.upgrade,
            upgraded: self.upgrade,
            system_image: Some(self.system_image),
            voice_address: Some(self.voice),
            suspended: self.suspended,
            pieces: &self.pieces,
            unread: &BTreeSet::new(),
            config_maps: &each(&self.maps).iter().map(|(k, v)| (k.clone(), text(v))).collect(),
            secrets: &each(&self.secrets).iter().map(|(k, v)| (k.clone(), keys(v))).collect(),
        })
    }

    fn objects(&self) -> Vec<Value> {
        let desired = self.build().unwrap();
        [desired.service, desired.context, desired.files, desired.deployment].map(Object::into_value).into()
    }

    fn pod(&self) -> Value {
        self.build().unwrap().deployment.into_value()["spec"]["template"].take()
    }

    fn refused(&self) -> Invalid {
        self.build().unwrap_err()
    }
}

fn minimal() -> World {
    World::of(json!({"workspaceDir": "/workspace"}))
}

fn full() -> World {
    let mut world = World::of(json!({
        "profile": "A coder.",
        "agentImage": "agents:2", "executorImage": "devbox@sha256:00", "workspaceDir": "/home/agent/work",
        "port": 4200,
        "config": {"model": "p/m", "permission": {"bash": "ask"}},
        "serviceAccountName": "coder",
        "imagePullSecrets": [{"name": "registry"}, {"name": "registry"}],
        "extraPorts": [{"name": "preview", "port": 3000}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        "contexts": [
            {"name": "rules", "type": "Text", "text": "Be kind."},
            {"name": "runbook", "type": "ConfigMap", "configMap": {"name": "books", "key": "oncall"}},
            {"name": "guide", "type": "Text", "text": "# Guide\n", "mountPath": "docs/guide.md"},
            {"name": "hook", "type": "Text", "text": "#!/bin/sh\n", "mountPath": "/opt/hooks/run", "fileMode": 493},
            {"name": "books", "type": "ConfigMap", "configMap": {"name": "books"}, "mountPath": "/opt/books"},
            {"name": "late", "type": "ConfigMap", "configMap": {"name": "late", "optional": true}},
        ],
        "credentials": [
            {"name": "github", "secretRef": {"name": "github", "key": "token"}, "env": "GITHUB_TOKEN"},
            {"name": "ssh", "secretRef": {"name": "ssh", "key": "id"}, "mountPath": "/home/agent/.ssh/id", "fileMode": 256},
            {"name": "cloud", "secretRef": {"name": "cloud"}, "mountPath": "/home/agent/.cloud"},
            {"name": "all", "secretRef": {"name": "cloud"}},
        ],
        "podSpec": {
            "labels": {"team": "blue", "pilothouse.dev/agent": "stolen"},
            "runtimeClassName": "gvisor",
            "resources": {"limits": {"memory": "8Gi"}},
            "securityContext": {"readOnlyRootFilesystem": true},
            "podSecurityContext": {"runAsUser": 2000},
            "lifecycle": {"preStop": {"exec": {"command": ["sleep", "1"]}}},
            "scheduling": {
                "nodeSelector": {"pool": "agents"},
                "tolerations": [{"key": "agents", "operator": "Exists"}],
                "affinity": {"nodeAffinity": {}},
            },
            "extraVolumes": [{"name": "cache", "emptyDir": {}}],
            "extraVolumeMounts": [{"name": "cache", "mountPath": "/cache"}],
            "extraEnv": [{"name": "TZ", "value": "UTC"}, {"name": "SHELL", "value": "/bin/sh"}],
            "systemContainers": {
                "openCodeInit": {"extraEnv": [{"name": "A", "value": "1"}]},
                "contextInit": {"extraEnv": [{"name": "B", "value": "2"}], "extraVolumeMounts": [{"name": "cache", "mountPath": "/cache"}]},
            },
        },
    }));
    world.config = json!({"systemImage": {"image": "mirror/pilothouse:2", "imagePullPolicy": "Always"}});
    world.maps = json!({"books": {"oncall": "Wake up.", "other": "Sleep."}});
    world.secrets = json!({"github": {"token": "ghp"}, "ssh": {"id": "key"}, "cloud": {"A": "a", "B": "b"}});
    world
}

#[test]
fn golden_minimal() {
    insta::assert_yaml_snapshot!("minimal", minimal().objects());
}

#[test]
fn golden_full() {
    insta::assert_yaml_snapshot!("full", full().objects());
}

#[test]
fn golden_suspended_with_a_command() {
    let mut world = World::of(
        json!({"workspaceDir": "/w", "command": ["/bin/serve", "$PORT; rm -rf /"], "config": "{\"model\": \"p/m\"}"}),
    );
    world.suspended = true;
    insta::assert_yaml_snapshot!("suspended", world.objects());
}

#[test]
fn nothing_of_the_user_is_read_by_a_shell() {
    let mut world = full();
    world.spec["workspaceDir"] = json!("/work; touch /x/$(id)");
    let pod = world.pod();
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array().unwrap() {
            let command = container["command"].as_array().cloned().unwrap_or_default();
            let script = command.iter().position(|a| a == "-c").map(|i| command[i + 1].as_str().unwrap().to_owned());
            assert!(script.is_none_or(|s| !s.contains("touch")), "{container}");
        }
    }
}

/// One change of the full agent, and the causes that it must have, and no others.
#[test]
fn causes_are_named() {
    let full = full();
    let before = full.build().unwrap();
    let set = |pointer: &str, value: Value| {
        let mut world = full.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        world.spec.pointer_mut(parent).unwrap()[key] = value;
        world
    };
    let with = |change: fn(&mut World)| {
        let mut world = full.clone();
        change(&mut world);
        world
    };
    let table: Vec<(&str, World, &[&str])> = vec![
        ("nothing", full.clone(), &[]),
        ("profile", set("/profile", json!("Else")), &[]),
        ("tasks", set("/maxConcurrentTasks", json!(3)), &[]),
        ("text", set("/contexts/0/text", json!("Be strict.")), &[]),
        ("executor", set("/executorImage", json!("devbox:3")), &["image"]),
        ("agent image", set("/agentImage", json!("agents:3")), &["agent-image"]),
        ("system image", with(|w| w.config["systemImage"]["image"] = json!("x:3")), &["system-image"]),
        ("config", set("/config", json!({"model": "p/n", "permission": {}})), &["config"]),
        ("same config as text", set("/config", json!("{\"permission\":{\"bash\":\"ask\"}, \"model\": \"p/m\"}")), &[]),
        ("environment", set("/podSpec/extraEnv", json!([{"name": "TZ", "value": "CET"}])), &["env"]),
        ("environment of a helper", set("/podSpec/systemContainers/openCodeInit/extraEnv", json!([])), &["env"]),
        ("time to end", set("/rollout", json!({"timeout": "2h"})), &[]),
        ("port", set("/port", json!(4300)), &["command", "port"]),
        ("extra ports", set("/extraPorts", json!([])), &["ports"]),
        ("account", set("/serviceAccountName", json!("other")), &["service-account"]),
        ("pull secrets", set("/imagePullSecrets", json!([])), &["pull-secrets"]),
        ("labels", set("/podSpec/labels", json!({})), &["labels"]),
        ("scheduling", set("/podSpec/scheduling", json!({})), &["scheduling"]),
        ("runtime class", set("/podSpec/runtimeClassName", json!("kata")), &["runtime-class"]),
        ("resources", set("/podSpec/resources", json!({})), &["resources"]),
        ("lifecycle", set("/podSpec/lifecycle", json!({})), &["lifecycle"]),
        ("security", set("/podSpec/securityContext", json!({})), &["security"]),
        ("pod security", set("/podSpec/podSecurityContext", json!({})), &["security"]),
        ("volumes", set("/podSpec/extraVolumeMounts/0/mountPath", json!("/c")), &["template"]),
        ("a file in the workspace", set("/contexts/2/text", json!("# New")), &["contexts/guide"]),
        ("a file outside", set("/contexts/3/text", json!("new")), &["contexts/hook"]),
        ("its mode", set("/contexts/3/fileMode", json!(420)), &["contexts/hook"]),
        ("its place", set("/contexts/3/mountPath", json!("/opt/hooks/go")), &["contexts/hook"]),
        ("a ConfigMap", with(|w| w.maps["books"]["other"] = json!("Dream.")), &["contexts/books"]),
        ("a gathered key", with(|w| w.maps["books"]["oncall"] = json!("Run.")), &["contexts/books"]),
        ("a Secret", with(|w| w.secrets["github"]["token"] = json!("new")), &["credentials/github"]),
        ("a Secret's other key", with(|w| w.secrets["github"]["other"] = json!("new")), &[]),
        ("a folder", with(|w| w.secrets["cloud"]["C"] = json!("c")), &["credentials/all", "credentials/cloud"]),
        ("a variable's name", set("/credentials/0/env", json!("GH_TOKEN")), &["credentials/github"]),
        ("suspension", with(|w| w.suspended = true), &["suspend"]),
        ("the controller's address", with(|w| w.voice = "elsewhere:9443"), &["template"]),
    ];
    for (what, world, expected) in table {
        let after = world.build().unwrap();
        let effect = effect::classify(&before.parts, &after.parts);
        let causes: Vec<_> = effect.causes.iter().map(String::as_str).collect();
        assert_eq!(causes, expected, "{what}");
        assert_eq!(before.hash != after.hash, !expected.is_empty(), "{what}: the hash must change with the causes");
    }
}

#[test]
fn a_first_setting_of_the_pod_names_itself_alone() {
    let before = minimal().build().unwrap();
    let variable = json!([{"name": "A", "value": "b"}]);
    let mount = json!([{"name": "tools", "mountPath": "/more"}]);
    let table = [
        (json!({}), &[][..]),
        (json!({"extraEnv": []}), &[]),
        (json!({"extraEnv": variable}), &["env"]),
        (json!({"systemContainers": {"gitInit": {}}}), &[]),
        (json!({"systemContainers": {"openCodeInit": {"extraEnv": variable}}}), &["env"]),
        (json!({"extraVolumeMounts": mount}), &["template"]),
    ];
    for (settings, expected) in table {
        let mut world = minimal();
        world.spec["podSpec"] = settings.clone();
        let effect = effect::between(&before, &world.build().unwrap());
        assert_eq!(effect.causes.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{settings}");
    }
}

#[test]
fn two_servers_never_write_one_claim() {
    let strategy = |settings: Value, given: Value| {
        let mut world = minimal();
        (world.spec["podSpec"], world.spec["rollout"]) = (settings, json!({ "strategy": given }));
        let objects = serde_json::to_value(world.objects()).unwrap();
        let mut all = objects.as_array().unwrap().iter();
        let deployment = all.rfind(|o| o["kind"] == "Deployment").unwrap();
        deployment["spec"]["strategy"]["type"].as_str().unwrap().to_owned()
    };
    let claim = |read_only: bool| {
        let source = json!({"claimName": "c", "readOnly": read_only});
        json!({"extraVolumes": [{"name": "scratch", "emptyDir": {}}, {"name": "data", "persistentVolumeClaim": source}]})
    };
    assert_eq!(strategy(json!({}), Value::Null), "RollingUpdate");
    assert_eq!(strategy(claim(true), Value::Null), "RollingUpdate", "readers are no harm");
    assert_eq!(strategy(claim(false), Value::Null), "Recreate");
    assert_eq!(strategy(claim(false), json!("RollingUpdate")), "RollingUpdate", "who says so knows better");
}

#[test]
fn gathered_text_names_its_context() {
    let mut world = full();
    let before = world.build().unwrap();
    world.spec["contexts"][0]["text"] = json!("Be strict.");
    let effect = effect::between(&before, &world.build().unwrap());
    assert_eq!(effect.class, effect::Class::Live);
    assert_eq!(effect.causes.into_iter().collect::<Vec<_>>(), ["text/rules"]);
    world.spec["executorImage"] = json!("devbox:9");
    let effect = effect::between(&before, &world.build().unwrap());
    assert_eq!(effect.class, effect::Class::Rollout);
    assert_eq!(effect.causes.into_iter().collect::<Vec<_>>(), ["image", "text/rules"]);
}

#[test]
fn a_new_release_alone_is_no_cause() {
    let mut world = minimal();
    let before = world.build().unwrap();
    world.system_image = "pilothouse:2";
    let after = world.build().unwrap();
    assert!(before.own_system_image && before.hash == after.hash);
    assert_ne!(before.deployment, after.deployment);
}

#[test]
fn pods_have_the_time_that_work_is_protected_for() {
    let table = [
        (json!({}), None, 3600),
        (json!({"timeout": "2h30m"}), None, 9000),
        (json!({"timeout": "1s"}), None, 30),
        (json!({"timeout": "1000h"}), None, 86_400),
        (json!({"protect": "Tasks", "timeout": "10m", "onTimeout": "Wait"}), None, 600),
        (json!({"protect": "None", "timeout": "10m"}), None, 30),
        (json!({"timeout": "10m"}), Some(3600), 3600),
    ];
    let hash = minimal().build().unwrap().hash;
    for (rollout, kept, expected) in table {
        let mut world = minimal();
        (world.spec["rollout"], world.grace) = (rollout.clone(), kept);
        assert_eq!(world.pod()["spec"]["terminationGracePeriodSeconds"], expected, "{rollout}");
        assert_eq!(world.build().unwrap().hash, hash, "{rollout}: no cause of a rollout by itself");
    }
}

#[test]
fn a_hook_of_the_user_replaces_ours_and_other_hooks_stay_beside_it() {
    let hook = |lifecycle: &Value| {
        let mut world = minimal();
        world.spec["podSpec"] = json!({"lifecycle": lifecycle});
        world.pod()["spec"]["containers"][0]["lifecycle"].take()
    };
    let ours = json!({"httpGet": {"path": "/drained", "port": 14096}});
    let sleep = json!({"exec": {"command": ["sleep", "1"]}});
    let table = [
        (json!({}), json!({"preStop": ours})),
        (json!({"postStart": sleep}), json!({"postStart": sleep, "preStop": ours})),
        (json!({"preStop": sleep}), json!({"preStop": sleep})),
    ];
    for (own, expected) in table {
        assert_eq!(hook(&own), expected, "{own}");
    }
}

#[test]
fn gathered_text_changes_its_config_map_alone() {
    let mut world = full();
    let before = world.build().unwrap();
    world.spec["contexts"][0]["text"] = json!("Be strict.");
    let after = world.build().unwrap();
    assert_ne!((&before.text_hash, &before.context), (&after.text_hash, &after.context));
    assert_eq!((&before.deployment, &before.files), (&after.deployment, &after.files));
}

#[test]
fn secrets_do_not_leak() {
    let world = full();
    let all = world.objects().iter().map(ToString::to_string).collect::<String>();
    let plain = hash::text("ghp");
    assert!(!all.contains("ghp") && !all.contains(&plain[..10]), "neither the value nor a plain hash of it");
    let parts = world.build().unwrap().parts;
    assert!(!parts.values().any(|v| plain.starts_with(v.as_str())));
}

#[test]
fn images_come_from_agent_then_cluster() {
    let table = [
        (json!({"executorImage": "e"}), "agentImage"),
        (json!({"agentImage": "a"}), "executorImage"),
        (json!({"agentImage": "a", "executorImage": ""}), "executorImage"),
    ];
    for (config, missing) in table {
        let mut world = minimal();
        world.config = config;
        let failure = world.refused();
        assert_eq!((failure.class, failure.reason), (Class::Stalled, "ImageMissing"));
        assert!(failure.message.contains(&format!("spec.{missing}")), "{}", failure.message);
    }
    let mut world = minimal();
    world.system_image = "";
    assert_eq!(world.refused().reason, "ImageMissing");
}

#[test]
fn what_cannot_be_is_named() {
    let with = |field: &str, value: Value| {
        let mut world = minimal();
        world.spec[field] = value;
        world.secrets = json!({"s": {"k": "v"}});
        world.refused()
    };
    let credential = |extra: Value| {
        let mut c = json!({"name": "c", "secretRef": {"name": "s"}});
        c.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!([c])
    };
    let table = [
        (with("workspaceDir", Value::Null), "InvalidSpec", "spec.workspaceDir is required"),
        (with("extraPorts", json!([{"name": "a", "port": 14096}])), "InvalidSpec", "taken by the door"),
        (with("extraPorts", json!([{"name": "http", "port": 1}])), "InvalidSpec", "name that the agent itself uses"),
        (
            with("extraPorts", json!([{"name": "a", "port": 1}, {"name": "b", "port": 1}])),
            "InvalidSpec",
            "b (1) is there twice",
        ),
        (with("config", json!("{")), "InvalidConfig", "line 1 column 1"),
        (
            with("credentials", credential(json!({"secretRef": {"name": "no"}}))),
            "SecretNotFound",
            "waits for Secret \"no\"",
        ),
        (
            with("credentials", credential(json!({"secretRef": {"name": "s", "key": "no"}, "env": "E"}))),
            "SecretInvalid",
            "waits for key \"no\"",
        ),
        (with("credentials", credential(json!({"env": "E"}))), "InvalidSpec", "env can only be set"),
        (
            with("credentials", credential(json!({"secretRef": {"name": "s", "key": "k"}}))),
            "InvalidSpec",
            "set env or mountPath",
        ),
        (
            with(
                "credentials",
                json!([{"name": "c", "secretRef": {"name": "s"}}, {"name": "c", "secretRef": {"name": "s"}}]),
            ),
            "InvalidSpec",
            "\"c\" is there twice",
        ),
        (
            with("podSpec", json!({"extraVolumeMounts": [{"name": "v", "mountPath": "/tools/"}]})),
            "InvalidSpec",
            "/tools",
        ),
        (with("podSpec", json!({"extraVolumes": [{"name": "workspace", "emptyDir": {}}]})), "InvalidSpec", "workspace"),
    ];
    for (failure, reason, text) in table {
        assert_eq!(failure.reason, reason, "{}", failure.message);
        assert!(failure.message.contains(text), "{} should say {text}", failure.message);
    }
}

/// JSON text with the keys of every object in an order that `seed` decides.
fn shuffled(value: &Value, seed: u64) -> String {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.iter().collect();
            keys.sort_by_key(|(key, _)| hash::text(&format!("{seed}{key}")));
            let fields: Vec<_> = keys.iter().map(|(k, v)| format!("{}:{}", json!(k), shuffled(v, seed))).collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(list) => {
            format!("[{}]", list.iter().map(|v| shuffled(v, seed)).collect::<Vec<_>>().join(","))
        }
        scalar => scalar.to_string(),
    }
}

proptest! {
    /// The same inputs, however their maps are ordered, give the same bytes.
    #[test]
    fn order_does_not_matter(
        seed in any::<u64>(),
        env in prop::collection::btree_map("[A-Z]{1,6}", "[a-z]{0,5}", 0..5),
        labels in prop::collection::btree_map("[a-z]{1,6}", "[a-z]{0,5}", 0..5),
        config in prop::collection::btree_map("[a-z]{1,4}", prop::collection::btree_map("[a-z]{1,4}", any::<i32>(), 0..3), 0..4),
        books in prop::collection::btree_map("[a-z]{1,6}", "\\PC{0,20}", 1..5),
        text_form in any::<bool>(),
    ) {
        let mut world = full();
        world.spec["podSpec"]["extraEnv"] = env.iter().map(|(k, v)| json!({"name": k, "value": v})).collect();
        world.spec["podSpec"]["labels"] = json!(labels);
        world.spec["config"] = if text_form { json!(shuffled(&json!(config), seed ^ 1)) } else { json!(config) };
        world.spec["contexts"][1]["configMap"]["optional"] = json!(true);
        world.maps = json!({"books": books});
        let mut other = world.clone();
        other.spec["config"] = if text_form { json!(shuffled(&json!(config), seed)) } else { json!(config) };
        for part in [&mut other.spec, &mut other.config, &mut other.maps, &mut other.secrets] {
            *part = serde_json::from_str(&shuffled(part, seed)).unwrap();
        }
        let (a, b) = (world.build().unwrap(), other.build().unwrap());
        prop_assert_eq!(a.deployment.value().to_string(), b.deployment.value().to_string());
        prop_assert_eq!(hash::canonical(a.files.value()), hash::canonical(b.files.value()));
        prop_assert_eq!(a, b);
    }
}

#[test]
fn the_layout_and_a_request_to_upgrade_are_causes_by_name() {
    use crate::agent::effect::classify;
    let old = minimal().build().unwrap();
    let of = |layout, upgrade| World { layout, upgrade, ..minimal() }.build().unwrap();
    let causes = |new: &Desired| classify(&old.parts, &new.parts).causes.into_iter().collect::<Vec<_>>();
    let next = of(layout::NEWEST + 1, None);
    assert_eq!((causes(&next), next.hash == old.hash), (vec!["layout".to_string()], false));
    let asked = of(layout::NEWEST, Some("t"));
    assert_eq!((causes(&asked), asked.hash == old.hash), (vec!["upgrade".to_string()], false));
    assert_eq!(asked.deployment.value()["metadata"]["annotations"]["pilothouse.dev/upgrade"], "t");
    assert!(old.deployment.value()["metadata"].get("annotations").is_none_or(Value::is_null), "nobody asked");
}
