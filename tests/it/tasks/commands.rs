//! `pilothouse task` and `pilothouse agent` against a cluster.

use kube::api::DeleteParams;
use pilothouse::api::TaskPhase;
use serde_json::{Value, json};

use super::stage::Stage;

#[tokio::test]
async fn tasks_are_made_listed_read_and_stopped() {
    let stage = Stage::with("commands", json!({"maxConcurrentTasks": 1})).await;
    let (code, out, err) = stage.pilothouse(&["task", "run", "--agent", "coder", "--name", "first", "Say hello."]);
    assert_eq!((code, out.trim()), (0, format!("Task {}/first: created", stage.namespace).as_str()), "{err}");
    let first = stage.phase("first", TaskPhase::Running).await;
    assert_eq!(first.spec.description.as_deref(), Some("Say hello."));

    let run = ["task", "run", "-a", "coder", "--priority", "7", "--timeout", "20m", "-o", "json", "Next."];
    let (code, out, err) = stage.pilothouse(&run);
    assert_eq!(code, 0, "{err}");
    let second = serde_json::from_str::<Value>(&out).unwrap()["name"].as_str().unwrap().to_owned();
    assert!(second.starts_with("coder-"), "{second}");
    stage.queued(&second, "AgentAtCapacity").await;
    let spec = stage.get(&second).await.spec;
    assert_eq!((spec.priority, spec.timeout.map(|t| t.0)), (Some(7), Some("20m".into())));

    let (_, out, _) = stage.pilothouse(&["task", "list", "-o", "json"]);
    let rows: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&rows[0]["name"], &rows[0]["phase"]), (&"first".into(), &"Running".into()), "{rows}");
    assert_eq!((&rows[1]["place"], &rows[1]["reason"]), (&json!(1), &"AgentAtCapacity".into()), "{rows}");
    let (_, out, _) = stage.pilothouse(&["task", "list", "--phase", "queued"]);
    assert!(out.contains(&second) && !out.contains("first"), "{out}");

    let (code, out, _) = stage.pilothouse(&["task", "stop", &second]);
    assert!(code == 0 && out.contains("asked to stop"), "{out}");
    stage.phase(&second, TaskPhase::Completed).await;

    // The end of the log outlives the pod.
    let words = r#"{"result": "Hello.", "log": "I say\nHello.", "session": {"id": "ses_1"}}"#;
    stage.end_pod("first", 0, words).await;
    let first = stage.phase("first", TaskPhase::Completed).await.status.unwrap();
    assert_eq!((first.result.as_deref(), first.log_tail.as_deref()), (Some("Hello."), Some("I say\nHello.")));
    stage.pods.delete("first-pod", &DeleteParams::default().grace_period(0)).await.unwrap();
    stage.pod_gone("first-pod").await;
    let (code, out, err) = stage.pilothouse(&["task", "logs", "first"]);
    assert_eq!((code, out.as_str()), (0, "I say\nHello.\n"), "{err}");
    let (code, out, _) = stage.pilothouse(&["task", "logs", "first", "--follow"]);
    assert_eq!((code, out.as_str()), (0, "I say\nHello.\n"), "it has ended, and there is no pod");

    let (code, _, err) = stage.pilothouse(&["task", "run", "--agent", "codr", "x"]);
    assert!(code == 1 && err.contains("there are: coder"), "{err}");
    let (code, _, err) = stage.pilothouse(&["task", "stop", "frist"]);
    assert!(code == 1 && err.contains("there are: "), "{err}");
}

#[tokio::test]
async fn an_agent_is_suspended_and_resumed_by_hand() {
    let stage = Stage::with_agent("byhand").await;
    let (code, out, err) = stage.pilothouse(&["agent", "suspend", "coder"]);
    assert!(code == 0 && out.contains("asked to suspend"), "{out}{err}");
    stage.task("a", json!({})).await;
    stage.queued("a", "AgentSuspended").await;
    stage.tells("a", "Agent coder is suspended; place 1 in its queue").await;
    let (code, _, err) = stage.pilothouse(&["agent", "resume", "coder"]);
    assert_eq!(code, 0, "{err}");
    stage.serve().await;
    stage.phase("a", TaskPhase::Running).await;
}
