use std::fmt::Write as _;

use k8s_openapi::{
    api::core::v1::{Container, PodSpec},
    apimachinery::pkg::apis::meta::v1::Time,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    agent::build::Alone,
    api::{TaskInput, TaskStatus, Verifying},
    status::Note,
    task::{Cleanup, Quota, Settings, Template, seen::Said},
};

const UID: &str = "0123456789-uid";
const START: i64 = 1_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[allow(clippy::needless_pass_by_value, reason = "a table reads better")]
fn task(spec: Value) -> Task {
    serde_json::from_value(json!({
        "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Task",
        "metadata": {
            "name": "t", "namespace": "ns", "uid": UID, "generation": 3, "creationTimestamp": "1970-01-01T00:10:00Z",
        },
        "spec": spec,
    }))
    .unwrap()
}

fn plain() -> Task {
    task(json!({"agentRef": {"name": "a"}, "description": "do it"}))
}

fn stopped(mut task: Task) -> Task {
    task.metadata.annotations = Some([("pilothouse.dev/stop".to_owned(), "true".to_owned())].into());
    task
}

fn limited(mut task: Task) -> Task {
    task.spec.timeout = Some("1m".into());
    task
}

fn leaving(mut task: Task) -> Task {
    task.metadata.deletion_timestamp = Some(Time(at(1_200)));
    task
}

/// The status after a start, made by `step` itself.
fn running(task: Task) -> Task {
    let status = step(&task, &world(ours()), at(START)).status;
    assert_eq!(status.phase, Some(TaskPhase::Running));
    Task { status: Some(status), ..task }
}

fn queued(task: Task) -> Task {
    let status = step(&task, &World { agent: None, ..world(PodState::Absent) }, at(900)).status;
    Task { status: Some(status), ..task }
}

fn agent() -> AgentView {
    AgentView {
        name: "a".into(),
        ready: true,
        url: Some("http://a.ns.svc.cluster.local:4096".into()),
        revision: Some("main@1a2b3c4".into()),
        max_running: Some(2),
        ..AgentView::default()
    }
}

fn world(pod: PodState) -> World {
    World {
        agent: Some(agent()),
        template: Ok(None),
        place: Place::Held,
        contexts: Ok(String::new()),
        rank: None,
        pod,
        settings: Settings { image: Some("pilothouse:1".into()), pull_policy: None },
        cleanup: Cleanup::default(),
    }
}

fn view() -> PodView {
    PodView {
        uid: "pod-uid".into(),
        created: at(START),
        gone_by: None,
        revision: Some("main@1a2b3c4".into()),
        inputs: vec![],
        has_command: false,
        attempt: 0,
        session: None,
        said: Said::default(),
        ending: None,
        held_up: None,
    }
}

fn ours() -> PodState {
    PodState::Ours(Box::new(view()))
}

fn ended(ending: Ending) -> PodState {
    let session = serde_json::from_value(json!({"id": "ses_1", "summary": {"messageCount": 2, "cost": "0.100000"}}));
    let said = Said { result: Some("the answer".into()), log: Some("the log".into()) };
    PodState::Ours(Box::new(PodView { ending: Some(ending), session: Some(session.unwrap()), said, ..view() }))
}

fn broken(reason: &'static str) -> Ending {
    Ending::Broken { reason, message: "what happened".into(), at: Some(at(1_050)) }
}

/// The second place of a queue.
fn second() -> Option<crate::task::Rank> {
    let ticket = |name: &str| crate::task::Ticket {
        uid: name.into(),
        name: name.into(),
        priority: 0,
        created: at(0),
        tries: 0,
        running: false,
    };
    crate::task::Ledger::default().rank("b", &[ticket("a"), ticket("b")])
}

/// Everything of a decision, as text.
fn show(decision: &Decision) -> String {
    let mut text = match &decision.act {
        Act::Start(start) => format!(
            "act: start {} with {}\n",
            start.pod.metadata.name.as_deref().unwrap_or_default(),
            start.prompt.metadata.name.as_deref().unwrap_or_default()
        ),
        other => format!("act: {other:?}\n"),
    };
    let mut status = decision.status.clone();
    let conditions = std::mem::take(&mut status.conditions);
    let _ = writeln!(text, "status: {}", serde_json::to_string(&status).unwrap());
    for c in conditions {
        let (since, generation) = (c.last_transition_time.0.as_second(), c.observed_generation.unwrap_or_default());
        let _ = writeln!(text, "  {}={}/{} since {since} at {generation}: {}", c.type_, c.status, c.reason, c.message);
    }
    for Note { warning, reason, action, message } in &decision.notes {
        let _ = writeln!(text, "event: {}{reason}/{action}: {message}", if *warning { "warning " } else { "" });
    }
    let _ = writeln!(text, "next: {:?}", decision.next);
    text
}

