//! A Task while its agent's pod is replaced: old and new pod are real servers behind real doors, the Service is a wire
//! that leads to the one or the other.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use pilothouse::pod::{
    opencode::{Client, Error, Prompt},
    sidecar::Sidecar,
    task_run::{Ending, Outcome, attend},
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use super::{
    Pod, args,
    door::{Echo, read_head},
    eventually,
    task_run::{Printed, TITLE, task},
};
use crate::common::{
    model::{Model, Script},
    opencode::Server,
};

const WHOLE: &str = "word0 word1 word2 word3 \n";

/// Leads new connections to a pod, and cuts the old ones when it leads elsewhere: harsher than a cluster, where
/// they may last.
struct Service {
    address: SocketAddr,
    to: watch::Sender<SocketAddr>,
}

impl Service {
    async fn to(first: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (to, leads) = watch::channel(first);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut leads = leads.clone();
                tokio::spawn(async move {
                    let now = *leads.borrow_and_update();
                    let Ok(mut pod) = TcpStream::connect(now).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut pod) => {}
                        _ = leads.changed() => {}
                    }
                });
            }
        });
        Self { address, to }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// An agent in the middle of a rollout.
pub(super) struct Rollout {
    pub(super) model: Model,
    _servers: [Server; 2],
    pub(super) old: Pod,
    pub(super) new: Pod,
    service: Service,
}

async fn pod(port: u16, uid: &str) -> Pod {
    pod_of(port, uid, false).await
}

async fn pod_of(port: u16, uid: &str, beside: bool) -> Pod {
    let files = tempfile::tempdir().unwrap();
    let mut args = args(&files, port);
    args.beside = beside;
    args.pod_uid = uid.into();
    args.pod_ip = Some([127, 0, 0, 1].into());
    let pod = Pod { sidecar: Sidecar::start(&args).await.unwrap(), files };
    pod.known().await;
    pod
}

impl Rollout {
    pub(super) async fn start() -> Self {
        Self::of(false).await
    }

    /// Side by side.
    pub(super) async fn beside() -> Self {
        Self::of(true).await
    }

    pub(super) fn url(&self) -> String {
        self.service.url()
    }

    async fn of(beside: bool) -> Self {
        let model = Model::start().await;
        let config = model.config();
        let (a, b) = tokio::join!(Server::start(&config), Server::start(&config));
        let (old, new) = (pod_of(a.port, "old", beside).await, pod_of(b.port, "new", beside).await);
        let service = Service::to(old.sidecar.address).await;
        Self { model, _servers: [a, b], old, new, service }
    }

    fn task(&self) -> (JoinHandle<Ending>, Printed) {
        let args = task(&self.old, &self.service.url());
        let out = Printed::default();
        let mut writer = out.clone();
        (tokio::spawn(async move { attend(&args, &mut writer, std::future::pending()).await }), out)
    }

    /// The new pod is ready: the Service leads there, and the old one is told to end.
    pub(super) fn switch(&self) -> JoinHandle<Duration> {
        self.service.to.send_replace(self.new.sidecar.address);
        self.old.sidecar.work.drain();
        let (work, begun) = (self.old.sidecar.work.clone(), std::time::Instant::now());
        tokio::spawn(async move {
            work.drained().await.unwrap();
            begun.elapsed()
        })
    }

