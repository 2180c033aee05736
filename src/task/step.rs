//! One decision from a Task and what is known about the world.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{
    Act, AgentView, Decision, LOST_AFTER, Server, Template, World,
    budget::Budget,
    build,
    queue::Place,
    report::Report,
    retry::Retry,
    seen::{Ending, PodState, PodView},
    stop_asked,
};
use crate::{
    api::{GoDuration, Task, TaskPhase, names::reasons, not_yet},
    status::{Failure, Next, Note},
};

const NO_IMAGE: &str = "no image of Pilothouse is set: set spec.systemImage.image of PilothouseConfig cluster, or start the \
                        controller with --system-image";

/// What happens to `task` now. Total: every Task and every world have an answer.
pub fn step(task: &Task, world: &World, now: Timestamp) -> Decision {
    let report = Report::new(task, now);
    let phase = report.phase();
    if phase.is_some_and(TaskPhase::is_terminal) {
        return finished(task, world, report, now);
    }
    if task.metadata.deletion_timestamp.is_some() {
        return report.decide(Act::Nothing);
    }
    match &world.pod {
        PodState::Ours(pod) if pod.attempt < super::tries(task) => left_over(task, pod, report, now),
        PodState::Ours(pod) => with_pod(task, world, pod, report, now),
        _ if phase == Some(TaskPhase::Running) => without_pod(task, report, now),
        _ if stop_asked(task) => report.stopped_in_queue(),
        PodState::Foreign => report.name_conflict(),
        PodState::Absent => waiting(task, world, report, now),
    }
}

/// A finished Task is kept until cleanup.
fn finished(task: &Task, world: &World, report: Report<'_>, now: Timestamp) -> Decision {
    let decision = report.decide(Act::Nothing);
    if task.metadata.deletion_timestamp.is_some() {
        return decision;
    }
    if world.cleanup.surplus {
        return cleaned_up(decision, world, now);
    }
    let Some(ttl) = world.cleanup.ttl_seconds else {
        return decision;
    };
    match left(super::ended(task), SignedDuration::from_secs(ttl.into()), now) {
        None => cleaned_up(decision, world, now),
        Some(left) => Decision { next: Next::After(left), ..decision },
    }
}

/// Its time is over. What became of it goes to the history first, as long as that can be waited for.
fn cleaned_up(decision: Decision, world: &World, now: Timestamp) -> Decision {
    match world.cleanup.unrecorded {
        Some(until) if until > now => Decision { next: after(until, now), ..decision },
        Some(_) => {
            let message = "deleted although the history does not have it: its database was away for too long";
            let note = Note::warning(reasons::HISTORY_UNAVAILABLE, "Delete", message);
            Decision { act: Act::Delete, notes: vec![note], ..decision }
        }
        None => Decision { act: Act::Delete, ..decision },
    }
}

/// How long until `since + duration`; none once it is over. What is too far away to be written never comes.
fn left(since: Timestamp, duration: SignedDuration, now: Timestamp) -> Option<Duration> {
    let left = since.checked_add(duration).unwrap_or(Timestamp::MAX).duration_since(now);
    Duration::try_from(left).ok().filter(|left| !left.is_zero())
}

/// To look again at `then`, or in a moment where that is over.
pub(super) fn after(then: Timestamp, now: Timestamp) -> Next {
    Next::After(Duration::try_from(then.duration_since(now)).unwrap_or_default().max(Duration::from_millis(1)))
}

/// The pod of a try that has failed: it goes before the next one comes.
fn left_over(task: &Task, pod: &PodView, report: Report<'_>, now: Timestamp) -> Decision {
    if stop_asked(task) {
        return report.stopped_in_queue();
    }
    let decision = report.between();
    let uid = pod.uid.clone();
    match pod.gone_by {
        None => Decision { act: Act::Stop { uid }, next: Next::OnEvent, ..decision },
        // Whatever it still does belongs to a session that the next try looks at, or that is over.
        Some(gone_by) => match left(gone_by, LOST_AFTER, now) {
            None => Decision { act: Act::Remove { uid }, next: Next::OnEvent, ..decision },
            Some(left) => Decision { next: Next::After(left), ..decision },
        },
    }
}

