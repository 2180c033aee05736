//! What each Git input of an agent is: from a remote or a Repository to a commit and an artifact.
//!
//! Nothing here waits for the network. [`GitInputs::read`] says what is known; pollers, Repositories, Secrets and
//! packing wake the agent when that changes. What was applied stays while nothing better is known.

mod packer;
mod places;
mod reach;
mod revisions;
mod route;
pub(in crate::controller) mod select;
mod settle;
mod tracks;
mod wake;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use kube::ResourceExt;
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::warn;

use super::index::Referrers;
use crate::{
    agent::{Pieces, Resolved, Wanted, pieces::PieceState},
    api::{Agent, names::reasons},
    artifact::Digest,
    controller::{Context, bundles::Bundles, credentials::Credentials, repository},
    git::{GitError, Reason, Subscriber},
    status::Failure,
};
use packer::{Files, Key, Origin, Packer, Packing};
use revisions::Revisions;
use route::Route;
use select::Selection;
use settle::{Before, Found, Settled, commit_of, settle};
use tracks::{Progress, Tracks};

/// For whom inputs are resolved. What differs is who is woken, and under which name remotes and artifacts are held.
#[derive(Clone)]
pub(in crate::controller) struct Whose {
    /// Follows a remote for an input.
    follows: &'static str,
    /// Fetches again what was applied and is in the store no more.
    restores: &'static str,
    /// Wakes one, by namespace and name. It must not block.
    wake: Wake,
}

type Wake = Arc<dyn Fn(&str, &str) + Send + Sync>;

impl Whose {
    /// Agents.
    pub(in crate::controller) fn agents(wake: impl Fn(&str, &str) + Send + Sync + 'static) -> Self {
        Self { follows: "Agent", restores: "Agent, applied", wake: Arc::new(wake) }
    }

    /// Tasks with a pod of their own.
    pub(in crate::controller) fn tasks(wake: impl Fn(&str, &str) + Send + Sync + 'static) -> Self {
        Self { follows: "Task", restores: "Task, applied", wake: Arc::new(wake) }
    }
}
/// How long an agent's decisions wait for artifacts that are being made, so that what one push changes is one decision.
const HOLD: Duration = Duration::from_secs(10);

/// What is known of an agent's inputs.
#[derive(Debug, Default)]
pub(in crate::controller) struct Read {
    /// Those that have a commit.
    pub(in crate::controller) pieces: Pieces,
    /// Of all of them: what was seen, and what is wrong.
    pub(in crate::controller) states: BTreeMap<String, PieceState>,
    /// Artifacts are being made: who decides now decides again in a moment. At most this long; their end wakes the agent.
    pub(in crate::controller) hold: Option<Duration>,
}

impl Read {
    /// Why inputs have no commit at all, where some have none: each of them is named.
    pub(in crate::controller) fn missing(&self) -> Option<Failure> {
        let missing = self.states.iter().filter(|(id, _)| !self.pieces.contains_key(*id));
        let (known, unknown): (Vec<_>, Vec<_>) = missing.partition(|(_, state)| state.problem.is_some());
        let problems: Vec<&Failure> = known.iter().filter_map(|(_, state)| state.problem.as_ref()).collect();
        let first = problems.first()?;
        let others = unknown.iter().map(|(id, _)| format!("{id}: its first commit is being fetched"));
        let all: Vec<String> = problems.iter().map(|problem| problem.message.clone()).chain(others).collect();
        Some(Failure { message: all.join("; "), ..**first })
    }
}

/// What this process remembers of an agent.
#[derive(Default)]
struct Memory {
    uid: String,
    /// All inputs.
    ids: BTreeSet<String>,
    /// What they were last.
    last: Pieces,
    /// Since when its decisions wait.
    held: Option<Instant>,
    /// The value of the reconcile annotation that remotes were asked for.
    asked: Option<String>,
    /// No artifact that a Repository publishes changes anything: Syncs say which one counts, and it is known.
    is_stamped: bool,
}

/// Resolves the inputs of all agents, or of all Tasks with a pod of their own, each of which stands here as an agent of
/// its name.
pub(in crate::controller) struct GitInputs {
    context: Context,
    whose: Whose,
    credentials: Credentials,
    bundles: Bundles,
    packer: Arc<Packer>,
    tracks: Tracks,
    revisions: Revisions,
    readers: Referrers,
    memories: Mutex<HashMap<(String, String), Memory>>,
}

