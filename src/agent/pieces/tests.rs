use super::*;

fn spec(value: &Value) -> AgentSpec {
    serde_json::from_value(value.clone()).unwrap()
}

fn context(extra: &Value) -> Value {
    let mut item = json!({"name": "docs", "type": "Git", "mountPath": "docs",
        "git": {"repository": "https://git/x", "path": "./docs//", "ref": "main", "secretRef": {"name": "s"}}});
    merge(&mut item, extra);
    json!({ "contexts": [item] })
}

fn skills(extra: &Value) -> Value {
    let mut item = json!({"name": "team", "git": {"repositoryRef": {"name": "config"}, "path": "skills"}});
    merge(&mut item, extra);
    json!({ "skills": [item] })
}

fn merge(value: &mut Value, extra: &Value) {
    for (key, extra) in extra.as_object().into_iter().flatten() {
        match (value.get_mut(key), extra) {
            (Some(old @ Value::Object(_)), Value::Object(_)) => merge(old, extra),
            _ => value[key] = extra.clone(),
        }
    }
}

fn one(value: &Value) -> Wanted {
    wanted(&spec(value)).unwrap().pop().unwrap()
}

#[test]
fn what_is_wanted_is_read_from_the_spec() {
    let both = json!({
        "skills": [{"name": "team", "git": {"repository": "git@git:x", "names": ["b", "a", "b"],
            "sync": {"enabled": true, "interval": "0s"}}}],
        "contexts": [
            {"type": "Text", "text": "no Git input"},
            {"name": "docs", "type": "Git", "mountPath": ".", "git": {"repositoryRef": {"name": "r", "follow": "Branch"},
                "path": "a/../docs", "sync": {"enabled": true, "interval": "30s", "policy": "Rollout"}}},
        ],
    });
    let expected = vec![
        Wanted {
            id: "contexts/docs".into(),
            source: Source::Repository { name: "r".into(), follow: Some(Follow::Branch) },
            path: "docs".into(),
            whole: None,
            push: None,
            names: None,
            sync: Some(Following { interval: Duration::from_secs(30), policy: SyncPolicy::Rollout }),
        },
        Wanted {
            id: "skills/team".into(),
            source: Source::Remote {
                url: "git@git:x".into(),
                reference: None,
                secret: None,
                submodules: false,
                reach: Box::default(),
            },
            path: String::new(),
            whole: None,
            push: None,
            names: Some(vec!["a".into(), "b".into()]),
            sync: Some(Following { interval: Duration::from_mins(5), policy: SyncPolicy::HotReload }),
        },
    ];
    let found = wanted(&spec(&both)).unwrap();
    assert_eq!(found, expected);
    assert!(found[1].is_hot() && found[1].is_skills() && !found[0].is_hot() && found[0].name() == "docs");
    for off in [json!({"enabled": false}), json!({}), json!({"interval": "1m", "policy": "Rollout"})] {
        assert_eq!(one(&skills(&json!({"git": {"sync": off}}))).sync, None, "{off}: only what is enabled follows");
    }
}

#[test]
fn the_source_hash_tells_whose_a_commit_is() {
    let base = one(&context(&json!({})));
    let same = [
        json!({"git": {"secretRef": {"name": "other"}}}),
        json!({"git": {"depth": 0}}),
        json!({"git": {"sync": {"enabled": true}}}),
        json!({"mountPath": "/elsewhere"}),
        json!({"name": "other"}),
    ];
    let others = [
        json!({"git": {"repository": "https://git/y"}}),
        json!({"git": {"ref": "dev"}}),
        json!({"git": {"recurseSubmodules": true}}),
        json!({"git": {"path": "other"}}),
    ];
    for extra in same {
        assert_eq!(one(&context(&extra)).source_hash(), base.source_hash(), "{extra}");
    }
    for extra in others {
        assert_ne!(one(&context(&extra)).source_hash(), base.source_hash(), "{extra}");
    }
    let base = one(&skills(&json!({})));
    for extra in
        [json!({"git": {"names": ["a"]}}), json!({"git": {"repositoryRef": {"name": "config", "follow": "Branch"}}})]
    {
        assert_ne!(one(&skills(&extra)).source_hash(), base.source_hash(), "{extra}");
    }
}

