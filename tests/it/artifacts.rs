//! Artifacts from replicas to pods: a real API server reviews tokens that are bound to real pods, and the replicas are
//! processes with the rights that the chart gives them.
//!
//! There are no nodes here: pods stay pending, and the tests fetch in their place, with their tokens.

mod attacks;
mod replicas;

use std::{net::TcpListener, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, Pod, Secret, ServiceAccount},
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use pilothouse::{
    api::Agent,
    artifact::{
        Digest, FetchError, Fetcher, Store, Stored,
        fetch::{Endpoint, Trust},
    },
    controller::artifacts::{Purpose, Seal},
    tree::FileTree,
};
use serde_json::{Value, json};

use crate::common::{
    cluster::{Cluster, control_plane},
    controller::{Controller, Release},
    published,
    wait::eventually,
};

/// A release whose replicas may ask each other, and namespaces for agents.
struct Fleet {
    cluster: &'static Cluster,
    client: Client,
    release: Release,
    files: tempfile::TempDir,
}

/// A replica and where its port for sidecars is.
struct Replica {
    controller: Controller,
    port: u16,
}

/// A pod of an agent, and a token as its sidecar has one.
struct Reader {
    pod: Pod,
    token: String,
}

/// A port that nobody listens on. Somebody else may be quicker; the replica then says so and the test fails.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn files(list: &[(&str, &str)]) -> FileTree {
    list.iter().copied().collect()
}

/// What an agent's ConfigMap of content looks like, sealed as the controller does.
fn map(seal: &Seal, name: &str, agent: &str, owner: &Agent, digests: &[Digest]) -> Value {
    let digests = digests.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let seal = seal.of(Purpose::Artifacts, &owner.namespace().unwrap(), &owner.uid().unwrap(), &digests);
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": name, "labels": {"pilothouse.dev/agent": agent},
            "annotations": {"pilothouse.dev/artifacts": digests, "pilothouse.dev/artifacts-seal": seal},
            "ownerReferences": [{
                "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Agent", "name": owner.name_any(),
                "uid": owner.uid().unwrap(), "controller": true,
            }],
        },
    })
}

impl Fleet {
    async fn new(namespaces: &[String]) -> Self {
        let cluster = control_plane();
        let release = Release::install(cluster, namespaces).await;
        let fleet = Self { cluster, client: cluster.client().await, release, files: tempfile::tempdir().unwrap() };
        // A replica's pod, for its token.
        let (namespace, account) = (fleet.release.namespace.clone(), fleet.release.name.clone());
        let body = json!({"metadata": {"name": "replica"}, "spec": {
            "serviceAccountName": account, "containers": [{"name": "c", "image": "none"}],
        }});
        let pod = fleet.create::<Pod>(&namespace, body).await;
        let token = fleet.token(&pod, "pilothouse").await;
        std::fs::write(fleet.token_file(), token).unwrap();
        fleet
    }

    fn token_file(&self) -> std::path::PathBuf {
        self.files.path().join("token")
    }

    /// Starts a replica; `service` is the port behind which the Service would have some replica.
    fn replica(&self, name: &str, service: Option<u16>, data: Option<Arc<tempfile::TempDir>>) -> Replica {
        let port = free_port();
        let (listen, service) = (format!("127.0.0.1:{port}"), format!("localhost:{}", service.unwrap_or(port)));
        let data = data.unwrap_or_else(|| Arc::new(tempfile::tempdir().unwrap()));
        let (at, token) = ((listen.as_str(), service.as_str()), self.token_file());
        let controller = self.release.start_among(name, data, at, &token, &["--lease-duration", "10"]);
        Replica { controller, port }
    }

    fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn create<K>(&self, namespace: &str, object: Value) -> K
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + serde::de::DeserializeOwned
            + serde::Serialize
            + Clone
            + std::fmt::Debug,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api::<K>(namespace).create(&PostParams::default(), &object).await.unwrap()
    }

    /// An Agent, and one of its pods.
    async fn agent(&self, namespace: &str, name: &str) -> (Agent, Reader) {
        let body = json!({
            "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Agent", "metadata": {"name": name},
            "spec": {"workspaceDir": "/workspace", "agentImage": "agents:1", "executorImage": "devbox:1"},
        });
        let agents = self.api::<Agent>(namespace);
        let agent = agents.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(body)).await.unwrap();
        let pods = self.api::<Pod>(namespace);
        let pod = eventually("a pod of the agent", 60, || async {
            let list = pods.list(&ListParams::default().labels(&format!("pilothouse.dev/agent={name}"))).await.ok()?;
            list.items.into_iter().next()
        })
        .await;
        let token = self.token(&pod, "pilothouse").await;
        (agent, Reader { pod, token })
    }

    /// Says in a ConfigMap which artifacts an agent refers to.
    async fn refer(&self, namespace: &str, agent: &Agent, digests: &[Digest]) {
        let name = format!("{}-server-files-test", agent.name_any());
        let body = map(&self.seal().await, &name, &agent.name_any(), agent, digests);
        let maps = self.api::<ConfigMap>(namespace);
        maps.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(body)).await.unwrap();
    }

    /// A token for an audience, bound to a pod.
    async fn token(&self, pod: &Pod, audience: &str) -> String {
        let accounts: Api<ServiceAccount> = self.api(&pod.namespace().unwrap());
        let account = pod.spec.as_ref().unwrap().service_account_name.clone().unwrap_or("default".into());
        let spec = TokenRequestSpec {
            audiences: vec![audience.into()],
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: pod.metadata.name.clone(),
                uid: pod.uid(),
            }),
            expiration_seconds: Some(3600),
        };
        let wish = TokenRequest { spec, ..TokenRequest::default() };
        accounts.create_token_request(&account, &PostParams::default(), &wish).await.unwrap().status.unwrap().token
    }

    async fn serving(&self, key: &str) -> String {
        let secrets: Api<Secret> = self.api(&self.release.namespace);
        let secret = eventually("the authority", 30, || async { secrets.get_opt("pilothouse-serving").await.unwrap() });
        String::from_utf8(secret.await.data.unwrap()[key].0.clone()).unwrap()
    }

    /// The seal of the release's controllers.
    async fn seal(&self) -> Seal {
        published::seal(&self.client, &self.release.namespace).await
    }

    /// How a pod with this token reaches a replica.
    async fn endpoint(&self, port: u16, token: &str) -> Endpoint {
        let pem = self.serving("ca.crt").await;
        let file = self.files.path().join(Digest::of(token.as_bytes()).hex());
        std::fs::write(&file, token).unwrap();
        Endpoint::trusting(&format!("localhost:{port}"), Trust::Pem(pem.into()), file).unwrap()
    }

    /// A plain request.
    async fn ask(&self, port: u16, token: &str, method: Method, path: &str) -> Option<Response<Bytes>> {
        let endpoint = self.endpoint(port, token).await;
        let stream = endpoint.dial(None).await.ok()?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.ok()?;
        let (head, body) = answer.into_parts();
        Some(Response::from_parts(head, body.collect().await.ok()?.to_bytes()))
    }

    async fn get(&self, replica: &Replica, token: &str, digest: &Digest) -> (u16, Bytes) {
        let answer = self.ask(replica.port, token, Method::GET, &path(digest)).await.expect("an answer");
        (answer.status().as_u16(), answer.into_body())
    }

    /// Waits until a reader may have an artifact: caches follow the API server in their own time.
    async fn served(&self, replica: &Replica, token: &str, digest: &Digest) -> Bytes {
        eventually("the artifact is served", 30, || async {
            let (status, body) = self.get(replica, token, digest).await;
            (status == 200).then_some(body)
        })
        .await
    }
}

fn path(digest: &Digest) -> String {
    format!("/artifacts/{}", digest.hex())
}

impl Replica {
    /// Its store, as another process on the same folder sees it.
    fn store(&self) -> Store {
        Store::new(&self.controller.data.path().join("artifacts"), 0).unwrap()
    }

    fn put(&self, list: &[(&str, &str)]) -> Stored {
        self.store().put(&files(list)).unwrap()
    }

    async fn ready(&self) {
        let url = format!("{}/readyz", self.controller.health);
        eventually("ready", 30, || async { crate::common::wait::get(&url).await.filter(|(code, _)| *code == 200) })
            .await;
    }

    async fn leads(&self) {
        self.metric("pilothouse_leader", |value| value >= 1).await;
    }

    /// Waits until a metric without labels, or with these, is as wanted.
    async fn metric(&self, name: &str, wanted: impl Fn(i64) -> bool) -> i64 {
        let url = format!("{}/metrics", self.controller.health);
        eventually(name, 60, || async {
            let (_, text) = crate::common::wait::get(&url).await?;
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned))?;
            line.parse().ok().filter(|value| wanted(*value))
        })
        .await
    }
}

/// Fetches as a sidecar does: again after a pause until it works.
async fn fetch(fetcher: &Fetcher, stored: &Stored, to: &Path) -> Result<(), FetchError> {
    let end = std::time::Instant::now() + Duration::from_mins(1);
    loop {
        match fetcher.fetch(&stored.digest, stored.size, to).await {
            Err(_) if std::time::Instant::now() < end => tokio::time::sleep(Duration::from_millis(100)).await,
            done => return done,
        }
    }
}
