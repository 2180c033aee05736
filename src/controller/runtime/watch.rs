//! Caches: one watch a kind and namespace.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store},
        watcher::{self, Event},
    },
};
use parking_lot::Mutex;
use rand::Rng as _;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::{
    Kind,
    listeners::{Listeners, Owed},
    supervise::Crew,
    triggers::ring,
};

/// `kubectl apply` keeps the whole object here, so also what a Secret held.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// For how many seconds a watch stays open. It goes on in another one where it was. One that has died in silence (a firewall
/// that forgot it, a node that is gone) is noticed 5 s after that: until then this replica would lead without seeing anything.
const OPEN: std::ops::RangeInclusive<u32> = 30..=60;

/// How often it is said that the cluster does not know a kind, for all watches together.
const HINT: Duration = Duration::from_mins(1);

/// Where a watch looks: everywhere, or in one namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// All namespaces, or a cluster-scoped kind.
    All,
    /// One namespace.
    Namespace(String),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all namespaces"),
            Self::Namespace(name) => write!(f, "namespace {name}"),
        }
    }
}

impl Scope {
    /// The scopes of `--watch-namespaces`: none given means everywhere.
    pub fn from_namespaces(namespaces: &[String]) -> Vec<Self> {
        let mut scopes: Vec<_> = namespaces.iter().map(|n| Self::Namespace(n.clone())).collect();
        scopes.sort();
        scopes.dedup();
        if scopes.is_empty() { vec![Self::All] } else { scopes }
    }
}

/// Something happened to a cached object.
pub struct Change<'a, K> {
    /// The object; its last known state when it was deleted.
    pub object: &'a K,
    /// Whether it is gone.
    pub deleted: bool,
}

/// The objects of one kind, kept up to date by watches. Cheap to clone.
pub struct Cache<K: Kind> {
    stores: Arc<Vec<(Scope, Store<K>)>>,
    listeners: Arc<Listeners<K>>,
}

impl<K: Kind> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self { stores: self.stores.clone(), listeners: self.listeners.clone() }
    }
}

impl<K: Kind> Cache<K> {
    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let mut key = ObjectRef::new(name);
        key.namespace = (!namespace.is_empty()).then(|| namespace.into());
        self.stores.iter().find_map(|(_, store)| store.get(&key))
    }

    /// Every object. Cost grows with their number: for indexes and for start-up.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.stores.iter().flat_map(|(_, store)| store.state()).collect()
    }

    /// Objects for which `keep` holds.
    pub fn filter(&self, keep: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        self.stores.iter().flat_map(|(_, store)| store.state_filter(&keep)).collect()
    }

    /// Calls `listener` after each change. It must be quick: it runs in the watch. When it panics it is told again after a
    /// pause, as the object is then.
    pub fn on_change(&self, listener: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        self.listeners.add(listener);
    }

    /// Calls `listener` after each change of a spec, and when an object comes or goes: a status that was written is
    /// none of these.
    pub fn on_spec_change(&self, listener: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        let generations: Mutex<HashMap<String, Option<i64>>> = Mutex::default();
        self.on_change(move |change| {
            let (uid, generation) = (change.object.uid().unwrap_or_default(), change.object.meta().generation);
            let before = generations.lock().get(&uid).copied();
            if change.deleted || before.is_none_or(|before| before != generation) {
                listener(change);
            }
            // Not before it was told well.
            if change.deleted {
                generations.lock().remove(&uid);
            } else {
                generations.lock().insert(uid, generation);
            }
        });
    }

    #[cfg(test)]
    pub(in crate::controller) fn of(stores: Vec<(Scope, Store<K>)>) -> Self {
        Self { stores: Arc::new(stores), listeners: Arc::default() }
    }

    fn tell(&self, change: &Change<'_, K>, owed: &mut Owed<K>) {
        self.listeners.tell(change, owed);
    }
}

/// Starts watches and knows whether all caches are filled.
pub struct Watches {
    client: Client,
    scopes: Vec<Scope>,
    crew: Crew,
    ready: Vec<futures::future::BoxFuture<'static, ()>>,
    hint: Hint,
}

/// What takes parts of objects away before they are cached.
pub trait Trim<K>: Fn(&mut K) + Clone + Send + 'static {}

impl<K, F: Fn(&mut K) + Clone + Send + 'static> Trim<K> for F {}

impl Watches {
    /// Watches in `scopes`, for as long as there is the crew. A watch that ends or panics is the end of the process: whoever
    /// reads its cache would see the world as it was then.
    pub fn new(client: Client, scopes: Vec<Scope>, crew: Crew) -> Self {
        Self { client, scopes, crew, ready: vec![], hint: Hint::default() }
    }

