//! Tasks on a real API server. There is no node: the tests play the kubelet.

mod alone;
mod commands;
mod draining;
mod from_git;
mod history;
mod queue;
mod retry;
mod stage;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use pilothouse::api::{CronTask, TaskPhase};
use serde_json::json;

use crate::common::{
    cluster::{Cluster, Shape},
    wait::eventually,
};
use stage::Stage;

const WORDS: &str = r#"{"session": {"id": "ses_1", "summary": {"messageCount": 2, "cost": "0.010000"}}}"#;

/// What Tasks wait for, one after the other; then they run in order, and the next starts when one ends.
#[tokio::test]
async fn tasks_wait_for_their_agent_and_run_in_order() {
    let stage = Stage::new("queue").await;
    for name in ["t1", "t2", "t3", "t4"] {
        stage.task(name, json!({})).await;
    }
    stage.queued("t1", "AgentNotFound").await;
    let label = stage.get("t1").await.metadata.labels.unwrap_or_default();
    assert_eq!(label.get("pilothouse.dev/agent").map(String::as_str), Some("coder"));

    stage.agent(json!({"maxConcurrentTasks": 1})).await;
    stage.queued("t1", "AgentServerNotReady").await;
    stage.serve().await;
    stage.phase("t1", TaskPhase::Running).await;
    for name in ["t2", "t3", "t4"] {
        stage.queued(name, "AgentAtCapacity").await;
    }

    let mut waits = vec![];
    for (ends, next) in [("t1", "t2"), ("t2", "t3"), ("t3", "t4")] {
        let since = Instant::now();
        stage.end_pod(ends, 0, WORDS).await;
        stage.phase_now(next, TaskPhase::Running).await;
        waits.push(since.elapsed());
        let done = stage.phase(ends, TaskPhase::Completed).await;
        let status = done.status.unwrap();
        let session = status.session.unwrap();
        assert_eq!(session.id.as_deref(), Some("ses_1"));
        assert_eq!(session.summary.unwrap().cost.as_deref(), Some("0.010000"));
        assert!(session.title.unwrap().starts_with(&format!("pilothouse/{}/{ends}/", stage.namespace)));
        assert!(status.start_time.unwrap() <= status.completion_time.unwrap());
        assert_eq!(status.pod_name.as_deref(), Some(format!("{ends}-pod").as_str()));
        assert_eq!(stage.condition(ends, "Ready").await, ("True".into(), "Completed".into()));
    }
    println!("from a pod's end to the next Task running: {waits:?}");
    stage.end_pod("t4", 0, WORDS).await;
    stage.phase("t4", TaskPhase::Completed).await;

    let writes = stage.release.user();
    let made = stage.audit.writes(&writes).into_iter().filter(|r| r.verb == "create" && r.object().contains("/pods/"));
    assert_eq!(made.filter(|r| r.code() == 201).count(), 4, "one pod a Task");
    stage.nothing_is_written_for(Duration::from_secs(3)).await;
}

