//! The sidecar and task-run in front of the real opencode server.

mod asks;
pub(crate) mod bench;
mod beside;
mod content;
mod contract;
mod door;
mod drain;
mod flood;
mod ill;
mod moves;
mod task_run;
mod voice;

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client as Pool, rt::TokioExecutor};
use pilothouse::pod::{
    opencode::{Client, Credentials},
    sidecar::{Sidecar, SidecarArgs},
};

use crate::common::{model::Model, opencode::Server};

const PASSWORD: &str = "correct horse";

fn credentials() -> Credentials {
    Credentials { username: "opencode".into(), password: PASSWORD.into() }
}

/// A sidecar in this process, in front of some port.
struct Pod {
    sidecar: Sidecar,
    files: tempfile::TempDir,
}

fn args(files: &tempfile::TempDir, server_port: u16) -> SidecarArgs {
    let auth_dir = files.path().join("auth");
    if !auth_dir.exists() {
        std::fs::create_dir(&auth_dir).unwrap();
        std::fs::write(auth_dir.join("username"), "opencode").unwrap();
        std::fs::write(auth_dir.join("password"), PASSWORD).unwrap();
        std::fs::create_dir(files.path().join("workspace")).unwrap();
    }
    SidecarArgs {
        door: SocketAddr::from(([127, 0, 0, 1], 0)),
        server_port,
        auth_dir,
        server_auth_dir: None,
        workspace: files.path().join("workspace"),
        context_dir: None,
        pod_ip: None,
        files_dir: None,
        content_dir: None,
        skills_dir: files.path().join("skills"),
        voice_address: None,
        authority_dir: files.path().to_owned(),
        token_dir: files.path().to_owned(),
        agent: "coder".into(),
        namespace: "team".into(),
        pod: "coder-server-6c9f-x1b2c".into(),
        pod_uid: "uid-1".into(),
        beside: false,
        alone: false,
        layout: 1,
    }
}

impl Pod {
    async fn in_front_of(port: u16) -> Self {
        let files = tempfile::tempdir().unwrap();
        let sidecar = Sidecar::start(&args(&files, port)).await.unwrap();
        Self { sidecar, files }
    }

    fn url(&self) -> String {
        format!("http://{}", self.sidecar.address)
    }

    fn client(&self) -> Client {
        Client::new(&self.url(), Some(&credentials())).unwrap()
    }

    /// A plain request; the password only if asked for.
    async fn call(&self, method: Method, path: &str, password: Option<&str>) -> (u16, Response<Bytes>) {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url()));
        if let Some(password) = password {
            let credentials = Credentials { password: password.into(), ..credentials() };
            request = request.header("authorization", credentials.header().unwrap());
        }
        let pool: Pool<_, Full<Bytes>> = Pool::builder(TokioExecutor::new()).build_http();
        let response = pool.request(request.body(Full::default()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), Response::from_parts(parts, bytes))
    }

    /// Waits until the sidecar follows the server.
    async fn known(&self) {
        eventually("the server is followed", || self.sidecar.work.snapshot().known).await;
    }
}

/// A model, the real server that uses it, and a sidecar in front.
pub(crate) struct Real {
    model: Model,
    server: Server,
    pod: Pod,
}

impl Real {
    pub(crate) async fn start() -> Self {
        let model = Model::start().await;
        let server = Server::start(&model.config()).await;
        let pod = Pod::in_front_of(server.port).await;
        pod.known().await;
        Self { model, server, pod }
    }

    /// How many sessions the server has.
    pub(crate) async fn sessions(&self) -> usize {
        let (code, answer) = self.pod.call(Method::GET, "/session", Some(PASSWORD)).await;
        assert_eq!(code, 200);
        serde_json::from_slice::<Vec<serde_json::Value>>(answer.body()).unwrap().len()
    }
}

/// Polls until `condition` holds; a minute is for machines under load, not part of any claim.
async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2400 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("never happened: {what}");
}
