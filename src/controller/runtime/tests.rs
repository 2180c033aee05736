use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    core::ObjectMeta,
    runtime::{reflector, watcher::Event},
};
use tokio_util::sync::CancellationToken;

use super::*;

/// Panics for one object, fails for another, counts the rest.
#[derive(Default)]
struct Fussy {
    good: AtomicUsize,
    panics: AtomicUsize,
    failures: AtomicUsize,
    at_once: AtomicUsize,
    most: AtomicUsize,
}

impl Reconcile for Fussy {
    type Object = ConfigMap;

    async fn reconcile(&self, object: Arc<ConfigMap>) -> Result<Next, Failure> {
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(10)).await;
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        match object.name_any().as_str() {
            "bad" => {
                self.panics.fetch_add(1, Ordering::SeqCst);
                panic!("on purpose");
            }
            "stalled" => {
                self.failures.fetch_add(1, Ordering::SeqCst);
                Err(Failure::stalled("InvalidSpec", "on purpose"))
            }
            _ => {
                self.good.fetch_add(1, Ordering::SeqCst);
                Ok(Next::OnEvent)
            }
        }
    }
}

fn named(namespace: &str, name: &str) -> ConfigMap {
    let metadata = ObjectMeta { name: Some(name.into()), namespace: Some(namespace.into()), ..ObjectMeta::default() };
    ConfigMap { metadata, ..ConfigMap::default() }
}

/// A cluster that is not there.
pub(in crate::controller) fn nobody() -> kube::Client {
    let refuse = |_: http::Request<kube::client::Body>| async {
        Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("nobody"))
    };
    kube::Client::new(tower::service_fn(refuse), "default")
}

/// Runs the loop over these objects in two namespaces for two (paused) minutes.
async fn run_over(names: &[&str], concurrency: u16) -> Arc<Fussy> {
    run_with(Fussy::default(), names, concurrency).await
}

async fn run_with<R: Reconcile<Object = ConfigMap>>(reconciler: R, names: &[&str], concurrency: u16) -> Arc<R> {
    run_triggered(reconciler, Triggers::default(), names, concurrency).await
}

async fn run_triggered<R: Reconcile<Object = ConfigMap>>(
    reconciler: R,
    triggers: Triggers<ConfigMap>,
    names: &[&str],
    concurrency: u16,
) -> Arc<R> {
    let scopes: Vec<_> = ["a", "b"].map(|n| Scope::Namespace(n.into())).into();
    let (mut stores, mut writers) = (vec![], vec![]);
    for scope in &scopes {
        let (store, mut writer) = reflector::store();
        writer.apply_watcher_event(&Event::Init);
        let Scope::Namespace(namespace) = scope else { unreachable!() };
        for name in names {
            writer.apply_watcher_event(&Event::InitApply(named(namespace, name)));
        }
        writer.apply_watcher_event(&Event::InitDone);
        stores.push((scope.clone(), store));
        writers.push(writer); // a store without its writer is not ready
    }
    let cache = Cache::of(stores);
    let (reconciler, stop) = (Arc::new(reconciler), CancellationToken::new());
    let runtime = Runtime {
        concurrency,
        backoff: Backoff::default(),
        stop: stop.clone(),
        metrics: Arc::new(Metrics::default()),
        reports: Reports::new(nobody(), "test", &Crew::new(Arc::default())),
    };
    let running = tokio::spawn(run(reconciler.clone(), cache, triggers, runtime));
    tokio::time::sleep(Duration::from_mins(2)).await;
    stop.cancel();
    running.await.unwrap();
    reconciler
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_one_object_stops_no_other_and_is_tried_again() {
    let fussy = run_over(&["bad", "good", "fine"], 4).await;
    assert_eq!(fussy.good.load(Ordering::SeqCst), 4, "each good object once");
    let tries = fussy.panics.load(Ordering::SeqCst);
    assert!(tries > 2, "tried again after a while");
    assert!(tries < 200, "with growing pauses: {tries}");
}

#[tokio::test(start_paused = true)]
async fn what_is_stalled_is_not_tried_again() {
    let fussy = run_over(&["stalled"], 4).await;
    assert_eq!(fussy.failures.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn the_limit_holds_over_all_namespaces() {
    let names: Vec<String> = (0..20).map(|n| format!("o{n}")).collect();
    let fussy = run_over(&names.iter().map(String::as_str).collect::<Vec<_>>(), 3).await;
    assert_eq!(fussy.good.load(Ordering::SeqCst), 40);
    assert_eq!(fussy.most.load(Ordering::SeqCst), 3);
}

/// Fails, and is woken a hundred times while it does; succeeds from the tenth second on.
struct Woken {
    triggers: Triggers<ConfigMap>,
    begun: Instant,
    well: Mutex<Option<Duration>>,
}

impl Reconcile for Woken {
    type Object = ConfigMap;

    async fn reconcile(&self, object: Arc<ConfigMap>) -> Result<Next, Failure> {
        let age = self.begun.elapsed();
        if age >= Duration::from_secs(10) {
            self.well.lock().get_or_insert(age);
            return Ok(Next::OnEvent);
        }
        if age < Duration::from_secs(1) {
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.triggers.now(&object.namespace().unwrap_or_default(), &object.name_any());
        }
        Err(Failure::transient("StatusWriteFailed", "on purpose"))
    }
}

#[tokio::test(start_paused = true)]
async fn events_while_something_fails_make_the_pause_no_longer() {
    let triggers = Triggers::default();
    let woken = Woken { triggers: triggers.clone(), begun: Instant::now(), well: Mutex::default() };
    let woken = run_triggered(woken, triggers, &["one"], 1).await;
    let well = woken.well.lock().expect("it was tried again");
    assert!(well < Duration::from_secs(45), "{well:?}");
}

/// Everybody comes back at once, for ever.
#[derive(Default)]
struct Restless(Mutex<HashMap<String, usize>>);

impl Reconcile for Restless {
    type Object = ConfigMap;

    async fn reconcile(&self, object: Arc<ConfigMap>) -> Result<Next, Failure> {
        tokio::time::sleep(Duration::from_millis(10)).await;
        *self.0.lock().entry(object.name_any()).or_default() += 1;
        Ok(Next::After(Duration::ZERO))
    }
}

/// kube-runtime's scheduler takes what it finds first in a hash set: some of these were never reached.
#[tokio::test(start_paused = true)]
async fn who_comes_back_often_keeps_nobody_waiting() {
    let names: Vec<String> = (0..50).map(|n| format!("o{n}")).collect();
    let restless = run_with(Restless::default(), &names.iter().map(String::as_str).collect::<Vec<_>>(), 4).await;
    let runs = restless.0.lock();
    let (least, most) = (runs.values().min().copied(), runs.values().max().copied());
    assert_eq!(runs.len(), 50, "each was reached");
    assert!(least.zip(most).is_some_and(|(least, most)| least * 2 > most), "about as often: {least:?} to {most:?}");
}
