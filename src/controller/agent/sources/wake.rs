//! What is kept of an agent between two looks, and what wakes it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::Duration,
};

use kube::ResourceExt;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{GitInputs, HOLD, Memory, Read, Whose, name_of, packer::Packer, revisions::Revisions, tracks::Tracks};
use crate::{
    agent::{Wanted, pieces::Source},
    api::{
        Agent,
        names::{annotation, label, label_value},
    },
    artifact::Digest,
    controller::{
        Context,
        agent::index::{Of, Referrers},
        bundles::Bundles,
        credentials::Credentials,
    },
    git::Subscriber,
};

impl GitInputs {
    /// Listens to everything that may change what an input is. On a replica that does not lead nothing is followed.
    pub(in crate::controller) fn new(context: &Context, whose: Whose) -> Arc<Self> {
        let packer = Arc::new(Packer::new(context.artifacts.clone()));
        let inputs = Arc::new(Self {
            context: context.clone(),
            whose,
            credentials: Credentials::new(context.client.clone(), context.caches.secrets.clone()),
            bundles: Bundles::new(context.client.clone(), context.caches.clone()),
            tracks: Tracks::new(context.sources.clone(), packer.clone()),
            packer,
            revisions: Revisions::default(),
            readers: Referrers::default(),
            memories: Mutex::default(),
        });
        inputs.listen_to_work();
        inputs.listen_to_objects();
        inputs
    }

    fn listen_to_work(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        self.context.sources.on_change(move |who| {
            if let Some(inputs) = followed(&weak, who)
                && inputs.tracks.woken(who)
            {
                inputs.wake(who);
            }
        });
        let weak = Arc::downgrade(self);
        self.packer.on_end(move |who| {
            if let Some(inputs) = followed(&weak, who) {
                inputs.tracks.woken(who);
                inputs.wake(who);
            }
        });
    }

    fn listen_to_objects(self: &Arc<Self>) {
        let caches = &self.context.caches;
        let weak = Arc::downgrade(self);
        caches.secrets.on_change(move |change| {
            let Some(inputs) = weak.upgrade() else { return };
            let (namespace, name) = (change.object.namespace().unwrap_or_default(), change.object.name_any());
            if change.deleted {
                inputs.credentials.drop_secret(&namespace, &name);
            }
            inputs.wake_readers(Of::GitSecret, &namespace, &name);
        });
        let weak = Arc::downgrade(self);
        caches.repositories.on_change(move |change| {
            let Some(inputs) = weak.upgrade() else { return };
            inputs.revisions.note(change.object, change.deleted);
            let (namespace, name) = (change.object.namespace().unwrap_or_default(), change.object.name_any());
            inputs.wake_readers(Of::Repository, &namespace, &name);
        });
        for repository in caches.repositories.all() {
            self.revisions.note(&repository, false);
        }
        let weak = Arc::downgrade(self);
        caches.syncs.on_spec_change(move |change| {
            let Some(inputs) = weak.upgrade() else { return };
            let (namespace, name) = (change.object.namespace().unwrap_or_default(), change.object.name_any());
            inputs.wake_readers(Of::Sync, &namespace, &label_value(&name));
        });
    }

    fn wake_readers(&self, of: Of, namespace: &str, name: &str) {
        for agent in self.readers.of(of, namespace, name) {
            let key = (namespace.to_owned(), agent);
            let memories = self.memories.lock();
            let is_stamped = of == Of::Repository && memories.get(&key).is_some_and(|memory| memory.is_stamped);
            drop(memories);
            if !is_stamped {
                (self.whose.wake)(&key.0, &key.1);
            }
        }
    }

    fn wake(&self, who: &Subscriber) {
        if let Some((agent, _)) = who.name.split_once('/') {
            (self.whose.wake)(&who.namespace, agent);
        }
    }