    /// The scopes in which namespaced kinds are watched.
    pub fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    /// Caches whole objects of a namespaced kind.
    pub fn objects<K>(&mut self, config: &watcher::Config) -> Cache<K>
    where
        K: Kind + Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    {
        self.trimmed(config, |_| {})
    }

    /// The same without what `trim` takes away.
    pub fn trimmed<K>(&mut self, config: &watcher::Config, trim: impl Trim<K>) -> Cache<K>
    where
        K: Kind + Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    {
        let (client, config) = (self.client.clone(), config.clone());
        let open = move |scope: &Scope| watcher::watcher(api(&client, scope), for_a_while(&config)).boxed();
        self.start(self.scopes.clone(), open, trim)
    }

    /// Caches metadata of a namespaced kind; nothing else is fetched. Right for Secrets and `ConfigMaps`, whose content
    /// is read where it is needed.
    pub fn metadata<K>(&mut self, config: &watcher::Config) -> Cache<PartialObjectMeta<K>>
    where
        K: Kind + Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        PartialObjectMeta<K>: Kind + Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    {
        let (client, config) = (self.client.clone(), config.clone());
        let open = move |scope: &Scope| watcher::watcher(api(&client, scope), for_a_while(&config)).boxed();
        self.start(self.scopes.clone(), open, without_last_applied::<PartialObjectMeta<K>>)
    }

    /// Caches whole objects of a cluster-scoped kind.
    pub fn cluster_objects<K>(&mut self, config: &watcher::Config) -> Cache<K>
    where
        K: Kind + Resource<Scope = k8s_openapi::ClusterResourceScope>,
    {
        let (api, config) = (Api::<K>::all(self.client.clone()), config.clone());
        self.start(vec![Scope::All], move |_| watcher::watcher(api.clone(), for_a_while(&config)).boxed(), |_| {})
    }

    /// Resolves when every cache is filled, and all who listen to it know what is there: what they keep of it is as complete.
    pub async fn ready(&mut self) {
        futures::future::join_all(self.ready.drain(..)).await;
    }

    fn start<K: Kind>(
        &mut self,
        scopes: Vec<Scope>,
        open: impl Fn(&Scope) -> Events<K>,
        trim: impl Trim<K>,
    ) -> Cache<K> {
        let (stores, writers): (Vec<_>, Vec<_>) = scopes
            .into_iter()
            .map(|scope| {
                let (store, writer) = reflector::store();
                ((scope.clone(), store), (scope, writer))
            })
            .unzip();
        let cache = Cache { stores: Arc::new(stores), listeners: Arc::default() };
        for ((_, store), (scope, writer)) in cache.stores.iter().zip(writers) {
            let trim = trim.clone();
            let events = open(&scope)
                .map_ok(move |event| {
                    event.modify(|object| {
                        object.managed_fields_mut().clear();
                        trim(object);
                    })
                })
                .boxed();
            let (hint, owed) = (self.hint.clone(), Owed::new(self.crew.clone()));
            let (told, mut known) = watch::channel(false);
            let name = format!("the watch of {} in {scope}", K::plural(&()));
            let (stores, place) = ((store.clone(), writer), (scope.clone(), hint));
            self.crew.vital(name, follow(cache.clone(), stores, place, (owed, told), events));
            // An error means that the watch has ended, which is the end of the process.
            self.ready.push(Box::pin(async move { drop(known.wait_for(|told| *told).await) }));
        }
        cache
    }
}

/// Not all of them end at a time.
fn for_a_while(config: &watcher::Config) -> watcher::Config {
    config.clone().timeout(rand::rng().random_range(OPEN))
}

fn api<K>(client: &Client, scope: &Scope) -> Api<K>
where
    K: Kind + Resource<Scope = k8s_openapi::NamespaceResourceScope>,
{
    match scope {
        Scope::All => Api::all(client.clone()),
        Scope::Namespace(name) => Api::namespaced(client.clone(), name),
    }
}

/// Nothing reads it in a cache of metadata, and a Secret's content has no place there.
pub(in crate::controller) fn without_last_applied<K: ResourceExt>(object: &mut K) {
    object.annotations_mut().remove(LAST_APPLIED);
}

type Events<K> = futures::stream::BoxStream<'static, Result<Event<K>, watcher::Error>>;

