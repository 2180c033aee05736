//! Repositories: subscribe to the remote, publish its tree, report.
//!
//! The network is the business of [`crate::git::Sources`]: a reconcile only reads what is known and is woken when that
//! changes.

mod decide;
mod hook;
mod keep;
mod memory;
pub(super) mod plan;
pub(super) mod published;

use std::{collections::BTreeSet, sync::Arc};

use kube::ResourceExt;
use parking_lot::Mutex;

use super::{
    Context, Loop, Settings,
    artifacts::Kept,
    credentials::{Credentials, Unusable},
    runtime::{Reconcile, Triggers},
};
use crate::{
    api::{
        Repository,
        names::{annotation, reasons},
    },
    artifact::{self, Store, StoreError},
    git::{
        CommitId, Demand, Fetched, GixRemote, Limits, Policy, RemoteKey, RemoteSpec, RemoteState, Sources, Subscriber,
        sources::Options,
    },
    status::{Failure, Next},
};
pub(super) use decide::rejected;
use decide::{Finding, Published, Seen, decide};
use hook::{Hook, Hooks};
use memory::{Built, Memories, Unfit};
use plan::{Plan, plan};

/// Bytes of trees that are kept in memory because many Syncs read the same one.
const ARTIFACT_MEMORY: u64 = 16 << 20;

/// Opens the room for clones and artifacts under `--data-dir`.
pub(super) fn open(settings: &Settings) -> Result<(Sources, Arc<Store>), Failure> {
    let folder = &settings.data_dir;
    let unusable = |error: &dyn std::fmt::Display| {
        Failure::stalled(reasons::STORAGE_FAILED, format!("--data-dir {} cannot be used: {error}", folder.display()))
    };
    let policy = Policy::new(settings.allow_git_address.clone(), settings.api_hosts.clone())
        .without(settings.own_addresses.clone());
    // Half for clones, three eighths for artifacts; the rest is for what is on its way, and for a history in a file.
    let eighth = settings.data_size.0 / 8;
    let limits = Limits { disk: 4 * eighth, ..Limits::default() };
    let remote = GixRemote::new(&folder.join("git"), limits, policy).map_err(|error| unusable(&error))?;
    let store = Store::new(&folder.join("artifacts"), ARTIFACT_MEMORY).and_then(|store| store.within(3 * eighth));
    let store = store.map_err(|error| unusable(&error))?;
    Ok((Sources::new(Arc::new(remote), Options::default()), Arc::new(store)))
}

/// The reconciler of Repositories.
pub struct Repositories {
    context: Context,
    credentials: Credentials,
    hooks: Hooks,
    memories: Mutex<Memories>,
}

/// Prepares the loop, and says which artifacts are kept for it.
pub(super) fn prepare(context: &Context) -> (Loop, Arc<dyn Kept>) {
    let triggers = Triggers::default();
    let repositories = Arc::new(Repositories {
        context: context.clone(),
        credentials: Credentials::new(context.client.clone(), context.caches.secrets.clone()),
        hooks: Hooks::new(context.client.clone(), context.caches.secrets.clone()),
        memories: Mutex::default(),
    });
    listen(&repositories, &triggers);
    (super::start(repositories.clone(), context.caches.repositories.clone(), triggers), repositories)
}

/// News of remotes and of Secrets, and artifacts that are missed, wake the Repositories that they concern.
fn listen(repositories: &Arc<Repositories>, triggers: &Triggers<Repository>) {
    let woken = triggers.clone();
    repositories.context.sources.on_change(move |subscriber| {
        if subscriber.kind == KIND {
            woken.now(&subscriber.namespace, &subscriber.name);
        }
    });
    let (cache, woken) = (repositories.context.caches.repositories.clone(), triggers.clone());
    repositories.context.artifacts.on_missing(move |digest| {
        let digest = digest.to_string();
        let names_it = |object: &Repository| artifact_of(object).is_some_and(|artifact| artifact.digest == digest);
        for object in cache.filter(names_it) {
            woken.now(&object.namespace().unwrap_or_default(), &object.name_any());
        }
    });
    let (weak, woken) = (Arc::downgrade(repositories), triggers.clone());
    repositories.context.caches.secrets.on_change(move |change| {
        let Some(repositories) = weak.upgrade() else { return };
        let namespace = change.object.namespace().unwrap_or_default();
        if change.deleted {
            repositories.credentials.drop_secret(&namespace, &change.object.name_any());
        }
        let readers = repositories.memories.lock().readers_of(&namespace, &change.object.name_any());
        for name in readers {
            woken.now(&namespace, &name);
        }
    });
}

fn artifact_of(object: &Repository) -> Option<&crate::api::Artifact> {
    object.status.as_ref()?.artifact.as_ref()
}

const KIND: &str = "Repository";

