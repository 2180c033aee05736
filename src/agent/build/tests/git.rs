//! Content from Git in an agent's objects.

use super::*;
use crate::{
    agent::{Resolved, effect::Class as EffectClass, preview},
    api::content::{Form, Piece},
};

fn resolved(digest: &str) -> Resolved {
    Resolved {
        revision: format!("main@sha1:{digest}"),
        digest: format!("sha256:{digest}"),
        size: 7,
        source_hash: "s".into(),
        ..Resolved::default()
    }
}

fn context(name: &str, mount: &str, sync: &Value) -> Value {
    json!({"name": name, "type": "Git", "mountPath": mount,
        "git": {"repository": "https://git/x", "path": "docs", "sync": sync}})
}

fn skills(name: &str, names: &Value, sync: &Value) -> Value {
    json!({"name": name, "git": {"repository": "https://git/x", "path": "skills", "names": names, "sync": sync}})
}

/// A world with each of these, at a commit of its own.
#[allow(clippy::needless_pass_by_value)] // as vec! gives it
fn world(contexts: Vec<Value>, skills: Vec<Value>) -> World {
    let mut world = minimal();
    let ids = |list: &[Value], kind: &str| -> Vec<String> {
        list.iter().filter_map(|item| Some(format!("{kind}/{}", item["name"].as_str()?))).collect()
    };
    for id in [ids(&contexts, "contexts"), ids(&skills, "skills")].concat() {
        world.pieces.insert(id.clone(), resolved(id.rsplit('/').next().unwrap()));
    }
    world.spec["contexts"] = json!(contexts);
    world.spec["skills"] = json!(skills);
    world
}

fn hot() -> Value {
    json!({"enabled": true})
}

fn slow() -> Value {
    json!({"enabled": true, "policy": "Rollout"})
}

/// One of each kind.
pub(super) fn rich() -> World {
    let contexts = vec![
        context("live", "docs/live", &hot()),
        context("pinned", "docs/pinned", &Value::Null),
        context("outside", "/opt/outside", &hot()),
        context("rolled", "/opt/rolled", &slow()),
        context("file", "/etc/tool/conf.yaml", &hot()),
    ];
    let mut world =
        world(contexts, vec![skills("team", &Value::Null, &hot()), skills("some", &json!(["b", "a"]), &slow())]);
    world.pieces.get_mut("contexts/file").unwrap().is_file = true;
    world.spec["config"] = json!({"model": "p/m", "skills": {"paths": ["/mine"], "urls": ["https://u"]}});
    world
}

fn pieces(manifest: &crate::api::content::Manifest) -> Vec<(&str, &str)> {
    manifest.pieces.iter().map(|p| (p.id.as_str(), p.target.as_str())).collect()
}

fn fixed(desired: &Desired) -> crate::api::content::Manifest {
    serde_json::from_str(desired.files.value()["data"]["content.json"].as_str().unwrap()).unwrap()
}

#[test]
fn golden_git() {
    let desired = rich().build().unwrap();
    let exchange = desired.exchange.unwrap().object;
    let objects = [exchange, desired.files, desired.deployment].map(Object::into_value);
    insta::assert_yaml_snapshot!("git", objects);
}

#[test]
fn each_piece_goes_where_its_policy_says() {
    let desired = rich().build().unwrap();
    let exchange = desired.exchange.as_ref().unwrap();
    assert_eq!(
        pieces(&exchange.manifest),
        [
            ("contexts/live", "/workspace/docs/live"),
            ("contexts/outside", "/opt/outside"),
            ("skills/team", "/skills/team"),
        ]
    );
    let fixed = fixed(&desired);
    let file = fixed.pieces[0].target.clone();
    assert!(file.starts_with("/pilothouse/single/"), "{file}");
    assert_eq!(
        pieces(&fixed),
        [
            ("contexts/file", file.as_str()),
            ("contexts/pinned", "/workspace/docs/pinned"),
            ("contexts/rolled", "/opt/rolled"),
            ("skills/some", "/skills/some"),
        ]
    );
    assert_eq!((fixed.pieces[0].form, fixed.pieces[0].mode), (Form::File, Some(0o644)));
    assert_eq!(fixed.live, ["contexts/live", "contexts/outside", "skills/team"]);
    assert!(exchange.manifest.live.is_empty() && exchange.hash == exchange.manifest.hash());
    let keys = |pieces: &Pieces| pieces.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&exchange.pieces), fixed.live);
    assert_eq!(keys(&desired.pieces).len(), 4);
    let marks = |object: &Object| object.value()["metadata"]["annotations"]["pilothouse.dev/artifacts"].clone();
    assert_eq!(marks(&exchange.object), "sha256:live,sha256:outside,sha256:team");
    assert_eq!(marks(&desired.files), "sha256:file,sha256:pinned,sha256:rolled,sha256:some");
}

