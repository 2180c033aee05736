//! Where an input is taken from at present.

use std::{sync::Arc, time::Duration};

use kube::ResourceExt;

use super::{
    GitInputs,
    packer::Rules,
    select::Selection,
    settle::{Before, commit_of},
    tracks::Want,
};
use crate::{
    agent::{Wanted, pieces::Source},
    api::{
        Agent, Repository,
        context::Follow,
        names::{annotation, condition, label, label_value, reasons},
    },
    artifact::Digest,
    controller::{
        credentials::Unusable,
        repository::plan::{self, SHORTEST},
    },
    git::{CommitId, Reference, RemoteSpec, RemoteUrl},
    status::Failure,
};

/// How often a remote is asked for an input that is followed only until it has its first commit.
const UNSYNCED: Duration = Duration::from_mins(5);
/// For one listing or one fetch.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Where to look.
pub(super) enum Route {
    /// Nowhere: it stays what it is, for this reason if any.
    Stay(Option<Failure>),
    /// At what a reference of a remote names. The Secret is for messages.
    Remote(Box<Want>, Option<String>),
    /// At one commit of a Repository's remote, which is this revision.
    Commit(Box<Want>, Option<String>, String),
    /// At an artifact of a Repository, which is this revision; a Sync may have said which one.
    Artifact { revision: String, digest: Digest, problem: Option<Failure>, is_stamped: bool },
}

/// A remote without the part that the reference decides, and the Secret for messages.
pub(super) struct Remote {
    url: RemoteUrl,
    spec: RemoteSpec,
    rules: Rules,
    interval: Duration,
    timeout: Duration,
    secret: Option<String>,
    branch: Option<String>,
}

impl Remote {
    pub(super) fn want(self, selection: Selection, known: Option<CommitId>) -> (Box<Want>, Option<String>) {
        let Self { spec, rules, interval, timeout, secret, branch, .. } = self;
        (Box::new(Want { spec, interval, timeout, rules, selection, branch, known }), secret)
    }

    /// The branch of a whole repository, where it is known.
    pub(super) fn on(self, branch: Option<String>) -> Self {
        Self { branch, ..self }
    }

    /// The branch that this revision of the reference is of.
    fn branch_of(&self, revision: &str) -> Option<String> {
        match &self.spec.reference {
            Reference::Branch(name) => Some(name.clone()),
            Reference::Name(name) => name.strip_prefix("refs/heads/").map(Into::into),
            Reference::Head => revision.rsplit_once('@').map(|(name, _)| name.to_owned()).filter(|name| name != "HEAD"),
            Reference::Short(_) | Reference::Tag(_) | Reference::Commit(_) => None,
        }
    }

    /// The same remote at one commit.
    pub(super) fn at(mut self, commit: CommitId) -> Self {
        self.spec = RemoteSpec { url: self.url.clone(), reference: Reference::Commit(commit), ..self.spec };
        self
    }
}

impl GitInputs {
    /// Where to look for an input. An error is the API server's.
    pub(super) async fn route(&self, agent: &Agent, wanted: &Wanted, before: Before<'_>) -> Result<Route, Failure> {
        match &wanted.source {
            Source::Remote { .. } if wanted.sync.is_none() && before.best().is_some() => Ok(Route::Stay(None)),
            Source::Remote { .. } => Ok(match self.remote(agent, wanted).await? {
                Ok(remote) => {
                    let (want, secret) = remote.want(Selection::of(wanted), self.known(before));
                    Route::Remote(want, secret)
                }
                Err(problem) => Route::Stay(Some(problem)),
            }),
            Source::Repository { name, follow } => self.route_of_repository(agent, wanted, name, *follow, before).await,
        }
    }

    /// The commit of which nothing has to be fetched.
    fn known(&self, before: Before<'_>) -> Option<CommitId> {
        let best = before.best()?;
        self.has(&best.digest).then(|| commit_of(&best.revision)).flatten()
    }

    pub(super) fn has(&self, digest: &str) -> bool {
        Digest::parse(digest).is_some_and(|digest| self.context.artifacts.contains(&digest))
    }