/// Feeds one watch into its store and tells listeners, until the process ends.
async fn follow<K: Kind>(
    cache: Cache<K>,
    (store, writer): (Store<K>, reflector::store::Writer<K>),
    (scope, hint): (Scope, Hint),
    (mut owed, told): (Owed<K>, watch::Sender<bool>),
    events: Events<K>,
) {
    // Listeners are told after the store has the change, so that what they trigger reads the new state.
    let mut gone: Vec<Arc<K>> = vec![];
    let mut listed: HashSet<ObjectRef<K>> = HashSet::new();
    let mut stream = std::pin::pin!(events.default_backoff().reflect(writer));
    let kind = K::kind(&()).into_owned();
    let mut failing = false;
    loop {
        let event = tokio::select! {
            event = stream.next() => event,
            () = ring(owed.due()) => {
                owed.again(&cache.listeners, &store);
                continue;
            }
        };
        let Some(event) = event else { break };
        if std::mem::replace(&mut failing, event.is_err()) && event.is_ok() {
            debug!(kind, %scope, "watch works again");
        }
        match event {
            Ok(Event::Apply(object)) => cache.tell(&Change { object: &object, deleted: false }, &mut owed),
            Ok(Event::Delete(object)) => cache.tell(&Change { object: &object, deleted: true }, &mut owed),
            Ok(Event::Init) => {
                gone = store.state();
                listed.clear();
            }
            Ok(Event::InitApply(object)) => {
                listed.insert(ObjectRef::from_obj(&object));
            }
            Ok(Event::InitDone) => {
                relisted(&cache, &store, (&std::mem::take(&mut gone), &listed), &mut owed);
                told.send_replace(true);
            }
            Err(error) => failed(&kind, &scope, &hint, &error),
        }
    }
    debug!(kind, %scope, "watch ended");
}

/// A watch that lost its place lists again: what vanished meanwhile is told as deleted, what has another version as
/// changed.
fn relisted<K: Kind>(
    cache: &Cache<K>,
    store: &Store<K>,
    (before, listed): (&[Arc<K>], &HashSet<ObjectRef<K>>),
    owed: &mut Owed<K>,
) {
    for object in before.iter().filter(|o| !listed.contains(&ObjectRef::from_obj(&***o))) {
        cache.tell(&Change { object, deleted: true }, owed);
    }
    let versions: HashSet<_> = before.iter().map(|o| (o.uid(), o.resource_version())).collect();
    for object in store.state() {
        if !versions.contains(&(object.uid(), object.resource_version())) {
            cache.tell(&Change { object: &object, deleted: false }, owed);
        }
    }
}

/// A dozen watches fail at a time where the definitions are missing, again and again: one line a minute tells of it.
fn failed(kind: &str, scope: &Scope, hint: &Hint, error: &watcher::Error) {
    if !is_unknown(error) {
        warn!(kind, %scope, "watch failed, it is tried again: {error}");
    } else if hint.is_due(Instant::now()) {
        warn!(
            kind,
            "the cluster does not know kind {kind}, and maybe others: apply the CRDs (pilothouse crds | kubectl apply \
             --server-side -f -); the controller waits for them"
        );
    } else {
        debug!(kind, %scope, "the cluster does not know the kind");
    }
}

fn is_unknown(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchStartFailed};
    matches!(error, InitialListFailed(kube::Error::Api(s)) | WatchStartFailed(kube::Error::Api(s)) if s.code == 404)
}

/// When it was said last that a kind is not known.
#[derive(Clone, Default)]
struct Hint(Arc<Mutex<Option<Instant>>>);

impl Hint {
    fn is_due(&self, now: Instant) -> bool {
        let mut last = self.0.lock();
        let due = last.is_none_or(|last| now.saturating_duration_since(last) >= HINT);
        if due {
            *last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};
    use serde_json::json;

    use super::*;

    #[test]
    fn that_kinds_are_missing_is_said_once_a_minute_for_all_watches() {
        let (hint, start) = (Hint::default(), Instant::now());
        let due: Vec<_> =
            [0, 1, 59, 60, 61, 119, 121].map(|at| hint.clone().is_due(start + Duration::from_secs(at))).into();
        assert_eq!(due, [true, false, false, true, false, false, true]);
        let error = |code: u16| {
            let status = json!({"status": "Failure", "code": code, "message": "404 page not found", "reason": "x"});
            watcher::Error::InitialListFailed(kube::Error::Api(Box::new(serde_json::from_value(status).unwrap())))
        };
        assert!(is_unknown(&error(404)) && !is_unknown(&error(403)));
    }

    fn map(name: &str, version: &str) -> ConfigMap {
        let metadata =
            json!({"name": name, "namespace": "ns", "uid": name, "resourceVersion": version, "generation": 1});
        serde_json::from_value(json!({ "metadata": metadata })).unwrap()
    }

    /// A watch of these events, a second between two of them, which then stays open.
    /// With it: whether everybody knows what was listed.
    fn watched(events: Vec<Event<ConfigMap>>) -> (Cache<ConfigMap>, watch::Receiver<bool>, impl Future<Output = ()>) {
        let (store, writer) = reflector::store();
        let cache = Cache::of(vec![(Scope::All, store.clone())]);
        let events = futures::stream::iter(events).then(|event| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(event)
        });
        let events = events.chain(futures::stream::pending()).boxed();
        let (owed, (told, known)) = (Owed::new(Crew::new(Arc::default())), watch::channel(false));
        let work = follow(cache.clone(), (store, writer), (Scope::All, Hint::default()), (owed, told), events);
        (cache, known, work)
    }