#[test]
fn the_sidecar_writes_and_the_server_reads() {
    let pod = rich().pod();
    let mounts = |container: &Value| -> BTreeMap<String, (String, bool, Option<String>)> {
        let list = container["volumeMounts"].as_array().unwrap();
        list.iter()
            .map(|m| {
                let read_only = m["readOnly"].as_bool().unwrap_or_default();
                let sub_path = m["subPath"].as_str().map(String::from);
                (m["mountPath"].as_str().unwrap().into(), (m["name"].as_str().unwrap().into(), read_only, sub_path))
            })
            .collect()
    };
    let (server, sidecar) = (mounts(&pod["spec"]["containers"][0]), mounts(&pod["spec"]["initContainers"][1]));
    for path in ["/skills", "/opt/outside", "/opt/rolled"] {
        assert_eq!((server[path].1, sidecar[path].1), (true, false), "{path}");
        assert_eq!(server[path].0, sidecar[path].0, "{path}: the same volume");
    }
    assert_ne!(server["/opt/outside"].0, server["/opt/rolled"].0);
    let (volume, read_only, sub_path) = &server["/etc/tool/conf.yaml"];
    assert_eq!((volume, *read_only), (&sidecar["/pilothouse/single"].0, true));
    assert!(sub_path.as_ref().unwrap().contains("conf.yaml"));
    assert_eq!(sidecar["/pilothouse/content"], ("content".to_string(), true, None));
    assert!(!server.contains_key("/workspace/docs/live") && !server.contains_key("/pilothouse/content"));
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    let content = volumes.iter().find(|v| v["name"] == "content").unwrap();
    assert_eq!(content["configMap"]["name"], "coder-server-content");
    assert_eq!(content["configMap"]["optional"], true);
    let env = pod["spec"]["initContainers"][1]["env"].as_array().unwrap();
    assert!(env.iter().any(|v| v["name"] == "PILOTHOUSE_CONTENT_DIR" && v["value"] == "/pilothouse/content"));
}

#[test]
fn the_server_is_told_where_skills_are() {
    let desired = rich().build().unwrap();
    let config: Value = serde_json::from_str(desired.files.value()["data"]["opencode.json"].as_str().unwrap()).unwrap();
    assert_eq!(
        config,
        json!({"model": "p/m", "skills": {
            "paths": ["/mine", "/skills/some/a", "/skills/some/b", "/skills/team"], "urls": ["https://u"]}})
    );
    let alone = world(vec![], vec![skills("team", &Value::Null, &Value::Null)]).build().unwrap();
    let server = &alone.deployment.value()["spec"]["template"]["spec"]["containers"][0]["env"];
    let names: Vec<_> = server.as_array().unwrap().iter().filter_map(|v| v["name"].as_str()).collect();
    assert!(names.contains(&"OPENCODE_CONFIG") && names.contains(&"OPENCODE_PERMISSION"), "{names:?}");
}

#[test]
fn an_agent_without_git_is_as_before() {
    let (plain, mut empty) = (minimal().build().unwrap(), minimal());
    empty.spec["skills"] = json!([]);
    empty.pieces.insert("contexts/gone".into(), resolved("gone"));
    assert_eq!(empty.build().unwrap(), plain);
    assert!(plain.exchange.is_none() && plain.pieces.is_empty());
    assert!(plain.files.value()["data"].get("content.json").is_none());
    assert!(plain.files.value()["metadata"].get("annotations").is_none());
}

