//! The words of a decision: status, conditions and events of each phase.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition as Wire, Time};

use super::{Act, AgentView, Decision, retry, seen::PodView, step::Cause};
use crate::{
    api::{
        Task, TaskPhase, TaskSession, TaskStatus,
        names::{self, annotation, condition, reasons},
        task::{TaskRevision, TaskTry},
    },
    status::{Class, Condition, Failure, Next, Note, condition::remove_condition, set_condition},
};

/// A status in the making.
pub(super) struct Report<'a> {
    task: &'a Task,
    status: TaskStatus,
    now: Timestamp,
}

impl<'a> Report<'a> {
    pub(super) fn new(task: &'a Task, now: Timestamp) -> Self {
        let mut status = task.status.clone().unwrap_or_default();
        status.observed_generation = task.metadata.generation;
        status.last_handled_reconcile_at = annotation(task, annotation::RECONCILE_AT);
        let mut report = Self { task, status, now };
        report.follow_spec();
        report
    }

    /// Until it starts, who works on it is what the spec says now.
    fn follow_spec(&mut self) {
        if self.status.start_time.is_none() {
            self.status.agent_ref.clone_from(&self.task.spec.agent_ref);
            self.status.template_ref.clone_from(&self.task.spec.template_ref);
        }
    }

    pub(super) fn phase(&self) -> Option<TaskPhase> {
        self.status.phase
    }

    /// When the next try may start.
    pub(super) fn next_try(&self) -> Option<Timestamp> {
        self.status.next_try_time.as_ref().map(|t| t.0)
    }

    pub(super) fn start(&self) -> Option<Timestamp> {
        self.status.start_time.as_ref().map(|t| t.0)
    }

    /// Takes over what the pod shows. The pod's creation is the start, so that a status that is computed twice, or
    /// after a restart, is the same.
    pub(super) fn started(&mut self, pod: &PodView, agent: Option<&AgentView>) {
        let status = &mut self.status;
        let start = status.start_time.get_or_insert(Time(pod.created)).clone();
        status.pod_name = self.task.metadata.name.as_deref().map(names::task::pod);
        status.next_try_time = None;
        if let Some(revision) = &pod.revision
            && status.revisions.last().is_none_or(|last| last.since < start && last.revision != *revision)
        {
            status.revisions.push(TaskRevision { revision: revision.clone(), since: start });
        }
        status.inputs.clone_from(&pod.inputs);
        if !pod.has_command {
            self.session(pod);
        }
        let (said, status) = (&pod.said, &mut self.status);
        status.result = said.result.clone().or(status.result.take());
        status.log_tail = said.log.clone().or(status.log_tail.take());
        let limited = agent.is_some_and(|a| a.max_running.is_some() || a.quota.is_some());
        let reason = if limited { reasons::CAPACITY_AVAILABLE } else { reasons::NO_LIMITS };
        if !self.has(condition::QUEUED, "False") {
            self.set(&Condition::no(condition::QUEUED, reason, ""));
        }
    }

    fn session(&mut self, pod: &PodView) {
        let title = retry::session_title(self.task);
        let session = self.status.session.get_or_insert_with(TaskSession::default);
        session.title.get_or_insert(title);
        if let Some(told) = &pod.session {
            session.id = told.id.clone().or(session.id.take());
            session.title = told.title.clone().or(session.title.take());
            session.summary = told.summary.clone().or(session.summary.take());
        }
    }

    fn pod(&self) -> String {
        names::task::pod(self.task.metadata.name.as_deref().unwrap_or_default())
    }

    fn has(&self, kind: &str, status: &str) -> bool {
        self.status.conditions.iter().any(|c: &Wire| c.type_ == kind && c.status == status)
    }

    fn set(&mut self, condition: &Condition) {
        set_condition(&mut self.status.conditions, condition, self.task.metadata.generation, self.now);
    }

    fn unset(&mut self, kind: &str) {
        remove_condition(&mut self.status.conditions, kind);
    }

    /// On the way: not ready, reconciling.
    fn on_the_way(&mut self, phase: TaskPhase, reason: &'static str, detail: &'static str, message: &str) {
        self.status.phase = Some(phase);
        self.set(&Condition::no(condition::READY, reason, message));
        self.set(&Condition::yes(condition::RECONCILING, detail, message));
        self.unset(condition::STALLED);
    }

    /// Nothing but a change helps.
    fn stuck(&mut self, phase: TaskPhase, reason: &'static str, detail: &'static str, message: &str) {
        self.status.phase = Some(phase);
        self.set(&Condition::no(condition::READY, reason, message));
        self.set(&Condition::yes(condition::STALLED, detail, message));
        self.unset(condition::RECONCILING);
    }

