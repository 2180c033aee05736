//! Who is told of the changes in a cache. One who panics is in nobody's way, and is told again.

use std::{collections::HashMap, sync::Arc};

use kube::runtime::reflector::{ObjectRef, Store};
use parking_lot::RwLock;
use tokio::time::Instant;

use super::{Change, Kind, supervise::Crew};
use crate::status::Backoff;

type Listener<K> = Arc<dyn Fn(&Change<'_, K>) + Send + Sync>;

/// In the order in which they came.
pub(super) struct Listeners<K: Kind>(RwLock<Vec<Listener<K>>>);

impl<K: Kind> Default for Listeners<K> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<K: Kind> Listeners<K> {
    pub(super) fn add(&self, listener: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        self.0.write().push(Arc::new(listener));
    }

    /// Tells everybody; who missed it is in the debt of one watch.
    pub(super) fn tell(&self, change: &Change<'_, K>, owed: &mut Owed<K>) {
        for (place, listener) in self.0.read().iter().enumerate() {
            owed.tell(place, listener, change);
        }
    }

    fn get(&self, place: usize) -> Option<Listener<K>> {
        self.0.read().get(place).cloned()
    }
}

/// What listeners have missed of one watch: which, of which object.
pub(super) struct Owed<K: Kind> {
    crew: Crew,
    debts: HashMap<(usize, ObjectRef<K>), Debt<K>>,
}

struct Debt<K> {
    /// As it was told.
    last: K,
    failures: u32,
    due: Instant,
}

impl<K: Kind> Owed<K> {
    pub(super) fn new(crew: Crew) -> Self {
        Self { crew, debts: HashMap::new() }
    }

    /// When the next one is told again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.debts.values().map(|debt| debt.due).min()
    }

    /// Tells what is due again, as it is now.
    pub(super) fn again(&mut self, listeners: &Listeners<K>, store: &Store<K>) {
        let now = Instant::now();
        let due = self.debts.iter().filter(|(_, debt)| debt.due <= now);
        let due: Vec<_> = due.map(|((place, object), debt)| (*place, object.clone(), debt.last.clone())).collect();
        for (place, object, last) in due {
            let Some(listener) = listeners.get(place) else { continue };
            let now = store.get(&object);
            let change = Change { object: now.as_deref().unwrap_or(&last), deleted: now.is_none() };
            self.tell(place, &listener, &change);
        }
    }

    fn tell(&mut self, place: usize, listener: &Listener<K>, change: &Change<'_, K>) {
        let object = || ObjectRef::from_obj(change.object);
        if self.crew.tried("listener", || object().to_string(), || listener(change)).is_some() {
            if !self.debts.is_empty() {
                self.debts.remove(&(place, object()));
            }
            return;
        }
        let object = object();
        let failures = self.debts.get(&(place, object.clone())).map_or(1, |debt| debt.failures.saturating_add(1));
        let due = Instant::now() + Backoff::default().delay(failures, rand::random());
        self.debts.insert((place, object), Debt { last: change.object.clone(), failures, due });
    }
}