    /// Name, version, and whether it is gone, of what a listener heard.
    type Heard = Arc<Mutex<Vec<(String, String, bool)>>>;

    fn note(heard: &Heard, change: &Change<'_, ConfigMap>) {
        let version = change.object.resource_version().unwrap_or_default();
        heard.lock().push((change.object.name_any(), version, change.deleted));
    }

    fn said(heard: &Heard) -> Vec<String> {
        heard
            .lock()
            .iter()
            .map(|(name, version, gone)| format!("{name}@{version}{}", if *gone { "-" } else { "" }))
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_panics_stops_neither_the_watch_nor_others_and_is_told_again() {
        let listed =
            [Event::Init, Event::InitApply(map("bad", "1")), Event::InitApply(map("good", "1")), Event::InitDone];
        let later = [Event::Apply(map("bad", "2")), Event::Apply(map("good", "2")), Event::Delete(map("gone", "3"))];
        let (cache, _, watch) = watched(listed.into_iter().chain(later).collect());
        let (fussy, calm, spec): (Heard, Heard, Heard) = Default::default();
        let (mine, begun) = (fussy.clone(), tokio::time::Instant::now());
        cache.on_change(move |change| {
            let bad = change.object.name_any() != "good";
            assert!(!bad || begun.elapsed() > Duration::from_secs(20), "on purpose");
            note(&mine, change);
        });
        let mine = spec.clone();
        cache.on_spec_change(move |change| {
            let bad = change.object.name_any() == "bad";
            assert!(!bad || begun.elapsed() > Duration::from_secs(20), "on purpose");
            note(&mine, change);
        });
        let mine = calm.clone();
        cache.on_change(move |change| note(&mine, change));
        assert!(tokio::time::timeout(Duration::from_hours(1), watch).await.is_err(), "it goes on");
        let all = ["bad@1", "good@1", "bad@2", "good@2", "gone@3-"];
        let mut first = said(&calm);
        first[..2].sort();
        assert_eq!(first, all, "the others hear each change at once, and once");
        let mut heard = said(&fussy);
        assert_eq!(heard[..2], ["good@1", "good@2"], "of other objects it hears at once");
        heard[2..].sort();
        assert_eq!(heard[2..], ["bad@2", "gone@3-"], "and then once of what it missed, as it is now");
        let mut heard = said(&spec);
        heard.sort();
        assert_eq!(heard, ["bad@2", "gone@3-", "good@1"], "what did not take it in has not seen the spec");
    }

    /// Who begins to work then, and counts by what a listener keeps, misses nothing that was there.
    #[tokio::test(start_paused = true)]
    async fn a_cache_is_ready_when_listeners_know_what_is_in_it() {
        let listed = [Event::Init, Event::InitApply(map("a", "1")), Event::InitApply(map("b", "1")), Event::InitDone];
        let (cache, known, watch) = watched(listed.into());
        let (heard, mine, seen): (Heard, _, _) = (Heard::default(), known.clone(), cache.clone());
        let note_it = heard.clone();
        cache.on_change(move |change| {
            assert_eq!(seen.all().len(), 2, "the store has it before");
            assert!(!*mine.borrow(), "and nobody works before all were told");
            note(&note_it, change);
        });
        assert!(tokio::time::timeout(Duration::from_mins(1), watch).await.is_err(), "it goes on");
        assert!(*known.borrow());
        assert_eq!(said(&heard).len(), 2);
    }

    #[test]
    fn a_cache_of_metadata_holds_no_content() {
        let annotations = json!({LAST_APPLIED: "{\"data\":{\"token\":\"c2VjcmV0\"}}", "kept": "yes"});
        let seen = json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": {"name": "s", "namespace": "ns", "annotations": annotations},
        });
        let mut secret: PartialObjectMeta<Secret> = serde_json::from_value(seen).unwrap();
        without_last_applied(&mut secret);
        assert_eq!(serde_json::to_value(secret.annotations()).unwrap(), json!({"kept": "yes"}));
    }
}
