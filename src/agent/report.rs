//! Status, conditions and events of an agent.

mod beside;
mod git;
mod pinned;

pub use git::Git;
use jiff::Timestamp;
use k8s_openapi::{api::apps::v1::Deployment, apimachinery::pkg::apis::meta::v1::Time};

use super::{
    decide::Action,
    gate::{Pending, misunderstood},
    history::Entry,
    state::{Failed, TEMPLATE_GENERATION},
    verify,
};
use crate::{
    api::{
        Agent, AgentState, AgentStatus, RolloutStatus, Verifying,
        agent::FleetStatus,
        names::{self, annotation, condition as kinds, reasons},
        voice::Activity,
    },
    status::{Condition, Failure, Note, condition, set_condition},
};

/// What the Deployment says about the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// There is none.
    Missing,
    /// No pod is ready.
    NotReady,
    /// A ready pod, and a newer one on the way.
    Rolling,
    /// The newest revision does not get ready; whether an older one serves.
    Failed {
        /// A pod of an older revision is ready.
        available: bool,
    },
    /// The newest revision is ready.
    Ready,
}

/// Reads the Deployment's status.
pub fn server(deployment: Option<&Deployment>) -> Server {
    let Some(deployment) = deployment else { return Server::Missing };
    let status = deployment.status.clone().unwrap_or_default();
    let wanted = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    let progress_failed = status
        .conditions
        .iter()
        .flatten()
        .any(|c| c.type_ == "Progressing" && c.reason.as_deref() == Some("ProgressDeadlineExceeded"));
    let annotations = deployment.metadata.annotations.as_ref();
    let template = annotations.and_then(|a| a.get(TEMPLATE_GENERATION)?.parse().ok());
    let seen = status.observed_generation >= template.or(deployment.metadata.generation);
    let available = status.available_replicas.unwrap_or(0) > 0;
    let newest = status.updated_replicas.unwrap_or(0) >= wanted && status.replicas.unwrap_or(0) <= wanted;
    match (available, seen && newest) {
        (available, _) if seen && progress_failed => Server::Failed { available },
        (false, _) => Server::NotReady,
        (true, false) => Server::Rolling,
        (true, true) => Server::Ready,
    }
}

/// An older revision in the place of what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// Its id.
    pub id: String,
    /// The commit of its definition: `main@sha1:` and 40 digits.
    pub revision: Option<String>,
    /// What would be wanted otherwise: the id that it would have, or why nothing can be made of it.
    pub newest: Result<String, String>,
    /// The commit of that.
    pub newest_revision: Option<String>,
}

/// What a reconcile found and did.
#[derive(Clone, Debug)]
pub struct Outcome<'a> {
    /// Why objects could not be made or written, if so.
    pub failure: Option<&'a Failure>,
    /// Hash of the pod template that is wanted, if it came so far.
    pub desired: Option<&'a str>,
    /// Id of all that is wanted: pod template, text and content.
    pub newest: Option<&'a str>,
    /// The annotation `pilothouse.dev/rollout`.
    pub asked: Option<&'a str>,
    /// What failed, where the last good revision is to take its place.
    pub back: Option<&'a Failed>,
    /// The revision that is kept in the place of what is wanted.
    pub pinned: Option<&'a Pinned>,
    /// Revisions that are kept, newest first.
    pub revisions: Vec<Entry>,
    /// What keeps the newest pod from getting ready, as far as it says.
    pub trouble: Option<String>,
    /// The Deployment was applied just now.
    pub wrote: bool,
    /// What was decided about the Deployment, if it came so far.
    pub action: Option<&'a Action>,
    /// What waits with the gathered text.
    pub text: Option<&'a Action>,
    /// What waits with content that is exchanged in the running pod.
    pub exchange: Option<&'a Action>,
    /// What is known about Git inputs, if it came so far.
    pub git: Option<&'a Git>,
    /// Whether the text was written and the pods were touched in vain.
    pub text_unseen: bool,
    /// What the Deployment says.
    pub server: Server,
    /// Hash of what is applied.
    pub applied: Option<String>,
    /// Image of the server's container in what is applied.
    pub image: Option<String>,
    /// Whether no pod is wanted and none is there.
    pub suspended: bool,
    /// The Task that the newest revision has to pass, while that is not known.
    pub verifying: Option<Verifying>,
    /// Why it did not pass, if it did not.
    pub unverified: Option<String>,
    /// Side by side: names of the pods that end their work, sorted.
    pub finishing: Vec<String>,
    /// Side by side: until the newest pod is ready an older one takes new work, which it ends by itself.
    pub serves_on: bool,
    /// Running and waiting Tasks.
    pub tasks: (usize, usize),
    /// What the sidecar said last.
    pub activity: Option<&'a Activity>,
    /// Address inside the cluster.
    pub url: String,
    /// Layout of the pods, if known.
    pub layout: Option<i32>,
    /// Generation of the template.
    pub template_generation: Option<i64>,
    /// What the pace of the fleet remembers; `None` where there is none: then what was there stays.
    pub fleet: Option<FleetStatus>,
    /// The present.
    pub now: Timestamp,
}

