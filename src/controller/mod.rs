//! Wiring: watches, leader election, and of each kind the reconciler: a file, and a folder where it has parts.

pub mod agent;
pub mod artifacts;
mod bundles;
pub mod caches;
mod credentials;
pub mod crontask;
mod events;
mod figures;
pub mod history;
pub mod leader;
pub mod receiver;
pub mod report;
pub mod repository;
pub mod request;
pub mod runtime;
pub mod sandbox;
pub mod settings;
mod shift;
pub mod sync;
pub mod task;
pub mod task_starts;
pub mod template;
pub mod voice;

use std::{sync::Arc, time::Duration};

use kube::{Client, Resource as _};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use settings::Settings;
pub use shift::Loop;

use crate::{
    api::names::reasons,
    artifact::Store,
    git::Sources,
    server::{
        health,
        metrics::Metrics,
        voice::{Leadership, archive::Archive},
    },
    status::{Backoff, Failure},
};
use artifacts::{Kept, Named, Seal};
use caches::Caches;
use figures::Figures;
use history::History;
use leader::{Candidate, Election};
use report::Reports;
use runtime::{Cache, Crew, Runtime, Scope, Triggers, Watches};
use shift::Shift;
use task_starts::TaskStarts;
use voice::Voices;

/// What every kind's reconciler has.
#[derive(Clone)]
pub struct Context {
    /// The controller's own client. Objects of a Sync go through an impersonating one, see [`crate::apply`].
    pub client: Client,
    /// Status and events.
    pub reports: Reports,
    /// Metrics of the process.
    pub metrics: Arc<Metrics>,
    /// Who looks after loops beside the reconciles.
    pub crew: Crew,
    /// Flags.
    pub settings: Arc<Settings>,
    /// One watch a kind, shared by all reconcilers.
    pub caches: Caches,
    /// Pollers of remotes.
    pub sources: Sources,
    /// Tasks that start and rollouts that are decided.
    pub task_starts: TaskStarts,
    /// Published trees: Repositories put them, Syncs and agents read them.
    pub artifacts: Arc<Store>,
    /// Of what agents refer to.
    pub seal: Seal,
    /// What became of Tasks and Syncs, when they are gone.
    pub history: History,
}

impl Context {
    /// The present time; decisions get it as an argument.
    pub fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }
}

