//! What a pod's status says about its Task.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodStatus};
use serde::Deserialize;

use crate::{
    api::{
        TaskInput, TaskSession,
        content::MAX_PIECES,
        names::{annotation, reasons},
    },
    status::{plain, truncate},
};

/// Longest message taken over from a pod, in bytes.
const MESSAGE: usize = 512;
/// Longest answer, in bytes.
const RESULT: usize = 1536;
/// Longest log, in bytes.
const LOG: usize = 1024;
/// So often a container before the Task's own may begin anew; with the kubelet's pauses that takes about three minutes.
const RESTARTS: i32 = 5;
/// Longest id or title of a session, in bytes.
const NAME: usize = 512;

/// The pod with the Task's pod name.
#[derive(Clone, Debug, PartialEq)]
pub enum PodState {
    /// There is none.
    Absent,
    /// There is one that belongs to somebody else.
    Foreign,
    /// There is the Task's own.
    Ours(Box<PodView>),
}

/// What matters about a Task's own pod.
#[derive(Clone, Debug, PartialEq)]
pub struct PodView {
    /// Its uid.
    pub uid: String,
    /// When it was created.
    pub created: Timestamp,
    /// When it will have to be gone, once it is being deleted.
    pub gone_by: Option<Timestamp>,
    /// Revision of the agent's definition when it was created.
    pub revision: Option<String>,
    /// Commits of contexts and skills from Git that it was made with, sorted by id.
    pub inputs: Vec<TaskInput>,
    /// Whether it runs a command of the user's, which has no session.
    pub has_command: bool,
    /// How many tries were before it.
    pub attempt: usize,
    /// The session, as far as it is known.
    pub session: Option<TaskSession>,
    /// The answer, and the end of the log, once it has ended.
    pub said: Said,
    /// What became of it; none while it may still run.
    pub ending: Option<Ending>,
    /// Why it does not run yet: stable reason and message.
    pub held_up: Option<(&'static str, String)>,
}

/// What a pod leaves behind beside its session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The agent's answer.
    pub result: Option<String>,
    /// The end of the log.
    pub log: Option<String>,
}

/// How a pod ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// As asked.
    Done {
        /// When, if it is known.
        at: Option<Timestamp>,
    },
    /// Otherwise.
    Broken {
        /// Stable reason.
        reason: &'static str,
        /// For people.
        message: String,
        /// When, if it is known.
        at: Option<Timestamp>,
    },
}

/// What `task-run` leaves behind: the termination message of its container.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct LastWords {
    reason: String,
    message: String,
    result: String,
    log: String,
    session: Option<TaskSession>,
}

impl LastWords {
    /// The answer and the log, within their bounds and without what steers a terminal: a pod is not believed in that.
    fn said(&self) -> Said {
        let text = |text: &str, most| Some(told(text, most)).filter(|t| !t.is_empty());
        Said { result: text(&self.result, RESULT), log: text(&self.log, LOG) }
    }
}

/// What a pod says, as people may read it.
fn told(text: &str, most: usize) -> String {
    truncate(&plain(text), most)
}

fn known_session(session: TaskSession) -> TaskSession {
    let name = |text: Option<String>| text.map(|text| told(&text, NAME));
    TaskSession { id: name(session.id), title: name(session.title), ..session }
}

