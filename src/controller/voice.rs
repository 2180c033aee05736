//! The hub of the sidecars' connections, as the agents' reconciler wants it, and its start.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use jiff::Timestamp;
use kube::Client;
use tokio::{
    net::TcpListener,
    sync::{broadcast::error::RecvError, watch},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Settings,
    agent::voice::{AgentVoice, HOLD, Listener, Said, Whose},
    artifacts::Source,
    runtime::Crew,
};
use crate::{
    api::{
        content::{Load, Report},
        names::reasons,
        voice::{Activity, Peer},
    },
    server::voice::{
        AgentKey, Answer, Hub, Leadership,
        archive::Archive,
        artifacts::Shelf,
        certificate::{self, Material},
        identity::Reviews,
    },
    status::Failure,
};

/// How often it is asked whether the certificate must be renewed.
const RENEWAL: Duration = Duration::from_hours(12);

/// Between two tries to tell an agent's pods something.
const AGAIN: Duration = Duration::from_secs(2);

/// The started hub.
#[derive(Clone)]
pub struct Voices {
    hub: Hub,
    crew: Crew,
    authority: Arc<str>,
}

impl Voices {
    /// Accepts sidecars until `stop`; they are welcome while the leadership says so, and
    /// always served from the shelf.
    pub async fn start(
        client: &Client,
        settings: &Settings,
        material: &Material,
        (leadership, shelf): (watch::Receiver<Leadership>, Shelf),
        (crew, stop): (&Crew, &CancellationToken),
    ) -> Result<Self, Failure> {
        let names = names(settings);
        let listener = TcpListener::bind(settings.voice_listen).await.map_err(|e| {
            let text = format!("cannot listen on --voice-listen {}: {e}", settings.voice_listen);
            Failure::stalled(reasons::LISTEN_FAILED, text)
        })?;
        info!(address = %listener.local_addr().unwrap_or(settings.voice_listen), "sidecars connect here");
        let hub = Hub::new(Reviews::new(client.clone()), leadership, Some(shelf));
        let (served, tls) = watch::channel(material.server_config()?);
        let accepting = (hub.clone(), stop.clone());
        crew.vital("the door of sidecars", async move { accepting.0.serve(listener, tls, accepting.1).await });
        let authority = material.authority_pem().into();
        let (client, namespace) = (client.clone(), settings.namespace.clone());
        crew.keep("certificate", move || renew(client.clone(), namespace.clone(), names.clone(), served.clone()));
        Ok(Self { hub, crew: crew.clone(), authority })
    }
}

impl Voices {
    /// Stops what the sessions of a Task do that nobody follows any more. Where no pod can be told, there is none that
    /// works on it, or it is tried again until `patience` is over.
    pub fn abort(&self, namespace: &str, agent: &str, title: &str, patience: Duration) {
        let (hub, namespace, agent, title) =
            (self.hub.clone(), namespace.to_owned(), agent.to_owned(), title.to_owned());
        // Listeners run on every replica.
        if !self.hub.leads() {
            return;
        }
        tokio::spawn(async move {
            let told = async {
                while !hub.abort(&namespace, &agent, &title, |_, _| true).await.values().any(|done| *done) {
                    tokio::time::sleep(AGAIN).await;
                }
            };
            if tokio::time::timeout(patience, told).await.is_err() {
                warn!(namespace, agent, title, "no pod of the agent could be told to stop the session of a Task");
            }
        });
    }

    /// Stops what the sessions of a Task do, once, on the agent's pods that `whom` picks. By the name of each pod that was
    /// asked: whether it did it.
    pub async fn stop_sessions(
        &self,
        namespace: &str,
        agent: &str,
        title: &str,
        whom: impl Fn(&str, &Activity) -> bool,
    ) -> BTreeMap<String, bool> {
        self.hub.abort(namespace, agent, title, whom).await
    }

    /// Shows the history to people on the same port.
    pub(super) fn show(&self, archive: Archive) {
        self.hub.show(archive);
    }

    /// Number of connected sidecars.
    pub fn connected(&self) -> usize {
        self.hub.connected()
    }

    /// How other replicas are asked for artifacts, where it is known how they are reached and who we are.
    pub(super) fn source(&self, settings: &Settings) -> Option<Source> {
        let service = settings.voice_address.clone()?;
        let token_file = settings.token_file.clone()?;
        Some(Source { service, authority: self.authority.clone(), token_file })
    }
}

/// Loads or makes the certificate.
pub(super) async fn material(client: &Client, settings: &Settings) -> Result<Material, Failure> {
    certificate::load_or_create(client, &settings.namespace, &names(settings), Timestamp::now()).await
}

