//! The sidecars' connection over TLS: a real hub, real sidecars, and a reviewer of tokens in place of the API server.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use pilothouse::{
    api::voice::Activity,
    pod::sidecar::Sidecar,
    server::voice::{
        Hub, Leadership, OrderError,
        artifacts::Shelf,
        certificate::Material,
        identity::{Identity, IdentityError, Reviewer, Reviews},
    },
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{Pod, args, door::Echo, eventually};
use crate::common::agent_server::{AgentServer, Setup};

/// A token of the right form. Only the reviewer knows which signature is right.
pub(super) fn token(signature: &str) -> String {
    use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
    let claims = serde_json::json!({
        "aud": ["pilothouse"], "exp": 9_000_000_000_i64, "sub": "system:serviceaccount:team:default",
        "kubernetes.io": { "namespace": "team", "pod": { "name": "coder-server-6c9f-x1b2c", "uid": "uid-1" } },
    });
    format!("e30.{}.{}", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()), BASE64_URL_SAFE_NO_PAD.encode(signature))
}

pub(super) fn good_token() -> String {
    token("good")
}

/// Knows one token.
struct OneToken(Arc<AtomicU32>);

impl Reviewer for OneToken {
    fn review(&self, token: String) -> BoxFuture<'_, Result<Identity, IdentityError>> {
        let (namespace, account) = ("team".into(), "default".into());
        let pod = Identity { namespace, account, pod: "coder-server-6c9f-x1b2c".into(), pod_uid: "uid-1".into() };
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move { if token == good_token() { Ok(pod) } else { Err(IdentityError::Invalid) } })
    }
}