    async fn sessions(&self) -> [bool; 2] {
        let find = |pod: &Pod| {
            let client = pod.client();
            async move { client.find_session(TITLE).await.unwrap().is_some() }
        };
        [find(&self.old).await, find(&self.new).await]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_followed_where_it_is_until_it_ends() {
    let rollout = Rollout::start().await;
    rollout.model.play(Script::held());
    let (task, out) = rollout.task();
    eventually("the first word is printed", || !out.text().is_empty()).await;
    let gone = rollout.switch();
    // More than one look at the truth while the Service leads elsewhere.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!task.is_finished() && !gone.is_finished(), "{:?}", rollout.old.sidecar.work.snapshot());
    rollout.model.release();
    assert_eq!((task.await.unwrap().outcome, out.text().as_str()), (Outcome::Completed, WHOLE));
    gone.await.unwrap();
    assert_eq!(rollout.sessions().await, [true, false]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_that_the_old_pod_did_not_take_goes_to_the_new_one() {
    let rollout = Rollout::start().await;
    let work = rollout.old.sidecar.work.clone();
    work.hold(Duration::from_secs(5)).await;
    let (task, out) = rollout.task();
    let client = rollout.old.client();
    let opened = Arc::new(Mutex::new(false));
    let seen = opened.clone();
    tokio::spawn(async move {
        while client.find_session(TITLE).await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        *seen.lock() = true;
    });
    eventually("the session is open", || *opened.lock()).await;
    assert!(rollout.model.calls().is_empty(), "its prompt is held");
    let gone = rollout.switch();
    assert!(gone.await.unwrap() < Duration::from_secs(3), "no work was begun, so there is no end to wait for");
    assert_eq!((task.await.unwrap().outcome, out.text().as_str()), (Outcome::Completed, WHOLE));
    let asked = rollout.model.calls().iter().filter(|call| call.text().contains("say something")).count();
    assert_eq!(rollout.sessions().await, [true, true]);
    assert!(asked <= 2, "a title and an answer, once: {asked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_pod_stays_until_the_outcome_was_read() {
    let rollout = Rollout::start().await;
    rollout.model.play(Script::held());
    let client = rollout.old.client().pinned().await.unwrap();
    let session = client.create_session("followed", None, &[]).await.unwrap();
    let mut events = client.events();
    events.next().await;
    client.prompt_async(&session.id, &Prompt::text("x")).await.unwrap();
    eventually("the model was asked", || !rollout.model.calls().is_empty()).await;
    let gone = rollout.switch();
    tokio::time::sleep(Duration::from_millis(500)).await;
    rollout.model.release();
    let work = rollout.old.sidecar.work.clone();
    eventually("the work has ended", || work.snapshot().without_work()).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!gone.is_finished(), "somebody still follows");
    drop(events);
    gone.await.unwrap();
}

/// Somebody who answers all with 200 and these headers, and keeps what was said.
pub(super) fn impostor(listener: TcpListener, headers: String) -> Arc<Mutex<String>> {
    let told = Arc::new(Mutex::new(String::new()));
    let said = told.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = read_head(&mut stream).await;
            let question = head.lines().find_map(|line| line.strip_prefix("x-pilothouse-challenge: "));
            let echo = question.and_then(|q| q.split_once('.')).map_or("", |(_, mac)| mac).to_owned();
            said.lock().push_str(&head);
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{headers}x-pilothouse-proof: {echo}\r\nconnection: close\r\n\r\n{{}}"
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_the_pod_s_address_now_gets_no_password_and_gives_no_outcome() {
    let server = Echo::start().await;
    let old = pod(server.port, "old").await;
    let address = old.sidecar.address;
    let client = old.client().pinned().await.unwrap();
    assert!(client.session("ses_1").await.is_ok());
    old.sidecar.stop().await;

    let listener = TcpListener::bind(address).await.unwrap();
    let heard = impostor(listener, "x-pilothouse-pod: old\r\n".into());
    for _ in 0..3 {
        let answer = client.status().await;
        assert!(matches!(answer, Err(Error::Unreachable { sent: false, .. })), "{answer:?}");
    }
    let heard = heard.lock().clone();
    assert!(heard.starts_with("GET /pilothouse/proof ") && !heard.to_lowercase().contains("authorization"), "{heard}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_pod_is_known_again_and_another_of_the_agent_is_not() {
    let server = Echo::start().await;
    let mut pod = pod(server.port, "old").await;
    let client = pod.client().pinned().await.unwrap();
    let mut same = args(&pod.files, server.port);
    (same.door, same.pod_ip) = (pod.sidecar.address, Some([127, 0, 0, 1].into()));
    for (uid, known) in [("new", false), ("old", true)] {
        pod.sidecar.stop().await;
        same.pod_uid = uid.into();
        let sidecar = Sidecar::start(&same).await.unwrap();
        pod = Pod { sidecar, files: pod.files };
        let answer = client.session("ses_1").await;
        assert_eq!(answer.is_ok(), known, "{uid}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_without_the_pod_s_name_is_none() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = Client::new(&format!("http://{address}"), None).unwrap();
    // Without a password there is nothing to prove: the name alone is looked at.
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = service.local_addr().unwrap();
    impostor(service, format!("x-pilothouse-pod: old\r\nx-pilothouse-door: {address}\r\n"));
    impostor(listener, "x-pilothouse-pod: new\r\n".into());
    assert!(client.status().await.is_ok(), "no pod is meant");
    let through = Client::new(&format!("http://{at}"), None).unwrap();
    let answer = through.pinned().await.unwrap().status().await;
    assert!(matches!(answer, Err(Error::Unreachable { sent: true, .. })), "{answer:?}");
}
