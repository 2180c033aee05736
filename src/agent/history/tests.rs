use super::*;
use crate::agent::{
    decide::{self, Action, Situation},
    effect,
    gate::{Activity, Policy, Work},
    preview::sample,
    state,
};
use crate::api::Agent;

fn desired(image: &str, text: &str, commit: &str) -> Desired {
    let git = json!({"repository": commit, "path": "p", "sync": {"enabled": true}});
    sample(&json!({
        "workspaceDir": "/w", "agentImage": "a:1", "executorImage": image,
        "contexts": [
            {"name": "rules", "type": "Text", "text": text},
            {"name": "docs", "type": "Git", "mountPath": "docs", "git": git},
        ],
    }))
}

/// The pod template as an API server shows it.
fn live(desired: &Desired) -> Value {
    let mut template = desired.deployment.value()["spec"]["template"].clone();
    template["spec"]["restartPolicy"] = json!("Always");
    template
}

fn entry(id: &str, revision: Option<&str>, size: usize) -> Entry {
    let (files, artifacts) = (format!("files-{id}"), format!("{id},same"));
    let (revision, since) = (revision.map(String::from), Timestamp::UNIX_EPOCH);
    Entry {
        id: id.into(),
        template: String::new(),
        revision,
        image: None,
        since,
        files,
        artifacts,
        size,
        hash: String::new(),
    }
}

#[test]
fn what_was_is_what_comes_again() {
    let (old, new) = (desired("e:1", "one", "u1"), desired("e:2", "two", "u2"));
    let record = Record::of(&old, &live(&old));
    let now: Timestamp = "2026-11-21T10:00:00.9Z".parse().unwrap();
    let entry = record.entry(id(&old), Some("main@sha1:1".into()), now);
    assert_eq!((entry.image.as_deref(), entry.since.to_string().as_str()), (Some("e:1"), "2026-11-21T10:00:00Z"));
    assert_eq!(entry.files, old.files.name());
    assert!(entry.artifacts.len() > 10 && !entry.artifacts.contains(','), "{entry:?}");
    let read = Record::read(&record.to_json(), &entry).unwrap();
    assert_eq!(read, record);
    assert_eq!(Record::read(&record.to_json().replace("e:1", "e:3"), &entry), None, "somebody changed it");

    let pinned = read.instead_of(&new).unwrap();
    assert_eq!(pinned.deployment.value()["spec"]["template"], live(&old));
    assert_eq!((&pinned.context, &pinned.text_hash, &pinned.texts), (&old.context, &old.text_hash, &old.texts));
    assert_eq!((&pinned.exchange, &pinned.pieces), (&old.exchange, &old.pieces));
    assert_eq!((&pinned.hash, &pinned.parts), (&old.hash, &old.parts));
    assert_eq!(pinned.files.name(), old.files.name());
    assert_eq!(pinned.files.annotation(annotation::ARTIFACTS), old.files.annotation(annotation::ARTIFACTS));
    assert_eq!(pinned.service, new.service);
    assert_eq!((id(&pinned), id(&pinned) == id(&new)), (id(&old), false));
}