/// What a change of an agent with one of each kind does.
#[test]
fn effects_are_as_mild_as_they_can_be() {
    use EffectClass::{Live, None as Nothing, Reload, Rollout};
    let before = rich().build().unwrap();
    let commit = |id: &str| {
        let mut world = rich();
        let piece = world.pieces.get_mut(id).unwrap();
        (piece.revision, piece.digest) = ("main@sha1:new".into(), "sha256:new".into());
        world
    };
    let set = |pointer: &str, value: Value| {
        let mut world = rich();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        world.spec.pointer_mut(parent).unwrap()[key] = value;
        world
    };
    let with = |change: fn(&mut World)| {
        let mut world = rich();
        change(&mut world);
        world
    };
    let table: Vec<(&str, World, EffectClass, &[&str])> = vec![
        ("nothing", rich(), Nothing, &[]),
        ("a live context", commit("contexts/live"), Live, &["contexts/live"]),
        ("a live context outside", commit("contexts/outside"), Live, &["contexts/outside"]),
        ("live skills", commit("skills/team"), Reload, &["skills/team"]),
        ("a pinned context", commit("contexts/pinned"), Rollout, &["contexts/pinned"]),
        ("a context by rollout", commit("contexts/rolled"), Rollout, &["contexts/rolled"]),
        ("skills by rollout", commit("skills/some"), Rollout, &["skills/some"]),
        ("a file outside", commit("contexts/file"), Rollout, &["contexts/file"]),
        ("a stronger policy", set("/contexts/0/git/sync/policy", json!("Rollout")), Rollout, &["contexts/live"]),
        ("a milder policy", set("/contexts/3/git/sync/policy", json!("HotReload")), Rollout, &["contexts/rolled"]),
        ("no policy", set("/contexts/0/git/sync", json!(null)), Rollout, &["contexts/live"]),
        ("the interval", set("/contexts/0/git/sync/interval", json!("1m")), Nothing, &[]),
        ("another place", set("/contexts/0/mountPath", json!("docs/other")), Rollout, &["contexts/live"]),
        ("permissions of a file", set("/contexts/4/fileMode", json!(493)), Rollout, &["contexts/file"]),
        ("permissions of a folder", set("/contexts/0/fileMode", json!(493)), Nothing, &[]),
        ("names of skills", set("/skills/1/git/names", json!(["a"])), Rollout, &["skills/some"]),
        ("all skills", set("/skills/0/git/names", json!(["a"])), Rollout, &["skills/team"]),
        ("configuration", set("/config/model", json!("p/n")), Rollout, &["config"]),
        (
            "a file in the workspace that was a folder",
            with(|w| w.pieces.get_mut("contexts/live").unwrap().is_file = true),
            Live,
            &["contexts/live"],
        ),
        (
            "a folder outside that was a file",
            with(|w| w.pieces.get_mut("contexts/file").unwrap().is_file = false),
            Rollout,
            &["contexts/file"],
        ),
        ("one less", with(|w| drop(w.spec["contexts"].as_array_mut().unwrap().remove(0))), Rollout, &["contexts/live"]),
        ("no skills", set("/skills", json!([])), Rollout, &["skills/some", "skills/team"]),
        (
            "only what was left out",
            with(|w| w.pieces.get_mut("skills/some").unwrap().bad_skills = vec![("x".into(), "y".into())]),
            Nothing,
            &[],
        ),
    ];
    for (what, world, class, causes) in table {
        let after = world.build().unwrap_or_else(|failure| panic!("{what}: {failure}"));
        let effect = effect::between(&before, &after);
        assert_eq!(effect.causes.iter().map(String::as_str).collect::<Vec<_>>(), causes, "{what}");
        assert_eq!(effect.class, class, "{what}");
        assert_eq!(before.hash != after.hash, class == Rollout, "{what}: a new template exactly for a rollout");
        let both = |d: &Desired| d.exchange.as_ref().map(|e| (e.hash.clone(), e.object.clone()));
        if class == Live || class == Reload {
            assert_ne!(both(&before), both(&after), "{what}");
            assert_eq!(before.files, after.files, "{what}: what is exchanged is in no pod template");
        }
    }
}

#[test]
fn what_has_no_commit_is_waited_for_by_name() {
    let mut world = rich();
    world.pieces.remove("contexts/live");
    world.pieces.remove("skills/team");
    let failure = world.refused();
    assert_eq!((failure.class, failure.reason), (Class::Waiting, "ContentNotReady"));
    assert_eq!(failure.message, "waiting for the first commit of contexts/live, skills/team");
}