#[tokio::test]
async fn ways_to_fail_name_their_reason() {
    let stage = Stage::with_agent("fail").await;
    for name in ["error", "memory", "lost", "strange"] {
        stage.task(name, json!({})).await;
        stage.phase(name, TaskPhase::Running).await;
    }
    stage.end_pod("error", 10, r#"{"reason": "AgentError", "message": "no credit", "session": {"id": "ses_2"}}"#).await;
    stage.end_pod("memory", 137, "OOMKilled").await;
    stage.pods.delete("lost-pod", &DeleteParams::default().grace_period(0)).await.unwrap();
    stage.end_pod("strange", 3, "thread main panicked").await;
    for (name, reason) in
        [("error", "AgentError"), ("memory", "OOMKilled"), ("lost", "PodLost"), ("strange", "PodFailed")]
    {
        stage.phase(name, TaskPhase::Failed).await;
        assert_eq!(stage.condition(name, "Stalled").await, ("True".into(), reason.into()), "{name}");
        assert_eq!(stage.condition(name, "Ready").await, ("False".into(), "Failed".into()), "{name}");
    }
    let events = stage.events("error").await;
    for reason in ["PodCreated", "Failed"] {
        assert!(events.contains(&reason.to_owned()), "{events:?}");
    }
}

#[tokio::test]
async fn a_stop_gives_the_pod_its_grace() {
    let stage = Stage::with_agent("stop").await;
    // Time enough for its pod to have a node: one without is gone at once.
    for (name, spec) in [("long", json!({})), ("short", json!({"timeout": "5s"}))] {
        stage.task(name, spec).await;
        stage.phase(name, TaskPhase::Running).await;
        stage.bind_pod(name).await;
    }
    stage.annotate("long", "pilothouse.dev/stop", "true").await;
    for (name, reason) in [("long", "UserStopped"), ("short", "Timeout")] {
        stage.leaving(name).await;
        stage.condition_is(name, "Reconciling", reason).await;
        assert_eq!(
            stage.get(name).await.status.unwrap().phase,
            Some(TaskPhase::Running),
            "its session is not over yet"
        );
        stage.end_pod(name, 30, r#"{"reason": "Aborted", "message": "aborted", "session": {"id": "ses_3"}}"#).await;
        stage.pods.delete(&format!("{name}-pod"), &DeleteParams::default().grace_period(0)).await.unwrap();
        let done = stage.phase(name, TaskPhase::Completed).await;
        assert_eq!(stage.condition(name, "Stopped").await, ("True".into(), reason.into()));
        assert_eq!(done.status.unwrap().session.unwrap().id.as_deref(), Some("ses_3"));
    }

    // One that waits ends at once, and never gets a pod.
    stage.task("never", json!({"agentRef": {"name": "nobody"}})).await;
    stage.queued("never", "AgentNotFound").await;
    stage.annotate("never", "pilothouse.dev/stop", "true").await;
    stage.phase("never", TaskPhase::Completed).await;
    assert!(stage.pods.get_opt("never-pod").await.unwrap().is_none());
}

#[tokio::test]
async fn a_strange_pod_is_left_alone_and_others_go_first() {
    let stage = Stage::with("conflict", json!({"maxConcurrentTasks": 1})).await;
    stage.strange_pod("a-pod").await;
    let before = stage.pods.get("a-pod").await.unwrap();
    stage.task("a", json!({})).await;
    stage.queued("a", "NameConflict").await;
    stage.task("b", json!({})).await;
    stage.phase("b", TaskPhase::Running).await;
    assert_eq!(stage.pods.get("a-pod").await.unwrap(), before);
    stage.end_pod("b", 0, WORDS).await;
    stage.phase("b", TaskPhase::Completed).await;
    stage.pods.delete("a-pod", &DeleteParams::default().grace_period(0)).await.unwrap();
    stage.phase("a", TaskPhase::Running).await;
}

/// The same of what the pod would read: no pod is made for it, and nothing is written over it.
#[tokio::test]
async fn a_strange_prompt_is_left_alone() {
    let stage = Stage::with_agent("prompt").await;
    stage.config_map("a-task-context", json!({"prompt.txt": "theirs"})).await;
    stage.task("a", json!({})).await;
    stage.queued("a", "NameConflict").await;
    let message = stage.message("a", "Queued").await;
    assert!(message.contains("ConfigMap a-task-context exists and does not belong to this Task"), "{message}");
    assert_eq!(stage.config_map_data("a-task-context").await, [("prompt.txt".into(), "theirs".into())].into());
    assert!(stage.pods.get_opt("a-pod").await.unwrap().is_none());
    stage.remove_config_map("a-task-context").await;
    stage.phase("a", TaskPhase::Running).await;
    assert_eq!(stage.config_map_data("a-task-context").await["prompt.txt"], "Say hello.");
}

#[tokio::test]
async fn what_is_not_supported_is_refused_by_name() {
    let stage = Stage::with_agent("refuse").await;
    stage.task("a", json!({"contexts": [{"type": "URL", "url": {"source": "https://example.org"}}]})).await;
    stage.condition_is("a", "Stalled", "NotYetSupported").await;
    let message = stage.message("a", "Ready").await;
    assert!(message.contains("support spec.contexts[0].type (URL), spec.contexts[0].url;"), "{message}");
    // Files reach a pod of the Task's own, and not yet the pod of an agent.
    stage.task("b", json!({"contexts": [{"type": "Text", "text": "t", "mountPath": "a.md"}]})).await;
    stage.condition_is("b", "Stalled", "NotYetSupported").await;
    // Taking the fields away is enough.
    stage.set_spec("a", json!({"contexts": null})).await;
    stage.phase("a", TaskPhase::Running).await;
    assert!(stage.pods.get_opt("b-pod").await.unwrap().is_none());
}

/// What a context needs is waited for by name, others go first, and what was there at the start is what the session gets.
#[tokio::test]
async fn contexts_are_waited_for_and_reach_the_pod() {
    let stage = Stage::with("contexts", json!({"maxConcurrentTasks": 1})).await;
    let contexts = json!([
        {"type": "Text", "name": "rules", "text": "Be kind."},
        {"type": "ConfigMap", "name": "book", "configMap": {"name": "book", "key": "oncall"}},
        {"type": "ConfigMap", "configMap": {"name": "none", "optional": true}},
    ]);
    stage.task("a", json!({ "contexts": contexts })).await;
    stage.queued("a", "ConfigMapNotFound").await;
    stage.tells("a", "waiting for its contexts: ConfigMap book does not exist").await;
    stage.task("b", json!({})).await;
    stage.phase("b", TaskPhase::Running).await;
    stage.config_map("book", json!({"other": "x"})).await;
    stage.end_pod("b", 0, WORDS).await;
    stage.tells("a", "spec.contexts[1]: ConfigMap book has no key oncall with text").await;
    stage.config_map("book", json!({"oncall": "Wake up."})).await;
    stage.phase("a", TaskPhase::Running).await;
    let data = stage.config_map_data("a-task-context").await;
    let expected = "<context name=\"rules\">\nBe kind.\n</context>\n\n<context name=\"book\">\nWake up.\n</context>\n";
    assert_eq!((data["context.md"].as_str(), data["prompt.txt"].as_str()), (expected, "Say hello."));
}

/// A crash between the pod and the status, or anywhere else, starts nothing twice and loses nothing.
#[tokio::test]
async fn a_crash_starts_nothing_twice() {
    let mut stage = Stage::with("crash", json!({"maxConcurrentTasks": 2})).await;
    let names: Vec<String> = (0..8).map(|n| format!("t{n}")).collect();
    for name in &names {
        stage.task(name, json!({})).await;
    }
    stage.phase("t0", TaskPhase::Running).await;
    stage.phase("t1", TaskPhase::Running).await;
    // The pod of one that runs is there, its status is as before the start.
    stage.crash_before_status("t1").await;
    stage.restart();
    stage.phase("t1", TaskPhase::Running).await;
    for (at, name) in names.iter().enumerate() {
        stage.phase(name, TaskPhase::Running).await;
        let running = stage.running().await;
        assert!(running.len() <= 2, "{running:?}");
        if at == 3 {
            stage.restart();
        }
        stage.end_pod(name, 0, WORDS).await;
        stage.phase(name, TaskPhase::Completed).await;
    }
}

#[tokio::test]
async fn suspended_agents_get_no_work() {
    let stage = Stage::with("suspend", json!({"suspend": true})).await;
    stage.task("a", json!({})).await;
    stage.queued("a", "AgentSuspended").await;
    stage.change_agent(json!({"suspend": false})).await;
    stage.serve().await;
    stage.phase("a", TaskPhase::Running).await;
}

/// Settings are the cluster's, so this one has a cluster of its own.
#[tokio::test]
async fn finished_tasks_are_cleaned_up() {
    let cluster = Cluster::start(Shape { no_scheduler: true, ..Shape::default() });
    let stage = Stage::on(&cluster, "cleanup").await;
    stage.agent(json!({})).await;
    stage.serve().await;
    for name in ["c1", "c2", "c3"] {
        stage.task(name, json!({})).await;
        stage.phase(name, TaskPhase::Running).await;
        stage.end_pod(name, 0, WORDS).await;
        stage.phase(name, TaskPhase::Completed).await;
        // Ends are told apart by the second.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
    }
    stage.task("busy", json!({})).await;
    stage.phase("busy", TaskPhase::Running).await;
    // Switched on late, it holds for what has ended before.
    stage.configure(json!({"cleanup": {"maxRetainedTasks": 1}})).await;
    stage.gone("c1").await;
    stage.gone("c2").await;
    assert_eq!(stage.names().await, ["busy", "c3"], "the newest stays, and what runs");
    stage.configure(json!({"cleanup": {"ttlSecondsAfterFinished": 1}})).await;
    stage.gone("c3").await;
    stage.end_pod("busy", 0, WORDS).await;
    stage.gone("busy").await;
    stage.pod_gone("busy-pod").await;

    // What is not there yet is refused by name, and what is there stays in force.
    stage.configure(json!({"network": {"apiServerCIDRs": ["10.0.0.0/8"]}})).await;
    let (ready, message) = stage.config_condition("Ready").await;
    assert_eq!(ready, "NotYetSupported");
    assert!(message.contains("spec.network"), "{message}");
}

#[tokio::test]
async fn the_command_reconcile_asks_and_waits() {
    let stage = Stage::with_agent("ask").await;
    stage.task("a", json!({})).await;
    stage.phase("a", TaskPhase::Running).await;
    stage.template("base", json!({"workspaceDir": "/w", "serviceAccountName": "default"})).await;
    stage.template("bad", json!({"workspaceDir": "/w", "serviceAccountName": "default", "config": "{"})).await;

    let (code, out, err) = stage.pilothouse(&["reconcile", "agt/base", "--wait", "-o", "json"]);
    assert_eq!(code, 0, "{err}");
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&value["handled"], &value["ready"], &value["reason"]), (&json!(true), &json!("True"), &json!("Valid")));
    assert!(err.contains("AgentTemplate") && err.contains("ready, Valid"), "{err}");

    let (code, out, _) = stage.pilothouse(&["reconcile", "agenttemplate", "bad", "-w"]);
    assert_eq!(code, 1);
    assert!(out.contains("stalled, InvalidConfig: spec.config is no JSON"), "{out}");

    let (code, out, err) = stage.pilothouse(&["reconcile", "tk", "a"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(out.trim(), format!("Task {}/a: asked for a reconcile", stage.namespace));
    eventually_handled(&stage).await;
    let manager = stage.get("a").await.metadata.managed_fields.unwrap_or_default();
    assert!(manager.iter().any(|m| m.manager.as_deref() == Some("pilothouse-cli")), "{manager:?}");

    let (code, _, err) = stage.pilothouse(&["reconcile", "task", "b"]);
    assert_eq!(code, 1);
    assert!(err.contains(&format!("there is no Task {}/b; there are: a", stage.namespace)), "{err}");
    let (code, _, err) = stage.pilothouse(&["reconcile", "pod", "b"]);
    assert!(code == 1 && err.contains("\"pod\" is no kind of Pilothouse"), "{err}");
    // It cannot create anything.
    assert!(stage.tasks.get_opt("b").await.unwrap().is_none());
}

async fn eventually_handled(stage: &Stage) {
    crate::common::wait::eventually("the request is echoed", 30, || async {
        let task = stage.get("a").await;
        let asked = task.metadata.annotations?.get("pilothouse.dev/reconcile-at").cloned();
        (asked.is_some() && task.status?.last_handled_reconcile_at == asked).then_some(())
    })
    .await;
}

#[tokio::test]
async fn metrics_tell_of_agents_and_tasks() {
    let stage = Stage::with("metrics", json!({"maxConcurrentTasks": 1})).await;
    stage.task("a", json!({})).await;
    stage.phase("a", TaskPhase::Running).await;
    stage.task("b", json!({})).await;
    stage.queued("b", "AgentAtCapacity").await;
    let ns = &stage.namespace;
    let of = |name: &str| format!("pilothouse_{name}{{namespace=\"{ns}\",agent=\"coder\"}}");
    let tasks = |phase: &str| format!("pilothouse_tasks{{namespace=\"{ns}\",phase=\"{phase}\"}}");
    let shows = async |lines: &[String]| {
        eventually(&format!("{lines:?}"), 30, || async {
            let text = stage.metrics().await;
            lines.iter().all(|line| text.lines().any(|l| l == line)).then_some(text)
        })
        .await
    };
    let one =
        [of("agent_capacity"), of("agent_running_tasks"), of("agent_queue_length"), tasks("Running"), tasks("Queued")];
    let text = shows(&one.map(|name| format!("{name} 1"))).await;
    assert!(text.contains(&format!("pilothouse_agents{{namespace=\"{ns}\",state=\"Ready\"}} 1")), "{text}");
    assert!(!text.contains("pilothouse_task_duration_seconds_count{"), "none has ended");

    stage.end_pod("a", 0, WORDS).await;
    stage.phase("b", TaskPhase::Running).await;
    let ended = of("task_duration_seconds_count");
    let text =
        shows(&[format!("{ended} 1"), format!("{} 0", of("agent_queue_length")), format!("{} 1", tasks("Completed"))])
            .await;
    let bucket = format!("pilothouse_task_duration_seconds_bucket{{le=\"10.0\",namespace=\"{ns}\",agent=\"coder\"}}");
    assert!(text.contains(&bucket), "{text}");

    // A rollout whose time is over at once cuts what runs.
    shows(&[format!("{} 0", of("rollouts_forced_total"))]).await;
    stage.change_agent(json!({"executorImage": "localhost/executor:2", "rollout": {"timeout": "0s"}})).await;
    shows(&[format!("{} 1", of("rollouts_forced_total"))]).await;

    // Those of CronTasks are there with the first one.
    let crontasks: Api<CronTask> = Api::namespaced(stage.client(), ns);
    let spec = json!({"schedule": "0 2 29 2 *", "taskTemplate": {"spec": {"agentRef": {"name": "coder"}}}});
    let cron = CronTask::new("nightly", serde_json::from_value(spec).unwrap());
    crontasks.create(&PostParams::default(), &cron).await.unwrap();
    let text = shows(&[format!("pilothouse_crontask_runs_total{{namespace=\"{ns}\"}} 0")]).await;

    // The page lists what there is, each with its type, and nothing else.
    let page = include_str!("../../docs/metrics.md");
    let said: BTreeSet<_> = page.lines().filter_map(|l| l.strip_prefix("| `pilothouse_")?.split_once("` | ")).collect();
    let said: BTreeSet<_> = said.into_iter().map(|(name, rest)| (name, rest.split(' ').next().unwrap())).collect();
    let real = text.lines().filter_map(|l| l.strip_prefix("# TYPE pilothouse_")?.split_once(' '));
    assert_eq!(said, real.collect::<BTreeSet<_>>(), "docs/metrics.md against /metrics");
}