/// What the certificate must be good for: the Service's name. A sidecar that is sent to the leader's address still
/// asks for this name, so replicas share one certificate.
fn names(settings: &Settings) -> Vec<String> {
    let address = settings.voice_address.as_deref().unwrap_or("localhost");
    vec![address.rsplit_once(':').map_or(address, |(host, _)| host).to_owned()]
}

async fn renew(
    client: Client,
    namespace: String,
    names: Vec<String>,
    served: watch::Sender<Arc<rustls::ServerConfig>>,
) {
    loop {
        tokio::time::sleep(RENEWAL).await;
        let loaded = certificate::load_or_create(&client, &namespace, &names, Timestamp::now()).await;
        match loaded.as_ref().map(Material::server_config) {
            Ok(Ok(config)) => {
                let _ = served.send(config);
            }
            Ok(Err(error)) => warn!("the serving certificate is not renewed: {error}"),
            Err(error) => warn!("the serving certificate is not renewed: {error}"),
        }
    }
}

impl AgentVoice for Voices {
    fn activity(&self, namespace: &str, agent: &str) -> Option<Said> {
        let seen = self.hub.activity(namespace, agent);
        let activity = seen.activity()?;
        Some(Said { activity, pods: seen.staying().map(|p| p.pod.clone()).collect() })
    }

    fn leaving(&self, namespace: &str, agent: &str) -> Vec<(String, Activity)> {
        let pods = self.hub.activity(namespace, agent).pods.into_iter();
        pods.filter(|pod| pod.activity.draining).map(|pod| (pod.pod, pod.activity)).collect()
    }

    fn hold<'a>(&'a self, namespace: &'a str, agent: &'a str) -> BoxFuture<'a, Option<Said>> {
        Box::pin(async move {
            match self.hub.hold(namespace, agent, HOLD).await {
                Ok(Answer { activity, pods }) => Some(Said { activity, pods }),
                Err(error) => {
                    tracing::debug!(namespace, agent, "prompts are not held: {error}");
                    None
                }
            }
        })
    }

    fn release<'a>(&'a self, namespace: &'a str, agent: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            // A hold ends by itself; a sidecar that is gone has none.
            let _ = self.hub.release(namespace, agent).await;
        })
    }

    fn touched(&self, namespace: &str, agent: &str, hash: &str) {
        let (hub, namespace, agent, hash) = (self.hub.clone(), namespace.to_owned(), agent.to_owned(), hash.to_owned());
        tokio::spawn(async move {
            // Only makes it quicker: the sidecar finds the new text by itself too.
            let _ = hub.touched(&namespace, &agent, &hash).await;
        });
    }

    fn content(&self, namespace: &str, agent: &str) -> Vec<(String, Option<Arc<Report>>)> {
        self.hub.activity(namespace, agent).staying().map(|pod| (pod.pod.clone(), pod.content.clone())).collect()
    }

    fn load(&self, namespace: &str, agent: &str, load: Load) {
        let (hub, namespace, agent) = (self.hub.clone(), namespace.to_owned(), agent.to_owned());
        tokio::spawn(async move {
            // A pod that did not hear it says what it has when it is connected again, and is told again.
            if let Err(error) = hub.load(&namespace, &agent, load).await {
                tracing::debug!(namespace, agent, "the order to load content was not taken: {error}");
            }
        });
    }

    fn connected(&self, namespace: &str, agent: &str) -> Vec<String> {
        self.hub.activity(namespace, agent).pods.into_iter().map(|pod| pod.pod).collect()
    }

    fn introduce(&self, namespace: &str, agent: &str, peers: Vec<Peer>) {
        let (hub, namespace, agent) = (self.hub.clone(), namespace.to_owned(), agent.to_owned());
        tokio::spawn(async move { hub.introduce(&namespace, &agent, peers).await });
    }

    fn authority(&self) -> Option<String> {
        Some(self.authority.to_string())
    }

    fn on_change(&self, listener: Listener) {
        let mut changes = self.hub.changes();
        self.crew.vital("the changes of sidecars", async move {
            loop {
                match changes.recv().await {
                    Ok(AgentKey { namespace, agent }) => listener(Whose::One { namespace: &namespace, agent: &agent }),
                    // A heartbeat without news tells nothing: whoever was missed would wait for its next change.
                    Err(RecvError::Lagged(missed)) => {
                        warn!(missed, "changes of sidecars came faster than they were read: all agents are looked at");
                        listener(Whose::Any);
                    }
                    Err(RecvError::Closed) => return,
                }
            }
        });
    }
}
