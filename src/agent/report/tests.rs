use super::*;

pub(super) fn outcome(activity: Option<&Activity>) -> Outcome<'_> {
    Outcome {
        failure: None,
        desired: None,
        newest: None,
        asked: None,
        back: None,
        pinned: None,
        revisions: vec![],
        trouble: None,
        wrote: false,
        action: None,
        text: None,
        exchange: None,
        git: None,
        text_unseen: false,
        server: Server::Ready,
        applied: None,
        image: None,
        suspended: false,
        verifying: None,
        unverified: None,
        finishing: vec![],
        serves_on: false,
        tasks: (0, 0),
        activity,
        url: String::new(),
        layout: None,
        template_generation: None,
        fleet: None,
        now: Timestamp::UNIX_EPOCH,
    }
}

/// What was said last holds while nobody speaks, and an event is written once.
#[test]
fn a_server_past_the_door_is_reported() {
    let mut agent = Agent::new("coder", serde_json::from_str("{}").unwrap());
    let (open, closed) = (Activity { server_exposed: true, ..Activity::default() }, Activity::default());
    let table = [
        (None, reasons::DEPLOYMENT_HEALTHY, false),
        (Some(&open), reasons::UNPROTECTED_SERVER, true),
        (Some(&open), reasons::UNPROTECTED_SERVER, false),
        (None, reasons::UNPROTECTED_SERVER, false),
        (Some(&closed), reasons::DEPLOYMENT_HEALTHY, false),
        (Some(&open), reasons::UNPROTECTED_SERVER, true),
    ];
    for (step, (activity, reason, event)) in table.into_iter().enumerate() {
        let (status, notes) = report(&agent, &outcome(activity));
        let healthy = status.conditions.iter().find(|c| c.type_ == kinds::SERVER_HEALTHY).unwrap();
        assert_eq!((healthy.reason.as_str(), healthy.status.as_str()), (reason, "True"), "step {step}");
        assert_eq!(notes.iter().any(|n| n.reason == reasons::UNPROTECTED_SERVER), event, "step {step}");
        agent.status = Some(status);
    }
}

/// Why a pod does not start is the reason and an event, once for each cause; a server that works is not troubled.
#[test]
fn a_pod_that_does_not_start_is_reported() {
    let mut agent = Agent::new("coder", serde_json::from_str("{}").unwrap());
    let pull = Some("the image i:1 of container c cannot be pulled".to_string());
    let account = Some("the pod cannot be made: serviceaccount \"nobody\" not found".to_string());
    let table = [
        (None, Server::NotReady, reasons::PROGRESSING, false),
        (pull.clone(), Server::NotReady, reasons::POD_NOT_STARTING, true),
        (pull.clone(), Server::NotReady, reasons::POD_NOT_STARTING, false),
        (account, Server::Missing, reasons::POD_NOT_STARTING, true),
        (pull, Server::Ready, reasons::AVAILABLE, false),
    ];
    for (step, (trouble, server, reason, event)) in table.into_iter().enumerate() {
        let (status, notes) = report(&agent, &Outcome { trouble: trouble.clone(), server, ..outcome(None) });
        let ready = status.conditions.iter().find(|c| c.type_ == kinds::READY).unwrap();
        assert_eq!(ready.reason, reason, "step {step}");
        let said = trouble.is_some_and(|trouble| ready.message.ends_with(&trouble));
        assert_eq!(said, reason == reasons::POD_NOT_STARTING, "step {step}: {}", ready.message);
        assert_eq!(notes.iter().any(|n| n.reason == reasons::POD_NOT_STARTING), event, "step {step}");
        agent.status = Some(status);
    }
}

/// It is said once, and taken back when the text is there.
#[test]
fn a_text_that_does_not_arrive_is_reported() {
    let mut agent = Agent::new("coder", serde_json::from_str("{}").unwrap());
    for (step, (text_unseen, shown, event)) in
        [(false, None, false), (true, Some("True"), true), (true, Some("True"), false), (false, Some("False"), false)]
            .into_iter()
            .enumerate()
    {
        let (status, notes) = report(&agent, &Outcome { text_unseen, ..outcome(None) });
        let pending = status.conditions.iter().find(|c| c.type_ == kinds::TEXT_PENDING);
        assert_eq!(pending.map(|c| c.status.as_str()), shown, "step {step}");
        if text_unseen {
            assert_eq!(pending.unwrap().reason, reasons::TEXT_UNSEEN);
        }
        assert_eq!(notes.iter().any(|n| n.reason == reasons::TEXT_UNSEEN), event, "step {step}");
        agent.status = Some(status);
    }
}

