//! Wiring of `pilothouse receiver`: a watch of Repositories, health, and the door for forges.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use clap::Args;
use kube::{Client, runtime::watcher};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::runtime::{Cache, Crew, Scope, Watches};
use crate::{
    api::{Repository, names::reasons},
    server::{
        health::{self, Health},
        metrics::Metrics,
        receiver::{Receiver, peer::Range},
    },
    status::Failure,
};

/// After a stop was asked for, deliveries are taken for this long: until then some may still be sent here.
const LINGER: Duration = Duration::from_secs(3);

/// Flags of `pilothouse receiver`; each can come from the environment.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Every replica serves; there is no leader. Deliveries go to POST /hooks/…, the path in status.webhookPath of a Repository
with spec.webhook. It speaks plain HTTP: put an Ingress or a Gateway with TLS before it.

Examples:
  pilothouse receiver --watch-namespaces agents
  kubectl get repository team -o jsonpath='{.status.webhookPath}'")]
pub struct Settings {
    /// Namespaces to watch, separated by commas; none: all of them, which needs cluster-wide rights
    #[arg(long, env = "PILOTHOUSE_WATCH_NAMESPACES", value_delimiter = ',', value_name = "NAMESPACES")]
    pub watch_namespaces: Vec<String>,
    /// Address for deliveries
    #[arg(long, env = "PILOTHOUSE_HOOKS_LISTEN", default_value = "0.0.0.0:9080", value_name = "ADDRESS")]
    pub hooks_listen: SocketAddr,
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, env = "PILOTHOUSE_LISTEN", default_value = "0.0.0.0:8080", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Deliveries a second that one peer may send, ten times as many at once
    #[arg(long, env = "PILOTHOUSE_PEER_RATE", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000), value_name = "NUMBER")]
    pub peer_rate: u32,
    /// Addresses of proxies, such as 10.0.0.0/8, whose X-Forwarded-For says who the peer is; separated by commas
    #[arg(long, env = "PILOTHOUSE_TRUSTED_PROXIES", value_delimiter = ',', value_name = "RANGES")]
    pub trusted_proxies: Vec<Range>,
}

/// Runs the receiver until `stop`.
pub async fn run(settings: Settings, client: Client, stop: CancellationToken) -> Result<(), Failure> {
    let (metrics, health_state, serving) = (Arc::new(Metrics::default()), Health::default(), CancellationToken::new());
    let hooks = bind("--hooks-listen", settings.hooks_listen).await?;
    let listener = bind("--listen", settings.listen).await?;
    info!(address = %listener.local_addr().unwrap_or(settings.listen), "health and metrics");
    let crew = Crew::new(metrics.clone());
    let until_the_end = crew.until_dropped();
    let served = health::serve(listener, health_state.clone(), metrics.clone(), serving.clone());
    crew.vital("the server of health and metrics", served);

    let receiver = Arc::new(Receiver::new(&client, &metrics, settings.peer_rate, settings.trusted_proxies.clone()));
    let mut watches = Watches::new(client, Scope::from_namespaces(&settings.watch_namespaces), crew.clone());
    let cache: Cache<Repository> = watches.objects(&watcher::Config::default());
    let told = receiver.clone();
    cache.on_change(move |change| if change.deleted { told.forget(change.object) } else { told.apply(change.object) });
    tokio::select! {
        () = watches.ready() => {}
        () = stop.cancelled() => return Ok(()),
        failure = crew.lost() => return Err(failure),
    }
    // Nothing is told of what came before the listener did.
    for object in cache.all() {
        receiver.apply(&object);
    }
    info!(address = %hooks.local_addr().unwrap_or(settings.hooks_listen), "deliveries of webhooks");
    health_state.set_ready(true);
    let hooked = receiver.serve(hooks, serving.clone());
    let ending = async move {
        stop.cancelled().await;
        health_state.set_ready(false);
        tokio::time::sleep(LINGER).await;
        drop(until_the_end);
        serving.cancel();
    };
    tokio::select! {
        failure = crew.lost() => Err(failure),
        ((), ()) = async { tokio::join!(hooked, ending) } => Ok(()),
    }
}

async fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    let failed =
        |error| Failure::stalled(reasons::LISTEN_FAILED, format!("cannot listen on {flag} {address}: {error}"));
    health::bind(address).await.map_err(failed)
}
