use super::*;

fn args(kind: &str, name: Option<&str>) -> Args {
    Args {
        target: Target {
            kind: kind.into(),
            name: name.map(Into::into),
            place: crate::cli::target::Place { namespace: None },
        },
        wait: false,
        timeout: Duration::from_secs(1),
    }
}

#[test]
fn kinds_have_many_names() {
    let table = [
        ("Repository", "Repository"),
        ("repo", "Repository"),
        ("repositories", "Repository"),
        ("syncs", "Sync"),
        ("AG", "Agent"),
        ("agents.pilothouse.dev", "Agent"),
        ("agt", "AgentTemplate"),
        ("tk", "Task"),
        ("ct", "CronTask"),
        ("phc", "PilothouseConfig"),
    ];
    for (text, kind) in table {
        assert_eq!(kinds::named(text).unwrap().kind, kind, "{text}");
    }
    assert!(!kinds::named("phc").unwrap().namespaced);
    assert_eq!(
        kinds::named("pods").unwrap_err().to_string(),
        "\"pods\" is no kind of Pilothouse; there are: repository (repo), sync, agent (ag), agenttemplate (agt), \
         task (tk), crontask (ct), pilothouseconfig (phc)"
    );
    assert!(kinds::named("agents.kubeopencode.io").is_err());
}

#[test]
fn the_name_comes_after_a_space_or_a_slash() {
    let found = |kind, name| {
        let args = args(kind, name);
        let (kind, name) = args.target.parts("reconcile").map_err(|e| e.to_string())?;
        let kind = kinds::named(kind).map_err(|e| e.to_string())?;
        Ok::<_, String>((kind.kind, name.to_owned()))
    };
    assert_eq!(found("ag", Some("x")), Ok(("Agent", "x".into())));
    assert_eq!(found("ag/x", None), Ok(("Agent", "x".into())));
    assert_eq!(found("ag/x", Some("y")), Err("write either KIND NAME or KIND/NAME".into()));
    for (kind, name) in [("ag", None), ("ag/", None)] {
        assert!(found(kind, name).unwrap_err().starts_with("both KIND and NAME are needed"), "{kind}");
    }
}

#[test]
fn when_the_waiting_is_over() {
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "R", "message": "m"});
    let seen = |handled: &str, conditions: Value| {
        Seen::of(&json!({"status": {"lastHandledReconcileAt": handled, "conditions": conditions}}), "now")
    };
    let table = [
        (Seen::of(&json!({}), "now"), false, "waiting for the controller"),
        (seen("before", json!([condition("Ready", "True")])), false, "waiting for the controller"),
        (seen("now", json!([condition("Ready", "True")])), true, "ready, R: m"),
        (seen("now", json!([condition("Ready", "False")])), false, "not ready, R: m"),
        (seen("now", json!([condition("Ready", "True"), condition("Reconciling", "True")])), false, "ready, R: m"),
        (seen("now", json!([condition("Ready", "False"), condition("Stalled", "True")])), true, "stalled, R: m"),
        (seen("now", json!([condition("Ready", "False"), condition("Stalled", "False")])), false, "not ready, R: m"),
    ];
    for (seen, over, line) in table {
        assert_eq!((seen.is_over(), seen.line().as_str()), (over, line), "{seen:?}");
    }
}

#[test]
fn what_is_printed() {
    let seen = Seen { handled: true, ready: "True".into(), reason: "R".into(), message: "m".into(), ..Seen::default() };
    let mut outcome = Outcome {
        kind: "Agent".into(),
        namespace: Some("ns".into()),
        name: "x".into(),
        requested_at: "now".into(),
        seen: None,
    };
    assert_eq!(outcome.text(), "Agent ns/x: asked for a reconcile");
    let asked = json!({"kind": "Agent", "namespace": "ns", "name": "x", "requestedAt": "now"});
    assert_eq!(serde_json::to_value(&outcome).unwrap(), asked);
    outcome.seen = Some(seen);
    assert_eq!(outcome.text(), "Agent ns/x: ready, R: m");
    let waited = json!({
        "kind": "Agent", "namespace": "ns", "name": "x", "requestedAt": "now",
        "handled": true, "ready": "True", "reason": "R", "message": "m",
    });
    assert_eq!(serde_json::to_value(&outcome).unwrap(), waited);
}