fn with_pod(task: &Task, world: &World, pod: &PodView, mut report: Report<'_>, now: Timestamp) -> Decision {
    report.started(pod, world.agent.as_ref());
    let cause = Cause::of(task, &report, now);
    match (&pod.ending, cause) {
        (Some(Ending::Done { at }), _) => report.completed(pod, *at),
        // The session was aborted because we, or the limit of time, said so.
        (Some(Ending::Broken { at, .. }), Some(cause)) if pod.gone_by.is_some() => report.stopped(&cause, *at, ""),
        (Some(Ending::Broken { reason: reasons::TIMEOUT, at, .. }), _) => {
            report.stopped(&Cause::timeout(task), *at, "")
        }
        (Some(Ending::Broken { reason: reasons::BUDGET_EXCEEDED, message, at }), _) => {
            report.stopped(&Cause { reason: reasons::BUDGET_EXCEEDED, message: message.clone() }, *at, "")
        }
        // Neither the user nor we: a drain, an eviction, or somebody at the pod.
        (Some(Ending::Broken { reason: reasons::ABORTED, at, .. }), _) if pod.gone_by.is_some() => report.removed(*at),
        // The pod would go on for ever.
        (Some(Ending::Broken { reason: reasons::CRASH_LOOP, message, at }), _) => {
            Decision { act: Act::Stop { uid: pod.uid.clone() }, ..report.failed(reasons::CRASH_LOOP, message, *at) }
        }
        (Some(Ending::Broken { reason, message, at }), _) => report.failed(reason, message, *at),
        (None, cause) => match (pod.gone_by, cause) {
            (None, Some(cause)) => report.stopping(&cause, Act::Stop { uid: pod.uid.clone() }),
            (Some(gone_by), cause) => leaving(report, cause, gone_by, now),
            (None, None) => {
                let next = deadline(task, &report, now);
                report.running(pod, next)
            }
        },
    }
}

/// The pod is being deleted. It says how it ended when it can; a node that is gone never does.
fn leaving(report: Report<'_>, cause: Option<Cause>, gone_by: Timestamp, now: Timestamp) -> Decision {
    let silent = "; its node did not confirm the end";
    match (left(gone_by, LOST_AFTER, now), cause) {
        (None, Some(cause)) => report.stopped(&cause, None, silent),
        (None, None) => report.lost(silent),
        (Some(left), Some(cause)) => Decision { next: Next::After(left), ..report.stopping(&cause, Act::Nothing) },
        (Some(left), None) => Decision { next: Next::After(left), ..report.decide(Act::Nothing) },
    }
}

fn without_pod(task: &Task, report: Report<'_>, now: Timestamp) -> Decision {
    match Cause::of(task, &report, now) {
        Some(cause) => report.stopped(&cause, None, ""),
        None => report.lost(""),
    }
}

/// Why a running Task has to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cause {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Cause {
    /// The limit of time counts first, as its moment does not move.
    fn of(task: &Task, report: &Report<'_>, now: Timestamp) -> Option<Self> {
        let limit = timeout(task).ok().flatten();
        let over = limit.zip(report.start()).is_some_and(|(limit, start)| left(start, limit, now).is_none());
        if over {
            return Some(Self::timeout(task));
        }
        let message = "Task stopped by user via the annotation pilothouse.dev/stop".into();
        stop_asked(task).then_some(Self { reason: reasons::USER_STOPPED, message })
    }

    fn timeout(task: &Task) -> Self {
        let message = match &task.spec.timeout {
            Some(limit) => format!("Task timed out after {limit}"),
            None => "Task timed out".into(),
        };
        Self { reason: reasons::TIMEOUT, message }
    }
}

fn deadline(task: &Task, report: &Report<'_>, now: Timestamp) -> Next {
    match (timeout(task), report.start()) {
        (Ok(Some(limit)), Some(start)) => left(start, limit, now).map_or(Next::OnEvent, Next::After),
        _ => Next::OnEvent,
    }
}

/// `spec.timeout`; what the schema would have refused is an error that names the field.
fn timeout(task: &Task) -> Result<Option<SignedDuration>, String> {
    let Some(limit) = &task.spec.timeout else {
        return Ok(None);
    };
    let parsed = GoDuration::parse(limit).map_err(|e| format!("spec.timeout: {e}"))?;
    Ok(Some(SignedDuration::try_from(parsed).unwrap_or(SignedDuration::MAX)))
}

/// A Task without a pod: it starts, or says what it waits for.
fn waiting(task: &Task, world: &World, report: Report<'_>, now: Timestamp) -> Decision {
    if let Some((reason, message)) = refused(task) {
        return report.refused(reason, &message);
    }
    let named = super::agent_of(task).unwrap_or_default();
    if report.next_try().is_some_and(|next| next > now) {
        return report.between();
    }
    match &world.template {
        Ok(None) if super::template_of(task).is_none() => {}
        Ok(None) => return report.queued(reasons::TEMPLATE_NOT_FOUND, "its template was not looked at yet"),
        Ok(Some(template)) => return alone(task, world, template, report),
        Err(failure) => return report.without_template(failure),
    }
    let place = world.rank.map(|rank| format!("; {rank}")).unwrap_or_default();
    let Some(agent) = &world.agent else {
        let message = format!("waiting for Agent {named}, which does not exist in this namespace{place}");
        return report.queued(reasons::AGENT_NOT_FOUND, &message);
    };
    let verified = agent.verified_by(task);
    if verified.is_none()
        && let Some((reason, message)) = not_now(agent).or_else(|| verifies_nothing(task))
    {
        return report.queued(reason, &format!("{message}{place}"));
    }
    let contexts = match &world.contexts {
        Ok(contexts) => contexts,
        Err(missing) => return report.lacking(missing),
    };
    let Some(image) = &world.settings.image else {
        return report.held(reasons::IMAGE_MISSING, NO_IMAGE);
    };
    let service = || agent.url.as_deref().map(|url| Server { url, pod: None });
    let Some(server) = verified.or_else(service) else {
        return report.queued(reasons::AGENT_SERVER_NOT_READY, &format!("Agent {named} has no address yet{place}"));
    };
    match world.place {
        Place::Full => {
            let limit = agent.max_running.unwrap_or_default();
            let message = format!("Agent {named} runs as many Tasks as it may (maxConcurrentTasks: {limit}){place}");
            report.queued(reasons::AGENT_AT_CAPACITY, &message)
        }
        Place::Spent { until } => {
            let (starts, window) = agent.quota.map(|q| (q.starts, q.window.as_secs())).unwrap_or_default();
            let message = format!(
                "Agent {named} has started as many Tasks as its quota allows ({starts} within {window} s){place}"
            );
            let next = until.map_or(Next::OnEvent, |until| after(until, now));
            Decision { next, ..report.queued(reasons::QUOTA_EXCEEDED, &message) }
        }
        Place::Held | Place::Unlimited => {
            report.decide(Act::Start(Box::new(build::start(task, agent, server, image, &world.settings, contexts))))
        }
    }
}