    pub(super) fn decide(self, act: Act) -> Decision {
        self.with(act, Next::OnEvent, vec![])
    }

    fn with(self, act: Act, next: Next, notes: Vec<Note>) -> Decision {
        Decision { act, status: self.status, notes, next }
    }

    /// The reason of the condition Queued while it is true.
    fn queued_for(&self) -> Option<&str> {
        let queued = self.status.conditions.iter().find(|c| c.type_ == condition::QUEUED && c.status == "True")?;
        Some(&queued.reason)
    }

    fn enqueue(&mut self, reason: &'static str, message: &str) -> Vec<Note> {
        let news = self.queued_for() != Some(reason);
        self.set(&Condition::yes(condition::QUEUED, reason, message));
        if news { vec![Note::normal(reasons::QUEUED, "Queue", format!("{reason}: {message}"))] } else { vec![] }
    }

    pub(super) fn queued(mut self, reason: &'static str, message: &str) -> Decision {
        let notes = self.enqueue(reason, message);
        self.on_the_way(TaskPhase::Queued, reasons::QUEUED, reasons::QUEUED, message);
        self.with(Act::Nothing, Next::OnEvent, notes)
    }

    /// Waits for what its contexts lack; others go first.
    pub(super) fn lacking(self, missing: &str) -> Decision {
        let decision = self.queued(reasons::CONFIG_MAP_NOT_FOUND, &format!("waiting for its contexts: {missing}"));
        Decision { act: Act::StandAside, ..decision }
    }

    /// Its template, or what that refers to, is not there or cannot be used.
    pub(super) fn without_template(self, failure: &Failure) -> Decision {
        match failure.class {
            Class::Stalled => self.held(failure.reason, &failure.message),
            Class::Waiting | Class::Transient => self.queued(failure.reason, &failure.message),
        }
    }

    /// Queued, and nothing but somebody's change helps.
    pub(super) fn held(mut self, reason: &'static str, message: &str) -> Decision {
        let notes = self.enqueue(reason, message);
        self.stuck(TaskPhase::Queued, reasons::QUEUED, reason, message);
        self.with(Act::Nothing, Next::OnEvent, notes)
    }

    pub(super) fn name_conflict(self) -> Decision {
        let message = format!(
            "Pod {} exists and does not belong to this Task; it is left alone. Delete it, or name the Task otherwise",
            self.pod()
        );
        // A pod without our label is not watched.
        let next = Next::After(std::time::Duration::from_secs(30));
        Decision { next, ..self.held(reasons::NAME_CONFLICT, &message) }
    }

    pub(super) fn refused(mut self, reason: &'static str, message: &str) -> Decision {
        let news = !self.status.conditions.iter().any(|c| c.type_ == condition::STALLED && c.reason == reason);
        self.stuck(TaskPhase::Pending, reason, reason, message);
        self.unset(condition::QUEUED);
        let notes = if news { vec![Note::warning(reason, "Validate", message)] } else { vec![] };
        self.with(Act::Nothing, Next::OnEvent, notes)
    }

    pub(super) fn running(mut self, pod: &PodView, next: Next) -> Decision {
        let name = self.pod();
        let notes = if self.phase() == Some(TaskPhase::Running) {
            vec![]
        } else {
            vec![Note::normal(reasons::POD_CREATED, "Start", format!("created pod {name}"))]
        };
        let (detail, message) = match &pod.held_up {
            None => (reasons::RUNNING, format!("runs in pod {name}")),
            Some((reason, text)) => (*reason, format!("pod {name} does not start: {text}")),
        };
        self.on_the_way(TaskPhase::Running, reasons::RUNNING, detail, &message);
        self.with(Act::Nothing, next, notes)
    }

    /// The pod has been told to end, and aborts its session.
    pub(super) fn stopping(mut self, cause: &Cause, act: Act) -> Decision {
        let message = format!("{}; its session is being aborted", cause.message);
        self.on_the_way(TaskPhase::Running, reasons::RUNNING, cause.reason, &message);
        self.with(act, Next::OnEvent, vec![])
    }

    fn end(&mut self, phase: TaskPhase, at: Option<Timestamp>) {
        self.status.phase = Some(phase);
        self.status.next_try_time = None;
        self.status.completion_time.get_or_insert(Time(at.unwrap_or(self.now)));
        self.unset(condition::RECONCILING);
    }

