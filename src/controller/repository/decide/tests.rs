use super::*;

const REVISION: &str = "main@sha1:1111111111111111111111111111111111111111";
const NEXT: &str = "main@sha1:2222222222222222222222222222222222222222";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn published(revision: &str, content: &[u8]) -> Finding {
    Finding::Fetched(Published {
        revision: revision.into(),
        digest: Digest::of(content),
        size: Some(1536),
        left_out: Some(String::new()),
    })
}

/// Decides one finding after the other, as time goes by.
fn story(findings: &[(i64, Finding)]) -> Decision {
    let mut last = Decision { status: RepositoryStatus::default(), notes: vec![] };
    for (n, (generation, finding)) in findings.iter().enumerate() {
        let seen = Seen {
            prior: &last.status,
            generation: Some(*generation),
            handled: None,
            hook: Hook::None,
            served: None,
            now: at(i64::try_from(n).unwrap()),
        };
        last = decide(&seen, finding.clone());
    }
    last
}

fn line(decision: &Decision) -> String {
    let conditions: Vec<_> = decision
        .status
        .conditions
        .iter()
        .map(|c| format!("{}={} {}: {}", c.type_, c.status, c.reason, c.message))
        .collect();
    conditions.join(" | ")
}

#[test]
fn conditions_tell_how_things_stand() {
    let fetched = published(REVISION, b"1");
    for (findings, want) in [
        (
            vec![(1, Finding::Pending("asking".into()))],
            "Ready=Unknown Progressing: asking | Reconciling=True Progressing: asking",
        ),
        (
            vec![(1, Finding::Pending("asking".into())), (1, fetched.clone())],
            "Ready=True Fetched: stored main@sha1:1111111111111111111111111111111111111111",
        ),
        (
            vec![(1, fetched.clone()), (1, Finding::Failed("Unreachable", "no connection".into()))],
            "Ready=False Unreachable: no connection; main@sha1:1111111 stays in use",
        ),
        (vec![(1, Finding::Failed("Unreachable", "no connection".into()))], "Ready=False Unreachable: no connection"),
        (
            vec![(1, fetched.clone()), (2, Finding::Stalled("InvalidSpec", "spec.url: bad".into()))],
            "Ready=False InvalidSpec: spec.url: bad; main@sha1:1111111 stays in use | Stalled=True InvalidSpec: spec.url: bad",
        ),
        (
            vec![
                (1, Finding::Stalled("InvalidSpec", "bad".into())),
                (2, Finding::Waiting("SecretNotFound", "no Secret".into())),
            ],
            "Ready=False SecretNotFound: no Secret",
        ),
        (
            vec![(1, fetched.clone()), (2, Finding::Suspended)],
            "Ready=True Suspended: suspended; main@sha1:1111111 stays in use",
        ),
        (vec![(1, Finding::Suspended)], "Ready=False Suspended: suspended before anything was fetched"),
        (
            vec![(1, fetched.clone()), (2, Finding::Suspended), (3, Finding::Pending("asking".into()))],
            "Ready=Unknown Progressing: asking | Reconciling=True Progressing: asking",
        ),
        (
            vec![(1, Finding::Stalled("InvalidSpec", "bad".into())), (2, fetched)],
            "Ready=True Fetched: stored main@sha1:1111111111111111111111111111111111111111",
        ),
    ] {
        assert_eq!(line(&story(&findings)), want);
    }
}

#[test]
fn a_restart_writes_nothing() {
    let first = story(&[(1, published(REVISION, b"1"))]);
    let pending = (1, Finding::Pending("asking".into()));
    let known = Published { revision: REVISION.into(), digest: Digest::of(b"1"), size: None, left_out: None };
    let mut findings = vec![(1, published(REVISION, b"1")), pending, (1, Finding::Fetched(known))];
    assert_eq!(story(&findings).status, first.status);
    assert!(story(&findings).notes.is_empty());
    // Nor does a failure that lasts.
    findings.extend([(1, Finding::Failed("Timeout", "late".into())), (1, Finding::Pending("asking".into()))]);
    let failing = story(&findings);
    findings.push((1, Finding::Failed("Timeout", "late".into())));
    assert_eq!(story(&findings).status, failing.status);
    assert!(story(&findings).notes.is_empty(), "one event, not one a try");
}

#[test]
fn an_artifact_says_where_it_is_served_and_nothing_else_changes_with_it() {
    let mut prior = story(&[(1, published(REVISION, b"1"))]).status;
    let digest = Digest::of(b"1");
    let url = format!("https://pilothouse.system.svc:9443/artifacts/{}", digest.hex());
    for (before, served, after) in [
        (None, Some("pilothouse.system.svc:9443"), Some(url.clone())),
        (Some("https://elsewhere/artifacts/0"), Some("pilothouse.system.svc:9443"), Some(url)),
        (Some("https://elsewhere/artifacts/0"), None, None),
    ] {
        prior.artifact.as_mut().unwrap().url = before.map(str::to_owned);
        let seen = Seen { prior: &prior, generation: Some(1), handled: None, hook: Hook::None, served, now: at(9) };
        let artifact = decide(&seen, published(REVISION, b"1")).status.artifact.unwrap();
        assert_eq!((artifact.url, artifact.last_update_time), (after, Time(at(0))));
    }
}