/// A Task with a pod of its own waits for nobody.
fn alone(task: &Task, world: &World, template: &Template, report: Report<'_>) -> Decision {
    if template.alone.has_command() && task.spec.budget.is_some() {
        let message =
            format!("spec.budget: AgentTemplate {} has a command, and nobody counts what that takes", template.name);
        return report.held(reasons::NOT_YET_SUPPORTED, &message);
    }
    match &world.settings.image {
        None => report.held(reasons::IMAGE_MISSING, NO_IMAGE),
        Some(image) => report.decide(Act::Start(Box::new(build::start_alone(task, template, image, &world.settings)))),
    }
}

/// What a start that did not come about does to the Task: it waits and is tried again, and others go first.
pub fn start_failed(task: &Task, failure: &Failure, now: Timestamp) -> Decision {
    Report::new(task, now).held(failure.reason, &failure.message)
}

/// A start that has to wait for something that no event tells: it says why, and is looked at again after `wait`.
pub fn delayed(task: &Task, reason: &'static str, message: &str, wait: Duration, now: Timestamp) -> Decision {
    Decision { next: Next::After(wait), ..Report::new(task, now).queued(reason, message) }
}

/// Whether the Task stands in the queue of its agent. One that verifies, or has a pod of its own, waits for no place.
pub fn stands_in_queue(task: &Task) -> bool {
    super::template_of(task).is_none()
        && !super::verifies(task)
        && task.metadata.deletion_timestamp.is_none()
        && !stop_asked(task)
        && refused(task).is_none()
}

/// Why the spec cannot be carried out at all: reason and message.
pub fn refused(task: &Task) -> Option<(&'static str, String)> {
    let fields = not_yet::unsupported(&task.spec);
    if !fields.is_empty() {
        return Some((reasons::NOT_YET_SUPPORTED, not_yet::message(&fields)));
    }
    let invalid = |message: String| Some((reasons::INVALID_SPEC, message));
    if let Err(message) =
        timeout(task).map(drop).and_then(|()| Retry::of(task).map(drop)).and_then(|()| Budget::of(task).map(drop))
    {
        return invalid(message);
    }
    if task.spec.agent_ref.is_none() && task.spec.template_ref.is_none() {
        return invalid("either agentRef or templateRef must be specified".into());
    }
    let prompt = task.spec.description.as_deref().unwrap_or_default();
    if prompt.trim().is_empty() {
        return invalid("spec.description is empty: it is the prompt".into());
    }
    let texts = task.spec.contexts.iter().flatten().filter_map(|c| c.text.as_ref()).map(String::len).sum::<usize>();
    if prompt.len().saturating_add(texts) > build::MAX_PROMPT {
        let most = build::MAX_PROMPT / 1024;
        return invalid(format!("spec.description and the texts of spec.contexts are longer than {most} KiB"));
    }
    None
}

/// A Task that verifies a revision waits until the agent says where that is: in a pod of another one it would say nothing.
fn verifies_nothing(task: &Task) -> Option<(&'static str, String)> {
    let message = "it verifies a revision, and waits until a pod of that is up";
    super::verifies(task).then(|| (reasons::AGENT_SERVER_NOT_READY, message.into()))
}

/// Why the agent takes no work now: reason and message.
fn not_now(agent: &AgentView) -> Option<(&'static str, String)> {
    let name = &agent.name;
    if agent.suspended {
        return Some((reasons::AGENT_SUSPENDED, format!("Agent {name} is suspended")));
    }
    if let Some(message) = &agent.draining {
        return Some((reasons::AGENT_DRAINING, message.clone()));
    }
    (!agent.ready).then(|| (reasons::AGENT_SERVER_NOT_READY, format!("the server of Agent {name} is not ready")))
}

#[cfg(test)]
mod tests;