fn subscriber(object: &Repository) -> Subscriber {
    Subscriber { kind: KIND, namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
}

impl Reconcile for Repositories {
    type Object = Repository;

    async fn reconcile(&self, object: Arc<Repository>) -> Result<Next, Failure> {
        let object = self.memories.lock().newest(&object);
        self.reads(&object);
        let (hook, unread) = match self.hooks.of(&object).await {
            Ok(hook) => (hook, None),
            Err(failure) => (Hook::Unknown, Some(failure)),
        };
        let (finding, answered, failure) = match self.find(&object).await {
            Ok((finding, answered)) => (finding, answered, None),
            Err(failure) => (Finding::Failed(failure.reason, failure.message.clone()), false, Some(failure)),
        };
        self.report(&object, finding, answered, hook).await?;
        failure.or(unread).map_or(Ok(Next::OnEvent), Err)
    }

    fn forget(&self, namespace: &str, name: &str) {
        let gone = Subscriber { kind: KIND, namespace: namespace.into(), name: name.into() };
        self.context.sources.unsubscribe(&gone);
        let mut memories = self.memories.lock();
        let secrets = memories.secrets_of(namespace, name);
        memories.forget(namespace, name);
        drop(memories);
        self.drop_unread(namespace, secrets);
        self.hooks.forget(namespace, name);
    }
}

impl Repositories {
    /// How things stand, and whether the reconcile annotation has been answered. An error is one of our own effects.
    async fn find(&self, object: &Repository) -> Result<(Finding, bool), Failure> {
        let plan = match plan(&object.spec, self.context.settings.allow_file_repositories) {
            Ok(plan) => plan,
            Err((reason, message)) => return Ok((self.leave(object, Finding::Stalled(reason, message)), true)),
        };
        if object.spec.suspend == Some(true) {
            return Ok((self.leave(object, Finding::Suspended), true));
        }
        let namespace = object.namespace().unwrap_or_default();
        let (secret, proxy) = (plan.secret.as_deref(), plan.proxy.as_deref());
        let credential = match self.credentials.through(&namespace, secret, proxy, &plan.url).await? {
            Ok(credential) => credential,
            Err(Unusable::Missing(message)) => {
                return Ok((self.leave(object, Finding::Waiting(reasons::SECRET_NOT_FOUND, message)), true));
            }
            Err(Unusable::Invalid(message)) => {
                return Ok((self.leave(object, Finding::Stalled(reasons::SECRET_INVALID, message)), true));
            }
        };
        let (url, reference, submodules) = (plan.url.clone(), plan.reference.clone(), plan.submodules);
        let spec = RemoteSpec { url, credential, reference, submodules };
        self.follow(object, &plan, &spec).await
    }

    /// Remembers which Secrets the object reads, and lets go of those that nobody reads any more.
    fn reads(&self, object: &Repository) {
        let namespace = object.namespace().unwrap_or_default();
        let mut memories = self.memories.lock();
        let before = memories.secrets_of(&namespace, &object.name_any());
        memories.reads(object, plan::secrets(&object.spec));
        drop(memories);
        self.drop_unread(&namespace, before);
    }

    fn drop_unread(&self, namespace: &str, secrets: BTreeSet<String>) {
        for secret in secrets {
            if self.memories.lock().readers_of(namespace, &secret).is_empty() {
                self.credentials.drop_secret(namespace, &secret);
            }
        }
    }

    fn leave(&self, object: &Repository, finding: Finding) -> Finding {
        self.context.sources.unsubscribe(&subscriber(object));
        finding
    }

    async fn follow(&self, object: &Repository, plan: &Plan, spec: &RemoteSpec) -> Result<(Finding, bool), Failure> {
        let sources = &self.context.sources;
        let (built, unfit) = (self.built(object), self.unfit(object));
        let known = unfit.as_ref().map(|unfit| &unfit.commit).or(built.as_ref().map(|built| &built.commit)).cloned();
        let key = self.subscribe(object, plan, spec, known);
        let ticket = self.poke(object, &key);
        let state = sources.state(&key).unwrap_or_default();
        let answered = ticket.is_none_or(|ticket| state.answered >= ticket);
        let RemoteState { observed, error, .. } = state;
        if let Some(error) = error {
            let message = decide::advised(&error, object.spec.secret_ref.as_ref().map(|s| s.name.as_str()));
            return Ok((Finding::Failed(error.reason.as_str(), message), answered));
        }
        let Some(observed) = observed else {
            return Ok((Finding::Pending(format!("asking {} for {}", plan.url, plan.reference)), false));
        };
        if let Some(built) = built.filter(|built| built.commit == observed.commit) {
            return Ok((Finding::Fetched(built.published(observed.revision)), answered));
        }
        if let Some(unfit) = unfit.filter(|unfit| unfit.commit == observed.commit) {
            return Err(unfit.failure);
        }
        let Some(fetched) = sources.tree(&key, &observed.commit) else {
            return Ok((Finding::Pending(format!("fetching {}", observed.revision)), false));
        };
        let published = self.publish(object, &observed.commit, fetched).await;
        // Refused ones too: all trees share one budget, and the clone has it when the spec changes or there is room.
        if published.is_ok() || self.unfit(object).is_some() {
            self.subscribe(object, plan, spec, Some(observed.commit));
        }
        match published? {
            Ok(built) => Ok((Finding::Fetched(built.published(observed.revision)), answered)),
            Err(refusal) => Ok((Finding::Stalled(reasons::INVALID_SPEC, refusal), answered)),
        }
    }

    /// What is not fetched, because there is no room for its artifact.
    fn unfit(&self, object: &Repository) -> Option<Unfit> {
        let own = BTreeSet::from([object.namespace().unwrap_or_default()]);
        self.memories.lock().unfit(object, |bytes| self.context.artifacts.has_room(&own, bytes))
    }

    fn subscribe(&self, object: &Repository, plan: &Plan, spec: &RemoteSpec, known: Option<CommitId>) -> RemoteKey {
        let demand = Demand { interval: plan.interval, timeout: plan.timeout, trees: true, known };
        self.context.sources.subscribe(&subscriber(object), spec, demand)
    }

    /// The artifact that fits the spec as it is now and lies in the store: from memory, or from what an earlier process
    /// has written into the status.
    fn built(&self, object: &Repository) -> Option<Built> {
        let remembered = self.memories.lock().built(object);
        let trusted = || {
            let status = object.status.as_ref()?;
            let (commit, digest) = decide::trusted(status, object.metadata.generation)?;
            let size = status.artifact.as_ref()?.size.and_then(|size| u64::try_from(size).ok());
            Some(Built { commit, ignore: object.spec.ignore.clone(), digest, size, left_out: None })
        };
        remembered.or_else(trusted).filter(|built| self.context.artifacts.contains(&built.digest))
    }

    /// Asks for a listing when the annotation has a new value; the ticket while it waits for its answer.
    fn poke(&self, object: &Repository, key: &RemoteKey) -> Option<u64> {
        let asked = object.annotations().get(annotation::RECONCILE_AT)?;
        if object.status.as_ref().and_then(|s| s.last_handled_reconcile_at.as_ref()) == Some(asked) {
            return None;
        }
        Some(self.memories.lock().ticket(object, asked, key, || self.context.sources.poke(key)))
    }

    /// Packs the tree. The inner error is a pattern that cannot be understood.
    async fn publish(
        &self,
        object: &Repository,
        commit: &CommitId,
        fetched: Arc<Fetched>,
    ) -> Result<Result<Built, String>, Failure> {
        let (store, ignore) = (self.context.artifacts.clone(), object.spec.ignore.clone());
        let (patterns, own) = (ignore.clone(), BTreeSet::from([object.namespace().unwrap_or_default()]));
        let left_out = decide::left_out(&fetched.skipped);
        let work = tokio::task::spawn_blocking(move || {
            let tree = artifact::filter(&fetched.tree, patterns.as_deref()).map_err(|error| error.to_string());
            tree.map(|tree| store.put_for(&tree, &own))
        });
        let stored = match work.await {
            Ok(Ok(stored)) => stored.map_err(|error| self.refused(object, (commit, ignore.clone()), &error))?,
            Ok(Err(refusal)) => return Ok(Err(refusal)),
            Err(_) => return Err(Failure::transient(reasons::INTERNAL_ERROR, "packing the tree panicked")),
        };
        let built = Built {
            commit: commit.clone(),
            ignore,
            digest: stored.digest,
            size: Some(stored.size),
            left_out: Some(left_out),
        };
        self.memories.lock().keep(object, built.clone());
        Ok(Ok(built))
    }

    fn refused(
        &self,
        object: &Repository,
        (commit, ignore): (&CommitId, Option<String>),
        error: &StoreError,
    ) -> Failure {
        let failure = error.to_failure();
        if let StoreError::NoRoom { bytes, .. } = error {
            let unfit = Unfit { commit: commit.clone(), ignore, bytes: *bytes, failure: failure.clone() };
            self.memories.lock().refuse(object, unfit);
        }
        failure
    }

    async fn report(&self, object: &Repository, finding: Finding, answered: bool, hook: Hook) -> Result<(), Failure> {
        let prior = object.status.clone().unwrap_or_default();
        let asked = object.annotations().get(annotation::RECONCILE_AT).cloned();
        let handled = if answered { asked } else { prior.last_handled_reconcile_at.clone() };
        let (generation, now) = (object.metadata.generation, self.context.now());
        let served = self.context.settings.voice_address.as_deref();
        let seen = Seen { prior: &prior, generation, handled, hook, served, now };
        let mut decision = decide(&seen, finding);
        published::seal(&self.context.seal, object, decision.status.artifact.as_mut());
        self.context.reports.status(object, &object.status, &decision.status).await?;
        self.memories.lock().wrote(object, decision.status);
        self.context.reports.events(object, decision.notes);
        Ok(())
    }
}

impl Built {
    fn published(&self, revision: String) -> Published {
        Published { revision, digest: self.digest, size: self.size, left_out: self.left_out.clone() }
    }
}
