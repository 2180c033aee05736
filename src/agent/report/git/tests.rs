use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::{
    agent::{
        gate::Pending,
        pieces::{Following, Source, wanted},
        report::report,
    },
    api::{Agent, content::Placed, context::SyncPolicy},
};

fn source() -> Source {
    Source::Repository { name: "r".into(), follow: None }
}

fn piece(id: &str, sync: Option<SyncPolicy>) -> Wanted {
    let sync = sync.map(|policy| Following { interval: Duration::from_mins(5), policy });
    Wanted { id: id.into(), source: source(), path: "p".into(), whole: None, push: None, names: None, sync }
}

fn at(commit: &str, skills: &[&str]) -> Resolved {
    Resolved {
        revision: format!("main@sha1:{commit}"),
        digest: format!("sha256:{commit}"),
        skills: skills.iter().map(ToString::to_string).collect(),
        ..Resolved::default()
    }
}

/// A hot context, a context by rollout, a pinned one and hot skills, all as they should be.
fn settled() -> Git {
    let hot = Pieces::from([("contexts/live".into(), at("1", &[])), ("skills/team".into(), at("2", &["a", "b"]))]);
    let fixed = Pieces::from([("contexts/pin".into(), at("3", &[])), ("contexts/slow".into(), at("4", &[]))]);
    let mut git = Git {
        wanted: vec![
            piece("contexts/live", Some(SyncPolicy::HotReload)),
            piece("contexts/pin", None),
            piece("contexts/slow", Some(SyncPolicy::Rollout)),
            piece("skills/team", Some(SyncPolicy::HotReload)),
        ],
        newest: hot.clone().into_iter().chain(fixed.clone()).collect(),
        hash: Some("h".into()),
        fixed,
        exchanged: hot,
        ..Git::default()
    };
    git.reports = vec![Arc::new(says(&git, "h", &["a", "b", "other"]))];
    git
}

/// A pod that has what is decided.
fn says(git: &Git, loaded: &str, skills: &[&str]) -> Report {
    let all = git.exchanged.iter().chain(&git.fixed);
    let placed = all.map(|(id, piece)| Placed {
        id: id.clone(),
        revision: piece.revision.clone(),
        digest: piece.digest.clone(),
        note: String::new(),
    });
    Report {
        loaded: loaded.into(),
        pieces: placed.collect(),
        skills: Some(skills.iter().map(ToString::to_string).collect()),
        ..Report::default()
    }
}

fn outcome(git: &Git, now: i64) -> Outcome<'_> {
    let rest = crate::agent::report::tests::outcome(None);
    Outcome { git: Some(git), tasks: (2, 0), now: Timestamp::from_second(now).unwrap(), ..rest }
}

fn agent() -> Agent {
    Agent::new("coder", serde_json::from_str("{}").unwrap())
}

fn wait(causes: &[&str]) -> Action {
    let pending = Pending {
        held: false,
        hash: "x".into(),
        since: Timestamp::UNIX_EPOCH,
        causes: causes.iter().map(ToString::to_string).collect(),
    };
    Action::Wait { pending, write: false, until: None, message: "the gate waits".into(), paced: None }
}

fn shown(status: &AgentStatus, kind: &str) -> Option<(String, String)> {
    status.conditions.iter().find(|c| c.type_ == kind).map(|c| (c.status.clone(), c.reason.clone()))
}

fn message_of(status: &AgentStatus, kind: &str) -> String {
    status.conditions.iter().find(|c| c.type_ == kind).map(|c| c.message.clone()).unwrap_or_default()
}

#[allow(clippy::unnecessary_wraps)] // as it is found
fn pair(status: &str, reason: &str) -> Option<(String, String)> {
    Some((status.into(), reason.into()))
}

#[test]
fn each_input_has_an_entry_and_a_steady_state_is_written_once() {
    let (git, mut agent) = (settled(), agent());
    let (status, _) = report(&agent, &outcome(&git, 100));
    let entries = serde_json::to_value(&status.git_sync_statuses).unwrap();
    let entry = |name: &str, commit: &str, policy: Option<&str>| {
        let mut entry = json!({"name": name, "commitHash": commit, "lastSynced": "1970-01-01T00:01:40Z",
            "observedCommit": commit});
        if let Some(policy) = policy {
            entry["policy"] = json!(policy);
        }
        entry
    };
    assert_eq!(
        entries,
        json!([
            entry("live", "1", Some("HotReload")),
            entry("pin", "3", None),
            entry("slow", "4", Some("Rollout")),
            entry("skills/team", "2", Some("HotReload")),
        ])
    );
    assert_eq!(shown(&status, kinds::GIT_SYNC_PENDING), pair("False", reasons::SYNCED));
    assert_eq!(shown(&status, kinds::SKILLS_LOADED), pair("True", reasons::SKILLS_IN_USE));
    assert_eq!(message_of(&status, kinds::SKILLS_LOADED), "2 loaded: a, b");
    agent.status = Some(status.clone());
    let (again, notes) = report(&agent, &outcome(&git, 200));
    assert_eq!(again, status, "later, nothing is different");
    assert!(notes.iter().all(|n| n.reason != reasons::CONTENT_LOADED), "{notes:?}");
}