#[test]
fn two_things_never_have_the_same_place() {
    let text = |path: &str| json!({"name": "text", "type": "Text", "text": "x", "mountPath": path});
    let git = |name: &str, path: &str| context(name, path, &hot());
    let credential = |path: &str| {
        let mut world = world(vec![git("docs", "docs")], vec![skills("team", &Value::Null, &hot())]);
        world.secrets = json!({"s": {"k": "v"}});
        world.spec["credentials"] = json!([{"name": "key", "secretRef": {"name": "s"}, "mountPath": path}]);
        world
    };
    let mount = |path: &str| {
        let mut world = world(vec![git("docs", "docs")], vec![skills("team", &Value::Null, &hot())]);
        world.spec["podSpec"] = json!({"extraVolumeMounts": [{"name": "tools", "mountPath": path}]});
        world
    };
    let workspace = |path: &str, with_skills: bool| {
        let skills = if with_skills { vec![skills("team", &Value::Null, &hot())] } else { vec![] };
        let mut world = world(vec![], skills);
        world.spec["workspaceDir"] = json!(path);
        world
    };
    let table = vec![
        (
            world(vec![git("a", "docs"), git("b", "/workspace/docs")], vec![]),
            "\"/workspace/docs\" is used by both context \"a\" and context \"b\"",
        ),
        (world(vec![git("a", "docs"), git("b", "docs/in")], vec![]), "context \"a\" and context \"b\""),
        (world(vec![git("a", "docs"), text("docs/x")], vec![]), "context \"a\" and context \"text\""),
        (
            world(vec![git("a", "/opt/docs"), text("/opt/docs/x")], vec![]),
            "a context mounted at /opt/docs/x and context \"a\"",
        ),
        (world(vec![git("a", "."), git("b", "/workspace/")], vec![]), "the workspace is used by both \"a\" and \"b\""),
        (world(vec![git("a", "/")], vec![]), "must not be the root"),
        (world(vec![git("a", "/pilothouse/x")], vec![]), "belongs to the pod itself"),
        (world(vec![git("a", "../x")], vec![]), "must not contain .."),
        (
            world(vec![git("a", "/skills/a")], vec![skills("team", &Value::Null, &hot())]),
            "context \"a\" and the agent's skills",
        ),
        (credential("docs/key"), "context \"docs\" and credential \"key\""),
        (credential("/skills"), "credential \"key\" and the agent's skills"),
        (mount("/workspace/docs"), "context \"docs\" and podSpec.extraVolumeMounts (tools)"),
        (mount("/skills/team"), "podSpec.extraVolumeMounts (tools) and the agent's skills"),
        (workspace("/skills/w", true), "lies in /skills, where the skills are"),
    ];
    for (world, text) in table {
        let failure = world.refused();
        assert!(["ContextConflict", "InvalidSpec"].contains(&failure.reason), "{failure:?}");
        assert!(failure.message.contains(text), "{} should say {text}", failure.message);
    }
    let mut above = world(vec![git("a", "/home")], vec![]);
    above.spec["workspaceDir"] = json!("/home/agent");
    assert!(above.refused().message.contains("holds the workspace"));
    for fine in [
        world(vec![git("a", "docs"), text("other/x"), git("b", "more")], vec![]),
        world(vec![git("a", "docs"), git("b", "docs-too")], vec![]),
        world(vec![git("a", "/skills/a")], vec![]),
        workspace("/skills/w", false),
    ] {
        fine.build().unwrap();
    }
}

#[test]
fn a_path_may_be_the_workspace_itself_unless_it_is_a_file() {
    let mut world = world(vec![context("a", ".", &hot()), context("b", "inside", &hot())], vec![]);
    let desired = world.build().unwrap();
    let of = |manifest: &crate::api::content::Manifest, id: &str| {
        manifest.piece(id).map(|piece| (piece.target.clone(), piece.form))
    };
    let found: Vec<_> = ["contexts/a", "contexts/b"]
        .into_iter()
        .map(|id| desired.exchange.as_ref().and_then(|exchange| of(&exchange.manifest, id)))
        .collect();
    assert_eq!(found, [Some(("/workspace".into(), Form::Overlay)), Some(("/workspace/inside".into(), Form::Tree))]);
    world.pieces.get_mut("contexts/a").unwrap().is_file = true;
    let refused = world.refused();
    assert!(refused.message.contains("is a file, and mountPath is the workspace itself"), "{}", refused.message);
}