/// Tries, one after the other.
fn tries() -> Vec<(&'static str, Task, World, i64)> {
    let again = || {
        let mut task = plain();
        task.spec.retry = Some(crate::api::task::Retry { limit: 2, backoff: Some("10s".into()) });
        task
    };
    let failed = |reason| world(ended(broken(reason)));
    let next = |task: Task, world: World, now: i64| {
        let status = step(&task, &world, at(now)).status;
        Task { status: Some(status), ..task }
    };
    let waits = move || next(running(again()), failed(reasons::AGENT_ERROR), 1_051);
    let of_try = |attempt: usize, change: fn(&mut PodView)| {
        let mut pod = PodView { attempt, created: at(1_070), ..view() };
        change(&mut pod);
        world(PodState::Ours(Box::new(pod)))
    };
    let second = move || next(waits(), of_try(1, |_| {}), 1_070);
    let last = move || {
        let third = next(second(), of_try(1, |p| p.ending = Some(broken(reasons::OOM_KILLED))), 1_080);
        next(third, of_try(2, |_| {}), 1_200)
    };
    vec![
        ("a try fails, another one follows", running(again()), failed(reasons::AGENT_ERROR), 1_051),
        ("a pod is lost, another try follows", running(again()), world(PodState::Absent), 1_051),
        ("aborted by hand: no other try", running(again()), failed(reasons::ABORTED), 1_051),
        ("fails while it is stopped: no other try", stopped(running(again())), failed(reasons::AGENT_ERROR), 1_051),
        ("between, the pod is still there", waits(), failed(reasons::AGENT_ERROR), 1_052),
        ("between, the pod goes", waits(), with_gone(1_080), 1_053),
        ("between, the node does not answer", waits(), with_gone(1_080), 1_140),
        ("between, it waits for its time", waits(), world(PodState::Absent), 1_053),
        ("between, stopped", stopped(waits()), world(PodState::Absent), 1_053),
        ("between, stopped, the pod is still there", stopped(waits()), failed(reasons::AGENT_ERROR), 1_053),
        ("its time has come, a place", waits(), world(PodState::Absent), 1_060),
        ("its time has come, no place", waits(), World { place: Place::Full, ..world(PodState::Absent) }, 1_060),
        ("the second try runs", waits(), of_try(1, |_| {}), 1_070),
        ("the second try ends well", second(), of_try(1, |p| p.ending = Some(Ending::Done { at: None })), 1_090),
        ("the last try fails", last(), of_try(2, |p| p.ending = Some(broken(reasons::POD_FAILED))), 1_300),
        (
            "refused: bad backoff",
            task(json!({"agentRef": {"name": "a"}, "description": "d", "retry": {"limit": 1, "backoff": "soon"}})),
            world(PodState::Absent),
            900,
        ),
    ]
}

fn with_gone(second: i64) -> World {
    world(PodState::Ours(Box::new(PodView { gone_by: Some(at(second)), ..view() })))
}

