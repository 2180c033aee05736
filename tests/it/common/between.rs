//! Stands between a controller and the API server: loses the answer to one write, stops time at one, or lets watches die.

use std::{path::PathBuf, sync::Arc};

use axum::{
    Router,
    body::{Body, BodyDataStream, Bytes, to_bytes},
    extract::State,
    http::{Method, Request, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures::StreamExt as _;
use kube::{
    Client, Config,
    config::{AuthInfo, KubeConfigOptions, Kubeconfig},
};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;

/// One that passes everything on until it is told to lose something.
#[derive(Clone)]
pub(crate) struct Between {
    client: Client,
    state: Arc<Mutex<Lost>>,
    /// How often all watches that were open fell silent.
    silences: watch::Sender<u64>,
}

#[allow(clippy::large_enum_variant, reason = "one at a time")]
enum Turn {
    Lost,
    Passes(Request<Bytes>, Option<Request<Bytes>>),
}

#[derive(Default)]
struct Lost {
    /// Part of the path of the write whose answer is lost, and of the write after which it is carried out.
    wanted: Option<(String, String)>,
    kept: Option<(Request<Bytes>, String)>,
    late: Option<StatusCode>,
    stop: Option<Stop>,
    stopped: Option<String>,
    /// Part of the path of writes that fail.
    refused: Option<&'static str>,
    /// Requests that get no answer for now, by the end of their path and a part of their query, and which there were.
    held: Vec<(&'static str, &'static str)>,
    waiting: Vec<(&'static str, &'static str)>,
}

/// Where a controller is to die: at which of its writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    /// Only writes count whose path has this in it; empty counts all.
    pub(crate) of: &'static str,
    /// So many of them go well before.
    pub(crate) after: usize,
    /// Whether this one still reaches the API server.
    pub(crate) carried_out: bool,
}

impl Between {
    /// Listens, and gives the kubeconfig that leads through it.
    pub(crate) async fn start(kubeconfig: &PathBuf) -> (Self, PathBuf) {
        let mut file = Kubeconfig::read_from(kubeconfig).unwrap();
        let mut config = Config::from_custom_kubeconfig(file.clone(), &KubeConfigOptions::default()).await.unwrap();
        // Who asks says itself who it is.
        config.auth_info = AuthInfo::default();
        config.read_timeout = None;
        let between = Self {
            client: Client::try_from(config).unwrap(),
            state: Arc::default(),
            silences: watch::Sender::default(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cluster = file.clusters[0].cluster.as_mut().unwrap();
        cluster.server = Some(format!("http://{}", listener.local_addr().unwrap()));
        (cluster.certificate_authority, cluster.certificate_authority_data) = (None, None);
        let path = kubeconfig.with_extension("between.kubeconfig");
        std::fs::write(&path, serde_json::to_string(&file).unwrap()).unwrap();
        let router = Router::new().fallback(pass).with_state(between.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (between, path)
    }

    /// The answer to the next PATCH of a path that ends so gets lost: the API server seems to give up. It carries the
    /// write out just before the next PATCH of a path that ends with `before`.
    pub(crate) fn lose(&self, write: &str, before: &str) {
        self.state.lock().wanted = Some((write.into(), before.into()));
    }

    /// From now on counts writes (leases and events aside), and answers neither the one that `stop` names nor any request
    /// after it, which no API server sees.
    pub(crate) fn stop_at(&self, stop: Stop) {
        let mut state = self.state.lock();
        (state.stop, state.stopped) = (Some(stop), None);
    }

    /// The write at which it was stopped, if it came so far.
    pub(crate) fn stopped(&self) -> Option<String> {
        self.state.lock().stopped.clone()
    }

    /// Lets everything pass again.
    pub(crate) fn go_on(&self) {
        let mut state = self.state.lock();
        (state.stop, state.stopped) = (None, None);
    }

    /// Writes whose path has this in it fail from now on; with nothing, none.
    pub(crate) fn refuse(&self, of: Option<&'static str>) {
        self.state.lock().refused = of;
    }

    /// Requests get no answer whose path ends so, and whose query has this in it, until this is called without them.
    pub(crate) fn hold(&self, requests: &[(&'static str, &'static str)]) {
        let mut state = self.state.lock();
        (state.held, state.waiting) = (requests.to_vec(), vec![]);
    }

    /// Whether all that is held has been asked for.
    pub(crate) fn all_wait(&self) -> bool {
        let state = self.state.lock();
        state.held.iter().all(|held| state.waiting.contains(held))
    }

    fn is_refused(&self, method: &Method, path: &str) -> bool {
        let of = self.state.lock().refused;
        *method != Method::GET && of.is_some_and(|of| path.contains(of))
    }

    fn is_held(&self, path: &str, query: &str) -> bool {
        let mut state = self.state.lock();
        let held = state.held.iter().find(|(end, part)| path.ends_with(end) && query.contains(part)).copied();
        state.waiting.extend(held);
        held.is_some()
    }

    /// Whether a request gets no answer, and whether it is carried out all the same.
    fn silence(&self, method: &Method, path: &str) -> Option<bool> {
        let mut state = self.state.lock();
        if state.stopped.is_some() {
            return Some(false);
        }
        let writes = [Method::POST, Method::PATCH, Method::PUT, Method::DELETE].contains(method);
        let counts = ["/leases", "/events", "/tokenreviews"].iter().all(|part| !path.contains(part));
        let stop = state.stop.as_mut().filter(|stop| writes && counts && path.contains(stop.of))?;
        if stop.after > 0 {
            stop.after -= 1;
            return None;
        }
        let carried_out = stop.carried_out;
        state.stopped = Some(format!("{method} {path}"));
        Some(carried_out)
    }

    /// On the watches that are open now nothing comes any more, and nobody closes them. Others may be opened.
    pub(crate) fn silence_watches(&self) {
        self.silences.send_modify(|n| *n += 1);
    }

    /// What became of the write in the end.
    pub(crate) fn late(&self) -> Option<StatusCode> {
        self.state.lock().late
    }

    /// Whether a request gets lost, and else which other one comes before it.
    fn turn(&self, asked: Request<Bytes>, path: &str) -> Turn {
        let mut state = self.state.lock();
        if asked.method() != Method::PATCH {
            return Turn::Passes(asked, None);
        }
        if state.wanted.as_ref().is_some_and(|(write, _)| path.ends_with(write)) {
            state.kept = state.wanted.take().map(|(_, before)| (asked, before));
            return Turn::Lost;
        }
        let due = state.kept.as_ref().is_some_and(|(_, before)| path.ends_with(before));
        let late = if due { state.kept.take().map(|(late, _)| late) } else { None };
        Turn::Passes(asked, late)
    }

    async fn send(&self, request: Request<Bytes>) -> Response {
        let (parts, body) = request.into_parts();
        let watches = parts.uri.query().is_some_and(|query| query.contains("watch=true"));
        let silence = self.silences.subscribe();
        let request = Request::from_parts(parts, kube::client::Body::from(body.to_vec()));
        match self.client.send(request).await {
            Ok(answer) if watches => answer.map(|body| until(Body::new(body).into_data_stream(), silence)),
            Ok(answer) => answer.map(Body::new),
            Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
        }
    }
}

async fn pass(State(between): State<Between>, request: Request<Body>) -> Response {
    let (mut parts, body) = request.into_parts();
    parts.headers.remove(header::HOST);
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let path = parts.uri.path().to_owned();
    if let Some(carried_out) = between.silence(&parts.method, &path) {
        if carried_out {
            // Also when whoever asked dies before this is through.
            let request = Request::from_parts(parts, body);
            tokio::spawn(async move { between.send(request).await });
        }
        // Whoever asks dies before it hears.
        return std::future::pending().await;
    }
    if between.is_refused(&parts.method, &path) {
        return gave_up();
    }
    while between.is_held(&path, parts.uri.query().unwrap_or_default()) {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let asked = Request::from_parts(parts, body);
    let (asked, late) = match between.turn(asked, &path) {
        Turn::Lost => return gave_up(),
        Turn::Passes(asked, late) => (asked, late),
    };
    if let Some(late) = late {
        let answer = between.send(late).await;
        between.state.lock().late = Some(answer.status());
    }
    between.send(asked).await
}

/// What comes, until it is to be silent.
fn until(stream: BodyDataStream, silence: watch::Receiver<u64>) -> Body {
    Body::from_stream(futures::stream::unfold((stream, silence), |(mut stream, mut silence)| async move {
        let next = tokio::select! {
            biased;
            _ = silence.changed() => std::future::pending().await,
            next = stream.next() => next,
        };
        next.map(|next| (next, (stream, silence)))
    }))
}

fn gave_up() -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 500,
        "reason": "InternalError", "message": "etcdserver: request timed out"});
    (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "application/json")], status.to_string())
        .into_response()
}