/// The root of a volume is not the agent's, and Git would refuse to work there.
#[test]
fn git_works_in_whole_repositories_whoever_owns_their_folders() {
    let mut world = world(vec![context("a", ".", &hot()), context("b", "docs", &hot())], vec![]);
    let variables = |world: &World| {
        let pod = world.pod();
        let all = pod["spec"]["containers"][0]["env"].as_array().unwrap().clone();
        let git = all.iter().filter(|v| v["name"].as_str().unwrap().starts_with("GIT_CONFIG"));
        git.map(|v| format!("{}={}", v["name"].as_str().unwrap(), v["value"].as_str().unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(variables(&world), [""; 0]);
    world.spec["contexts"][0]["git"]["path"] = json!(".");
    let want = ["GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=/workspace", "GIT_CONFIG_COUNT=1"];
    assert_eq!(variables(&world), want);
}

#[test]
fn what_is_remembered_fits() {
    let mut world = world(vec![], vec![skills("team", &Value::Null, &hot())]);
    world.pieces.get_mut("skills/team").unwrap().skills = (0..4000).map(|n| format!("{n:0>60}")).collect();
    let failure = world.refused();
    assert_eq!(failure.reason, "ContextTooLarge");
    assert!(failure.message.starts_with("skills/team have so many skills"), "{}", failure.message);
}

#[test]
fn a_preview_knows_no_commit_and_still_tells_sources_apart() {
    let agent = |path: &str, policy: &str| {
        let sync = json!({"enabled": true, "policy": policy});
        let mut item = context("docs", "docs", &sync);
        item["git"]["path"] = json!(path);
        let spec = json!({"contexts": [item], "skills": [skills("team", &Value::Null, &sync)]});
        let mut agent = Agent::new("coder", serde_json::from_value(spec).unwrap());
        agent.metadata.namespace = Some("team".into());
        agent
    };
    let effect = |old: &Agent, new: &Agent| {
        let none = BTreeMap::new();
        let pieces = Pieces::new();
        let side = |agent| preview::Side { agent, template: None, config: None, pieces: &pieces, config_maps: &none };
        preview::preview(&side(old), &side(new)).unwrap().class
    };
    let (hot, other) = (agent("docs", "HotReload"), agent("guides", "HotReload"));
    assert_eq!(effect(&hot, &hot), EffectClass::None);
    assert_eq!(effect(&hot, &other), EffectClass::Live);
    assert_eq!(effect(&agent("docs", "Rollout"), &agent("guides", "Rollout")), EffectClass::Rollout);
    assert_eq!(effect(&hot, &agent("docs", "Rollout")), EffectClass::Rollout);
    let mut names = agent("docs", "HotReload");
    names.spec.skills.as_mut().unwrap()[0].git.as_mut().unwrap().path = Some("more".into());
    assert_eq!(effect(&hot, &names), EffectClass::Reload);
}

proptest! {
    /// Whatever commits come, pieces of the pod template are in its manifest and the others are not, each in one place.
    #[test]
    fn every_piece_is_in_one_manifest(hot_context in any::<bool>(), hot_skills in any::<bool>(), is_file in any::<bool>(), outside in any::<bool>()) {
        let sync = |hot_: bool| if hot_ { hot() } else { slow() };
        let place = if outside { "/opt/docs" } else { "docs" };
        let mut world = world(vec![context("docs", place, &sync(hot_context))], vec![skills("team", &Value::Null, &sync(hot_skills))]);
        world.pieces.get_mut("contexts/docs").unwrap().is_file = is_file;
        let desired = world.build().unwrap();
        let fixed = fixed(&desired);
        let exchanged: Vec<Piece> = desired.exchange.map(|e| e.manifest.pieces).unwrap_or_default();
        prop_assert_eq!(fixed.pieces.len() + exchanged.len(), 2);
        prop_assert_eq!(&fixed.live, &exchanged.iter().map(|p| p.id.clone()).collect::<Vec<_>>());
        let live = |id: &str| fixed.live.iter().any(|l| l == id);
        prop_assert_eq!(live("contexts/docs"), hot_context && !(is_file && outside));
        prop_assert_eq!(live("skills/team"), hot_skills);
    }
}
