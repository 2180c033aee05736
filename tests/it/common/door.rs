//! The sidecar of a pod as the controller sees it, played by a test: it says and answers what the test wants.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, Pod, ServiceAccount},
};
use kube::{Api, Client, ResourceExt as _, api::PostParams};
use pilothouse::{
    api::{
        content::{Load, Report},
        names::{AUTHORITY_CONFIG_MAP, AUTHORITY_KEY},
        voice::{Ack, Activity, FromController, FromSidecar, Hello, PROTOCOL},
    },
    net::dial::{Endpoint, Stream, Trust},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest as _, http::header::AUTHORIZATION},
};

use super::wait::eventually;

/// A door that is connected.
pub(crate) struct Door {
    socket: WebSocketStream<Box<dyn Stream>>,
    activity: Activity,
}

/// A server that does nothing and takes prompts.
pub(crate) fn idle() -> Activity {
    Activity { idle: true, server_ready: true, ..Activity::default() }
}

/// One prompt is at work.
pub(crate) fn busy() -> Activity {
    Activity { server_ready: true, in_flight: 1, ..Activity::default() }
}

impl Door {
    /// Connects as the sidecar of this pod of an agent.
    pub(crate) async fn open(client: &Client, agent: &str, pod: &Pod, port: u16) -> Self {
        let namespace = pod.namespace().unwrap();
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
        let authority = eventually("the controller's authority", 30, || async {
            maps.get_opt(AUTHORITY_CONFIG_MAP).await.unwrap()?.data?.remove(AUTHORITY_KEY)
        });
        let trust = Trust::Pem(authority.await.into());
        let files = tempfile::tempdir().unwrap();
        let token_file = files.path().join("token");
        std::fs::write(&token_file, token(client, pod, "pilothouse").await.unwrap()).unwrap();
        let endpoint = Endpoint::trusting(&format!("localhost:{port}"), trust, token_file).unwrap();
        // Until the controller leads it sends sidecars away.
        let socket = eventually("a connection", 30, || async {
            let mut request = endpoint.url().into_client_request().unwrap();
            request.headers_mut().insert(AUTHORIZATION, endpoint.token().unwrap());
            Some(client_async(request, endpoint.dial(None).await.ok()?).await.ok()?.0)
        });
        let mut door = Self { socket: socket.await, activity: idle() };
        let hello = Hello {
            protocol: PROTOCOL,
            agent: agent.into(),
            namespace,
            pod: pod.name_any(),
            pod_uid: pod.uid().unwrap(),
            ..Hello::default()
        };
        door.send(&FromSidecar::Hello(hello)).await;
        door
    }

    async fn send(&mut self, message: &FromSidecar) {
        self.socket.send(Message::text(serde_json::to_string(message).unwrap())).await.unwrap();
    }

    /// Says what goes on from now on.
    pub(crate) async fn say(&mut self, activity: Activity) {
        let sequence = self.activity.sequence + 1;
        self.activity = Activity { sequence, ..activity };
        self.send(&FromSidecar::Activity(self.activity.clone())).await;
    }

    /// Answers an order with what goes on by then.
    pub(crate) async fn answer(&mut self, order: &FromController, activity: Activity) {
        let Some(id) = serde_json::to_value(order).unwrap()["id"].as_u64() else { return };
        let held = matches!(order, FromController::Hold { .. });
        self.activity = Activity { sequence: self.activity.sequence + 1, held, ..activity };
        self.send(&FromSidecar::Ack(Ack { id, error: String::new(), activity: self.activity.clone() })).await;
    }

    /// The next order to hold prompts, or to release them; others are answered and nothing else.
    pub(crate) async fn order(&mut self) -> FromController {
        let next = async {
            loop {
                let Some(Ok(message)) = self.socket.next().await else { panic!("the controller left") };
                let Message::Text(text) = message else { continue };
                let order: FromController = serde_json::from_str(&text).unwrap();
                if matches!(order, FromController::Hold { .. } | FromController::Release { .. }) {
                    return order;
                }
                self.answer(&order, self.activity.clone()).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), next).await.expect("an order to hold or to release prompts")
    }

    /// Says what its content is.
    pub(crate) async fn content(&mut self, report: Report) {
        self.send(&FromSidecar::Content(report)).await;
    }

    /// The next order to load content, if one comes in this time; others are answered and nothing else.
    pub(crate) async fn load_within(&mut self, time: Duration) -> Option<Load> {
        let next = async {
            loop {
                let Ok(message) = tokio::time::timeout(Duration::from_secs(2), self.socket.next()).await else {
                    self.say(self.activity.clone()).await;
                    continue;
                };
                let Some(Ok(message)) = message else { panic!("the controller left") };
                let Message::Text(text) = message else { continue };
                let order: FromController = serde_json::from_str(&text).unwrap();
                self.answer(&order, self.activity.clone()).await;
                if let FromController::Load { load, .. } = order {
                    return load;
                }
            }
        };
        tokio::time::timeout(time, next).await.ok()
    }

    /// The next order to load content.
    pub(crate) async fn load(&mut self) -> Load {
        self.load_within(Duration::from_mins(1)).await.expect("an order to load content")
    }

    /// Waits for the order to hold prompts.
    pub(crate) async fn hold(&mut self) -> FromController {
        let order = self.order().await;
        assert!(matches!(order, FromController::Hold { .. }), "{order:?}");
        order
    }

    /// Waits for the order to release them, and does so.
    pub(crate) async fn release(&mut self) {
        let order = self.order().await;
        assert!(matches!(order, FromController::Release { .. }), "{order:?}");
        self.answer(&order, self.activity.clone()).await;
    }
}

/// A token of the pod, as its kubelet asks for it.
pub(crate) async fn token(client: &Client, pod: &Pod, audience: &str) -> kube::Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_else(|| "default".into());
    let wish = TokenRequest {
        spec: TokenRequestSpec {
            audiences: vec![audience.into()],
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(pod.name_any()),
                uid: pod.uid(),
            }),
            expiration_seconds: Some(7200),
        },
        ..TokenRequest::default()
    };
    let made = accounts.create_token_request(&account, &PostParams::default(), &wish).await?;
    Ok(made.status.map(|status| status.token).unwrap_or_default())
}
