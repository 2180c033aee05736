//! What an agent's Git inputs are at, in status, conditions and events.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Change, Outcome, Waits, paced, waits};
use crate::{
    agent::{
        Pieces, Resolved, Wanted,
        decide::{self, Action},
        gate::{self, Ask},
    },
    api::{
        AgentStatus,
        agent::GitSyncStatus,
        content::{DIRTY, Report},
        names::{condition as kinds, reasons},
    },
    status::{Condition, Note, condition},
};

/// What is known about the Git inputs.
#[derive(Clone, Debug, Default)]
pub struct Git {
    /// Those of the merged spec.
    pub wanted: Vec<Wanted>,
    /// What they are: at the newest commit whose files differ from what is applied, or what is applied.
    pub newest: Pieces,
    /// By id: the newest revision that was seen, whatever its files are.
    pub observed: BTreeMap<String, String>,
    /// What the applied pod template has.
    pub fixed: Pieces,
    /// What is decided for running pods.
    pub exchanged: Pieces,
    /// Hash of that; `None` where there is none.
    pub hash: Option<String>,
    /// What the connected pods say, those that did.
    pub reports: Vec<Arc<Report>>,
    /// By id: why the newest commit is not known.
    pub notes: BTreeMap<String, String>,
}

impl Git {
    /// Instead of what is newest a kept revision is wanted.
    pub fn pin(&mut self, revision: &str, pieces: Pieces) {
        for (id, piece) in &pieces {
            if self.newest.get(id).is_some_and(|newest| newest.digest != piece.digest) {
                self.notes.insert(id.clone(), format!("pinned to revision {revision}; the newest commit is not taken"));
            }
        }
        for (id, piece) in pieces {
            self.newest.insert(id, piece);
        }
    }

    fn applied(&self, id: &str) -> Option<&Resolved> {
        self.exchanged.get(id).or_else(|| self.fixed.get(id))
    }

    /// Pods that lack what is decided for them.
    fn behind(&self) -> impl Iterator<Item = &Report> {
        let hash = self.hash.as_deref();
        self.reports.iter().map(|r| &**r).filter(move |r| hash.is_some_and(|hash| r.loaded != hash))
    }

    /// What a pod says that did not take what is decided; an earlier failure does not matter any more.
    fn failed(&self) -> Option<&Report> {
        self.behind().find(|r| r.failed && Some(&r.wanted) == self.hash.as_ref())
    }

    /// Whether a pod does not have this yet.
    fn is_missing(&self, id: &str) -> bool {
        let placed = |r: &Report, digest: &str| r.pieces.iter().any(|p| p.id == *id && p.digest == digest);
        self.exchanged.get(id).is_some_and(|piece| self.behind().any(|r| !placed(r, &piece.digest)))
    }

    /// Why a pod does not have it yet; one that is just fetching says nothing.
    fn why(&self) -> Option<&str> {
        self.behind().map(|r| r.why.as_str()).find(|why| !why.is_empty())
    }
}

/// One entry for each input.
pub(super) fn statuses(git: &Git, before: &AgentStatus, outcome: &Outcome<'_>) -> Vec<GitSyncStatus> {
    git.wanted.iter().map(|wanted| one(git, wanted, &before.git_sync_statuses, outcome)).collect()
}

fn one(git: &Git, wanted: &Wanted, before: &[GitSyncStatus], outcome: &Outcome<'_>) -> GitSyncStatus {
    let name = name(wanted);
    let before = before.iter().find(|status| status.name == name);
    let before_commit = before.and_then(|status| status.commit_hash.clone());
    let commit = if git.exchanged.contains_key(&wanted.id) {
        in_pods(git, &wanted.id, before_commit.as_deref())
    } else {
        git.fixed.get(&wanted.id).map(|piece| commit(&piece.revision))
    };
    let stays = commit.is_some() && commit == before_commit;
    let last_synced = if stays {
        before.and_then(|status| status.last_synced.clone())
    } else {
        commit.as_ref().map(|_| Time(whole_seconds(outcome.now)))
    };
    let newest = git.newest.get(&wanted.id).or_else(|| git.applied(&wanted.id));
    // Of a commit that changes nothing of it nothing is said, as long as nothing is wrong: most pushes are such.
    let seen = git.observed.get(&wanted.id).filter(|_| git.notes.contains_key(&wanted.id));
    let observed = seen.or(newest.map(|piece| &piece.revision)).map(String::as_str);
    GitSyncStatus {
        name,
        commit_hash: commit,
        last_synced,
        observed_commit: observed.map(self::commit),
        policy: wanted.sync.map(|sync| sync.policy),
        message: message(git, wanted, outcome),
    }
}