/// Tasks with a pod of their own.
fn alone() -> Vec<(&'static str, Task, World, i64)> {
    let of_template = || task(json!({"templateRef": {"name": "base"}, "description": "do it", "priority": 3}));
    let template = |command: bool| {
        let mut spec = PodSpec::default();
        spec.containers.extend(command.then(Container::default));
        let resolved = crate::agent::Resolved { revision: "main@sha1:1a2b".into(), ..Default::default() };
        let alone = Alone {
            spec,
            labels: [].into(),
            files: "t-task-files-0123456789".into(),
            data: [].into(),
            binary: [].into(),
            digests: String::new(),
            pieces: [("contexts/docs".to_owned(), resolved)].into(),
            url: "http://127.0.0.1:14096".into(),
        };
        Template { name: "base".into(), revision: Some("main@1a2b3c4".into()), alone }
    };
    let with = |template| World { agent: None, template, ..world(PodState::Absent) };
    let there = move |command| with(Ok(Some(Box::new(template(command)))));
    let waiting =
        Failure::waiting(reasons::SECRET_NOT_FOUND, "with AgentTemplate base: credential \"k\" waits for Secret \"k\"");
    let stalled = Failure::stalled(reasons::INVALID_CONFIG, "with AgentTemplate base: spec.config is no object");
    let pod = |change: fn(&mut PodView)| {
        let inputs = vec![TaskInput { id: "contexts/docs".into(), commit: "1a2b".into() }];
        let mut pod = PodView { inputs, ..view() };
        change(&mut pod);
        World { agent: None, ..world(PodState::Ours(Box::new(pod))) }
    };
    let runs = move |change: fn(&mut PodView)| {
        let status = step(&of_template(), &pod(change), at(START)).status;
        Task { status: Some(status), ..of_template() }
    };
    vec![
        ("alone, its template is missing something", of_template(), with(Err(waiting)), 900),
        ("alone, its template is wrong", of_template(), with(Err(stalled)), 900),
        ("alone, its template was not looked at", of_template(), with(Ok(None)), 900),
        ("alone, everything is there", of_template(), there(false), 900),
        ("alone, no place in any queue", of_template(), World { place: Place::Full, ..there(false) }, 900),
        ("alone, no image", of_template(), World { settings: Settings::default(), ..there(true) }, 900),
        ("alone, stopped before", stopped(of_template()), there(false), 900),
        ("alone, the pod is there", of_template(), pod(|_| {}), START),
        ("alone, the agent has answered", runs(|_| {}), pod(|p| p.ending = Some(Ending::Done { at: None })), 1_051),
        (
            "alone, the command is over",
            runs(|p| p.has_command = true),
            pod(|p| {
                p.has_command = true;
                p.said.log = Some("the log".into());
                p.ending = Some(Ending::Done { at: None });
            }),
            1_051,
        ),
        ("alone, the pod is lost", runs(|_| {}), there(false), 1_051),
    ]
}

