//! From what was seen to a status and events (pure).

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition as Wire, Time};

use super::hook::{self, Hook};
use crate::{
    api::{
        Artifact, RepositoryStatus,
        names::{condition, reasons},
        voice::ARTIFACTS_PATH,
    },
    artifact::Digest,
    git::{CommitId, GitError, Reason, Skipped},
    status::{Condition, Note, condition::remove_condition, set_condition},
};

/// A published tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Published {
    /// `main@sha1:<hex>`.
    pub(super) revision: String,
    pub(super) digest: Digest,
    /// Bytes of the archive, where they are known.
    pub(super) size: Option<u64>,
    /// What could not be part of it; `None` where it was made by an earlier process.
    pub(super) left_out: Option<String>,
}

/// How things stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Nothing but a change of an input helps.
    Stalled(&'static str, String),
    /// Something must come first; an event will tell.
    Waiting(&'static str, String),
    /// Left alone as asked.
    Suspended,
    /// The first answer of the remote is on its way.
    Pending(String),
    /// The remote or the disk fails; it is tried again.
    Failed(&'static str, String),
    /// The artifact is what the remote has.
    Fetched(Published),
}

/// What surrounds the finding.
pub(super) struct Seen<'a> {
    pub(super) prior: &'a RepositoryStatus,
    pub(super) generation: Option<i64>,
    /// Value of the reconcile annotation that has been answered.
    pub(super) handled: Option<String>,
    /// What is known of the webhook.
    pub(super) hook: Hook,
    /// Where artifacts are served, as `host:port`; `None` where nobody is told.
    pub(super) served: Option<&'a str>,
    pub(super) now: Timestamp,
}

/// What to write and to say.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Decision {
    pub(super) status: RepositoryStatus,
    pub(super) notes: Vec<Note>,
}

/// The status that follows. A failure never takes the artifact away.
pub(super) fn decide(seen: &Seen<'_>, finding: Finding) -> Decision {
    let mut status = seen.prior.clone();
    status.observed_generation = seen.generation;
    status.last_handled_reconcile_at.clone_from(&seen.handled);
    let mut notes = hook::show(&mut status, seen);
    notes.extend(match finding {
        Finding::Stalled(reason, message) => {
            set(&mut status, seen, &Condition::yes(condition::STALLED, reason, message.clone()));
            fail(&mut status, seen, reason, &message)
        }
        Finding::Waiting(reason, message) | Finding::Failed(reason, message) => {
            remove_condition(&mut status.conditions, condition::STALLED);
            fail(&mut status, seen, reason, &message)
        }
        Finding::Suspended => suspended(&mut status, seen),
        Finding::Pending(message) => pending(&mut status, seen, message),
        Finding::Fetched(published) => fetched(&mut status, seen, published),
    });
    Decision { status, notes }
}

/// What the remote said, and where to look.
pub(super) fn advised(error: &GitError, secret: Option<&str>) -> String {
    match (error.reason, secret) {
        // A submodule's trouble has its own words: the Secret may not even be for its host.
        (Reason::AuthenticationFailed, Some(name)) if !error.submodule => rejected(&error.message, name),
        (Reason::Timeout, _) => format!("{}; see spec.timeout", error.message),
        _ => error.message.clone(),
    }
}

/// Says whose Secret to look at when a remote refuses the credential.
pub(in crate::controller) fn rejected(message: &str, secret: &str) -> String {
    format!("{message}; correct Secret {secret}: what it holds is wrong, has run out, or may not read this repository")
}

/// The commit of an artifact that fits the present spec, as far as the status alone can say: it was published for this
/// generation, so with its rules.
pub(super) fn trusted(prior: &RepositoryStatus, generation: Option<i64>) -> Option<(CommitId, Digest)> {
    let ready = ready(&prior.conditions)?;
    let fits = ready.status == "True" && ready.reason == reasons::FETCHED && ready.observed_generation == generation;
    let artifact = prior.artifact.as_ref().filter(|_| fits)?;
    let commit = artifact.revision.rsplit(':').next().and_then(CommitId::parse)?;
    Some((commit, Digest::parse(&artifact.digest)?))
}

/// Words for what was left out of a tree; at most five names, so that a status stays small.
pub(super) fn left_out(skipped: &[Skipped]) -> String {
    let named: Vec<_> = skipped.iter().take(5).map(|s| format!("{} ({})", s.path, s.why)).collect();
    let rest = skipped.len().saturating_sub(named.len());
    match (named.is_empty(), rest) {
        (true, _) => String::new(),
        (false, 0) => format!("; left out: {}", named.join(", ")),
        (false, rest) => format!("; left out: {} and {rest} more", named.join(", ")),
    }
}