    async fn route_of_repository(
        &self,
        agent: &Agent,
        wanted: &Wanted,
        name: &str,
        follow: Option<Follow>,
        before: Before<'_>,
    ) -> Result<Route, Failure> {
        let repository = match self.repository(agent, name) {
            Ok(repository) => repository,
            Err(problem) => return Ok(Route::Stay(Some(problem))),
        };
        let by_sync = self.is_applied_from(agent, name);
        let route = match follow {
            Some(Follow::Sync) if !by_sync => {
                let message = format!(
                    "repositoryRef.follow is Sync, but no Sync of Repository {name} has applied this Agent; apply it by \
                     one, or use follow: Branch"
                );
                Ok(Route::Stay(Some(Failure::waiting(reasons::INVALID_SPEC, message))))
            }
            Some(Follow::Branch) => Ok(branch(&repository, wanted, before)),
            None if !by_sync => Ok(branch(&repository, wanted, before)),
            Some(Follow::Sync) | None => self.stamped(agent, wanted, &repository, before).await,
        };
        match route {
            Ok(Route::Artifact { revision, problem, .. }) if wanted.whole.is_some() => {
                self.whole(agent, wanted, revision, problem, before).await
            }
            route => route,
        }
    }

    /// A whole repository is more than the artifact of its files: its commit is fetched again, with history.
    async fn whole(
        &self,
        agent: &Agent,
        wanted: &Wanted,
        revision: String,
        problem: Option<Failure>,
        before: Before<'_>,
    ) -> Result<Route, Failure> {
        let Some(commit) = commit_of(&revision) else { return Ok(Route::Stay(problem)) };
        let best = before.best().filter(|best| self.has(&best.digest));
        if best.is_some_and(|best| commit_of(&best.revision).as_ref() == Some(&commit)) {
            return Ok(Route::Stay(problem));
        }
        Ok(match self.remote(agent, wanted).await? {
            Ok(remote) => Self::commit(remote, wanted, commit, revision),
            Err(other) => Route::Stay(Some(problem.unwrap_or(other))),
        })
    }

    fn commit(remote: Remote, wanted: &Wanted, commit: CommitId, revision: String) -> Route {
        let branch = remote.branch_of(&revision);
        let (want, secret) = remote.on(branch).at(commit).want(Selection::of(wanted), None);
        Route::Commit(want, secret, revision)
    }

    fn repository(&self, agent: &Agent, name: &str) -> Result<Arc<Repository>, Failure> {
        let namespace = agent.namespace().unwrap_or_default();
        self.context.caches.repositories.get(&namespace, name).ok_or_else(|| {
            let message = format!("there is no Repository {name} in this namespace");
            Failure::waiting(reasons::REPOSITORY_NOT_FOUND, message)
        })
    }

    /// Whether a Sync of that Repository, in the same namespace, applied the Agent.
    fn is_applied_from(&self, agent: &Agent, repository: &str) -> bool {
        let (namespace, labels) = (agent.namespace().unwrap_or_default(), agent.labels());
        let Some(name) = labels.get(label::SYNC_NAME) else { return false };
        if labels.get(label::SYNC_NAMESPACE) != Some(&label_value(&namespace)) {
            return false;
        }
        let syncs = &self.context.caches.syncs;
        // A label may be shorter than the name.
        let sync = syncs.get(&namespace, name).or_else(|| {
            let is_it = |sync: &crate::api::Sync| {
                sync.namespace().as_deref() == Some(&*namespace) && label_value(&sync.name_any()) == *name
            };
            syncs.filter(is_it).into_iter().next()
        });
        sync.is_some_and(|sync| sync.spec.repository_ref.name == repository)
    }

    /// At the revision that the Sync has stamped. It decides whether or not new commits are followed otherwise: the Agent
    /// itself is of that revision.
    async fn stamped(
        &self,
        agent: &Agent,
        wanted: &Wanted,
        repository: &Repository,
        before: Before<'_>,
    ) -> Result<Route, Failure> {
        let (namespace, name) = (agent.namespace().unwrap_or_default(), repository.name_any());
        let Some(revision) = agent.annotations().get(annotation::REVISION).cloned() else {
            let message = format!("the Sync has not written {} yet", annotation::REVISION);
            return Ok(Route::Stay(Some(Failure::waiting(reasons::REPOSITORY_NOT_READY, message))));
        };
        let published = repository.status.as_ref().and_then(|s| s.artifact.as_ref());
        let newest = published.filter(|a| a.revision == revision).and_then(|a| Digest::parse(&a.digest));
        if let Some(digest) = newest.or_else(|| self.revisions.artifact(&namespace, &name, &revision))
            && (newest.is_some() || self.context.artifacts.contains(&digest))
        {
            return Ok(Route::Artifact { revision, digest, problem: None, is_stamped: true });
        }
        let Some(commit) = commit_of(&revision) else {
            let message = format!("{} is {revision:?}, which names no commit", annotation::REVISION);
            return Ok(Route::Stay(Some(Failure::waiting(reasons::COMMIT_NOT_FOUND, message))));
        };
        if before.best().is_some_and(|best| commit_of(&best.revision).as_ref() == Some(&commit)) {
            return Ok(Route::Stay(None));
        }
        Ok(match self.remote(agent, wanted).await? {
            Ok(remote) => Self::commit(remote, wanted, commit, revision),
            Err(problem) => Route::Stay(Some(problem)),
        })
    }

