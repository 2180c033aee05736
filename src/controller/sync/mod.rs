//! Syncs: reads the artifact, renders, plans, applies, and tells how it went.

mod applying;
mod cleanup;
mod desired;
mod follow;
mod health;
mod index;
mod pass;
mod peers;
mod report;
mod state;
mod unanswered;

use std::{collections::HashMap, sync::Arc};

use kube::ResourceExt;
use parking_lot::Mutex;

use super::{
    Context, Loop,
    request::limited,
    runtime::{Cache, Kind, Reconcile, Triggers},
    sandbox::Sandbox,
};
use crate::{
    api::{self, Artifact, Repository, Sync as SyncObject, SyncStatus},
    apply::{Account, Kinds},
    object::ObjectId,
    plan::{Claims, is_task},
    status::{Failure, Next},
};
use index::Index;
use pass::Pass;
use peers::Peers;
use state::{Busy, States};

/// Prepares the loop of Syncs.
pub fn prepare(context: &Context) -> Loop {
    let triggers = Triggers::default();
    let reconciler = Arc::new(SyncReconciler {
        kinds: Kinds::new(Account::own(context.client.clone())),
        context: context.clone(),
        states: States::default(),
        index: Index::default(),
        claims: Mutex::default(),
        peers: Peers::default(),
        triggers: triggers.clone(),
        sandbox: Sandbox::default(),
    });
    reconciler.listen();
    super::start(reconciler, context.caches.syncs.clone(), triggers)
}

/// What a Sync reads of a Repository: its identity, its spec, its artifact, and whether it has one or will say why not.
type Published = (Option<String>, Option<i64>, Option<Artifact>, bool);

/// Whether a change of a Repository concerns its Syncs: who asked for a look, and what the look found, is not.
fn is_news(seen: &mut HashMap<(String, String), Published>, repository: &Repository, deleted: bool) -> bool {
    let key = (repository.namespace().unwrap_or_default(), repository.name_any());
    if deleted {
        seen.remove(&key);
        return true;
    }
    let artifact = repository.status.as_ref().and_then(|status| status.artifact.clone());
    let settled = artifact.is_some() || has_verdict(repository);
    let now = (repository.uid(), repository.metadata.generation, artifact, settled);
    seen.insert(key, now.clone()).is_none_or(|before| before != now)
}

/// Whether it is known how the remote is: not while it is asked for the first time.
fn has_verdict(repository: &Repository) -> bool {
    let conditions = repository.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == api::names::condition::READY && c.status != "Unknown")
}

/// Reconciles Syncs.
pub struct SyncReconciler {
    context: Context,
    kinds: Kinds,
    states: States,
    index: Index,
    /// `None` until the inventories of all Syncs were read from the cache.
    claims: Mutex<Option<Claims>>,
    peers: Peers,
    triggers: Triggers<SyncObject>,
    sandbox: Sandbox,
}

impl Reconcile for SyncReconciler {
    type Object = SyncObject;

    async fn reconcile(&self, sync: Arc<SyncObject>) -> Result<Next, Failure> {
        let state = self.states.of(&key_of(&sync), &sync.uid().unwrap_or_default());
        let pass = Pass::new(self, &sync, &state);
        self.first_sight(&pass).await?;
        let _busy = Busy::of(&state);
        let result = if sync.metadata.deletion_timestamp.is_some() { pass.cleanup().await } else { pass.run().await };
        self.has_looked(&pass);
        result
    }

    fn forget(&self, namespace: &str, name: &str) {
        let key = format!("{namespace}/{name}");
        self.index.set(namespace, name, None);
        self.states.forget(&key);
        self.peers.forget(&key);
        self.trigger_all(self.peers.done(&key));
        let heirs = self.with_claims(|claims| claims.forget(&key));
        self.trigger_all(heirs);
    }
}