#[test]
fn a_commit_counts_when_the_pods_have_it() {
    let (mut git, mut agent) = (settled(), agent());
    agent.status = Some(report(&agent, &outcome(&git, 100)).0);
    let entry = |status: &AgentStatus, name: &str| {
        let found = status.git_sync_statuses.iter().find(|s| s.name == name).unwrap();
        let second = found.last_synced.as_ref().map(|t| t.0.as_second());
        (found.commit_hash.clone(), second, found.observed_commit.clone(), found.message.clone())
    };
    let some = |text: &str| Some(text.to_string());
    // Seen, and the gate holds it back.
    git.newest.insert("contexts/live".into(), at("5", &[]));
    git.newest.insert("contexts/slow".into(), at("6", &[]));
    git.observed =
        [("contexts/live".into(), "main@sha1:5".into()), ("contexts/pin".into(), "main@sha1:9".into())].into();
    let (status, _) = report(&agent, &outcome(&git, 200));
    let waits = some("the newest commit waits for work to end");
    assert_eq!(entry(&status, "live"), (some("1"), Some(100), some("5"), waits));
    assert_eq!(
        entry(&status, "slow"),
        (some("4"), Some(100), some("6"), some("the newest commit waits for a rollout"))
    );
    assert_eq!(entry(&status, "pin"), (some("3"), Some(100), some("3"), None), "other files changed");
    // What is waited for is said as it is.
    let by = |paced: Option<&'static str>, held: bool| match wait(&["contexts/live"]) {
        Action::Wait { pending, write, until, message, .. } => {
            Action::Wait { pending: Pending { held, ..pending }, write, until, message, paced }
        }
        other => other,
    };
    let table = [
        (by(None, false), "work to end"),
        (by(None, true), "somebody to let it go on"),
        (by(Some(reasons::WAITING_FOR_FLEET), true), "the pace of the fleet"),
    ];
    for (action, expected) in table {
        let (status, _) = report(&agent, &Outcome { exchange: Some(&action), ..outcome(&git, 200) });
        assert_eq!(entry(&status, "live").3, Some(format!("the newest commit waits for {expected}")));
        let (status, _) = report(&agent, &Outcome { action: Some(&action), ..outcome(&git, 200) });
        let expected = expected.replace("work to end", "a rollout");
        assert_eq!(entry(&status, "slow").3, Some(format!("the newest commit waits for {expected}")));
    }
    // Decided, and the pod waits for its server.
    git.exchanged.insert("contexts/live".into(), at("5", &[]));
    git.hash = some("i");
    let mut report_of = (*git.reports[0]).clone();
    (report_of.wanted, report_of.why) = ("i".into(), "a session works".into());
    git.reports = vec![Arc::new(report_of.clone())];
    let (status, notes) = report(&agent, &outcome(&git, 300));
    assert_eq!(entry(&status, "live"), (some("1"), Some(100), some("5"), some("a session works")));
    assert_eq!(shown(&status, kinds::GIT_SYNC_PENDING), pair("True", reasons::WAITING_FOR_RELOAD));
    assert!(message_of(&status, kinds::GIT_SYNC_PENDING).ends_with("a session works"));
    assert!(notes.iter().any(|n| n.reason == reasons::CONTENT_PENDING));
    assert_eq!(shown(&status, kinds::SKILLS_LOADED), pair("True", reasons::SKILLS_IN_USE), "what was said holds");
    agent.status = Some(status);
    // It is there.
    git.reports = vec![Arc::new(says(&git, "i", &["a", "b"]))];
    let (status, notes) = report(&agent, &outcome(&git, 400));
    assert_eq!(entry(&status, "live"), (some("5"), Some(400), some("5"), None));
    assert_eq!(shown(&status, kinds::GIT_SYNC_PENDING), pair("False", reasons::SYNCED));
    let loaded: Vec<_> = notes.iter().filter(|n| n.reason == reasons::CONTENT_LOADED).collect();
    assert_eq!((loaded.len(), loaded[0].message.as_str()), (1, "live is at 5"));
    agent.status = Some(status.clone());
    // The pod is gone, or two differ: what was said holds.
    git.reports = vec![];
    assert_eq!(entry(&report(&agent, &outcome(&git, 500)).0, "live"), entry(&status, "live"));
    git.reports = vec![Arc::new(report_of), Arc::new(says(&git, "i", &["a", "b"]))];
    assert_eq!(
        entry(&report(&agent, &outcome(&git, 500)).0, "live"),
        (some("5"), Some(400), some("5"), some("a session works"))
    );
}