/// The new status, and events for what became different.
pub fn report(agent: &Agent, outcome: &Outcome<'_>) -> (AgentStatus, Vec<Note>) {
    let before = agent.status.clone().unwrap_or_default();
    let name = agent.metadata.name.as_deref().unwrap_or_default();
    let annotations = agent.metadata.annotations.clone().unwrap_or_default();
    let waits = waits(outcome.action);
    let ready = matches!(outcome.server, Server::Ready | Server::Failed { available: true });
    let mut status = AgentStatus {
        observed_generation: agent.metadata.generation,
        last_handled_reconcile_at: annotations.get(annotation::RECONCILE_AT).cloned(),
        revision: pinned::revision(outcome, annotations.get(annotation::REVISION)),
        revisions: pinned::revisions(&outcome.revisions),
        image: outcome.image.clone(),
        tasks: Some(format!("{}/{}", outcome.tasks.0, outcome.tasks.1)),
        deployment_name: Some(names::agent::deployment(name)),
        service_name: Some(names::agent::service(name)),
        url: Some(outcome.url.clone()),
        ready: Some((ready || outcome.serves_on) && !outcome.suspended),
        suspended: Some(outcome.suspended),
        server_version: text(outcome.activity.map(|a| &a.server_version)),
        context_hash: text(outcome.activity.map(|a| &a.context_hash)),
        layout: outcome.layout,
        observed_template_generation: outcome.template_generation,
        rollout: outcome.applied.clone().map(|applied| rollout(applied, waits, outcome, before.rollout.as_ref())),
        state: None,
        conditions: before.conditions.clone(),
        idle_since: before.idle_since.clone(),
        // The reconciler of Tasks writes it, as a manager of its own.
        task_start_history: Vec::new(),
        fleet: outcome.fleet.clone().or_else(|| before.fleet.clone()),
        git_sync_statuses: match outcome.git {
            Some(git) => git::statuses(git, &before, outcome),
            None => before.git_sync_statuses.clone(),
        },
    };
    for change in conditions(outcome, &before, waits, ready) {
        match change {
            Change::Set(c) => set_condition(&mut status.conditions, &c, agent.metadata.generation, outcome.now),
            Change::Remove(kind) => condition::remove_condition(&mut status.conditions, kind),
        }
    }
    status.state = Some(state(outcome, waits.is_some(), ready));
    let notes = notes(&before, &status, outcome);
    (status, notes)
}

fn text(value: Option<&String>) -> Option<String> {
    value.filter(|t| !t.is_empty()).cloned()
}

/// `main@sha1:<40 hex>` as `main@1a2b3c4`.
pub fn short(revision: &str) -> String {
    let (reference, commit) = revision.rsplit_once('@').unwrap_or(("", revision));
    let commit: String = commit.rsplit(':').next().unwrap_or(commit).chars().take(7).collect();
    if reference.is_empty() { commit } else { format!("{reference}@{commit}") }
}

type Waits<'a> = Option<(&'a Pending, Option<Timestamp>, &'a str)>;

fn waits(action: Option<&Action>) -> Waits<'_> {
    match action {
        Some(Action::Wait { pending, until, message, .. }) => Some((pending, *until, message.as_str())),
        _ => None,
    }
}

/// The reason of a wait for the fleet.
fn paced(action: Option<&Action>) -> Option<&'static str> {
    if let Some(Action::Wait { paced, .. }) = action { *paced } else { None }
}