    /// The remote that an input is from, directly or through a Repository. The outer error is the API server's.
    pub(super) async fn remote(&self, agent: &Agent, wanted: &Wanted) -> Result<Result<Remote, Failure>, Failure> {
        let allow_file = self.context.settings.allow_file_repositories;
        let planned = match &wanted.source {
            Source::Remote { url, reference, secret, submodules, .. } => {
                let reference = reference.as_deref().map_or(Reference::Head, Reference::of);
                RemoteUrl::parse(url, allow_file)
                    .map_err(|error| format!("git.repository: {error}"))
                    .and_then(|url| reference.check().map(|()| url).map_err(|error| format!("git.ref: {error}")))
                    .map(|url| (url, reference, *submodules, (secret.clone(), None), Rules::None, TIMEOUT))
                    .map_err(|message| Failure::stalled(reasons::INVALID_SPEC, message))
            }
            Source::Repository { name, .. } => self.repository(agent, name).and_then(|repository| {
                let plan = plan::plan(&repository.spec, allow_file)
                    .map_err(|(reason, message)| Failure::waiting(reason, format!("Repository {name}: {message}")))?;
                let rules = Rules::Repository(repository.spec.ignore.clone());
                Ok((plan.url, plan.reference, plan.submodules, (plan.secret, plan.proxy), rules, plan.timeout))
            }),
        };
        let (url, reference, submodules, (secret, proxy), rules, timeout) = match planned {
            Ok(planned) => planned,
            Err(problem) => return Ok(Err(problem)),
        };
        let namespace = agent.namespace().unwrap_or_default();
        let credential = match self.credentials.through(&namespace, secret.as_deref(), proxy.as_deref(), &url).await? {
            Ok(credential) => credential,
            Err(Unusable::Missing(message)) => return Ok(Err(Failure::waiting(reasons::SECRET_NOT_FOUND, message))),
            Err(Unusable::Invalid(message)) => return Ok(Err(Failure::waiting(reasons::SECRET_INVALID, message))),
        };
        let credential = match &wanted.source {
            Source::Remote { reach, .. } => match self.reaching(&namespace, credential, reach).await? {
                Ok(credential) => credential,
                Err(problem) => return Ok(Err(problem)),
            },
            Source::Repository { .. } => credential,
        };
        let interval = wanted.sync.map_or(UNSYNCED, |sync| sync.interval).max(SHORTEST);
        let spec = RemoteSpec { url: url.clone(), credential, reference, submodules };
        Ok(Ok(Remote { url, spec, rules, interval, timeout, secret, branch: None }))
    }
}

/// At what the Repository has published.
fn branch(repository: &Repository, wanted: &Wanted, before: Before<'_>) -> Route {
    if wanted.sync.is_none() && before.best().is_some() {
        return Route::Stay(None);
    }
    let (name, status) = (repository.name_any(), repository.status.as_ref());
    let conditions = status.map(|s| s.conditions.as_slice()).unwrap_or_default();
    let unready = conditions.iter().find(|c| c.type_ == condition::READY && c.status == "False");
    let problem = unready.map(|ready| {
        Failure::waiting(reasons::REPOSITORY_NOT_READY, format!("Repository {name} is not ready: {}", ready.message))
    });
    let artifact = status.and_then(|s| s.artifact.as_ref());
    match artifact.and_then(|a| Some((a.revision.clone(), Digest::parse(&a.digest)?))) {
        Some((revision, digest)) => Route::Artifact { revision, digest, problem, is_stamped: false },
        None => Route::Stay(Some(problem.unwrap_or_else(|| {
            let message = format!("Repository {name} has no artifact yet; see its conditions");
            Failure::waiting(reasons::REPOSITORY_NOT_READY, message)
        }))),
    }
}