impl SyncReconciler {
    /// Changes elsewhere that wake Syncs: of their Repositories, and of objects of our own kinds that they applied.
    fn listen(self: &Arc<Self>) {
        let caches = &self.context.caches;
        let this = Arc::downgrade(self);
        caches.syncs.on_change(move |change| {
            if let Some(this) = this.upgrade() {
                let repository = (!change.deleted).then_some(change.object.spec.repository_ref.name.as_str());
                this.index.set(&change.object.namespace().unwrap_or_default(), &change.object.name_any(), repository);
            }
        });
        let (this, published) = (Arc::downgrade(self), Mutex::new(HashMap::new()));
        caches.repositories.on_change(move |change| {
            if let Some(this) = this.upgrade()
                && is_news(&mut published.lock(), change.object, change.deleted)
            {
                let namespace = change.object.namespace().unwrap_or_default();
                for sync in this.index.of(&namespace, &change.object.name_any()) {
                    this.triggers.now(&namespace, &sync);
                }
            }
        });
        self.listen_to_owned(&caches.agents, |_| false);
        self.listen_to_owned(&caches.repositories, |_| false);
        self.listen_to_owned(&caches.syncs, |_| false);
        self.listen_to_owned(&caches.crontasks, |_| false);
        self.listen_to_owned(&caches.tasks, |task| {
            task.status.as_ref().and_then(|s| s.phase).is_some_and(api::task::TaskPhase::is_terminal)
        });
    }

    fn listen_to_owned<K: Kind>(
        self: &Arc<Self>,
        cache: &Cache<K>,
        ended: impl Fn(&K) -> bool + Send + Sync + 'static,
    ) {
        let this = Arc::downgrade(self);
        cache.on_change(move |change| {
            if let Some(this) = this.upgrade() {
                let id = ObjectId {
                    namespace: change.object.namespace().unwrap_or_default(),
                    name: change.object.name_any(),
                    group: api::GROUP.into(),
                    kind: K::kind(&()).into_owned(),
                };
                this.touched(&id, change.deleted, ended(change.object));
            }
        });
    }

    /// An object of our own kinds has changed. Its Sync comes when it waits for the object's health, when the object
    /// was deleted by somebody, and when a Task has ended.
    fn touched(&self, id: &ObjectId, deleted: bool, ended: bool) {
        let Some(owner) = self.claims.lock().as_ref().and_then(|c| c.owner(id).map(str::to_owned)) else { return };
        let Some(state) = self.states.get(&owner) else { return };
        let mut progress = state.progress.lock();
        let finished = progress.status.as_ref().is_some_and(|status| is_finished(status, id));
        let over = deleted || ended;
        let counts = if is_task(id) { over && (!finished || progress.awaited.contains(id)) } else { deleted };
        if counts {
            progress.dirty.insert(id.clone());
        }
        let waited_for = progress.unhealthy.contains_key(id) || progress.busy;
        if waited_for {
            progress.touched.insert(id.clone());
        }
        if counts || waited_for {
            self.trigger(&owner);
        }
    }

    /// Others may have waited for what the pass says about what the Sync wants. One that came to no answer, because
    /// the files do not render for example, tells them nothing; a Sync that is suspended, or going, wants nothing.
    fn has_looked(&self, pass: &Pass<'_>) {
        let looked = pass.looked.get();
        if let Some(input) = looked {
            pass.state.progress.lock().seen = Some(input.clone());
        }
        if looked.is_some() || is_idle(pass.sync) {
            self.trigger_all(self.peers.done(&pass.key));
        }
    }

    /// The first time that this process sees a Sync it asks for its status: the cache may lag behind what the process
    /// before this one wrote last.
    /// The finalizer's write, which most new Syncs need, answers that as well.
    async fn first_sight(&self, pass: &Pass<'_>) -> Result<(), Failure> {
        let (sync, state) = (pass.sync, pass.state);
        if state.progress.lock().status.is_some() {
            return Ok(());
        }
        if sync.metadata.deletion_timestamp.is_none()
            && sync.spec.suspend != Some(true)
            && let Some(live) = pass.keep_finalizer().await?
        {
            state.progress.lock().status = Some(live.status.unwrap_or_default());
            return Ok(());
        }
        let live = self.live(sync).await?;
        state.progress.lock().status = Some(live.status.unwrap_or_default());
        Ok(())
    }