/// That an agent is pinned is said with what is newest, and an event is written when it begins and when it ends.
#[test]
fn a_pinned_agent_says_so_until_it_is_released() {
    let mut agent = Agent::new("coder", serde_json::from_str("{}").unwrap());
    let revision = |commit: &str| Some(format!("main@sha1:{}", commit.repeat(10)));
    let pinned = Pinned {
        id: "old".into(),
        revision: revision("1a2b"),
        newest: Ok("new".into()),
        newest_revision: revision("9f8e"),
    };
    let failure = Failure::stalled(reasons::INVALID_SPEC, "no");
    let table = [
        (None, None, None, None, AgentState::Ready),
        (Some(&pinned), None, Some("True"), Some(reasons::PINNED), AgentState::Pinned),
        (Some(&pinned), None, Some("True"), None, AgentState::Pinned),
        (None, Some(&failure), Some("True"), None, AgentState::Stalled),
        (None, None, Some("False"), Some(reasons::RELEASED), AgentState::Ready),
        (None, None, Some("False"), None, AgentState::Ready),
    ];
    for (step, (pinned, failure, condition, event, state)) in table.into_iter().enumerate() {
        let (status, notes) = report(&agent, &Outcome { failure, pinned, ..outcome(None) });
        let found = status.conditions.iter().find(|c| c.type_ == kinds::PINNED);
        assert_eq!(found.map(|c| c.status.as_str()), condition, "step {step}");
        let said: Vec<_> = notes.iter().filter(|n| n.action == "Rollback").map(|n| n.reason).collect();
        assert_eq!(said, event.into_iter().collect::<Vec<_>>(), "step {step}");
        assert_eq!(status.state, Some(state), "step {step}");
        if pinned.is_some() {
            let message = &found.unwrap().message;
            assert!(
                message.contains("revision old (main@1a2b1a2)") && message.contains("is new (main@9f8e9f8)"),
                "{message}"
            );
            assert!(message.contains("rollback agent NAME --release"), "{message}");
            assert_eq!(status.revision.as_deref(), Some("main@1a2b1a2"));
        }
        agent.status = Some(status);
    }
}

/// An order that means nothing is a condition while it is there, and an event for each.
#[test]
fn an_order_that_means_nothing_is_said() {
    let mut agent = Agent::new("coder", serde_json::from_str("{}").unwrap());
    let table = [
        (None, false, false),
        (Some("pause"), true, true),
        (Some("pause"), true, false),
        (Some("stop"), true, true),
        (Some("hold"), false, false),
        (Some("now"), true, true),
        (None, false, false),
    ];
    for (step, (asked, condition, event)) in table.into_iter().enumerate() {
        let (status, notes) = report(&agent, &Outcome { asked, ..outcome(None) });
        let found = status.conditions.iter().any(|c| c.type_ == kinds::ORDER_UNKNOWN);
        let said = notes.iter().any(|n| n.reason == reasons::ORDER_UNKNOWN);
        assert_eq!((found, said), (condition, event), "step {step}");
        agent.status = Some(status);
    }
}

/// A kept revision goes on whatever the newest spec says, and says why that one is no use.
#[test]
fn a_pinned_agent_says_what_is_wrong_with_the_newest() {
    let agent = Agent::new("coder", serde_json::from_str("{}").unwrap());
    let newest = Err("InvalidSpec: spec.workspaceDir is required".to_string());
    let pinned = Pinned { id: "old".into(), revision: None, newest, newest_revision: None };
    let (status, _) = report(&agent, &Outcome { pinned: Some(&pinned), ..outcome(None) });
    assert_eq!(status.state, Some(AgentState::Pinned));
    let said = &status.conditions.iter().find(|c| c.type_ == kinds::PINNED).unwrap().message;
    assert!(said.contains("nothing can be made of the newest, InvalidSpec: spec.workspaceDir is required"), "{said}");
}

/// Side by side the old pod takes work until the new one is ready; what is new is not ready before.
#[test]
fn work_is_taken_while_a_new_pod_comes_beside_one_that_ends_what_it_begins() {
    let agent = Agent::new("coder", serde_json::from_str("{}").unwrap());
    let table = [
        (Server::Rolling, false, false, false),
        (Server::Rolling, true, false, true),
        (Server::Rolling, true, true, false),
        (Server::Ready, false, false, true),
    ];
    for (server, serves_on, suspended, expected) in table {
        let (status, _) = report(&agent, &Outcome { server, suspended, serves_on, ..outcome(None) });
        assert_eq!(status.ready, Some(expected), "{server:?} {serves_on} {suspended}");
        let ready = status.conditions.iter().find(|c| c.type_ == kinds::READY).unwrap();
        assert_eq!(ready.status == "True", server == Server::Ready || suspended, "{ready:?}");
    }
}