/// Reads `pod`, which must be the Task's own (`task_uid`).
pub fn read(pod: Option<&Pod>, task_uid: &str) -> PodState {
    let Some(pod) = pod else {
        return PodState::Absent;
    };
    let meta = &pod.metadata;
    let owned = meta.owner_references.iter().flatten().any(|o| o.uid == task_uid && o.controller == Some(true));
    if !owned {
        return PodState::Foreign;
    }
    let annotated = |key: &str| meta.annotations.as_ref().and_then(|a| a.get(key));
    let status = pod.status.clone().unwrap_or_default();
    let terminated = container(&status).and_then(|c| c.state.as_ref()).and_then(|s| s.terminated.as_ref());
    let has_command = annotated(annotation::COMMAND).is_some_and(|value| value == "true");
    let words = terminated.map(|ended| last_words(ended, has_command)).unwrap_or_default();
    PodState::Ours(Box::new(PodView {
        uid: meta.uid.clone().unwrap_or_default(),
        created: meta.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0),
        gone_by: meta.deletion_timestamp.as_ref().map(|t| t.0),
        revision: annotated(annotation::REVISION).cloned(),
        inputs: annotated(annotation::INPUTS).map(|text| inputs(text)).unwrap_or_default(),
        has_command,
        attempt: annotated(annotation::ATTEMPT).and_then(|n| n.parse().ok()).unwrap_or_default(),
        ending: ending(&status, terminated, &words),
        held_up: held_up(&status),
        said: words.said(),
        session: words.session.map(known_session),
    }))
}

fn container(status: &PodStatus) -> Option<&ContainerStatus> {
    status.container_statuses.iter().flatten().find(|c| c.name == super::build::CONTAINER)
}

/// A command's last words are the end of its log, whatever they look like.
fn last_words(terminated: &ContainerStateTerminated, has_command: bool) -> LastWords {
    let text = terminated.message.as_deref();
    if has_command {
        return LastWords { log: text.map(log_end).unwrap_or_default(), ..LastWords::default() };
    }
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// The end of a log, in whole lines where it was cut and has several.
fn log_end(text: &str) -> String {
    let text = text.trim_end();
    let from = text.char_indices().map(|(at, _)| at).find(|at| text.len() - at <= LOG).unwrap_or_default();
    let cut = from > 0 || text.len() + 1 >= LOG;
    let kept = text[from..].trim_start_matches('\u{fffd}');
    match kept.split_once('\n') {
        Some((_, whole)) if cut => whole.to_owned(),
        _ => kept.to_owned(),
    }
}

fn inputs(text: &str) -> Vec<TaskInput> {
    let commits: BTreeMap<String, String> = serde_json::from_str(text).unwrap_or_default();
    commits.into_iter().take(MAX_PIECES).map(|(id, commit)| TaskInput { id, commit }).collect()
}

fn ending(status: &PodStatus, terminated: Option<&ContainerStateTerminated>, words: &LastWords) -> Option<Ending> {
    let at = terminated.and_then(|t| t.finished_at.as_ref()).map(|t| t.0);
    match status.phase.as_deref() {
        Some("Succeeded") => return Some(Ending::Done { at }),
        Some("Failed") => {}
        // The kubelet writes the container's end a moment before the pod's phase.
        _ => match terminated {
            Some(t) if t.exit_code == 0 => return Some(Ending::Done { at }),
            Some(_) => {}
            None => {
                let crash = |message| Ending::Broken { reason: reasons::CRASH_LOOP, message, at: None };
                return crashes(status).map(crash);
            }
        },
    }
    let (reason, message) = why(status, terminated, words);
    Some(Ending::Broken { reason, message: told(&message, MESSAGE), at })
}

/// Which container ends again and again, so that the Task's own never begins. Once that has begun it says itself what is
/// wrong.
fn crashes(status: &PodStatus) -> Option<String> {
    let begun = container(status).and_then(|c| c.state.as_ref()).is_some_and(|state| state.running.is_some());
    let mut before = status.init_container_statuses.iter().flatten();
    let crashed = before.find(|c| c.restart_count >= RESTARTS && c.started != Some(true)).filter(|_| !begun)?;
    let ended = [&crashed.state, &crashed.last_state].into_iter().flatten().find_map(|s| s.terminated.as_ref());
    let code = ended.map(|ended| format!(", with exit code {}", ended.exit_code)).unwrap_or_default();
    Some(format!("container {} ends again and again{code}", crashed.name))
}

fn why(status: &PodStatus, terminated: Option<&ContainerStateTerminated>, words: &LastWords) -> (&'static str, String) {
    if terminated.and_then(|t| t.reason.as_deref()) == Some("OOMKilled") {
        return (reasons::OOM_KILLED, "the Task's pod was killed because it used more memory than its limit".into());
    }
    if terminated.is_none() && was_collected(status) {
        return (reasons::POD_LOST, "the Task's pod was removed because its node is gone".into());
    }
    let evicted = status.reason.as_deref() == Some("Evicted");
    // Whom the node evicts aborts its session; that is no reason of its own.
    if let Some(reason) = known_reason(&words.reason).filter(|reason| !evicted || *reason != reasons::ABORTED) {
        return (reason, words.message.clone());
    }
    if evicted {
        return (
            reasons::POD_EVICTED,
            status.message.clone().unwrap_or_else(|| "the node evicted the Task's pod".into()),
        );
    }
    let before = status.init_container_statuses.iter().flatten().find_map(|container| {
        let ended = container.state.as_ref()?.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
        Some(format!("its container {} ended with exit code {}", container.name, ended.exit_code))
    });
    let mut message = match (terminated, before) {
        (Some(t), _) => format!("the Task's pod ended with exit code {}", t.exit_code),
        (None, Some(before)) => format!("the Task's pod failed: {before}"),
        (None, None) => "the Task's pod failed".into(),
    };
    let last = Some(words.message.as_str()).filter(|m| !m.is_empty());
    for detail in [status.reason.as_deref(), status.message.as_deref(), last].into_iter().flatten() {
        message = format!("{message}: {detail}");
    }
    (reasons::POD_FAILED, message)
}

/// Whether the cluster itself calls the pod failed, whose node is gone: what runs there is not known.
fn was_collected(status: &PodStatus) -> bool {
    let is_it = |kind: &str, reason: Option<&str>| kind == "DisruptionTarget" && reason == Some("DeletionByPodGC");
    status.conditions.iter().flatten().any(|c| c.status == "True" && is_it(&c.type_, c.reason.as_deref()))
}

/// The reasons that `task-run` gives; others are not taken over, so that a pod cannot invent conditions.
fn known_reason(text: &str) -> Option<&'static str> {
    const KNOWN: [&str; 6] = [
        reasons::AGENT_ERROR,
        reasons::TIMEOUT,
        reasons::ABORTED,
        reasons::BUDGET_EXCEEDED,
        reasons::UNREACHABLE,
        reasons::SESSION_LOST,
    ];
    KNOWN.iter().find(|known| **known == text).copied()
}