/// Runs the controller until `stop`, or until leadership or a loop is lost (an error: the process must end).
pub async fn run(settings: Settings, client: Client, stop: CancellationToken) -> Result<(), Failure> {
    let metrics = Arc::new(Metrics::default());
    let crew = Crew::new(metrics.clone());
    let until_the_end = crew.until_dropped();
    let (sources, artifacts) = repository::open(&settings)?;
    let health_state = health::Health::default();
    let listener = health::bind(settings.listen).await.map_err(|e| {
        Failure::stalled(reasons::LISTEN_FAILED, format!("cannot listen on --listen {}: {e}", settings.listen))
    })?;
    info!(address = %listener.local_addr().unwrap_or(settings.listen), "health and metrics");
    let serving_stop = CancellationToken::new();
    let served = health::serve(listener, health_state.clone(), metrics.clone(), serving_stop.clone());
    crew.vital("the server of health and metrics", served);

    let material = voice::material(&client, &settings).await?;
    let seal = Seal::new(material.authority_key_pem())?;
    let mut watches = Watches::new(client.clone(), Scope::from_namespaces(&settings.watch_namespaces), crew.clone());
    let caches = Caches::open(&mut watches, &seal);
    let archive = history::open(&settings)?;
    let context = Context {
        client: client.clone(),
        reports: Reports::new(client.clone(), &settings.identity(), &crew),
        crew: crew.clone(),
        metrics: metrics.clone(),
        settings: Arc::new(settings.clone()),
        history: History::new(archive.clone(), &settings, &caches),
        caches,
        sources,
        task_starts: TaskStarts::default(),
        artifacts,
        seal,
    };
    let (known, leadership) =
        watch::channel(if settings.leader_elect { Leadership::Unknown } else { Leadership::Leader });
    let caches = &context.caches;
    let named = Named::new(&caches.config_maps, &caches.repositories, &caches.tasks, context.seal.clone());
    let shelf = artifacts::shelf(context.artifacts.clone(), &named, &context.caches, &settings);
    metrics.register(|registry| shelf.register(registry));
    let voices =
        Voices::start(&client, &settings, &material, (leadership.clone(), shelf), (&crew, &serving_stop)).await?;
    let voices = Arc::new(voices);
    let copies = artifacts::Copies::default();
    let figures = Figures {
        sources: context.sources.clone(),
        voices: voices.clone(),
        caches: context.caches.clone(),
        copies: copies.clone(),
        artifacts: context.artifacts.clone(),
    };
    metrics.register(|registry| registry.register_collector(Box::new(figures)));
    if let Some(store) = archive {
        voices.show(Archive::new(store, client.clone()));
    }
    if let Some(collector) = context.history.collector() {
        metrics.register(|registry| registry.register_collector(collector));
    }
    let (kinds, kept) = kinds(&context, voices.clone());
    tokio::select! {
        () = watches.ready() => health_state.set_ready(true),
        () = stop.cancelled() => return Ok(()),
        failure = crew.lost() => return Err(failure),
    }
    info!("caches are filled");
    let store = context.artifacts.clone();
    if let Some(source) = voices.source(&settings) {
        artifacts::mirror(&store, &named, &source, (leadership.clone(), copies), &crew);
    }
    let stopped = serving_stop.clone();
    crew.keep("collector", move || {
        artifacts::collect_garbage(store.clone(), named.clone(), kept.clone(), leadership.clone(), stopped.clone())
    });
    let ended = lead(&context, kinds, known, stop.clone()).await;
    health_state.set_ready(false);
    drop(until_the_end);
    serving_stop.cancel();
    ended
}

/// Prepares the loop of every kind. Runs on every replica, so that listeners are in place before leadership is.
fn kinds(context: &Context, voices: Arc<Voices>) -> (Vec<Loop>, Arc<dyn Kept>) {
    let (repositories, kept) = repository::prepare(context);
    let mut kinds = vec![
        repositories,
        sync::prepare(context),
        agent::prepare(context, voices.clone()),
        task::prepare(context, voices),
        crontask::prepare(context),
        template::templates(context),
        template::configs(context),
    ];
    kinds.extend(context.history.writer());
    (kinds, kept)
}

/// A kind's loop from its reconciler.
pub fn start<R: runtime::Reconcile>(
    reconciler: Arc<R>,
    cache: Cache<R::Object>,
    triggers: Triggers<R::Object>,
) -> Loop {
    let name = format!("the loop of {}", R::Object::plural(&()));
    Loop::new(name, move |runtime| runtime::run(reconciler, cache, triggers, runtime))
}

/// Works until `stop`, and only while this replica holds the Lease.
async fn lead(
    context: &Context,
    kinds: Vec<Loop>,
    known: watch::Sender<Leadership>,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let settings = &context.settings;
    let begin = || {
        let runtime = Runtime {
            concurrency: settings.concurrency,
            backoff: Backoff::default(),
            stop: stop.clone(),
            metrics: context.metrics.clone(),
            reports: context.reports.clone(),
        };
        Shift::begin(kinds, &runtime, context.crew.clone(), Duration::from_secs(settings.drain))
    };
    if !settings.leader_elect {
        context.metrics.set_leader(true);
        let mut shift = begin();
        let ended = shift.over().await;
        shift.cut().await;
        return ended;
    }
    let election = Election {
        namespace: settings.namespace.clone(),
        lease: settings.lease_name.clone(),
        identity: settings.identity(),
        address: settings.advertised().unwrap_or_default(),
        duration: Duration::from_secs(settings.lease_duration),
    };
    let mut candidate = Candidate::new(context.client.clone(), election, known);
    tokio::select! {
        () = candidate.acquired() => {}
        () = stop.cancelled() => return Ok(()),
        failure = context.crew.lost() => return Err(failure),
    }
    leader::while_leading(candidate, &context.metrics, begin).await
}