/// To pin what runs replaces nothing; a suspended agent stays suspended.
#[test]
fn what_runs_is_kept_and_suspension_is_todays() {
    let one = desired("e:1", "one", "u1");
    let record = Record::of(&one, &live(&one));
    let deployment = |desired: &Desired| {
        let mut marks = state::applied_annotations(&desired.hash, &desired.parts);
        marks.insert(state::OBJECT_HASH.into(), decide::object_hash(desired.deployment.value()));
        let mut object = desired.deployment.value().clone();
        object["metadata"]["annotations"] = json!(marks);
        object["spec"]["template"] = live(&one);
        object
    };
    let at = Situation {
        work: Work { running_tasks: 1, activity: Activity::Busy },
        policy: Policy::default(),
        old: None,
        asked: None,
        now: Timestamp::UNIX_EPOCH,
    };
    let pinned = record.instead_of(&desired("e:2", "two", "u2")).unwrap();
    match decide::server(&pinned, Some(&deployment(&one)), &at) {
        Action::Apply { causes, forced: None, hold: false } => assert!(causes.is_empty(), "{causes:?}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(decide::server(&pinned, Some(&deployment(&pinned)), &at), Action::Keep);

    let suspended =
        sample(&json!({"workspaceDir": "/w", "agentImage": "a:1", "executorImage": "e:2", "suspend": true}));
    let pinned = record.instead_of(&suspended).unwrap();
    assert_eq!(pinned.deployment.value()["spec"]["replicas"], 0);
    assert_eq!(effect::classify(&one.parts, &pinned.parts).causes.into_iter().collect::<Vec<_>>(), [SUSPEND]);
    assert_ne!(pinned.hash, one.hash);
}

#[test]
fn the_newest_few_are_kept() {
    let mut kept: Vec<Entry> = vec![];
    let ids = |kept: &[Entry]| kept.iter().map(|e| e.id.clone()).collect::<String>();
    for name in ["a", "b", "c", "d", "e", "f", "c"] {
        kept = with(&kept, &entry(name, None, 1));
    }
    assert_eq!(ids(&kept), "cfedb");
    kept = with(&kept, &entry("g", None, LARGEST - 2));
    assert_eq!(ids(&kept), "gcf", "the oldest make room");
    assert_eq!(ids(&with(&kept, &entry("h", None, LARGEST + 1))), "", "one that is too large is not kept");

    let map = object(&desired("e:1", "one", "u1"), &kept, &[("g", "{}")]).unwrap();
    assert_eq!((map.name(), map.value()["data"].clone()), ("coder-server-history", json!({"g": "{}"})));
    assert_eq!(map.annotation(annotation::ARTIFACTS), Some("c,f,g,same"));
    let marks = Annotations::from([(ENTRIES.into(), map.annotation(ENTRIES).unwrap().into())]);
    assert_eq!(entries(&marks), kept);
    assert_eq!(entries(&Annotations::from([(ENTRIES.into(), "[{}]".into())])), []);
}

#[test]
fn a_revision_is_meant_by_its_id_or_its_commit() {
    let commit = |c: &str| format!("main@sha1:{}", c.repeat(40));
    let all = [
        entry("1111aaaa22", Some(&commit("c")), 1),
        entry("2222aaaa33", Some(&commit("b")), 1),
        entry("3333aaaa44", Some(&commit("b")), 1),
        entry("4444aaaa55", None, 1),
    ];
    let table = [
        ("2222aaaa33", Some("2222aaaa33")),
        (" 4444 ", Some("4444aaaa55")),
        ("444", None),
        ("main@bbbbbbb", Some("2222aaaa33")),
        ("bbbbbbb", Some("2222aaaa33")),
        (&commit("c"), Some("1111aaaa22")),
        ("dev@ccccccc", None),
        ("ddddddd", None),
        ("bbb", None),
        ("", None),
        ("main@", None),
    ];
    for (wanted, id) in table {
        assert_eq!(find(&all, wanted).ok().map(|e| e.id.as_str()), id, "{wanted:?}");
    }
    let known = find(&all, "none").unwrap_err();
    assert_eq!(
        known,
        "revision \"none\" is not known; known are, newest first: 1111aaaa22 (main@ccccccc), 2222aaaa33 (main@bbbbbbb), \
         3333aaaa44 (main@bbbbbbb), 4444aaaa55"
    );
}

/// What is around the pod template is what there is, and the template is that of the kept revision.
#[test]
fn a_kept_revision_needs_no_newest() {
    let one = desired("e:1", "one", "u1");
    let record = Record::of(&one, &live(&one));
    let mut there = one.deployment.value().clone();
    there["spec"]["strategy"] = json!({"type": "Recreate"});
    there["spec"]["progressDeadlineSeconds"] = json!(77);
    there["metadata"]["labels"]["team"] = json!("blue");
    let mut agent = Agent::new("coder", crate::api::AgentSpec::default());
    agent.metadata.namespace = Some("team".into());
    let pinned = record.instead_of(&frame(&agent, Some(&there)).unwrap()).unwrap();
    let deployment = pinned.deployment.value();
    assert_eq!(deployment["spec"]["template"], live(&one));
    for pointer in ["/spec/strategy", "/spec/progressDeadlineSeconds", "/metadata/labels", "/spec/selector"] {
        assert_eq!(deployment.pointer(pointer), there.pointer(pointer), "{pointer}");
    }
    assert_eq!(
        (&pinned.hash, &pinned.text_hash, deployment["spec"]["replicas"].as_i64()),
        (&one.hash, &one.text_hash, Some(1))
    );
    assert_eq!(pinned.context, one.context);

    agent.spec.suspend = Some(true);
    let asleep = record.instead_of(&frame(&agent, None).unwrap()).unwrap();
    assert_eq!(asleep.deployment.value()["spec"]["replicas"], 0, "suspension is today's");
}