fn ready(conditions: &[Wire]) -> Option<&Wire> {
    conditions.iter().find(|c| c.type_ == condition::READY)
}

pub(super) fn set(status: &mut RepositoryStatus, seen: &Seen<'_>, condition: &Condition) {
    set_condition(&mut status.conditions, condition, seen.generation, seen.now);
}

fn fail(status: &mut RepositoryStatus, seen: &Seen<'_>, reason: &'static str, message: &str) -> Vec<Note> {
    remove_condition(&mut status.conditions, condition::RECONCILING);
    let kept = status.artifact.as_ref().map(|a| format!("; {} stays in use", short(&a.revision))).unwrap_or_default();
    let message = format!("{message}{kept}");
    let news = ready(&seen.prior.conditions).is_none_or(|c| c.reason != reason || c.message != message);
    set(status, seen, &Condition::no(condition::READY, reason, message.clone()));
    if news { vec![Note::warning(reason, "Fetch", message)] } else { vec![] }
}

fn suspended(status: &mut RepositoryStatus, seen: &Seen<'_>) -> Vec<Note> {
    remove_condition(&mut status.conditions, condition::RECONCILING);
    remove_condition(&mut status.conditions, condition::STALLED);
    let ready = match &status.artifact {
        Some(a) => {
            let message = format!("suspended; {} stays in use", short(&a.revision));
            Condition::yes(condition::READY, reasons::SUSPENDED, message)
        }
        None => Condition::no(condition::READY, reasons::SUSPENDED, "suspended before anything was fetched"),
    };
    set(status, seen, &ready);
    vec![]
}

/// While an answer to an unchanged spec is on its way, what was said last stays true: a restart writes nothing.
fn pending(status: &mut RepositoryStatus, seen: &Seen<'_>, message: String) -> Vec<Note> {
    let same = seen.prior.observed_generation == seen.generation;
    let said = ready(&seen.prior.conditions).is_some_and(|c| c.reason != reasons::SUSPENDED);
    if same && said {
        return vec![];
    }
    remove_condition(&mut status.conditions, condition::STALLED);
    set(status, seen, &Condition::yes(condition::RECONCILING, reasons::PROGRESSING, message.clone()));
    set(status, seen, &Condition { kind: condition::READY, status: None, reason: reasons::PROGRESSING, message });
    vec![]
}

fn fetched(status: &mut RepositoryStatus, seen: &Seen<'_>, published: Published) -> Vec<Note> {
    remove_condition(&mut status.conditions, condition::RECONCILING);
    remove_condition(&mut status.conditions, condition::STALLED);
    let digest = published.digest.to_string();
    let prior = seen.prior.artifact.as_ref();
    let unchanged = prior.is_some_and(|a| a.digest == digest && a.revision == published.revision);
    let mut message = format!("stored {}", published.revision);
    match (&published.left_out, ready(&seen.prior.conditions)) {
        (Some(left_out), _) => message.push_str(left_out),
        // An earlier process knew what it had left out of this very artifact.
        (None, Some(c)) if unchanged && c.reason == reasons::FETCHED => message.clone_from(&c.message),
        (None, _) => {}
    }
    set(status, seen, &Condition::yes(condition::READY, reasons::FETCHED, message.clone()));
    let url = seen.served.map(|host| format!("https://{host}{ARTIFACTS_PATH}{}", published.digest.hex()));
    if unchanged {
        // Another release may be served elsewhere.
        status.artifact.iter_mut().for_each(|artifact| artifact.url.clone_from(&url));
        return vec![];
    }
    let size = published.size.and_then(|size| i64::try_from(size).ok());
    status.artifact = Some(Artifact {
        revision: published.revision,
        size: size.or_else(|| prior.filter(|a| a.digest == digest).and_then(|a| a.size)),
        last_update_time: Time(seen.now),
        digest,
        // Of the writer.
        seal: None,
        url,
    });
    vec![Note::normal(reasons::FETCHED, "Fetch", message)]
}

/// `main@sha1:1a2b3c4`: enough for a message.
fn short(revision: &str) -> &str {
    revision.rsplit_once(':').map_or(revision, |(head, id)| &revision[..head.len() + 1 + id.len().min(7)])
}

#[cfg(test)]
mod tests;
