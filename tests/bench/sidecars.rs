//! Agents' pods as far as the controller sees them: KWOK plays the pods, and beside each runs a real sidecar on loopback,
//! with what the kubelet would have mounted, in front of a server that does what it is told.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    http::header,
    routing::get,
};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, Pod, Secret, ServiceAccount},
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, PostParams},
};
use pilothouse::api::names;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::common::{controller::pilothouse, opencode::free_port, wait::eventually};

/// A server that has one session, which works or does not, as it is told.
pub(crate) struct Desk {
    /// Where it listens.
    pub(crate) port: u16,
    busy: watch::Sender<bool>,
}

impl Desk {
    /// On a free port of loopback, with nothing to do.
    pub(crate) async fn open() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (busy, told) = watch::channel(false);
        let listed = told.clone();
        let app = Router::new()
            .route("/global/health", get(|| async { Json(json!({"healthy": true, "version": "0"})) }))
            .route("/session/status", get(move || async move { Json(status(*listed.borrow())) }))
            .route("/global/event", get(move || std::future::ready(events(told.clone()))))
            .fallback(|| async { Json(json!({})) });
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { port, busy }
    }

    /// The session works from now on, or does not.
    pub(crate) fn work(&self, busy: bool) {
        self.busy.send_replace(busy);
    }
}

fn status(busy: bool) -> Value {
    if busy { json!({"ses_1": {"type": "busy"}}) } else { json!({}) }
}

fn events(told: watch::Receiver<bool>) -> ([(header::HeaderName, &'static str); 1], Body) {
    let frame = |payload: &Value| {
        Ok::<_, std::convert::Infallible>(Bytes::from(format!(
            "data: {}\n\n",
            json!({"directory": "/w", "payload": payload})
        )))
    };
    let connected = frame(&json!({"type": "server.connected", "properties": {}}));
    let later = futures::stream::unfold(told, move |mut told| async move {
        let kind = match tokio::time::timeout(Duration::from_secs(10), told.changed()).await {
            Err(_) => json!({"type": "server.heartbeat", "properties": {}}),
            Ok(changed) => {
                changed.ok()?;
                let status = if *told.borrow_and_update() { "busy" } else { "idle" };
                json!({"type": "session.status", "properties": {"sessionID": "ses_1", "status": {"type": status}}})
            }
        };
        Some((frame(&kind), told))
    });
    let all = futures::StreamExt::chain(futures::stream::iter([connected]), later);
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(all))
}

/// A running sidecar. Dropping it kills it.
pub(crate) struct Companion {
    child: Child,
    /// The pod that it is in.
    pub(crate) pod: String,
    /// Port of its door, on loopback.
    pub(crate) door: u16,
}

impl Drop for Companion {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where companions have their files, and how they find the controller.
pub(crate) struct Quarters {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    /// Folders of all agents.
    pub(crate) root: tempfile::TempDir,
    /// `localhost:port` of the controller.
    pub(crate) voice: String,
}

impl Quarters {
    /// The agent's `workspaceDir`, on this machine.
    pub(crate) fn workspace(&self, agent: &str) -> PathBuf {
        self.root.path().join(agent).join("workspace")
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The agent's running pod, other than the one named.
    pub(crate) async fn pod(&self, agent: &str, not: &str) -> Pod {
        let list = ListParams::default().labels(&format!("{}={agent}", names::label::AGENT));
        let pods = self.api::<Pod>();
        eventually("a running pod", 120, || async {
            let all = pods.list(&list).await.unwrap().items;
            let running = |p: &Pod| p.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running"));
            all.into_iter().find(|p| running(p) && p.metadata.deletion_timestamp.is_none() && p.name_any() != not)
        })
        .await
    }

    /// Starts what belongs into a pod, in front of the server at a port.
    pub(crate) async fn companion(&self, agent: &str, pod: &Pod, server: u16) -> Companion {
        let home = self.root.path().join(agent).join(pod.name_any());
        let workspace = self.workspace(agent);
        std::fs::create_dir_all(&workspace).unwrap();
        let spec = pod.spec.as_ref().unwrap();
        let files =
            spec.volumes.iter().flatten().find(|v| v.name == "files").and_then(|v| v.config_map.as_ref()).unwrap();
        // An agent without content from Git has no map of it.
        let map = |name: String| async move {
            let map = self.api::<ConfigMap>().get_opt(&name).await.unwrap();
            map.and_then(|map| map.data).unwrap_or_default()
        };
        put(&home.join("files"), &map(files.name.clone()).await);
        put(&home.join("content"), &map(names::agent::content(agent)).await);
        put(&home.join("context"), &map(names::agent::context(agent)).await);
        put(&home.join("authority"), &map(names::AUTHORITY_CONFIG_MAP.into()).await);
        let secret = self.api::<Secret>().get(&names::agent::auth(agent)).await.unwrap();
        put(&home.join("auth"), &texts(secret));
        put(&home.join("token"), &[("token".to_owned(), self.token(pod).await)].into());
        let mut command = Command::new(pilothouse());
        let door = free_port();
        command.env_clear().args(["sidecar", "--log", "warn", "--layout", "1", "--door", &format!("127.0.0.1:{door}")]);
        command.args(["--agent", agent, "--namespace", &self.namespace, "--pod", &pod.name_any()]);
        command.args(["--pod-uid", &pod.uid().unwrap(), "--voice-address", &self.voice]);
        command.args(["--server-port", &server.to_string()]).arg("--workspace").arg(workspace);
        command.arg("--skills-dir").arg(home.join("skills"));
        std::fs::create_dir_all(home.join("skills")).unwrap();
        for folder in ["files", "content", "context", "authority", "auth", "token"] {
            command.arg(format!("--{folder}-dir")).arg(home.join(folder));
        }
        let log = std::fs::File::create(home.join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Companion { child: command.spawn().expect("pilothouse sidecar"), pod: pod.name_any(), door }
    }

    /// A token as the kubelet projects it into this pod.
    async fn token(&self, pod: &Pod) -> String {
        let account =
            pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_else(|| "default".into());
        let bound = BoundObjectReference {
            kind: Some("Pod".into()),
            api_version: Some("v1".into()),
            name: Some(pod.name_any()),
            uid: pod.uid(),
        };
        let spec = TokenRequestSpec {
            audiences: vec!["pilothouse".into()],
            bound_object_ref: Some(bound),
            expiration_seconds: Some(3600),
        };
        let wish = TokenRequest { spec, ..TokenRequest::default() };
        let made = self.api::<ServiceAccount>().create_token_request(&account, &PostParams::default(), &wish).await;
        made.unwrap().status.unwrap().token
    }
}

/// A Secret's texts.
pub(crate) fn texts(secret: Secret) -> BTreeMap<String, String> {
    let text = |v: k8s_openapi::ByteString| String::from_utf8(v.0).unwrap();
    secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, text(value))).collect()
}

/// Files as they are mounted.
pub(crate) fn put(folder: &Path, files: &BTreeMap<String, String>) {
    std::fs::create_dir_all(folder).unwrap();
    for (name, text) in files {
        std::fs::write(folder.join(name), text).unwrap();
    }
}