#[test]
fn decisions() {
    let absent = || world(PodState::Absent);
    let suspended = || World { agent: Some(AgentView { suspended: true, ..agent() }), ..absent() };
    let not_ready = || World { agent: Some(AgentView { ready: false, ..agent() }), ..absent() };
    let with_pod = |change: fn(&mut PodView)| {
        let mut pod = view();
        change(&mut pod);
        world(PodState::Ours(Box::new(pod)))
    };
    let keep = |ttl: u32| World { cleanup: Cleanup { ttl_seconds: Some(ttl), ..Cleanup::default() }, ..world(ours()) };
    let surplus = || World { cleanup: Cleanup { surplus: true, ..Cleanup::default() }, ..world(ours()) };
    let done = || {
        let done = step(&running(plain()), &world(ended(Ending::Done { at: Some(at(1_050)) })), at(1_051)).status;
        Task { status: Some(done), ..plain() }
    };
    let spent = |until| {
        let quota = Some(Quota::of(&crate::api::Quota { max_task_starts: 3, window_seconds: 600 }));
        let agent = Some(AgentView { quota, ..agent() });
        World { agent, place: Place::Spent { until }, rank: second(), ..absent() }
    };
    let no_image = || World { settings: Settings::default(), ..absent() };
    let table: Vec<(&str, Task, World, i64)> = vec![
        // Before the start.
        ("new, no agent", plain(), World { agent: None, ..absent() }, 900),
        ("new, agent suspended", plain(), suspended(), 900),
        ("new, agent not ready", plain(), not_ready(), 900),
        ("new, no place", plain(), World { place: Place::Full, ..absent() }, 900),
        ("new, the quota is spent", plain(), spent(None), 900),
        ("new, the first that waits for the quota", plain(), spent(Some(at(960))), 900),
        ("new, second in the queue", plain(), World { rank: second(), ..suspended() }, 900),
        (
            "new, a context is missing",
            plain(),
            World { contexts: Err("ConfigMap m does not exist".into()), ..absent() },
            900,
        ),
        ("new, a place", plain(), absent(), 900),
        ("queued, still no agent", queued(plain()), World { agent: None, ..absent() }, 950),
        ("queued, then at capacity", queued(plain()), World { place: Place::Full, ..absent() }, 950),
        ("queued, a place", queued(plain()), absent(), 950),
        ("queued, no image", queued(plain()), no_image(), 950),
        (
            "queued, agent without address",
            plain(),
            World { agent: Some(AgentView { url: None, ..agent() }), ..absent() },
            950,
        ),
        ("queued, stopped", stopped(queued(plain())), absent(), 950),
        ("new, stopped", stopped(plain()), absent(), 950),
        ("queued, a strange pod", queued(plain()), world(PodState::Foreign), 950),
        ("queued, being deleted", leaving(queued(plain())), absent(), 950),
        (
            "refused: two fields",
            task(json!({"agentRef": {"name": "a"}, "description": "d", "contexts": [
                {"type": "Text", "text": "t"},
                {"type": "Git", "mountPath": "m", "git": {"repository": "https://example.org/r"}},
            ]})),
            absent(),
            900,
        ),
        ("refused: no prompt", task(json!({"agentRef": {"name": "a"}})), absent(), 900),
        (
            "refused: bad timeout",
            task(json!({"agentRef": {"name": "a"}, "description": "d", "timeout": "3d"})),
            absent(),
            900,
        ),
        ("refused: nobody named", task(json!({"description": "d"})), absent(), 900),
        // While it runs.
        ("pod created", queued(plain()), world(ours()), START),
        ("running, nothing new", running(plain()), world(ours()), 1_030),
        (
            "running, pod not scheduled",
            running(plain()),
            with_pod(|p| p.held_up = Some((reasons::POD_UNSCHEDULABLE, "0/3 nodes are available".into()))),
            1_030,
        ),
        ("running with a limit", running(limited(plain())), world(ours()), 1_030),
        ("running, agent suspended", running(plain()), World { pod: ours(), ..suspended() }, 1_030),
        ("running, agent gone", running(plain()), World { agent: None, ..world(ours()) }, 1_030),
        ("running, being deleted", leaving(running(plain())), world(ours()), 1_030),
        // How it ends.
        ("pod succeeded", running(plain()), world(ended(Ending::Done { at: Some(at(1_050)) })), 1_051),
        ("pod succeeded although stopped", stopped(running(plain())), world(ended(Ending::Done { at: None })), 1_051),
        ("agent error", running(plain()), world(ended(broken(reasons::AGENT_ERROR))), 1_051),
        ("out of memory", running(plain()), world(ended(broken(reasons::OOM_KILLED))), 1_051),
        ("task-run timed out by itself", running(limited(plain())), world(ended(broken(reasons::TIMEOUT))), 1_051),
        ("pod lost", running(plain()), absent(), 1_051),
        ("pod replaced by a strange one", running(plain()), world(PodState::Foreign), 1_051),
        (
            "pod deleted by somebody, ends",
            running(plain()),
            with_pod(|p| {
                p.gone_by = Some(at(1_060));
                p.ending = Some(broken(reasons::ABORTED));
            }),
            1_051,
        ),
        ("pod deleted by somebody, silent", running(plain()), with_pod(|p| p.gone_by = Some(at(1_060))), 1_070),
        ("pod deleted by somebody, node lost", running(plain()), with_pod(|p| p.gone_by = Some(at(1_060))), 1_120),
        // Stop and time limit.
        ("stop asked", stopped(running(plain())), world(ours()), 1_030),
        ("stopping", stopped(running(plain())), with_pod(|p| p.gone_by = Some(at(1_060))), 1_031),
        (
            "stopped, session aborted",
            stopped(running(plain())),
            with_pod(|p| {
                p.gone_by = Some(at(1_060));
                p.ending = Some(broken(reasons::ABORTED));
            }),
            1_032,
        ),
        ("stopped, pod gone", stopped(running(plain())), absent(), 1_032),
        ("stopped, node lost", stopped(running(plain())), with_pod(|p| p.gone_by = Some(at(1_060))), 1_121),
        ("time over", running(limited(plain())), world(ours()), 1_060),
        ("time over and stopped", stopped(running(limited(plain()))), world(ours()), 1_060),
        ("time over, pod gone", running(limited(plain())), absent(), 1_065),
        (
            "failed by itself before the stop",
            stopped(running(plain())),
            world(ended(broken(reasons::AGENT_ERROR))),
            1_065,
        ),
        // When it is finished.
        ("finished, no cleanup", done(), world(ours()), 1_100),
        ("finished, pod gone", done(), absent(), 1_100),
        ("finished, stop asked too late", stopped(done()), world(ours()), 1_100),
        ("finished, kept a while", done(), keep(100), 1_100),
        ("finished, time over", done(), keep(100), 1_150),
        ("finished, deleted at once", done(), keep(0), 1_051),
        ("finished, one too many", done(), surplus(), 1_100),
        ("finished, being deleted", leaving(done()), surplus(), 1_200),
    ];
    let mut text = String::new();
    for (name, task, world, now) in table.into_iter().chain(tries()).chain(alone()) {
        let _ = writeln!(text, "## {name}\n{}", show(&step(&task, &world, at(now))));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn a_failed_start_is_shown_and_leaves_the_task_queued() {
    let failure = Failure::transient(reasons::POD_CREATION_FAILED, "cannot create the pod: exceeded quota");
    let decision = start_failed(&queued(plain()), &failure, at(950));
    assert_eq!(decision.act, Act::Nothing);
    assert_eq!(decision.status.phase, Some(TaskPhase::Queued));
    let again = start_failed(&Task { status: Some(decision.status.clone()), ..plain() }, &failure, at(970));
    assert_eq!((again.status, again.notes.len()), (decision.status, 0), "the second failure changes nothing");
}

#[test]
fn the_echo_of_a_request_is_part_of_every_decision() {
    let mut task = plain();
    task.metadata.annotations = Some([("pilothouse.dev/reconcile-at".to_owned(), "now".to_owned())].into());
    for pod in [PodState::Absent, PodState::Foreign, ours(), ended(broken(reasons::AGENT_ERROR))] {
        let status = step(&task, &world(pod), at(900)).status;
        assert_eq!(status.last_handled_reconcile_at.as_deref(), Some("now"));
    }
}

#[test]
fn a_started_task_keeps_its_agent() {
    let mut task = running(plain());
    task.spec.agent_ref = Some("b".into());
    assert_eq!(crate::task::agent_of(&task), Some("a"));
    let status = step(&task, &world(ours()), at(1_010)).status;
    assert_eq!(status.agent_ref.map(|r| r.name).as_deref(), Some("a"));
}

fn any_status() -> impl Strategy<Value = Option<TaskStatus>> {
    let phases = prop::option::of(prop::sample::select(vec![
        TaskPhase::Pending,
        TaskPhase::Queued,
        TaskPhase::Running,
        TaskPhase::Completed,
        TaskPhase::Failed,
    ]));
    let time = || prop::option::of((-1_000_000..1_000_000i64).prop_map(|s| Time(at(s))));
    prop::option::of((phases, time(), time()).prop_map(|(phase, start_time, completion_time)| TaskStatus {
        phase,
        start_time,
        completion_time,
        ..TaskStatus::default()
    }))
}

fn any_task() -> impl Strategy<Value = Task> {
    let timeout =
        prop::option::of(prop_oneof!["[0-9]{0,20}[smhd]?", Just("1m".to_owned()), Just("2562047h".to_owned())]);
    let agent = prop::option::of(Just("a"));
    (timeout, agent, prop::option::of("[a-z ]{0,5}"), any_status(), any::<[bool; 3]>()).prop_map(
        |(timeout, agent, description, status, [stop, deleted, again])| {
            let mut task = plain();
            task.spec.retry = again.then(|| crate::api::task::Retry { limit: 1, backoff: Some("1s".into()) });
            task.spec.timeout = timeout.map(GoDuration);
            task.spec.agent_ref = agent.map(Into::into);
            task.spec.description = description;
            task.status = status;
            let task = if stop { stopped(task) } else { task };
            if deleted { leaving(task) } else { task }
        },
    )
}

fn any_pod() -> impl Strategy<Value = PodState> {
    let reason =
        prop::sample::select(vec![reasons::AGENT_ERROR, reasons::ABORTED, reasons::TIMEOUT, reasons::POD_FAILED]);
    let time = || prop::option::of((-1_000_000..1_000_000i64).prop_map(at));
    let ending = prop_oneof![
        time().prop_map(|at| Ending::Done { at }),
        (reason, time()).prop_map(|(reason, at)| Ending::Broken { reason, message: "m".into(), at }),
    ];
    prop_oneof![
        Just(PodState::Absent),
        Just(PodState::Foreign),
        (prop::option::of(ending), time(), any::<bool>()).prop_map(|(ending, gone_by, held)| {
            let held_up = held.then(|| (reasons::IMAGE_PULL_FAILED, "m".to_owned()));
            PodState::Ours(Box::new(PodView { gone_by, ending, held_up, ..view() }))
        }),
    ]
}

#[test]
fn a_command_has_no_budget() {
    let (_, mut task, world, _) = alone().into_iter().find(|case| case.0 == "alone, no image").unwrap();
    task.spec.budget = serde_json::from_value(json!({"maxCost": 1})).unwrap();
    let decision = step(&task, &world, at(900));
    let stalled = decision.status.conditions.iter().find(|c| c.type_ == "Stalled").unwrap();
    assert_eq!((stalled.reason.as_str(), decision.act), ("NotYetSupported", Act::Nothing));
    assert!(stalled.message.contains("spec.budget") && stalled.message.contains("base"), "{stalled:?}");
}

#[test]
fn a_session_that_took_too_much_stops_its_task() {
    let over = Ending::Broken { reason: reasons::BUDGET_EXCEEDED, message: "too much".into(), at: Some(at(1_050)) };
    let decision = step(&running(plain()), &world(ended(over)), at(1_051));
    let condition = |kind: &str| decision.status.conditions.iter().find(|c| c.type_ == kind).cloned().unwrap();
    assert_eq!(decision.status.phase, Some(TaskPhase::Completed));
    let stopped = condition("Stopped");
    assert_eq!((stopped.reason.as_str(), stopped.message.as_str()), ("BudgetExceeded", "too much"));
    assert_eq!(decision.notes.iter().map(|n| n.reason).collect::<Vec<_>>(), ["BudgetExceeded"]);
    let wrong = task(json!({"agentRef": {"name": "a"}, "description": "d", "budget": {"maxCost": "much"}}));
    let decision = step(&wrong, &world(PodState::Absent), at(900));
    let stalled = decision.status.conditions.iter().find(|c| c.type_ == "Stalled").unwrap();
    assert!(stalled.reason == "InvalidSpec" && stalled.message.contains("spec.budget.maxCost"), "{stalled:?}");
}

/// It is kept for the history, but not for ever, and never for longer than its time where the history has it.
#[test]
fn what_the_history_lacks_is_kept_for_a_while() {
    let done = step(&running(plain()), &world(ended(Ending::Done { at: Some(at(1_000)) })), at(1_000)).status;
    let done = Task { status: Some(done), ..plain() };
    let with = |surplus, unrecorded| World {
        cleanup: Cleanup { ttl_seconds: Some(60), surplus, unrecorded },
        ..world(PodState::Absent)
    };
    // surplus | kept for the history until | now | deleted | told | comes again after
    for (surplus, until, now, deleted, told, again) in [
        (false, None, 1_059, false, 0, Some(1)),
        (false, None, 1_060, true, 0, None),
        (false, Some(5_000), 1_059, false, 0, Some(1)),
        (false, Some(5_000), 1_060, false, 0, Some(3_940)),
        (false, Some(5_000), 5_000, true, 1, None),
        (true, Some(5_000), 1_001, false, 0, Some(3_999)),
        (true, Some(5_000), 5_001, true, 1, None),
        (true, None, 1_001, true, 0, None),
    ] {
        let decision = step(&done, &with(surplus, until.map(at)), at(now));
        assert_eq!(decision.act == Act::Delete, deleted, "{surplus} {until:?} {now}");
        assert_eq!(decision.notes.len(), told, "{surplus} {until:?} {now}");
        let next = match decision.next {
            Next::After(time) => Some(time.as_secs()),
            Next::OnEvent => None,
        };
        assert_eq!(next, again, "{surplus} {until:?} {now}");
    }
}

fn any_world() -> impl Strategy<Value = World> {
    let place =
        prop::sample::select(vec![Place::Held, Place::Full, Place::Unlimited, Place::Spent { until: Some(at(0)) }]);
    let agent = prop::option::of((any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(ready, suspended, url)| {
        AgentView { ready, suspended, url: url.then(|| "http://a".into()), ..agent() }
    }));
    let unrecorded = prop::option::of((-1_000_000..1_000_000i64).prop_map(at));
    let cleanup = (prop::option::of(any::<u32>()), any::<bool>(), unrecorded)
        .prop_map(|(ttl_seconds, surplus, unrecorded)| Cleanup { ttl_seconds, surplus, unrecorded });
    (agent, place, any_pod(), any::<bool>(), cleanup).prop_map(|(agent, place, pod, image, cleanup)| World {
        template: Ok(None),
        agent,
        place,
        contexts: Ok(String::new()),
        rank: None,
        pod,
        settings: Settings { image: image.then(|| "i".into()), pull_policy: None },
        cleanup,
    })
}

#[test]
fn the_next_try_is_for_whom_the_spec_names_by_then() {
    let mut task = running(plain());
    task.spec.retry = Some(crate::api::task::Retry { limit: 1, backoff: Some("1s".into()) });
    task.spec.agent_ref = Some("b".into());
    let status = step(&task, &world(ended(broken(reasons::AGENT_ERROR))), at(1_051)).status;
    assert_eq!((status.tries.len(), status.agent_ref), (1, Some("b".into())));
}

proptest! {
    #[test]
    fn a_finished_task_stays_as_it_is(task in any_task(), worlds in prop::collection::vec((any_world(), -1_000_000..1_000_000i64), 1..20)) {
        let mut task = task;
        let mut finished: Option<TaskStatus> = None;
        for (world, now) in worlds {
            let decision = step(&task, &world, at(now));
            if let Some(before) = &finished {
                prop_assert_eq!(&decision.status, before);
                prop_assert!(matches!(decision.act, Act::Nothing | Act::Delete));
                prop_assert!(decision.notes.is_empty() || decision.act == Act::Delete);
            }
            let ended = decision.status.phase.is_some_and(TaskPhase::is_terminal);
            task.status = Some(decision.status);
            if ended && finished.is_none() {
                finished.clone_from(&task.status);
                finished.as_mut().unwrap().observed_generation = task.metadata.generation;
            }
        }
    }

    #[test]
    fn the_same_world_again_changes_nothing(task in any_task(), world in any_world(), now in -1_000_000..1_000_000i64) {
        let first = step(&task, &world, at(now));
        let second = step(&Task { status: Some(first.status.clone()), ..task }, &world, at(now + 1));
        if first.status.phase.is_some_and(TaskPhase::is_terminal) || first.act == second.act {
            // Time may end a Task; otherwise one more look is one more time nothing.
            let ended_by_time = second.status.phase != first.status.phase;
            let told = second.notes.is_empty() || second.act == Act::Delete;
            prop_assert!(ended_by_time || (told && second.status == first.status), "{first:?}\n{second:?}");
        }
    }

    #[test]
    fn nothing_starts_without_all_it_needs(task in any_task(), world in any_world(), now in -1_000_000..1_000_000i64) {
        if let Act::Start(_) = step(&task, &world, at(now)).act {
            prop_assert!(matches!(world.place, Place::Held | Place::Unlimited) && world.pod == PodState::Absent);
            let agent = world.agent.unwrap();
            prop_assert!(agent.ready && !agent.suspended);
            prop_assert!(stands_in_queue(&task) && crate::task::phase(&task) != Some(TaskPhase::Running));
        }
    }

    #[test]
    fn waiting_is_bounded(task in any_task(), world in any_world(), now in -1_000_000..1_000_000i64) {
        let decision = step(&task, &world, at(now));
        if let Next::After(delay) = decision.next {
            prop_assert!(delay > Duration::ZERO);
        }
    }
}

/// What verifies a revision runs in the pod of that revision alone, whatever the agent would take otherwise.
#[test]
fn a_verification_runs_nowhere_but_in_what_it_verifies() {
    let mut it = plain();
    it.metadata.labels = Some([("pilothouse.dev/verifies".to_string(), "hash".to_string())].into());
    let of = |task: &str, pod: Option<&str>| {
        Some(Verifying { task: task.into(), url: "http://10.0.0.7:14096".into(), pod: pod.map(Into::into) })
    };
    let verifying = |task: &str| of(task, Some("uid-7"));
    let table = [
        (true, None, &it, None),
        (true, verifying("other"), &it, None),
        (true, of("t", None), &it, None),
        (true, verifying("t"), &it, Some("http://10.0.0.7:14096")),
        (false, verifying("t"), &it, Some("http://10.0.0.7:14096")),
    ];
    for (ready, verifying, task, expected) in table {
        let agent = AgentView { ready, verifying, ..agent() };
        let decision = step(task, &World { agent: Some(agent), ..world(PodState::Absent) }, at(950));
        let started = format!("{:?}", decision.act);
        match expected {
            Some(url) => {
                assert!(
                    started.starts_with("Start") && started.contains(url) && started.contains("uid-7"),
                    "{started}"
                );
            }
            None => assert_eq!(decision.act, Act::Nothing),
        }
    }
    assert!(stands_in_queue(&plain()) && !stands_in_queue(&it), "it waits for no place");
}