/// Why it waits: for the fleet, because somebody holds it, or for `work`.
fn why(action: Option<&Action>, work: &'static str) -> &'static str {
    let held = matches!(action, Some(Action::Wait { pending, .. }) if pending.held);
    paced(action).unwrap_or(if held { reasons::HELD } else { work })
}

fn rollout(applied: String, waits: Waits<'_>, outcome: &Outcome<'_>, before: Option<&RolloutStatus>) -> RolloutStatus {
    let ready = outcome.server == Server::Ready && !outcome.suspended;
    RolloutStatus {
        desired_revision: outcome.desired.map(String::from).or_else(|| before?.desired_revision.clone()),
        rolled_out_revision: if ready {
            Some(applied.clone())
        } else {
            before.and_then(|b| b.rolled_out_revision.clone())
        },
        wanted: outcome.newest.map(String::from).or_else(|| before?.wanted.clone()),
        applied: Some(applied),
        pending: waits.map(|(pending, ..)| pending.hash.clone()),
        finishing: outcome.finishing.clone(),
        verifying: outcome.verifying.clone(),
        since: waits.map(|(pending, ..)| Time(pending.since)),
        until: waits.and_then(|(_, until, _)| until.map(Time)),
        causes: waits.map(|(pending, ..)| pending.causes.iter().cloned().collect()).unwrap_or_default(),
    }
}

enum Change {
    Set(Condition),
    Remove(&'static str),
}

fn conditions(outcome: &Outcome<'_>, before: &AgentStatus, waits: Waits<'_>, ready: bool) -> Vec<Change> {
    let exists = |kind: &str| before.conditions.iter().any(|c| c.type_ == kind);
    let mut changes = ready_conditions(outcome, ready);
    changes.extend(server_conditions(outcome, is_unprotected(outcome, before)));
    if outcome.suspended {
        changes.push(Change::Set(Condition::yes(kinds::SUSPENDED, reasons::USER_REQUESTED, "no pod, as asked")));
    } else if exists(kinds::SUSPENDED) {
        changes.push(Change::Set(Condition::no(kinds::SUSPENDED, reasons::ACTIVE, "")));
    }
    let said = waits.map(|(.., message)| (why(outcome.action, reasons::WAITING_FOR_TASKS), message));
    changes.extend(pending(kinds::ROLLOUT_PENDING, said, exists(kinds::ROLLOUT_PENDING)));
    match (failed(outcome), exists(kinds::ROLLOUT_FAILED)) {
        (Some((reason, message)), _) => {
            changes.push(Change::Set(Condition::yes(kinds::ROLLOUT_FAILED, reason, message)));
        }
        // While the next one is on its way, that one failed is still true.
        (None, true) if outcome.server == Server::Ready || outcome.suspended => {
            changes.push(Change::Set(Condition::no(kinds::ROLLOUT_FAILED, reasons::AVAILABLE, "")));
        }
        (None, _) => {}
    }
    changes.extend(pinned::condition(outcome, before));
    changes.push(match outcome.asked.and_then(misunderstood) {
        Some(said) => Change::Set(Condition::yes(kinds::ORDER_UNKNOWN, reasons::ORDER_UNKNOWN, said)),
        None => Change::Remove(kinds::ORDER_UNKNOWN),
    });
    let said = text_waits(outcome).map(|(.., message)| (why(outcome.text, reasons::WAITING_FOR_IDLE), message));
    let said = said.or_else(|| outcome.text_unseen.then_some((reasons::TEXT_UNSEEN, UNSEEN)));
    changes.extend(pending(kinds::TEXT_PENDING, said, exists(kinds::TEXT_PENDING)));
    if let Some(git) = outcome.git {
        changes.extend(git::pending(git, outcome, before));
        changes.extend(git::skills(git));
    }
    changes
}

/// The condition of something that waits: reason and message, or that nothing does any more.
fn pending(kind: &'static str, said: Option<(&'static str, &str)>, exists: bool) -> Option<Change> {
    match said {
        Some((reason, message)) => Some(Change::Set(Condition::yes(kind, reason, message))),
        None => exists.then(|| Change::Set(Condition::no(kind, reasons::SYNCED, "nothing waits"))),
    }
}

/// Why the newest revision, or what was to be it, does not run: reason and message; `None` where it does, or may.
pub fn failed(outcome: &Outcome<'_>) -> Option<(&'static str, String)> {
    if outcome.suspended {
        return None;
    }
    if let Some(failed) = outcome.back {
        let why = if failed.why.is_empty() { String::new() } else { format!(": {}", failed.why) };
        let (hash, good) = (&failed.hash, outcome.applied.as_deref().unwrap_or_default());
        let message = if good == hash {
            format!("revision {hash} did not get ready{why}; the last good one takes its place")
        } else {
            format!(
                "revision {hash} did not get ready{why}; the last good one, {good}, runs in its place. What failed is \
                 tried again when it changes, or with: pilothouse rollout agent NAME --now"
            )
        };
        let unverified = verify::is_reason(&failed.why);
        return Some((if unverified { reasons::VERIFICATION_FAILED } else { reasons::ROLLED_BACK }, message));
    }
    if let Some(why) = &outcome.unverified {
        let hash = outcome.applied.as_deref().unwrap_or_default();
        let message = format!("revision {hash} takes no work: {why}. What is verified next is what is pushed next");
        return Some((reasons::VERIFICATION_FAILED, message));
    }
    let text = "the pods of the newest revision do not get ready";
    let message = || match &outcome.trouble {
        Some(trouble) => format!("{text}: {trouble}"),
        None => format!("{text}: see their events"),
    };
    matches!(outcome.server, Server::Failed { .. }).then(|| (reasons::PROGRESS_DEADLINE_EXCEEDED, message()))
}

fn text_waits<'a>(outcome: &Outcome<'a>) -> Waits<'a> {
    waits(outcome.text)
}