#[test]
fn what_cannot_be_is_named_by_its_field() {
    let many: Vec<Value> =
        (0..=MAX_PIECES).map(|n| json!({"name": format!("s{n}"), "git": {"repository": "https://git/x"}})).collect();
    let twice = [&skills(&json!({})), &skills(&json!({}))].map(|s| s["skills"][0].clone());
    let unnamed = json!({"type": "Git", "mountPath": "a", "git": {"repository": "u", "path": "a"}});
    let table = [
        (context(&json!({"git": {"path": ".", "depth": -1}})), "InvalidSpec", "spec.contexts[0].git.depth"),
        (
            context(&json!({"git": {"push": true}})),
            "InvalidSpec",
            "push needs the whole repository: remove spec.contexts[0].git.path",
        ),
        (
            context(&json!({"git": {"push": true, "path": "", "secretRef": null}})),
            "InvalidSpec",
            "spec.contexts[0].git.secretRef",
        ),
        (
            skills(&json!({"git": {"recurseSubmodules": true}})),
            "InvalidSpec",
            "set spec.recurseSubmodules of Repository",
        ),
        (context(&json!({"git": null})), "InvalidSpec", "spec.contexts[0].git is required"),
        (skills(&json!({"git": null})), "InvalidSpec", "spec.skills[0].git is required"),
        (context(&json!({"mountPath": ""})), "InvalidSpec", "spec.contexts[0].mountPath is required"),
        (context(&json!({"git": {"path": "../x"}})), "InvalidSpec", "spec.contexts[0].git.path: path"),
        (skills(&json!({"git": {"path": "/x"}})), "InvalidSpec", "spec.skills[0].git.path: path"),
        (context(&json!({"name": "a,b"})), "InvalidSpec", "spec.contexts[0].name"),
        (context(&json!({"name": "../b"})), "InvalidSpec", "spec.contexts[0].name"),
        (context(&json!({"git": {"repository": null}})), "InvalidSpec", "exactly one of repository or repositoryRef"),
        (skills(&json!({"git": {"repository": "u"}})), "InvalidSpec", "exactly one of repository or repositoryRef"),
        (skills(&json!({"git": {"ref": "main"}})), "InvalidSpec", "ref cannot be set together with repositoryRef"),
        (json!({ "skills": twice }), "InvalidSpec", "skills: the name \"team\" is there twice"),
        (json!({ "contexts": [unnamed, unnamed] }), "InvalidSpec", "the name \"context\" is there twice"),
        (json!({ "skills": many }), "InvalidSpec", "101 contexts of type Git and sources of skills"),
    ];
    for (value, reason, text) in table {
        let failure = wanted(&spec(&value)).unwrap_err();
        assert_eq!(failure.reason, reason, "{}", failure.message);
        assert!(failure.message.contains(text), "{} should say {text}", failure.message);
    }
}

#[test]
fn an_annotation_keeps_what_was_decided() {
    let pieces = Pieces::from([
        (
            "contexts/docs".to_string(),
            Resolved {
                revision: "main@sha1:00".into(),
                digest: "sha256:aa".into(),
                size: 7,
                is_file: true,
                source_hash: "h".into(),
                ..Resolved::default()
            },
        ),
        (
            "skills/team".to_string(),
            Resolved {
                skills: vec!["a".into()],
                bad_skills: vec![("b".into(), "no description".into())],
                ..Resolved::default()
            },
        ),
    ]);
    let text = to_json(&pieces);
    assert_eq!(from_json(&text), pieces);
    assert!(
        text.starts_with(r#"{"contexts/docs":{"digest":"sha256:aa","isFile":true,"revision":"main@sha1:00""#),
        "{text}"
    );
    assert_eq!(from_json("{"), Pieces::new());
    assert_eq!(from_json(r#"{"a": 1, "b": {"revision": "r", "new": 1}}"#).into_keys().collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_whole_repository_is_another_source_and_says_where_its_credential_is() {
    let of = |git: Value| one(&context(&json!({ "git": git })));
    let (whole, all, push) =
        (of(json!({"path": "./"})), of(json!({"path": "", "depth": 0})), of(json!({"path": null, "push": true})));
    assert_eq!((whole.whole, all.whole, push.push.as_deref()), (Some(1), Some(0), Some("s")));
    assert!(push.push_folder().unwrap().starts_with("/pilothouse/git/") && whole.push_folder().is_none());
    let hashes: BTreeSet<_> = [&whole, &all, &push, &of(json!({}))].map(Wanted::source_hash).into();
    assert_eq!(hashes.len(), 4);
}