#[test]
fn what_waits_is_named() {
    let (git, agent) = (settled(), agent());
    let (rollout, other, exchange) = (wait(&["contexts/slow", "image"]), wait(&["contexts/pin", "image"]), wait(&[]));
    let with = |action: Option<&Action>, exchange: Option<&Action>| {
        let (status, _) = report(&agent, &Outcome { action, exchange, ..outcome(&git, 100) });
        let shown = shown(&status, kinds::GIT_SYNC_PENDING).unwrap();
        (shown.0, shown.1, message_of(&status, kinds::GIT_SYNC_PENDING))
    };
    let three = |a: &str, b: &str, c: &str| (a.to_string(), b.to_string(), c.to_string());
    assert_eq!(
        with(Some(&rollout), Some(&exchange)),
        three("True", "WaitingForTasks", "Waiting for 2 active task(s) to complete before rollout (contexts: slow)")
    );
    assert_eq!(with(Some(&other), None), three("False", "Synced", "nothing waits"), "pinned inputs follow nothing");
    assert_eq!(with(None, Some(&exchange)), three("True", "WaitingForReload", "the gate waits"));
}

#[test]
fn what_is_decided_and_held_says_who_to_ask() {
    let mut git = settled();
    let behind = |placed: &str| {
        let mut report = says(&git, "old", &["a", "b"]);
        report.pieces.iter_mut().filter(|p| p.id == "contexts/live").for_each(|p| p.digest = placed.into());
        Arc::new(report)
    };
    let (lacks, starts) = (behind("sha256:0"), behind("sha256:1"));
    for (report, asked, expected) in [
        (&lacks, Some("hold: ask Jo"), Some(" (ask Jo)")),
        (&lacks, Some("hold"), Some("")),
        (&lacks, None, None),
        (&starts, Some("hold"), None),
    ] {
        git.reports = vec![report.clone()];
        let (status, _) = report_of(&git, asked);
        let message = message_of(&status, kinds::GIT_SYNC_PENDING);
        let held = expected.map(|why| {
            format!(
                "held by the annotation pilothouse.dev/rollout{why}: what is new is decided and not in the pod yet; to let \
                 it go on: pilothouse rollout agent NAME --resume"
            )
        });
        assert_eq!(message.starts_with("held").then_some(message), held, "{asked:?}");
        let entry = status.git_sync_statuses.iter().find(|s| s.name == "live").unwrap();
        let waits = "the newest commit waits for somebody to let it go on";
        assert_eq!(entry.message.as_deref() == Some(waits), held.is_some(), "{asked:?}");
    }
}

fn report_of(git: &Git, asked: Option<&str>) -> (AgentStatus, Vec<Note>) {
    report(&agent(), &Outcome { asked, ..outcome(git, 0) })
}

#[test]
fn who_follows_nothing_has_no_such_condition_and_who_did_keeps_it() {
    let (mut git, mut agent) = (settled(), agent());
    let followed = git.clone();
    git.wanted.retain(|w| w.sync.is_none());
    assert_eq!(shown(&report(&agent, &outcome(&git, 1)).0, kinds::GIT_SYNC_PENDING), None);
    agent.status = Some(report(&agent, &outcome(&followed, 1)).0);
    let (status, _) = report(&agent, &outcome(&git, 2));
    assert_eq!(shown(&status, kinds::GIT_SYNC_PENDING), pair("False", reasons::SYNCED));
    assert_eq!(shown(&status, kinds::SKILLS_LOADED), None, "without skills there is nothing to load");
    let unknown = Outcome { git: None, ..outcome(&git, 3) };
    let kept = report(&agent, &unknown).0;
    assert_eq!(kept.git_sync_statuses, agent.status.unwrap().git_sync_statuses, "a failure before takes nothing away");
}

