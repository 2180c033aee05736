//! What a delivery is about, as far as its sender says so (pure).
//!
//! Nothing that is read here becomes part of anything: it only decides whether a look at the remote may be spared, and
//! that only where it is certain that the look would find nothing.

use http::HeaderMap;
use serde::Deserialize;

use crate::api::{Forge, GitReference};

/// What a Repository follows, in words that can be compared with a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Follows {
    /// One full reference, which moves by a push to itself alone.
    Exactly(String),
    /// A commit: nothing moves.
    Pinned,
    /// What a push to any reference may move: HEAD, or a reference that the forge makes.
    Anything,
}

/// What is to be done about an authentic delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Look at the remote.
    Look,
    /// The forge tries whether anybody answers.
    Ping,
    /// An event that is none of those that ask for a look.
    OtherEvent,
    /// A push to other references only.
    OtherReference,
    /// The Repository follows a commit.
    Pinned,
}

impl Follows {
    /// Of a Repository's `spec.ref`.
    pub fn of(reference: Option<&GitReference>) -> Self {
        let Some(reference) = reference else { return Self::Anything };
        if let Some(branch) = &reference.branch {
            return Self::Exactly(format!("refs/heads/{branch}"));
        }
        if let Some(tag) = &reference.tag {
            return Self::Exactly(format!("refs/tags/{tag}"));
        }
        match &reference.name {
            Some(name) if name.starts_with("refs/heads/") || name.starts_with("refs/tags/") => {
                Self::Exactly(name.clone())
            }
            _ if reference.commit.is_some() => Self::Pinned,
            // refs/pull/7/head moves by a push to a branch.
            _ => Self::Anything,
        }
    }
}

/// The value of a header that is there once.
pub fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut all = headers.get_all(name).iter();
    let (first, second) = (all.next()?, all.next());
    if second.is_some() { None } else { first.to_str().ok() }
}

/// The event that a delivery names; `None` where the sender has no such header.
pub fn event(forge: Forge, headers: &HeaderMap) -> Option<&str> {
    match forge {
        Forge::GitHub => only(headers, "x-github-event"),
        Forge::GitLab => only(headers, "x-gitlab-event"),
        Forge::Gitea => only(headers, "x-gitea-event"),
        Forge::Forgejo => only(headers, "x-forgejo-event").or_else(|| only(headers, "x-gitea-event")),
        Forge::Bitbucket => only(headers, "x-event-key"),
        Forge::Generic => None,
    }
}

/// Events that move references.
fn usual(forge: Forge) -> &'static [&'static str] {
    match forge {
        Forge::GitHub | Forge::Gitea | Forge::Forgejo => &["push", "create", "delete", "pull_request"],
        Forge::GitLab => &["Push Hook", "Tag Push Hook", "Merge Request Hook"],
        Forge::Bitbucket => &[
            "repo:push",
            "pullrequest:created",
            "pullrequest:updated",
            "pullrequest:fulfilled",
            "repo:refs_changed",
            "pr:opened",
            "pr:from_ref_updated",
            "pr:merged",
            "mirror:repo_synchronized",
        ],
        Forge::Generic => &[],
    }
}

/// Decides. `events` are those of the spec; `body` is `None` where it was too long to be kept.
pub fn verdict(
    forge: Forge,
    events: &[String],
    follows: &Follows,
    event: Option<&str>,
    body: Option<&[u8]>,
) -> Verdict {
    let Some(event) = event else {
        return if *follows == Follows::Pinned { Verdict::Pinned } else { Verdict::Look };
    };
    if matches!((forge, event), (Forge::GitHub, "ping") | (Forge::Bitbucket, "diagnostics:ping")) {
        return Verdict::Ping;
    }
    let asked = if events.is_empty() { usual(forge).contains(&event) } else { events.iter().any(|e| e == event) };
    if !asked {
        return Verdict::OtherEvent;
    }
    match follows {
        Follows::Pinned => Verdict::Pinned,
        Follows::Anything => Verdict::Look,
        Follows::Exactly(wanted) => match body.and_then(|body| pushed(forge, event, body)) {
            Some(found) if found != *wanted => Verdict::OtherReference,
            _ => Verdict::Look,
        },
    }
}

#[derive(Deserialize)]
struct Push {
    #[serde(rename = "ref")]
    reference: String,
}

#[derive(Deserialize)]
struct CloudPush {
    push: Changes<CloudChange>,
}

#[derive(Deserialize)]
struct Changes<C> {
    changes: Vec<C>,
}

#[derive(Deserialize)]
struct CloudChange {
    new: Option<Named>,
    old: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(rename = "type")]
    kind: String,
    name: String,
}

#[derive(Deserialize)]
struct CenterChange {
    #[serde(rename = "ref")]
    reference: Id,
}

#[derive(Deserialize)]
struct Id {
    id: String,
}

/// The one full reference that a push moved; `None` where that is not certain.
fn pushed(forge: Forge, event: &str, body: &[u8]) -> Option<String> {
    let found = match (forge, event) {
        (Forge::GitHub | Forge::Gitea | Forge::Forgejo, "push") | (Forge::GitLab, "Push Hook" | "Tag Push Hook") => {
            read::<Push>(body)?.reference
        }
        (Forge::Bitbucket, "repo:push") => cloud(read::<CloudPush>(body)?.push)?,
        (Forge::Bitbucket, "repo:refs_changed") => single(read::<Changes<CenterChange>>(body)?.changes)?.reference.id,
        _ => return None,
    };
    found.starts_with("refs/").then_some(found)
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Option<T> {
    serde_json::from_slice(body).ok()
}

fn cloud(push: Changes<CloudChange>) -> Option<String> {
    let change = single(push.changes)?;
    let named = change.new.or(change.old)?;
    match named.kind.as_str() {
        "branch" => Some(format!("refs/heads/{}", named.name)),
        "tag" => Some(format!("refs/tags/{}", named.name)),
        _ => None,
    }
}

/// Of several changes it is not certain that all are named.
fn single<C>(changes: Vec<C>) -> Option<C> {
    let mut changes = changes.into_iter();
    let (first, second) = (changes.next()?, changes.next());
    if second.is_some() { None } else { Some(first) }
}

#[cfg(test)]
mod tests;