fn waits_with_text<'a>(outcome: &Outcome<'a>) -> Option<&'a str> {
    text_waits(outcome).map(|(.., message)| message)
}

fn ready_conditions(outcome: &Outcome<'_>, ready: bool) -> Vec<Change> {
    use crate::status::Class;
    let set = |c| Change::Set(c);
    let no = |reason, message: &str| set(Condition::no(kinds::READY, reason, message));
    if let Some(failure) = outcome.failure {
        let stalled = failure.class == Class::Stalled;
        return vec![
            no(failure.reason, &failure.message),
            if stalled {
                set(Condition::yes(kinds::STALLED, failure.reason, failure.message.as_str()))
            } else {
                Change::Remove(kinds::STALLED)
            },
            if stalled {
                Change::Remove(kinds::RECONCILING)
            } else {
                set(Condition::yes(kinds::RECONCILING, failure.reason, failure.message.as_str()))
            },
        ];
    }
    let reason = if outcome.trouble.is_some() { reasons::POD_NOT_STARTING } else { reasons::PROGRESSING };
    let progressing = |message: &str| {
        vec![
            no(reason, message),
            Change::Remove(kinds::STALLED),
            set(Condition::yes(kinds::RECONCILING, reason, message)),
        ]
    };
    let settled = |c: Condition| vec![set(c), Change::Remove(kinds::STALLED), Change::Remove(kinds::RECONCILING)];
    if let Some((reason, message)) = failed(outcome) {
        return vec![
            no(reason, &message),
            Change::Remove(kinds::RECONCILING),
            set(Condition::yes(kinds::STALLED, reason, message)),
        ];
    }
    let with_trouble = |text: &str| match (&outcome.trouble, &outcome.verifying) {
        (Some(trouble), _) => format!("{text}: {trouble}"),
        (None, Some(verifying)) => format!("{text}: Task {} verifies it", verifying.task),
        (None, None) => text.into(),
    };
    match outcome.server {
        _ if outcome.suspended => settled(Condition::yes(kinds::READY, reasons::SUSPENDED, "suspended, as asked")),
        Server::Ready if ready => {
            settled(Condition::yes(kinds::READY, reasons::AVAILABLE, beside::takes_work(outcome)))
        }
        Server::Rolling => progressing(&with_trouble("a new pod is on the way; the old one serves until it is ready")),
        // A Deployment that has failed is spoken of above.
        Server::Ready | Server::NotReady | Server::Missing | Server::Failed { .. } => {
            progressing(&with_trouble("waiting for the server's pod to get ready"))
        }
    }
}

const UNPROTECTED: &str = "the server also listens on the pod's address, where nobody asks for the password: let \
                           spec.command listen on 127.0.0.1";

const UNSEEN: &str = "the new text is in its ConfigMap, but the pods do not show it although they were touched again \
                      and again; that goes on every ten minutes: see whether the pod's node and its kubelet are well";

