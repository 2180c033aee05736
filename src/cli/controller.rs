//! `pilothouse controller`.

use std::{net::IpAddr, process::ExitCode, time::Duration};

use anyhow::{Context, anyhow, bail};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::Global;
use crate::controller::{self, Settings};

/// What the chart tells the controller of its own pod and its node; each may be missing.
const OWN_ADDRESSES: [&str; 3] = ["POD_IP", "POD_IPS", "HOST_IP"];

/// A connection to the API server on which nothing was heard for so long is dead: a watch stays open for less.
const SILENCE: Duration = Duration::from_secs(90);

/// Runs until SIGTERM or SIGINT.
pub async fn run(global: &Global, mut settings: Settings) -> anyhow::Result<ExitCode> {
    let stop = stop_on_signal()?;
    let mut config = config(global).await?;
    config.read_timeout = Some(SILENCE);
    settings.api_hosts = api_hosts(&config);
    settings.own_addresses = addresses(OWN_ADDRESSES.iter().filter_map(|name| std::env::var(name).ok()));
    let client = client_of(config)?;
    info!(version = env!("CARGO_PKG_VERSION"), identity = settings.identity(), "pilothouse controller starts");
    controller::run(settings, client, stop).await?;
    info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// A client from the kubeconfig, or from the pod's ServiceAccount. The API server has answered once.
pub async fn client(global: &Global) -> anyhow::Result<Client> {
    let config = config(global).await?;
    let address = config.cluster_url.to_string();
    let client = client_of(config)?;
    match client.apiserver_version().await {
        // Who may not ask for the version may be allowed everything else.
        Ok(_) | Err(kube::Error::Api(_)) => Ok(client),
        Err(error) => {
            let why = anyhow!(error).root_cause().to_string();
            let place = place(global).unwrap_or_else(|| "the cluster that this runs in".into());
            bail!(
                "the API server {} of {place} does not answer ({why}); start it, or name another context with --context",
                address.trim_end_matches('/')
            )
        }
    }
}

/// The context in use, in words; `None` without a kubeconfig.
pub(super) fn place(global: &Global) -> Option<String> {
    let named = || Kubeconfig::read().ok()?.current_context.filter(|name| !name.is_empty());
    global.context.clone().or_else(named).map(|name| format!("context {name}"))
}

fn client_of(mut config: Config) -> anyhow::Result<Client> {
    config.connect_timeout = Some(Duration::from_secs(10));
    config.write_timeout = Some(Duration::from_secs(30));
    Client::try_from(config).context("cannot make a Kubernetes client")
}

/// The client's configuration: `--context`, else `KUBECONFIG` or `~/.kube/config`, else the cluster that this runs in.
pub async fn config(global: &Global) -> anyhow::Result<Config> {
    let hint = "set KUBECONFIG, or run inside a cluster";
    match &global.context {
        None => Config::infer().await.map_err(|_| {
            let why = Kubeconfig::read().err().map(|error| format!(" ({:#})", anyhow!(error))).unwrap_or_default();
            anyhow!(
                "there is no cluster to talk to: neither a kubeconfig that can be used{why} nor that of a pod; {hint}"
            )
        }),
        Some(name) => {
            let options = KubeConfigOptions { context: Some(name.clone()), ..Default::default() };
            Config::from_kubeconfig(&options).await.with_context(|| format!("cannot use context {name}; {hint}"))
        }
    }
}

/// Where the API server is, by what is connected to and by what every pod is told.
fn api_hosts(config: &Config) -> Vec<String> {
    let told = std::env::var("KUBERNETES_SERVICE_HOST").ok();
    let connected = config.cluster_url.host().map(|host| host.trim_matches(['[', ']']).to_owned());
    told.into_iter().chain(connected).filter(|host| !host.is_empty()).collect()
}

/// The addresses in lists with commas; what is none is left out.
fn addresses(lists: impl IntoIterator<Item = String>) -> Vec<IpAddr> {
    let read = |list: String| list.split(',').filter_map(|text| text.trim().parse().ok()).collect::<Vec<_>>();
    lists.into_iter().flat_map(read).collect()
}

/// Cancelled by SIGTERM or SIGINT.
pub(super) fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        info!("stopping");
        token.cancel();
    });
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_server_is_known_by_its_host() {
        for (url, host) in [
            ("https://10.96.0.1:443", "10.96.0.1"),
            ("https://[fd00::1]:6443/k8s", "fd00::1"),
            ("https://api.example.com", "api.example.com"),
        ] {
            let hosts = api_hosts(&Config::new(url.parse().unwrap()));
            assert!(hosts.iter().any(|found| found == host), "{url}: {hosts:?}");
        }
    }

    #[test]
    fn its_own_addresses_are_read_from_lists() {
        let lists = ["10.244.1.5", "10.244.1.5,fd12::5", "", "node-1"].map(String::from);
        let want: Vec<IpAddr> = ["10.244.1.5", "10.244.1.5", "fd12::5"].map(|a| a.parse().unwrap()).into();
        assert_eq!(addresses(lists), want);
    }
}
