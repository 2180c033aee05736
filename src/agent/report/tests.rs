use super::*;

fn outcome(activity: Option<&Activity>) -> Outcome<'_> {
    Outcome {
        failure: None,
        desired: None,
        back: None,
        trouble: None,
        wrote: false,
        action: None,
        text: None,
        exchange: None,
        git: None,
        text_unseen: false,
        server: Server::Ready,
        applied: None,
        suspended: false,
        finishing: vec![],
        tasks: (0, 0),
        activity,
        url: String::new(),
        layout: None,
        template_generation: None,
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