    /// Before a look: another object of the same name starts anew, and inputs that are wanted no more are let go.
    pub(super) fn begin(&self, agent: &Agent, wanted: &[Wanted]) {
        let (namespace, name) = name_of(agent);
        let ids: BTreeSet<String> = wanted.iter().map(|input| input.id.clone()).collect();
        let gone: Vec<String> = {
            let mut memories = self.memories.lock();
            let memory = memories.entry((namespace.clone(), name.clone())).or_default();
            let uid = agent.uid().unwrap_or_default();
            if memory.uid != uid {
                let ids = std::mem::take(&mut memory.ids);
                *memory = Memory { uid, ids, ..Memory::default() };
            }
            let gone = memory.ids.difference(&ids).cloned().collect();
            memory.ids = ids;
            gone
        };
        for id in gone {
            self.leave(&namespace, &name, &id);
        }
        self.index(&namespace, &name, self.targets(agent, wanted));
    }

    fn targets(&self, agent: &Agent, wanted: &[Wanted]) -> Vec<(Of, String)> {
        let namespace = agent.namespace().unwrap_or_default();
        let mut targets = vec![];
        for input in wanted {
            match &input.source {
                Source::Remote { secret, .. } => targets.extend(secret.clone().map(|name| (Of::GitSecret, name))),
                Source::Repository { name, .. } => {
                    let repository = self.context.caches.repositories.get(&namespace, name);
                    let spec = repository.as_ref().map(|repository| &repository.spec);
                    let secrets =
                        spec.into_iter().flat_map(|spec| spec.secret_ref.iter().chain(&spec.proxy_secret_ref));
                    targets.extend(secrets.map(|secret| (Of::GitSecret, secret.name.clone())));
                    targets.push((Of::Repository, name.clone()));
                    targets.extend(agent.labels().get(label::SYNC_NAME).map(|sync| (Of::Sync, sync.clone())));
                }
            }
        }
        targets
    }

    /// Remembers what the agent reads. A Secret that nobody reads any more is forgotten.
    pub(super) fn index(&self, namespace: &str, agent: &str, targets: Vec<(Of, String)>) {
        for (of, name) in self.readers.replace(namespace, agent, targets) {
            if of == Of::GitSecret {
                self.credentials.drop_secret(namespace, &name);
            }
        }
    }

    /// After a look: remembers it, keeps its artifacts, and says how long decisions wait.
    pub(super) fn end(&self, agent: &Agent, read: &mut Read, is_busy: bool, is_stamped: bool) {
        let (namespace, name) = name_of(agent);
        let digests = read.pieces.values().filter_map(|resolved| Digest::parse(&resolved.digest)).collect();
        self.context.artifacts.hold(&self.owner(&namespace, &name), digests);
        let mut memories = self.memories.lock();
        let Some(memory) = memories.get_mut(&(namespace.clone(), name.clone())) else { return };
        memory.last.clone_from(&read.pieces);
        memory.is_stamped = is_stamped && !is_busy && read.states.values().all(|state| state.problem.is_none());
        memory.held = is_busy.then(|| memory.held.unwrap_or_else(Instant::now));
        read.hold =
            memory.held.and_then(|since| HOLD.checked_sub(since.elapsed())).filter(|left| *left > Duration::ZERO);
        let asked = agent.annotations().get(annotation::RECONCILE_AT);
        let handled = agent.status.as_ref().and_then(|status| status.last_handled_reconcile_at.as_ref());
        let asks = asked.is_some() && asked != handled && asked != memory.asked.as_ref();
        memory.asked = asked.cloned();
        let ids = if asks { memory.ids.clone() } else { BTreeSet::new() };
        drop(memories);
        for id in ids {
            self.tracks.poke(&super::subscriber(self.whose.follows, &namespace, &name, &id));
        }
    }
}

fn followed(inputs: &Weak<GitInputs>, who: &Subscriber) -> Option<Arc<GitInputs>> {
    inputs.upgrade().filter(|inputs| [inputs.whose.follows, inputs.whose.restores].contains(&who.kind))
}