#[test]
fn faults_of_skills_are_named_and_told_once() {
    let good = settled();
    let with = |change: &dyn Fn(&mut Git)| {
        let mut git = good.clone();
        change(&mut git);
        git
    };
    let say = |git: &mut Git, change: &dyn Fn(&mut Report)| {
        let mut report = (*git.reports[0]).clone();
        change(&mut report);
        git.reports = vec![Arc::new(report)];
    };
    let table: Vec<(&str, Git, &str, &str, &str)> = vec![
        (
            "bad",
            with(&|g| g.newest.get_mut("skills/team").unwrap().bad_skills = vec![("c".into(), "no head".into())]),
            "False",
            reasons::SKILLS_INVALID,
            "team: c left out: no head",
        ),
        (
            "bad where it is applied, not where it is newest",
            with(&|g| {
                g.newest.insert(
                    "skills/team".into(),
                    Resolved { bad_skills: vec![("c".into(), "new".into())], ..at("9", &[]) },
                );
            }),
            "True",
            reasons::SKILLS_IN_USE,
            "2 loaded: a, b",
        ),
        (
            "missing",
            with(&|g| say(g, &|r| r.skills = Some(vec!["b".into()]))),
            "False",
            reasons::SKILLS_MISSING,
            "the server does not list a (team)",
        ),
        (
            "failed",
            with(&|g| {
                say(g, &|r| {
                    (r.loaded, r.wanted, r.why, r.failed) = ("g".into(), "h".into(), "it lists nothing".into(), true);
                });
            }),
            "False",
            reasons::RELOAD_FAILED,
            "the server did not take what is new, and has what was there before: it lists nothing",
        ),
        (
            "failed earlier",
            with(&|g| {
                say(g, &|r| (r.loaded, r.wanted, r.why, r.failed) = ("h".into(), String::new(), String::new(), true));
            }),
            "True",
            reasons::SKILLS_IN_USE,
            "2 loaded: a, b",
        ),
        ("unknown", with(&|g| g.reports.clear()), "Unknown", reasons::SKILLS_UNKNOWN, "no pod has said"),
        ("not asked", with(&|g| say(g, &|r| r.skills = None)), "Unknown", reasons::SKILLS_UNKNOWN, "no pod has said"),
        (
            "twice",
            with(&|g| {
                g.wanted.push(piece("skills/more", None));
                g.fixed.insert("skills/more".into(), at("7", &["b"]));
            }),
            "False",
            reasons::SKILLS_INVALID,
            "b is in team and in more",
        ),
    ];
    for (what, git, status, reason, text) in table {
        let mut agent = agent();
        let (first, notes) = report(&agent, &outcome(&git, 1));
        assert_eq!(shown(&first, kinds::SKILLS_LOADED), pair(status, reason), "{what}");
        assert!(
            message_of(&first, kinds::SKILLS_LOADED).starts_with(text),
            "{what}: {}",
            message_of(&first, kinds::SKILLS_LOADED)
        );
        let warned = |notes: &[Note]| notes.iter().filter(|n| n.warning && n.reason == reason).count();
        assert_eq!(warned(&notes), usize::from(status == "False"), "{what}");
        agent.status = Some(first.clone());
        let (second, notes) = report(&agent, &outcome(&git, 2));
        assert_eq!((second, warned(&notes)), (first, 0), "{what}: once");
    }
}

#[test]
fn a_context_that_failed_without_skills_is_told_too() {
    let mut git = settled();
    git.wanted.retain(|w| !w.is_skills());
    let failed =
        Report { loaded: "g".into(), wanted: "h".into(), why: "disk full".into(), failed: true, ..Report::default() };
    git.reports = vec![Arc::new(failed)];
    let (status, notes) = report(&agent(), &outcome(&git, 1));
    assert_eq!(shown(&status, kinds::GIT_SYNC_PENDING), pair("True", reasons::RELOAD_FAILED));
    assert_eq!(notes.iter().filter(|n| n.reason == reasons::RELOAD_FAILED).count(), 1);
}

#[test]
fn notes_of_pods_and_remotes_are_shown() {
    let mut git = settled();
    git.notes = [("contexts/live".to_string(), "the remote does not answer".to_string())].into();
    git.observed = [("contexts/live".to_string(), "main@sha1:8".to_string())].into();
    let mut said = (*git.reports[0]).clone();
    said.pieces[0].note = "docs/a.md has local edits".into();
    git.reports = vec![Arc::new(said.clone()), Arc::new(said)];
    let (status, _) = report(&agent(), &outcome(&git, 1));
    let message = status.git_sync_statuses[0].message.as_deref();
    assert_eq!(message, Some("the remote does not answer; docs/a.md has local edits"));
    let observed = status.git_sync_statuses[0].observed_commit.as_deref();
    assert_eq!(observed, Some("8"), "what was seen and cannot be had is named");
}

#[test]
fn names_come_from_a_spec() {
    let spec: Value = json!({
        "contexts": [{"name": "team", "type": "Git", "mountPath": "d", "git": {"repository": "u", "path": "d"}}],
        "skills": [{"name": "team", "git": {"repository": "u"}}],
    });
    let wanted = wanted(&serde_json::from_value(spec).unwrap()).unwrap();
    assert_eq!(wanted.iter().map(name).collect::<Vec<_>>(), ["team", "skills/team"]);
    for (revision, expected) in [("main@sha1:12", "12"), ("refs/tags/v1@x@sha1:12", "12"), ("12", "12"), ("", "")] {
        assert_eq!(commit(revision), expected);
    }
}