fn held_up(status: &PodStatus) -> Option<(&'static str, String)> {
    let before = status.init_container_statuses.iter().flatten();
    if let Some(problem) = before.chain(container(status)).find_map(not_running) {
        return Some(problem);
    }
    let unscheduled =
        status.conditions.iter().flatten().find(|c| {
            c.type_ == "PodScheduled" && c.status == "False" && c.reason.as_deref() == Some("Unschedulable")
        })?;
    Some((reasons::POD_UNSCHEDULABLE, told(unscheduled.message.as_deref().unwrap_or_default(), MESSAGE)))
}

/// Why a container does not run.
fn not_running(container: &ContainerStatus) -> Option<(&'static str, String)> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = match waiting.reason.as_deref().unwrap_or_default() {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => reasons::IMAGE_PULL_FAILED,
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => reasons::CONTAINER_NOT_CREATED,
        // The kubelet shows it in turn with a moment in which the container runs.
        "CrashLoopBackOff" => {
            let message = format!("container {} ends again and again; its log says why", container.name);
            return Some((reasons::CONTAINER_NOT_CREATED, message));
        }
        _ => return None,
    };
    let text = waiting.message.as_deref().or(waiting.reason.as_deref()).unwrap_or_default();
    Some((reason, told(text, MESSAGE)))
}

#[cfg(test)]
mod tests;