/// Whether the server can be reached past the door. While no sidecar speaks, what was said last holds.
fn is_unprotected(outcome: &Outcome<'_>, before: &AgentStatus) -> bool {
    let was = || {
        let healthy = before.conditions.iter().find(|c| c.type_ == kinds::SERVER_HEALTHY);
        healthy.is_some_and(|c| c.reason == reasons::UNPROTECTED_SERVER)
    };
    outcome.activity.map_or_else(was, |a| a.server_exposed)
}

fn server_conditions(outcome: &Outcome<'_>, unprotected: bool) -> Vec<Change> {
    let ready = |c| Change::Set(c);
    match outcome.server {
        _ if outcome.suspended => {
            vec![ready(Condition::no(kinds::SERVER_READY, reasons::SUSPENDED, "suspended, as asked"))]
        }
        Server::Missing => vec![
            ready(Condition::no(kinds::SERVER_READY, reasons::DEPLOYMENT_NOT_READY, "there is no Deployment")),
            ready(Condition::no(kinds::SERVER_HEALTHY, reasons::DEPLOYMENT_NOT_FOUND, "there is no Deployment")),
        ],
        Server::NotReady | Server::Failed { available: false } => vec![
            ready(Condition::no(kinds::SERVER_READY, reasons::DEPLOYMENT_NOT_READY, "no pod is ready")),
            ready(Condition::no(kinds::SERVER_HEALTHY, reasons::DEPLOYMENT_NOT_READY, "no pod is ready")),
        ],
        Server::Rolling | Server::Failed { available: true } | Server::Ready => vec![
            ready(Condition::yes(kinds::SERVER_READY, reasons::DEPLOYMENT_READY, "a pod is ready")),
            ready(if unprotected {
                Condition::yes(kinds::SERVER_HEALTHY, reasons::UNPROTECTED_SERVER, UNPROTECTED)
            } else {
                Condition::yes(kinds::SERVER_HEALTHY, reasons::DEPLOYMENT_HEALTHY, "the server answers")
            }),
        ],
    }
}

fn state(outcome: &Outcome<'_>, pending: bool, ready: bool) -> AgentState {
    let stalled = outcome.failure.is_some_and(|f| f.class == crate::status::Class::Stalled);
    if stalled || failed(outcome).is_some() {
        AgentState::Stalled
    } else if outcome.suspended {
        AgentState::Suspended
    } else if pending && ready {
        AgentState::RolloutPending
    } else if ready && outcome.failure.is_none() && outcome.pinned.is_some() {
        AgentState::Pinned
    } else if ready && outcome.failure.is_none() {
        AgentState::Ready
    } else {
        AgentState::NotReady
    }
}

/// Events for what became different between two statuses.
fn notes(before: &AgentStatus, after: &AgentStatus, outcome: &Outcome<'_>) -> Vec<Note> {
    let mut notes = vec![];
    let was = |kind| condition::is_true(&before.conditions, kind);
    let reason = |status: &AgentStatus, kind: &str| {
        status.conditions.iter().find(|c| c.type_ == kind).map(|c| c.reason.clone()).unwrap_or_default()
    };
    if let Some(failure) = outcome.failure
        && reason(before, kinds::READY) != failure.reason
    {
        notes.push(Note::warning(failure.reason, "Reconcile", failure.message.as_str()));
    }
    if reason(after, kinds::SERVER_HEALTHY) == reasons::UNPROTECTED_SERVER
        && reason(before, kinds::SERVER_HEALTHY) != reasons::UNPROTECTED_SERVER
    {
        notes.push(Note::warning(reasons::UNPROTECTED_SERVER, "Reconcile", UNPROTECTED));
    }
    if after.suspended == Some(true) && before.suspended != Some(true) {
        notes.push(Note::normal(reasons::USER_SUSPENDED, "Suspend", "the agent has no pod, as asked"));
    }
    if after.suspended == Some(false) && before.suspended == Some(true) {
        notes.push(Note::normal(reasons::RESUMED, "Resume", "the agent gets a pod again"));
    }
    if after.ready == Some(true) && before.ready != Some(true) {
        notes.push(Note::normal(reasons::READY, "Reconcile", "the server takes work"));
    }
    let lost = after.ready == Some(false) && before.ready == Some(true);
    if lost && after.suspended == Some(false) && outcome.server != Server::Rolling {
        notes.push(Note::warning(reasons::NOT_READY, "Reconcile", "the server takes no work"));
    }
    if let (false, Some((.., message))) = (was(kinds::ROLLOUT_PENDING), waits(outcome.action)) {
        notes.push(Note::normal(reasons::ROLLOUT_PENDING, "Rollout", message));
    }
    for kind in [kinds::ROLLOUT_PENDING, kinds::TEXT_PENDING, kinds::GIT_SYNC_PENDING] {
        let now = after.conditions.iter().find(|c| c.type_ == kind && c.reason == reasons::FLEET_STOPPED);
        if let Some(now) = now.filter(|_| reason(before, kind) != reasons::FLEET_STOPPED) {
            notes.push(Note::warning(reasons::FLEET_STOPPED, "Rollout", now.message.as_str()));
            break;
        }
    }
    if let (false, Some(message)) = (was(kinds::TEXT_PENDING), waits_with_text(outcome)) {
        notes.push(Note::normal(reasons::TEXT_PENDING, "Text", message));
    }
    if reason(after, kinds::TEXT_PENDING) == reasons::TEXT_UNSEEN
        && reason(before, kinds::TEXT_PENDING) != reasons::TEXT_UNSEEN
    {
        notes.push(Note::warning(reasons::TEXT_UNSEEN, "Text", UNSEEN));
    }
    notes.extend(trouble_note(before, after));
    notes.extend(pinned::note(before, after));
    notes.extend(order_note(before, after));
    notes.extend(git::notes(before, after, outcome));
    if let Some(Action::Apply { forced: Some(message), .. }) = outcome.text {
        notes.push(Note::warning(reasons::TEXT_FORCED, "Text", message.as_str()));
    }
    notes.extend(rollout_notes(before, after, outcome));
    notes.extend(beside::note(before, after));
    notes
}