/// One input of one agent.
struct Asking<'a> {
    agent: &'a Agent,
    wanted: &'a Wanted,
    who: Subscriber,
    applied: Option<&'a Resolved>,
    last: Option<Resolved>,
}

impl Asking<'_> {
    fn before(&self) -> Before<'_> {
        Before { applied: self.applied, last: self.last.as_ref() }
    }

    fn selection(&self) -> Selection {
        Selection::of(self.wanted)
    }
}

impl GitInputs {
    /// What each of `wanted` is now. `applied` is what the generated objects remember. An error is the API server's.
    pub(in crate::controller) async fn read(
        &self,
        agent: &Agent,
        wanted: &[Wanted],
        applied: &Pieces,
    ) -> Result<Read, Failure> {
        let mut read = Read::default();
        if wanted.is_empty() && !self.memories.lock().contains_key(&name_of(agent)) {
            return Ok(read);
        }
        self.begin(agent, wanted);
        let (mut is_busy, mut is_stamped) = (false, true);
        for input in wanted {
            let asking = self.asking(agent, input, applied);
            let route = self.route(agent, input, asking.before()).await?;
            is_stamped &= matches!(route, Route::Remote(..) | Route::Artifact { is_stamped: true, .. });
            let looked = self.look(&asking, route);
            let Looked { newest, is_fetching, is_answered, found } = looked;
            let mut settled = settle(&input.source_hash(), found, asking.before());
            let observed = settled.observed(newest.as_ref());
            if is_answered {
                self.restore(&asking, newest.as_deref(), &mut settled).await?;
            }
            is_busy |= settled.busy || is_fetching;
            if let Some(resolved) = settled.resolved {
                read.pieces.insert(input.id.clone(), resolved);
            }
            let problem = settled.problem.map(|failure| about(&input.id, &failure));
            read.states.insert(input.id.clone(), PieceState { observed, problem });
        }
        self.end(agent, &mut read, is_busy, is_stamped);
        Ok(read)
    }