/// A replica of the controller, as far as sidecars see it.
pub(super) struct Replica {
    pub(super) hub: Hub,
    pub(super) address: SocketAddr,
    reviews: Arc<AtomicU32>,
    leadership: watch::Sender<Leadership>,
    stop: CancellationToken,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Replica {
    pub(super) async fn start(material: &Material, leadership: Leadership) -> Self {
        Self::serving(material, leadership, None).await
    }

    /// With artifacts.
    pub(super) async fn serving(material: &Material, leadership: Leadership, shelf: Option<Shelf>) -> Self {
        let reviews = Arc::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let (leadership, follow) = watch::channel(leadership);
        let hub = Hub::new(Reviews::new(OneToken(Arc::clone(&reviews))), follow, shelf);
        let (serving, stopped) = (hub.clone(), stop.clone());
        let tls = material.server_config().unwrap();
        tokio::spawn(async move {
            let (_keep, tls) = watch::channel(tls);
            serving.serve(listener, tls, stopped).await;
        });
        Self { hub, address, reviews, leadership, stop }
    }

    /// Tokens that were reviewed so far.
    pub(super) fn reviewed(&self) -> u32 {
        self.reviews.load(Ordering::Relaxed)
    }

    fn seen(&self) -> Option<Activity> {
        self.hub.activity("team", "coder").activity()
    }
}

pub(super) fn material() -> Material {
    Material::generate(&["127.0.0.1".into(), "localhost".into()], jiff::Timestamp::now()).unwrap()
}

fn sha256(text: &str) -> String {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(text).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// A sidecar that speaks to `address` with this token.
pub(super) async fn pod(server: &Echo, material: &Material, address: SocketAddr, token: &str) -> Pod {
    pod_at(server.port, material, address, token).await
}

async fn pod_at(port: u16, material: &Material, address: SocketAddr, token: &str) -> Pod {
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("ca.crt"), material.authority_pem()).unwrap();
    std::fs::write(files.path().join("token"), token).unwrap();
    let context = files.path().join("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("context.md"), "be kind").unwrap();
    let mut args = args(&files, port);
    args.voice_address = Some(format!("localhost:{}", address.port()));
    args.context_dir = Some(context);
    Pod { sidecar: Sidecar::start(&args).await.unwrap(), files }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_reports_and_carries_out_orders() {
    let (material, server) = (material(), Echo::start().await);
    let replica = Replica::start(&material, Leadership::Leader).await;
    let mut changes = replica.hub.changes();
    assert_eq!(replica.hub.hold("team", "coder", Duration::from_secs(1)).await, Err(OrderError::NotConnected));

    let pod = pod(&server, &material, replica.address, &good_token()).await;
    let key = changes.recv().await.unwrap();
    assert_eq!((&*key.namespace, &*key.agent), ("team", "coder"));
    eventually("it is idle", || replica.seen().is_some_and(|a| a.idle && a.server_ready)).await;
    assert_eq!(replica.hub.connected(), 1);

    let seen = replica.hub.context_hash("team", "coder").unwrap();
    assert_eq!(seen, sha256("be kind"));
    std::fs::write(pod.files.path().join("context/context.md"), "be brief").unwrap();
    replica.hub.touched("team", "coder", "whatever").await.unwrap();
    eventually("the new text is seen", || replica.hub.context_hash("team", "coder") == Some(sha256("be brief"))).await;

    eventually("it is idle again", || replica.seen().is_some_and(|a| a.idle)).await;
    let answer = replica.hub.hold("team", "coder", Duration::from_secs(5)).await.unwrap();
    assert!(answer.is_quiet(), "{answer:?}");
    assert_eq!(answer.pods, ["coder-server-6c9f-x1b2c"]);
    assert!(pod.sidecar.work.snapshot().held);
    let answer = replica.hub.release("team", "coder").await.unwrap();
    assert!(!answer.activity.held && !pod.sidecar.work.snapshot().held);

    // Work in front of the door: the hold says so at once, and the controller hears of its end.
    let client = pod.client();
    let prompt = pilothouse::pod::opencode::Prompt::text("x");
    let hanging = tokio::spawn(async move { client.prompt_async("hang", &prompt).await });
    eventually("the work is seen", || replica.seen().is_some_and(|a| a.works_on() > 0 && !a.idle)).await;
    let answer = replica.hub.hold("team", "coder", Duration::from_secs(5)).await.unwrap();
    assert!(!answer.is_quiet() && answer.activity.sequence >= pod.sidecar.work.snapshot().sequence, "{answer:?}");
    hanging.abort();

    pod.sidecar.stop().await;
    eventually("it is gone", || replica.seen().is_none()).await;
    assert_eq!(replica.hub.connected(), 0);
}

/// What a Task left behind is stopped where it is asked for, and it is known where that was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_stopped_in_the_pods_that_are_meant() {
    let (material, server) = (material(), AgentServer::start(Setup::default()).await);
    let replica = Replica::start(&material, Leadership::Leader).await;
    let pod = pod_at(server.port, &material, replica.address, &good_token()).await;
    eventually("it is idle", || replica.seen().is_some_and(|a| a.idle && a.server_ready)).await;
    let client = pod.client();
    let session = client.create_session("pilothouse/team/t/1/2", None, &[]).await.unwrap();
    client.prompt_async(&session.id, &pilothouse::pod::opencode::Prompt::text("[[hold]]")).await.unwrap();
    eventually("it is at work", || server.at_work() > 0).await;

    let ending = |_: &str, activity: &Activity| activity.draining;
    let stop = || replica.hub.abort("team", "coder", "pilothouse/team/t/1", ending);
    assert!(stop().await.is_empty() && server.at_work() > 0, "the pod does not end");
    pod.sidecar.work.drain();
    eventually("it ends", || replica.seen().is_none()).await;
    assert_eq!(stop().await, [("coder-server-6c9f-x1b2c".to_owned(), true)].into());
    assert_eq!(server.at_work(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_sends_sidecars_to_the_leader_and_a_failover_moves_them() {
    let (material, server) = (material(), Echo::start().await);
    let leader = Replica::start(&material, Leadership::Leader).await;
    let follower = Replica::start(&material, Leadership::Follower(leader.address.to_string())).await;
    let _pod = pod(&server, &material, follower.address, &good_token()).await;
    eventually("it found the leader", || leader.hub.connected() == 1).await;
    assert_eq!(follower.hub.connected(), 0);
    follower.leadership.send_replace(Leadership::Leader);
    leader.leadership.send_replace(Leadership::Unknown);
    eventually("it moved", || follower.hub.connected() == 1 && leader.hub.connected() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_not_heard_and_the_agent_works_on_without_a_controller() {
    let (material, server) = (material(), Echo::start().await);
    let replica = Replica::start(&material, Leadership::Leader).await;
    let wrong_token = pod(&server, &material, replica.address, &token("bad")).await;
    let other = Material::generate(&["localhost".into()], jiff::Timestamp::now()).unwrap();
    let wrong_authority = pod(&server, &other, replica.address, &good_token()).await;
    for pod in [&wrong_token, &wrong_authority] {
        pod.known().await;
        assert!(pod.client().prompt_async("ses_1", &pilothouse::pod::opencode::Prompt::text("x")).await.is_ok());
    }
    assert_eq!(replica.hub.connected(), 0);
    // The token is read again for each connection.
    std::fs::write(wrong_token.files.path().join("token"), good_token()).unwrap();
    eventually("it is believed now", || replica.hub.connected() == 1).await;
    assert!(wrong_authority.sidecar.work.snapshot().known);
}