/// That an order means nothing, whenever it is another one.
fn order_note(before: &AgentStatus, after: &AgentStatus) -> Option<Note> {
    let said = |status: &AgentStatus| status.conditions.iter().find(|c| c.type_ == kinds::ORDER_UNKNOWN).cloned();
    let now = said(after)?.message;
    (said(before).map(|c| c.message).as_ref() != Some(&now))
        .then(|| Note::warning(reasons::ORDER_UNKNOWN, "Rollout", now))
}

/// What keeps a pod from starting, whenever it is another thing.
fn trouble_note(before: &AgentStatus, after: &AgentStatus) -> Option<Note> {
    let said = |status: &AgentStatus| {
        let ready = status.conditions.iter().find(|c| c.type_ == kinds::READY);
        ready.filter(|c| c.reason == reasons::POD_NOT_STARTING).map(|c| c.message.clone())
    };
    let now = said(after)?;
    (said(before).as_ref() != Some(&now)).then(|| Note::warning(reasons::POD_NOT_STARTING, "Reconcile", now))
}

/// Events of a rollout: that it began, that it was forced, that it failed, that it need not wait any more.
fn rollout_notes(before: &AgentStatus, after: &AgentStatus, outcome: &Outcome<'_>) -> Vec<Note> {
    let reason = |status: &AgentStatus| {
        let failed = status.conditions.iter().find(|c| c.type_ == kinds::ROLLOUT_FAILED && c.status == "True");
        failed.map(|c| c.reason.clone()).unwrap_or_default()
    };
    let mut notes = vec![];
    if let Some((why, message)) = failed(outcome)
        && reason(before) != reason(after)
    {
        notes.push(Note::warning(why, "Rollout", message));
    }
    let waited = before.rollout.as_ref().and_then(|r| r.since.clone());
    match outcome.action {
        Some(Action::Apply { forced: Some(message), .. }) if outcome.wrote => {
            notes.push(Note::warning(reasons::ROLLOUT_FORCED, "Rollout", message.as_str()));
        }
        Some(Action::Apply { causes, .. }) if outcome.wrote && !causes.is_empty() && outcome.back.is_none() => {
            let causes: Vec<_> = causes.iter().map(String::as_str).collect();
            let waited = waited.map(|since| format!("; it has waited since {}", since.0)).unwrap_or_default();
            let message = format!("a new pod for: {}{waited}", causes.join(", "));
            notes.push(Note::normal(reasons::ROLLOUT_STARTED, "Rollout", message));
        }
        Some(Action::Apply { causes, .. }) if outcome.wrote && causes.is_empty() && waited.is_some() => {
            let message = "what is wanted is what runs; nothing waits any more";
            notes.push(Note::normal(reasons::WAIT_ENDED, "Rollout", message));
        }
        _ => {}
    }
    notes
}

#[cfg(test)]
pub(super) mod tests;