    pub(super) fn completed(mut self, pod: &PodView, at: Option<Timestamp>) -> Decision {
        let message = if pod.has_command { "the command has ended with exit code 0" } else { "the agent has answered" };
        self.end(TaskPhase::Completed, at);
        self.unset(condition::STALLED);
        self.set(&Condition::yes(condition::READY, reasons::COMPLETED, message));
        let note = Note::normal(reasons::COMPLETED, "Complete", message);
        self.with(Act::Nothing, Next::OnEvent, vec![note])
    }

    pub(super) fn stopped(mut self, cause: &Cause, at: Option<Timestamp>, more: &str) -> Decision {
        let message = format!("{}{more}", cause.message);
        self.end(TaskPhase::Completed, at);
        self.unset(condition::STALLED);
        self.set(&Condition::yes(condition::STOPPED, cause.reason, message.as_str()));
        self.set(&Condition::yes(condition::READY, reasons::COMPLETED, message.as_str()));
        let told = [reasons::TIMEOUT, reasons::BUDGET_EXCEEDED].contains(&cause.reason);
        let reason = if told { cause.reason } else { reasons::STOPPED };
        let note = Note::normal(reason, "Stop", message);
        self.with(Act::Nothing, Next::OnEvent, vec![note])
    }

    pub(super) fn stopped_in_queue(mut self) -> Decision {
        let message = "Task was stopped while queued";
        self.set(&Condition::no(condition::QUEUED, reasons::USER_STOPPED, message));
        self.stopped(&Cause { reason: reasons::USER_STOPPED, message: message.into() }, None, "")
    }

    pub(super) fn lost(self, more: &str) -> Decision {
        let message = format!("pod {} is gone before the Task ended{more}", self.pod());
        self.failed(reasons::POD_LOST, &message, None)
    }

    /// The pod was told to end, and aborted its session.
    pub(super) fn removed(self, at: Option<Timestamp>) -> Decision {
        let message = format!("pod {} was deleted before the Task ended; its session was aborted", self.pod());
        self.failed(reasons::POD_DELETED, &message, at)
    }

    /// A try has failed: another one follows, or the Task has failed.
    pub(super) fn failed(mut self, reason: &'static str, message: &str, at: Option<Timestamp>) -> Decision {
        let end = at.unwrap_or(self.now);
        let wanted = self.task.metadata.deletion_timestamp.is_none() && !super::stop_asked(self.task);
        if let Some(next) = retry::next(self.task, reason, end).filter(|_| wanted) {
            return self.again(reason, message, end, next);
        }
        self.end(TaskPhase::Failed, at);
        let message = format!("{reason}: {message}");
        self.stuck(TaskPhase::Failed, reasons::FAILED, reason, &message);
        let note = Note::warning(reasons::FAILED, "Complete", message);
        self.with(Act::Nothing, Next::OnEvent, vec![note])
    }

    /// Back to the queue, for another try from `next` on.
    fn again(mut self, reason: &'static str, message: &str, end: Timestamp, next: Timestamp) -> Decision {
        let status = &mut self.status;
        status.tries.push(TaskTry {
            reason: reason.into(),
            message: message.into(),
            start_time: status.start_time.take(),
            completion_time: Some(Time(end)),
            session: status.session.take(),
        });
        status.next_try_time = Some(Time(next));
        (status.pod_name, status.result) = (None, None);
        status.inputs.clear();
        self.follow_spec();
        let note = Note::warning(reasons::RETRYING, "Retry", format!("{reason}: {message}"));
        let decision = self.between();
        Decision { notes: vec![note], ..decision }
    }

    /// Between two tries: it waits for its time, or for the pod of the last one to go.
    pub(super) fn between(mut self) -> Decision {
        let limit = self.task.spec.retry.as_ref().map_or(0, |r| r.limit);
        let (failed, last) = (self.status.tries.len(), self.status.tries.last());
        let why = last.map(|t| format!("{}: {}", t.reason, t.message)).unwrap_or_default();
        let message = format!("try {} of {} follows; the last one failed: {why}", failed + 1, limit.saturating_add(1));
        self.enqueue(reasons::RETRYING, &message);
        self.on_the_way(TaskPhase::Queued, reasons::QUEUED, reasons::RETRYING, &message);
        let now = self.now;
        let next = self.status.next_try_time.as_ref().map_or(now, |t| t.0);
        self.with(Act::StandAside, super::step::after(next, now), vec![])
    }
}

fn annotation(task: &Task, key: &str) -> Option<String> {
    task.metadata.annotations.as_ref()?.get(key).cloned()
}
