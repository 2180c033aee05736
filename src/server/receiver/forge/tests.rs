use http::HeaderValue;
use serde_json::{Value, json};

use super::*;

fn reference(json: Value) -> Follows {
    Follows::of(serde_json::from_value::<Option<GitReference>>(json).unwrap().as_ref())
}

#[test]
fn what_a_push_can_move() {
    let exactly = |name: &str| Follows::Exactly(name.into());
    for (spec, want) in [
        (json!(null), Follows::Anything),
        (json!({"branch": "main"}), exactly("refs/heads/main")),
        (json!({"tag": "v1"}), exactly("refs/tags/v1")),
        (json!({"name": "refs/heads/a/b"}), exactly("refs/heads/a/b")),
        (json!({"name": "refs/tags/v1"}), exactly("refs/tags/v1")),
        (json!({"name": "refs/pull/7/head"}), Follows::Anything),
        (json!({"name": "HEAD"}), Follows::Anything),
        (json!({"commit": "a".repeat(40)}), Follows::Pinned),
        (json!({"semver": ">1"}), Follows::Anything),
    ] {
        assert_eq!(reference(spec.clone()), want, "{spec}");
    }
}

fn cloud(changes: &Value) -> Value {
    json!({"push": {"changes": changes}, "repository": {"full_name": "team/r"}})
}

#[test]
fn a_look_is_spared_only_where_it_is_certain() {
    use Forge::{Bitbucket, Forgejo, Generic, GitHub, GitLab, Gitea};
    use Verdict::{Look, OtherEvent, OtherReference, Ping};
    let github = |name: &str| json!({"ref": name, "before": "0", "after": "1", "repository": {"id": 1}});
    let branch = |name: &str| json!({"type": "branch", "name": name});
    for (forge, event, body, want) in [
        (GitHub, Some("push"), github("refs/heads/main"), Look),
        (GitHub, Some("push"), github("refs/heads/main2"), OtherReference),
        (GitHub, Some("push"), github("refs/tags/main"), OtherReference),
        (GitHub, Some("push"), github("main"), Look),
        (GitHub, Some("push"), json!({"no": "ref"}), Look),
        (GitHub, Some("push"), json!("text"), Look),
        (GitHub, Some("ping"), json!({"zen": "z", "hook_id": 1}), Ping),
        (GitHub, Some("create"), json!({"ref": "other", "ref_type": "branch"}), Look),
        (GitHub, Some("star"), json!({"action": "created"}), OtherEvent),
        (GitHub, None, github("refs/heads/other"), Look),
        (GitLab, Some("Push Hook"), json!({"object_kind": "push", "ref": "refs/heads/main"}), Look),
        (GitLab, Some("Push Hook"), json!({"object_kind": "push", "ref": "refs/heads/x"}), OtherReference),
        (GitLab, Some("Tag Push Hook"), json!({"object_kind": "tag_push", "ref": "refs/tags/v"}), OtherReference),
        (GitLab, Some("Merge Request Hook"), json!({"object_kind": "merge_request"}), Look),
        (GitLab, Some("Note Hook"), json!({}), OtherEvent),
        (Gitea, Some("push"), json!({"ref": "refs/heads/x"}), OtherReference),
        (Forgejo, Some("push"), json!({"ref": "refs/heads/main"}), Look),
        (Forgejo, Some("issues"), json!({}), OtherEvent),
        (Bitbucket, Some("diagnostics:ping"), json!({"test": true}), Ping),
        (Bitbucket, Some("repo:push"), cloud(&json!([{"new": branch("main"), "old": null}])), Look),
        (Bitbucket, Some("repo:push"), cloud(&json!([{"new": null, "old": branch("main")}])), Look),
        (Bitbucket, Some("repo:push"), cloud(&json!([{"new": branch("x"), "old": branch("x")}])), OtherReference),
        (Bitbucket, Some("repo:push"), cloud(&json!([{"new": {"type": "tag", "name": "main"}}])), OtherReference),
        (Bitbucket, Some("repo:push"), cloud(&json!([{"new": branch("x")}, {"new": branch("y")}])), Look),
        (Bitbucket, Some("repo:push"), cloud(&json!([{"new": {"type": "bookmark", "name": "x"}}])), Look),
        (Bitbucket, Some("repo:push"), cloud(&json!([])), Look),
        (Bitbucket, Some("repo:refs_changed"), json!({"changes": [{"ref": {"id": "refs/heads/main"}}]}), Look),
        (Bitbucket, Some("repo:refs_changed"), json!({"changes": [{"ref": {"id": "refs/heads/x"}}]}), OtherReference),
        (Bitbucket, Some("repo:forked"), json!({}), OtherEvent),
        (Generic, None, json!({"ref": "refs/heads/other"}), Look),
    ] {
        let follows = Follows::Exactly("refs/heads/main".into());
        let body = body.to_string();
        let found = verdict(forge, &[], &follows, event, Some(body.as_bytes()));
        assert_eq!(found, want, "{forge:?} {event:?} {body}");
        if want == OtherReference {
            assert_eq!(verdict(forge, &[], &follows, event, None), Look, "a body that is not at hand: {body}");
            let anything = verdict(forge, &[], &Follows::Anything, event, Some(body.as_bytes()));
            assert_eq!(anything, Look, "{body}");
        }
    }
}

#[test]
fn events_can_be_chosen_and_a_commit_never_moves() {
    let own = ["release".to_owned()];
    let look = |events: &[String], event| verdict(Forge::GitHub, events, &Follows::Anything, Some(event), None);
    assert_eq!((look(&own, "release"), look(&own, "push")), (Verdict::Look, Verdict::OtherEvent));
    assert_eq!((look(&own, "ping"), look(&[], "release")), (Verdict::Ping, Verdict::OtherEvent));
    for event in [Some("push"), None] {
        assert_eq!(verdict(Forge::GitHub, &[], &Follows::Pinned, event, None), Verdict::Pinned);
    }
}

#[test]
fn a_header_that_is_there_twice_is_not_there() {
    let mut headers = HeaderMap::new();
    headers.append("x-github-event", HeaderValue::from_static("push"));
    assert_eq!(event(Forge::GitHub, &headers), Some("push"));
    assert_eq!(event(Forge::GitLab, &headers), None);
    headers.append("x-github-event", HeaderValue::from_static("ping"));
    assert_eq!(event(Forge::GitHub, &headers), None);
    headers.insert("x-gitea-event", HeaderValue::from_static("push"));
    assert_eq!((event(Forge::Gitea, &headers), event(Forge::Forgejo, &headers)), (Some("push"), Some("push")));
    headers.insert("x-gitea-event", HeaderValue::from_bytes(b"\xff").unwrap());
    assert_eq!(event(Forge::Gitea, &headers), None);
}