#[test]
fn the_artifact_changes_with_the_content_or_the_revision() {
    let first = story(&[(1, published(REVISION, b"1"))]);
    let artifact = first.status.artifact.clone().unwrap();
    assert_eq!(artifact.digest, Digest::of(b"1").to_string());
    assert_eq!(artifact.url, None, "it is asked for by its digest");
    assert_eq!((artifact.size, artifact.last_update_time), (Some(1536), Time(at(0))));
    assert_eq!(first.notes.len(), 1);
    let same_tree = story(&[(1, published(REVISION, b"1")), (1, published(NEXT, b"1"))]);
    let second = same_tree.status.artifact.unwrap();
    assert_eq!((second.digest, second.revision.as_str()), (artifact.digest, NEXT));
    assert_eq!(second.last_update_time, Time(at(1)));
    let failed = story(&[(1, published(REVISION, b"1")), (1, Finding::Failed("Timeout", "late".into()))]);
    assert_eq!(failed.status.artifact, first.status.artifact);
}

#[test]
fn what_was_left_out_is_remembered_over_a_restart() {
    let skipped: Vec<_> = (0..7).map(|n| Skipped { path: format!("vendor/{n}"), why: "a submodule" }).collect();
    let text = left_out(&skipped);
    assert!(text.starts_with("; left out: vendor/0 (a submodule), ") && text.ends_with(" and 2 more"), "{text}");
    assert_eq!(left_out(&[]), "");
    let with = |left_out| {
        Finding::Fetched(Published { revision: REVISION.into(), digest: Digest::of(b"1"), size: None, left_out })
    };
    let first = story(&[(1, with(Some(text.clone())))]);
    assert!(line(&first).ends_with(&text));
    assert_eq!(story(&[(1, with(Some(text))), (1, with(None))]).status, first.status);
}

#[test]
fn only_a_success_of_this_generation_is_trusted() {
    let good = [(3, published(REVISION, b"1"))];
    let commit = CommitId::parse(&"1".repeat(40)).unwrap();
    for (more, generation, want) in [
        (None, 3, true),
        (None, 4, false),
        (Some((3, Finding::Failed("Timeout", "late".into()))), 3, false),
        (Some((4, Finding::Suspended)), 4, false),
    ] {
        let status = story(&good.iter().cloned().chain(more.clone()).collect::<Vec<_>>()).status;
        let expected = want.then(|| (commit.clone(), Digest::of(b"1")));
        assert_eq!(trusted(&status, Some(generation)), expected, "{more:?} {generation}");
    }
}

#[test]
fn a_webhook_has_its_own_condition_and_never_stops_the_fetching() {
    let refused = |message: &str| Hook::Unusable("SecretNotFound", message.into());
    let ready = |path: &str| Hook::Ready(path.into());
    let mut status = RepositoryStatus::default();
    for (n, (hook, path, condition, notes)) in [
        (Hook::None, None, "", 0),
        (refused("no Secret k"), None, "False SecretNotFound: no Secret k", 1),
        (refused("no Secret k"), None, "False SecretNotFound: no Secret k", 0),
        (ready("/hooks/1"), Some("/hooks/1"), "True PathPublished: status.webhookPath is what the forge is to call", 1),
        (Hook::Unknown, Some("/hooks/1"), "True PathPublished: status.webhookPath is what the forge is to call", 0),
        (ready("/hooks/1"), Some("/hooks/1"), "True PathPublished: status.webhookPath is what the forge is to call", 0),
        (ready("/hooks/2"), Some("/hooks/2"), "True PathPublished: status.webhookPath is what the forge is to call", 1),
        (refused("no Secret k"), None, "False SecretNotFound: no Secret k", 1),
        (Hook::None, None, "", 0),
    ]
    .into_iter()
    .enumerate()
    {
        let now = at(i64::try_from(n).unwrap());
        let seen = Seen { prior: &status, generation: Some(1), handled: None, hook, served: None, now };
        let decision = decide(&seen, published(REVISION, b"1"));
        let own = decision.notes.iter().filter(|note| note.action == "Webhook").count();
        let found = decision.status.conditions.iter().find(|c| c.type_ == "WebhookReady");
        let found = found.map(|c| format!("{} {}: {}", c.status, c.reason, c.message)).unwrap_or_default();
        let all = (decision.status.webhook_path.as_deref(), found.as_str(), own);
        assert_eq!(all, (path, condition, notes), "step {n}");
        assert!(line(&decision).starts_with("Ready=True Fetched"), "step {n}: {}", line(&decision));
        status = decision.status;
    }
}