    /// The Sync as the API server has it; an error where it is gone.
    async fn live(&self, sync: &SyncObject) -> Result<SyncObject, Failure> {
        let namespace = sync.namespace().unwrap_or_default();
        let api = kube::Api::<SyncObject>::namespaced(self.context.client.clone(), &namespace);
        let live = limited("reading the Sync", api.get_opt(&sync.name_any())).await?.map_err(|e| {
            Failure::transient(api::names::reasons::CLUSTER_UNAVAILABLE, format!("cannot read the Sync: {e}"))
        })?;
        live.filter(|l| l.uid() == sync.uid()).ok_or_else(gone)
    }

    /// What a write came to that found no Sync of this uid, or somebody else writing.
    async fn gone_or_in_use(&self, sync: &SyncObject) -> Failure {
        let in_use = "the Sync was written by others at the same time";
        match self.live(sync).await {
            Ok(_) => Failure::transient(api::names::reasons::CLUSTER_UNAVAILABLE, in_use),
            Err(failure) => failure,
        }
    }

    /// What each Sync owns; read from all inventories at the first use. Of two that list one object the older has it.
    fn with_claims<T>(&self, f: impl FnOnce(&mut Claims) -> T) -> T {
        let mut slot = self.claims.lock();
        let claims = slot.get_or_insert_with(|| {
            let mut syncs = self.context.caches.syncs.all();
            syncs.sort_by_key(|s| (s.creation_timestamp(), key_of(s)));
            let mut claims = Claims::default();
            for sync in syncs {
                let inventory = sync.status.as_ref().and_then(|s| s.inventory.as_ref());
                claims.load(&key_of(&sync), inventory.iter().flat_map(|i| &i.entries));
            }
            claims
        });
        f(claims)
    }

    fn trigger(&self, key: &str) {
        if let Some((namespace, name)) = key.split_once('/') {
            self.triggers.now(namespace, name);
        }
    }

    fn trigger_all(&self, keys: impl IntoIterator<Item = String>) {
        keys.into_iter().for_each(|key| self.trigger(&key));
    }
}

/// The Sync is not there any more: the pass ends here, before it applies what no inventory would ever list. Nothing
/// brings it back but an event of another object of its name.
fn gone() -> Failure {
    Failure::waiting(api::names::reasons::GONE, "the Sync is gone")
}

fn key_of(sync: &SyncObject) -> String {
    format!("{}/{}", sync.namespace().unwrap_or_default(), sync.name_any())
}

/// Whether the Sync wants nothing at present.
fn is_idle(sync: &SyncObject) -> bool {
    sync.spec.suspend == Some(true) || sync.metadata.deletion_timestamp.is_some()
}

fn is_finished(status: &SyncStatus, id: &ObjectId) -> bool {
    let text = id.to_string();
    let entries = status.inventory.as_ref().map(|i| i.entries.as_slice()).unwrap_or_default();
    entries.iter().any(|e| e.id == text && e.finished == Some(true))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_repository_that_was_only_looked_at_is_no_news() {
        let mut seen = HashMap::new();
        let mut news = |generation: i64, annotation: &str, digest: &str, deleted| {
            let repository = json!({"metadata": {"name": "r", "namespace": "n", "uid": "u", "generation": generation,
                    "annotations": {"pilothouse.dev/reconcile-at": annotation}},
                "spec": {"url": "https://git.example.com/a"},
                "status": {"lastHandledReconcileAt": annotation, "artifact": {"revision": "main@sha1:1", "digest": digest,
                    "size": 1, "lastUpdateTime": "2026-01-01T00:00:00Z"}}});
            is_news(&mut seen, &serde_json::from_value(repository).unwrap(), deleted)
        };
        assert!(news(1, "a", "d1", false));
        assert!(!news(1, "b", "d1", false));
        assert!(news(1, "b", "d2", false));
        assert!(news(2, "b", "d2", false));
        assert!(news(2, "b", "d2", true));
        assert!(news(2, "b", "d2", false), "another one of that name");
    }
}