/// Names of contexts and of sources of skills may be the same.
fn name(wanted: &Wanted) -> String {
    if wanted.is_skills() { wanted.id.clone() } else { wanted.name().into() }
}

/// The 40 digits of `main@sha1:<40 digits>`.
fn commit(revision: &str) -> String {
    let last = revision.rsplit_once('@').map_or(revision, |(_, commit)| commit);
    last.rsplit(':').next().unwrap_or(last).into()
}

fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// What the pods have; while they differ, or none speaks, what was said before.
fn in_pods(git: &Git, id: &str, before: Option<&str>) -> Option<String> {
    let placed = git.reports.iter().flat_map(|r| &r.pieces).filter(|piece| piece.id == id);
    let commits: BTreeSet<String> = placed.map(|piece| commit(&piece.revision)).collect();
    match before {
        Some(before) if commits.is_empty() || commits.contains(before) && commits.len() > 1 => Some(before.into()),
        _ => commits.into_iter().next(),
    }
}

fn message(git: &Git, wanted: &Wanted, outcome: &Outcome<'_>) -> Option<String> {
    let mut parts: Vec<String> = git.notes.get(&wanted.id).into_iter().cloned().collect();
    let placed = git.reports.iter().flat_map(|r| &r.pieces).filter(|p| p.id == wanted.id && !p.note.is_empty());
    parts.extend(placed.map(|p| p.note.clone()).collect::<BTreeSet<_>>());
    parts.extend(waits_for(git, wanted, outcome));
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn waits_for(git: &Git, wanted: &Wanted, outcome: &Outcome<'_>) -> Option<String> {
    let (newest, applied) = (git.newest.get(&wanted.id)?, git.applied(&wanted.id)?);
    if newest.digest != applied.digest || newest.source_hash != applied.source_hash {
        let hot = git.exchanged.contains_key(&wanted.id);
        let action = outcome.exchange.filter(|_| hot && waits(outcome.exchange).is_some()).or(outcome.action);
        let how = match (paced(action), waits(action)) {
            (Some(_), _) => "the pace of the fleet",
            (None, Some((pending, ..))) if pending.held => "somebody to let it go on",
            _ if hot => "work to end",
            _ => "a rollout",
        };
        return Some(format!("the newest commit waits for {how}"));
    }
    if git.is_missing(&wanted.id) && decide::is_held(outcome.asked) {
        return Some("the newest commit waits for somebody to let it go on".into());
    }
    let placed = |r: &Report| r.pieces.iter().any(|p| p.id == wanted.id && p.digest == applied.digest);
    if git.exchanged.contains_key(&wanted.id)
        && let Some(report) = git.behind().find(|r| !r.why.is_empty() && !placed(r))
    {
        return Some(report.why.clone());
    }
    None
}

/// Exists once there was an input that is followed, and then stays.
pub(super) fn pending(git: &Git, outcome: &Outcome<'_>, before: &AgentStatus) -> Option<Change> {
    let exists = before.conditions.iter().any(|c| c.type_ == kinds::GIT_SYNC_PENDING);
    let set = |reason, message: String| super::pending(kinds::GIT_SYNC_PENDING, Some((reason, &message)), exists);
    if let Some(report) = git.failed() {
        return set(reasons::RELOAD_FAILED, failed(report));
    }
    if let Some(message) = rollout(git, waits(outcome.action), outcome.tasks.0) {
        return match (paced(outcome.action), waits(outcome.action)) {
            (Some(reason), Some((.., message))) => set(reason, message.into()),
            _ => set(reasons::WAITING_FOR_TASKS, message),
        };
    }
    if let Some((.., message)) = waits(outcome.exchange) {
        return set(paced(outcome.exchange).unwrap_or(reasons::WAITING_FOR_RELOAD), message.into());
    }
    if let Some(why) = git.why().filter(|why| why.contains(DIRTY)) {
        return set(reasons::WORKSPACE_DIRTY, format!("what is new is not in the pod: {why}"));
    }
    if let Ask::Hold { why } = gate::asked(outcome.asked, None, &[])
        && git.exchanged.keys().any(|id| git.is_missing(id))
    {
        let message = gate::held_by(why, ": what is new is decided and not in the pod yet");
        return set(reasons::WAITING_FOR_RELOAD, message);
    }
    if let Some(why) = git.why() {
        return set(reasons::WAITING_FOR_RELOAD, format!("what is new is decided and not in the pod yet: {why}"));
    }
    let followed = exists || git.wanted.iter().any(|wanted| wanted.sync.is_some());
    super::pending(kinds::GIT_SYNC_PENDING, None, followed)
}

fn failed(report: &Report) -> String {
    format!("the server did not take what is new, and has what was there before: {}", report.why)
}

/// Causes of a rollout that waits and are inputs that are followed.
fn rollout(git: &Git, waits: Waits<'_>, tasks: usize) -> Option<String> {
    let (pending, ..) = waits?;
    let followed = git.wanted.iter().filter(|wanted| wanted.sync.is_some() && pending.causes.contains(&wanted.id));
    let names: Vec<_> = followed.map(name).collect();
    let names = names.join(", ");
    (!names.is_empty())
        .then(|| format!("Waiting for {tasks} active task(s) to complete before rollout (contexts: {names})"))
}

/// Exists only where there are skills. `None`: what was said holds.
pub(super) fn skills(git: &Git) -> Option<Change> {
    let sources: Vec<(&Wanted, &Resolved)> =
        git.wanted.iter().filter(|w| w.is_skills()).filter_map(|w| Some((w, git.applied(&w.id)?))).collect();
    if !git.wanted.iter().any(Wanted::is_skills) {
        return Some(Change::Remove(kinds::SKILLS_LOADED));
    }
    let no = |reason, message: String| Some(Change::Set(Condition::no(kinds::SKILLS_LOADED, reason, message)));
    if let Some(report) = git.failed() {
        return no(reasons::RELOAD_FAILED, failed(report));
    }
    if git.behind().next().is_some() {
        return None;
    }
    let listed: Vec<_> = git.reports.iter().filter_map(|r| r.skills.as_deref()).collect();
    let missing = missing(&sources, &listed);
    if !missing.is_empty() {
        return no(reasons::SKILLS_MISSING, format!("the server does not list {}", missing.join(", ")));
    }
    let bad = bad(git, &sources);
    if !bad.is_empty() {
        return no(reasons::SKILLS_INVALID, bad.join("; "));
    }
    if listed.is_empty() {
        let message = "no pod has said which skills its server has loaded";
        let unknown =
            Condition { status: None, ..Condition::no(kinds::SKILLS_LOADED, reasons::SKILLS_UNKNOWN, message) };
        return Some(Change::Set(unknown));
    }
    let names: BTreeSet<&str> = sources.iter().flat_map(|(_, piece)| &piece.skills).map(String::as_str).collect();
    let message = match names.len() {
        0 => "there is no skill in the sources".to_string(),
        count => format!("{count} loaded: {}", names.into_iter().collect::<Vec<_>>().join(", ")),
    };
    Some(Change::Set(Condition::yes(kinds::SKILLS_LOADED, reasons::SKILLS_IN_USE, message)))
}

/// Skills that a server does not list, with their source.
fn missing(sources: &[(&Wanted, &Resolved)], listed: &[&[String]]) -> Vec<String> {
    let all = sources.iter().flat_map(|(wanted, piece)| piece.skills.iter().map(move |name| (wanted.name(), name)));
    all.filter(|(_, name)| listed.iter().any(|list| !list.contains(name)))
        .map(|(source, name)| format!("{name} ({source})"))
        .collect()
}

/// Skills that were left out and why, and those that are in two sources.
fn bad(git: &Git, sources: &[(&Wanted, &Resolved)]) -> Vec<String> {
    let mut said = vec![];
    let mut first: BTreeMap<&str, &str> = BTreeMap::new();
    for (wanted, applied) in sources {
        let (source, newest) = (wanted.name(), git.newest.get(&wanted.id));
        let piece = newest.filter(|newest| newest.digest == applied.digest).unwrap_or(applied);
        said.extend(piece.bad_skills.iter().map(|(name, why)| format!("{source}: {name} left out: {why}")));
        for name in &applied.skills {
            if let Some(other) = first.insert(name, source) {
                said.push(format!("{name} is in {other} and in {source}; the server takes one of them: rename one"));
            }
        }
    }
    said
}

/// Events for what became different.
pub(super) fn notes(before: &AgentStatus, after: &AgentStatus, outcome: &Outcome<'_>) -> Vec<Note> {
    let mut notes = vec![];
    let Some(git) = outcome.git else { return notes };
    if let Some(Action::Apply { forced: Some(message), .. }) = outcome.exchange {
        notes.push(Note::warning(reasons::CONTENT_FORCED, "Exchange", message.as_str()));
    }
    let find = |status: &AgentStatus, kind: &str| status.conditions.iter().find(|c| c.type_ == kind).cloned();
    if let Some(now) = find(after, kinds::GIT_SYNC_PENDING)
        && (now.reason == reasons::WAITING_FOR_RELOAD || paced(outcome.exchange) == Some(now.reason.as_str()))
        && !condition::is_true(&before.conditions, kinds::GIT_SYNC_PENDING)
    {
        notes.push(Note::normal(reasons::CONTENT_PENDING, "Exchange", now.message));
    }
    if let Some(now) = find(after, kinds::SKILLS_LOADED)
        && let Some(reason) = FAULTS.iter().find(|reason| **reason == now.reason)
        && find(before, kinds::SKILLS_LOADED).is_none_or(|c| (&c.reason, &c.message) != (&now.reason, &now.message))
    {
        notes.push(Note::warning(reason, "Load", now.message));
    } else if let Some(report) = git.failed()
        && find(before, kinds::GIT_SYNC_PENDING).is_none_or(|c| c.reason != reasons::RELOAD_FAILED)
    {
        notes.push(Note::warning(reasons::RELOAD_FAILED, "Exchange", failed(report)));
    }
    notes.extend(arrived(git, before, after));
    notes
}

const FAULTS: [&str; 3] = [reasons::RELOAD_FAILED, reasons::SKILLS_MISSING, reasons::SKILLS_INVALID];

/// Rollouts tell by themselves.
fn arrived(git: &Git, before: &AgentStatus, after: &AgentStatus) -> Option<Note> {
    let of = |status: &AgentStatus, name: &str| {
        status.git_sync_statuses.iter().find(|s| s.name == name).and_then(|s| s.commit_hash.clone())
    };
    let exchanged = git.wanted.iter().filter(|wanted| git.exchanged.contains_key(&wanted.id)).map(name);
    let changed = exchanged.filter_map(|name| {
        let (old, new) = (of(before, &name)?, of(after, &name)?);
        (old != new).then(|| format!("{name} is at {}", new.chars().take(7).collect::<String>()))
    });
    let changed: Vec<_> = changed.collect();
    (!changed.is_empty()).then(|| Note::normal(reasons::CONTENT_LOADED, "Exchange", changed.join(", ")))
}

#[cfg(test)]
mod tests;