    fn asking<'a>(&self, agent: &'a Agent, wanted: &'a Wanted, applied: &'a Pieces) -> Asking<'a> {
        let (namespace, name) = name_of(agent);
        let hash = wanted.source_hash();
        let who = subscriber(self.whose.follows, &namespace, &name, &wanted.id);
        let applied = applied.get(&wanted.id).filter(|resolved| resolved.source_hash == hash);
        let memories = self.memories.lock();
        let last = memories.get(&(namespace, name)).and_then(|memory| memory.last.get(&wanted.id));
        let last = last.filter(|resolved| resolved.source_hash == hash).cloned();
        Asking { agent, wanted, who, applied, last }
    }

    /// Looks where the route leads.
    fn look(&self, asking: &Asking<'_>, route: Route) -> Looked {
        match route {
            Route::Stay(problem) => {
                self.tracks.leave(&asking.who);
                Looked::at(None, Packing::Absent, problem)
            }
            Route::Remote(want, secret) => {
                let (url, reference) = (want.spec.url.clone(), want.spec.reference.clone());
                let Progress { observed, error, packing } = self.tracks.follow(&asking.who, *want);
                if asking.wanted.sync.is_none() && matches!(packing, Packing::Done(Ok(_))) {
                    self.tracks.leave(&asking.who);
                }
                let is_answered = observed.is_some() || error.is_some();
                let what = observed.as_ref().map_or_else(
                    || format!("asking {url} for {reference}"),
                    |observed| format!("fetching {}", observed.revision),
                );
                let waits = packing == Packing::Absent && asking.before().best().is_none();
                let problem = error.map(|error| advised(&error, secret.as_deref()));
                let problem = problem.or_else(|| waits.then(|| Failure::waiting(reasons::PROGRESSING, what)));
                Looked { is_answered, ..Looked::at(observed.map(|o| o.revision), packing, problem) }
            }
            Route::Commit(want, secret, revision) => {
                let Progress { error, packing, .. } = self.tracks.follow(&asking.who, *want);
                let is_fetching = error.is_none() && packing == Packing::Absent;
                let problem = error.map(|error| advised(&error, secret.as_deref()));
                Looked { is_fetching, ..Looked::at(Some(revision), packing, problem) }
            }
            Route::Artifact { revision, digest, problem, .. } => {
                self.tracks.leave(&asking.who);
                Looked::at(Some(revision), self.pack(asking, digest), problem)
            }
        }
    }

    fn pack(&self, asking: &Asking<'_>, digest: Digest) -> Packing {
        let key = Key { origin: Origin::Artifact(digest), selection: asking.selection() };
        match self.packer.look(&key, &asking.who) {
            Packing::Absent => {
                self.packer.start(key, &asking.who, Files::Stored);
                Packing::Running
            }
            packing => packing,
        }
    }

    /// What an input stays must be in the store. Where it is not (another disk), its commit is fetched again, unless
    /// that is the one that is looked at anyway.
    async fn restore(&self, asking: &Asking<'_>, newest: Option<&str>, settled: &mut Settled) -> Result<(), Failure> {
        let who = Subscriber { kind: self.whose.restores, ..asking.who.clone() };
        let lost = settled.resolved.clone().filter(|resolved| !settled.busy && !self.has(&resolved.digest));
        let commit = lost.as_ref().and_then(|resolved| commit_of(&resolved.revision));
        let (Some(lost), Some(commit)) = (lost, commit.filter(|c| newest.and_then(commit_of).as_ref() != Some(c)))
        else {
            self.tracks.leave(&who);
            return Ok(());
        };
        let (want, secret) = match self.remote(asking.agent, asking.wanted).await? {
            Ok(remote) => remote.on(lost.branch.clone()).at(commit).want(asking.selection(), None),
            Err(problem) => {
                settled.problem.get_or_insert(problem);
                return Ok(());
            }
        };
        let Progress { error, packing, .. } = self.tracks.follow(&who, *want);
        let problem = match packing {
            Packing::Done(Ok(packed)) => {
                if packed.digest.to_string() != lost.digest {
                    warn!(input = who.name, was = lost.digest, "the same commit makes another artifact");
                    settled.resolved = Some(Resolved { digest: packed.digest.to_string(), size: packed.size, ..lost });
                }
                None
            }
            Packing::Done(Err(failure)) => Some(failure),
            Packing::Absent | Packing::Running => error.map(|error| advised(&error, secret.as_deref())),
        };
        settled.problem = settled.problem.take().or(problem);
        Ok(())
    }

    /// The agent is gone.
    pub(in crate::controller) fn forget(&self, namespace: &str, agent: &str) {
        let Some(memory) = self.memories.lock().remove(&(namespace.into(), agent.into())) else { return };
        for id in memory.ids {
            self.leave(namespace, agent, &id);
        }
        self.index(namespace, agent, vec![]);
        self.context.artifacts.hold(&self.owner(namespace, agent), BTreeSet::new());
    }

    /// Who holds artifacts in the store.
    fn owner(&self, namespace: &str, agent: &str) -> String {
        format!("{} {namespace}/{agent}", self.whose.follows)
    }

    fn leave(&self, namespace: &str, agent: &str, id: &str) {
        for kind in [self.whose.follows, self.whose.restores] {
            let who = subscriber(kind, namespace, agent, id);
            self.tracks.leave(&who);
            self.packer.leave(&who);
        }
    }
}

/// What a look gave.
struct Looked {
    /// The newest revision.
    newest: Option<String>,
    /// What is wanted is on its way.
    is_fetching: bool,
    /// Whether whoever was asked has answered.
    is_answered: bool,
    found: Found,
}

impl Looked {
    fn at(newest: Option<String>, packing: Packing, problem: Option<Failure>) -> Self {
        let found = Found { revision: newest.clone(), packing, problem };
        Self { newest, is_fetching: false, is_answered: true, found }
    }
}

fn name_of(agent: &Agent) -> (String, String) {
    (agent.namespace().unwrap_or_default(), agent.name_any())
}

fn subscriber(kind: &'static str, namespace: &str, agent: &str, id: &str) -> Subscriber {
    Subscriber { kind, namespace: namespace.into(), name: format!("{agent}/{id}") }
}

/// A remote's failure, for an agent: pollers try again, and their news wake it.
fn advised(error: &GitError, secret: Option<&str>) -> Failure {
    let mut message = error.message.clone();
    if let (Reason::AuthenticationFailed, Some(name), false) = (error.reason, secret, error.submodule) {
        message = repository::rejected(&message, name);
    }
    Failure::waiting(error.reason.as_str(), message)
}

fn about(id: &str, failure: &Failure) -> Failure {
    Failure { message: format!("{id}: {}", failure.message), ..*failure }
}

#[cfg(test)]
mod tests;
