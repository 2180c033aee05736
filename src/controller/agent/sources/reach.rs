//! How an agent's own remotes are reached: its proxies, or the cluster's, and its authorities.

use std::sync::Arc;

use super::GitInputs;
use crate::{
    agent::pieces::Reach,
    api::{
        PilothouseConfigSpec,
        names::{self, reasons},
    },
    controller::agent::observe,
    git::{Credential, Proxies},
    status::Failure,
};

impl GitInputs {
    /// The credential with the agent's own way to hosts. The outer error is the API server's.
    pub(super) async fn reaching(
        &self,
        namespace: &str,
        credential: Arc<Credential>,
        reach: &Reach,
    ) -> Result<Result<Arc<Credential>, Failure>, Failure> {
        let config = observe::config(&self.context);
        let proxies = match proxies(reach, config.as_deref().map(|config| &config.spec)) {
            Ok(proxies) => proxies,
            Err(problem) => return Ok(Err(problem)),
        };
        let more_ca = match &reach.ca {
            None => None,
            Some(bundle) => match self.bundles.read(namespace, bundle).await? {
                Ok(certificates) => Some(certificates),
                Err(problem) => return Ok(Err(problem)),
            },
        };
        if proxies.is_empty() && more_ca.is_none() {
            return Ok(Ok(credential));
        }
        Ok(Ok(Arc::new(Credential { more_ca, proxies, ..(*credential).clone() })))
    }
}

/// The agent's proxies, or the cluster's.
fn proxies(reach: &Reach, config: Option<&PilothouseConfigSpec>) -> Result<Proxies, Failure> {
    let own = reach.proxy.as_ref().map(|proxy| (proxy, "spec.proxy".to_owned()));
    let shared = || Some((config?.proxy.as_ref()?, format!("spec.proxy of PilothouseConfig {}", names::CONFIG)));
    let Some((proxy, of)) = own.or_else(shared) else { return Ok(Proxies::default()) };
    let direct = proxy.direct(config.and_then(|config| config.cluster_domain.as_deref()));
    Proxies::new(proxy.http_proxy.as_deref(), proxy.https_proxy.as_deref(), &direct)
        .map_err(|why| Failure::stalled(reasons::INVALID_SPEC, format!("{of}: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::{RemoteUrl, credential::Proxy};

    #[test]
    fn the_agents_proxy_wins_over_the_clusters_and_services_are_reached_directly() {
        let config = |address: &str| -> PilothouseConfigSpec {
            serde_json::from_value(serde_json::json!({"clusterDomain": "example.local",
                "proxy": {"httpProxy": address, "noProxy": "direct.example.com"}}))
            .unwrap()
        };
        let reach = |address: Option<&str>| Reach {
            proxy: address.map(|a| serde_json::from_value(serde_json::json!({ "httpProxy": a })).unwrap()),
            ca: None,
        };
        let way = |reach: &Reach, config: Option<&PilothouseConfigSpec>, url: &str| {
            let url = RemoteUrl::parse(url, false).unwrap();
            proxies(reach, config).unwrap().of(&url).map(Proxy::address)
        };
        let (none, own, shared) = (reach(None), reach(Some("http://own:1")), config("http://shared:1"));
        for (reach, config, url, want) in [
            (&none, None, "http://h/a", None),
            (&none, Some(&shared), "http://h/a", Some("http://shared:1")),
            (&own, Some(&shared), "http://h/a", Some("http://own:1")),
            (&own, Some(&shared), "http://direct.example.com/a", Some("http://own:1")),
            (&none, Some(&shared), "http://direct.example.com/a", None),
            (&own, Some(&shared), "http://git.forge.svc.example.local/a", None),
            (&own, None, "http://git.forge.svc.cluster.local/a", None),
            (&own, None, "http://git.forge.svc/a", None),
        ] {
            assert_eq!(way(reach, config, url).as_deref(), want, "{url}");
        }
        let failure = proxies(&none, Some(&config("socks5://p"))).unwrap_err();
        assert!(failure.message.starts_with("spec.proxy of PilothouseConfig cluster: httpProxy must be"), "{failure}");
        assert!(proxies(&reach(Some("https://p")), None).unwrap_err().message.starts_with("spec.proxy: httpProxy"));
    }
}
