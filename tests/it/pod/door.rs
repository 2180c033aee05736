//! Through the door to the real server, and what the door refuses.

use std::time::Duration;

use http::Method;
use pilothouse::pod::opencode::{Error, Prompt, Signal};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{PASSWORD, Pod, Real, credentials, eventually};
use crate::common::model::Script;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_streams_through_the_door_and_counts_as_work_until_it_ends() {
    let real = Real::start().await;
    let (client, work) = (real.pod.client(), real.pod.sidecar.work.clone());
    real.model.play(Script::held());
    let session = client.create_session("through the door", None, &[]).await.unwrap();
    let mut events = client.events();
    assert_eq!(events.next().await, Signal::Connected);

    let before = work.snapshot();
    assert!(before.without_work());
    client.prompt_async(&session.id, &Prompt::text("hello")).await.unwrap();
    let after = work.snapshot();
    assert!(after.sequence > before.sequence, "{before:?} {after:?}");
    assert_eq!(after.busy, 1, "work from the moment the prompt was taken");

    // The first word arrives while the model still holds the rest: nothing on the way waits for an end.
    let first = loop {
        if let Signal::Event(event) = events.next().await
            && event.payload.kind == "message.part.delta"
        {
            break event.payload.properties.delta.unwrap();
        }
    };
    assert_eq!(first, "word0 ");
    let (held, idle) = work.hold(Duration::from_secs(5)).await;
    assert!(!idle && held.busy == 1, "{held:?}");
    work.release();

    real.model.release();
    eventually("the session is idle", || work.snapshot().without_work()).await;
    assert!(work.hold(Duration::from_secs(5)).await.1, "{:?}", work.snapshot());
    let messages = client.messages(&session.id, 10).await.unwrap();
    assert_eq!(messages.last().unwrap().text(), "word0 word1 word2 word3 ");
    assert!(real.server.workspace.is_dir());
}

#[tokio::test]
async fn without_the_password_only_probes_answer() {
    // Nothing listens behind: a request that passed would be a 502.
    let pod = Pod::in_front_of(1).await;
    while pod.call(Method::GET, "/startz", None).await.0 != 200 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for (path, password, status) in [
        ("/healthz", None, 200),
        ("/startz", None, 200),
        ("/server-livez", None, 200),
        ("/readyz", None, 503),
        ("/global/health", None, 401),
        ("/global/health", Some("wrong"), 401),
        ("/", None, 401),
        ("/healthz/../session", None, 401),
        ("/global/health", Some(PASSWORD), 502),
    ] {
        let (code, answer) = pod.call(Method::GET, path, password).await;
        assert_eq!(code, status, "{path} {password:?}: {answer:?}");
        if code == 401 {
            assert!(answer.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic realm="));
        }
        assert!(!format!("{answer:?}").contains(PASSWORD));
    }
}

#[tokio::test]
async fn held_prompts_wait_then_pass_or_are_told_to_come_again() {
    let server = Echo::start().await;
    let pod = Pod::in_front_of(server.port).await;
    let work = pod.sidecar.work.clone();

    work.hold(Duration::from_secs(5)).await;
    let client = pod.client();
    assert!(client.session("ses_1").await.is_ok(), "reading passes");
    assert!(client.abort("ses_1").await.is_ok(), "stopping passes");
    let waiting = tokio::spawn(async move { client.prompt_async("ses_1", &Prompt::text("x")).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished(), "the prompt waits");
    assert_eq!(work.snapshot().in_flight, 0, "what waits is no work");
    work.release();
    assert_eq!(waiting.await.unwrap(), Ok(()));

    // A lease that is renewed for longer than a prompt may wait.
    let renew = tokio::spawn(async move {
        loop {
            work.hold(Duration::from_secs(5)).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let begun = std::time::Instant::now();
    let (status, answer) = pod.call(Method::POST, "/session/ses_1/prompt_async", Some(PASSWORD)).await;
    assert_eq!(status, 503);
    assert!(begun.elapsed() >= Duration::from_secs(5));
    let seconds: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=5).contains(&seconds), "{seconds}");
    renew.abort();
}

#[tokio::test]
async fn a_dead_controller_holds_nobody() {
    let server = Echo::start().await;
    let pod = Pod::in_front_of(server.port).await;
    pod.sidecar.work.hold(Duration::from_millis(300)).await;
    assert_eq!(pod.client().prompt_async("ses_1", &Prompt::text("x")).await, Ok(()));
}

#[tokio::test]
async fn passwords_and_hop_by_hop_headers_end_at_the_door() {
    let server = Echo::start().await;
    let pod = Pod::in_front_of(server.port).await;
    let auth = credentials().header().unwrap();
    let head = format!(
        "GET /echo?a=1 HTTP/1.1\r\nhost: agent\r\nauthorization: Basic bm86bm8=\r\n\
         x-pilothouse-authorization: {}\r\nconnection: close, x-once\r\nx-once: 1\r\nx-opencode-directory: /w\r\n\r\n",
        auth.to_str().unwrap()
    );
    let mut stream = TcpStream::connect(pod.sidecar.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = answer.split_once("\r\n\r\n").unwrap().1.to_lowercase();
    assert!(seen.contains("get /echo?a=1 http/1.1") && seen.contains("x-opencode-directory: /w"), "{seen}");
    assert!(!seen.contains("authorization") && !seen.contains("x-once"), "{seen}");
}

#[tokio::test]
async fn an_upgrade_becomes_a_tunnel_and_counts_as_attached() {
    let server = Echo::start().await;
    let pod = Pod::in_front_of(server.port).await;
    let mut stream = TcpStream::connect(pod.sidecar.address).await.unwrap();
    let auth = credentials().header().unwrap();
    let head = format!(
        "GET /pty/1/connect HTTP/1.1\r\nhost: agent\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nauthorization: {}\r\n\r\n",
        auth.to_str().unwrap()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    for text in ["ping", "pong pong"] {
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, text.to_uppercase().as_bytes());
    }
    let work = pod.sidecar.work.clone();
    assert_eq!(work.snapshot().attached, 1);
    drop(stream);
    eventually("the connection is gone", || work.snapshot().attached == 0).await;
}

#[tokio::test]
async fn terminals_and_streams_end_with_the_password_that_opened_them() {
    let server = Echo::start().await;
    let pod = Pod::in_front_of(server.port).await;
    let auth = credentials().header().unwrap();
    let open = async |path: &str, more: &str| {
        let mut stream = TcpStream::connect(pod.sidecar.address).await.unwrap();
        let head =
            format!("GET {path} HTTP/1.1\r\nhost: agent\r\n{more}authorization: {}\r\n\r\n", auth.to_str().unwrap());
        stream.write_all(head.as_bytes()).await.unwrap();
        (read_head(&mut stream).await, stream)
    };
    let upgrade = "connection: Upgrade\r\nupgrade: websocket\r\n";
    let (answer, mut terminal) = open("/pty/1/connect", upgrade).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    let (answer, mut events) = open("/global/event", "").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (client, work) = (pod.client(), pod.sidecar.work.clone());
    let hanging = tokio::spawn(async move { client.prompt_async("hang", &Prompt::text("x")).await });
    eventually("the prompt is in flight", || work.snapshot().in_flight == 1).await;
    std::fs::write(pod.files.path().join("auth/password"), "battery staple").unwrap();
    let mut rest = vec![];
    terminal.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty(), "{rest:?}");
    let ended = events.read_u8().await.unwrap();
    assert_eq!(ended, b'0', "the last chunk is empty");
    assert_eq!(pod.call(Method::GET, "/echo", Some(PASSWORD)).await.0, 401);
    assert_eq!(pod.call(Method::GET, "/echo", Some("battery staple")).await.0, 200);
    assert!(!hanging.is_finished() && work.snapshot().in_flight == 1, "what was begun goes on");
    hanging.abort();
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_request_but_not_the_session_s_work() {
    let server = Echo::start().await;
    let pod = Pod::in_front_of(server.port).await;
    let (client, work) = (pod.client(), pod.sidecar.work.clone());
    let hanging = tokio::spawn(async move { client.prompt_async("hang", &Prompt::text("x")).await });
    eventually("the prompt is in flight", || work.snapshot().in_flight == 1).await;
    hanging.abort();
    eventually("it is not any more", || work.snapshot().in_flight == 0).await;
    assert_eq!(work.snapshot().busy, 1, "the server may have taken it");
}

#[tokio::test]
async fn a_stopped_door_lets_requests_end() {
    let server = Echo::start().await;
    let pod = Pod::in_front_of(server.port).await;
    let (client, work) = (pod.client(), pod.sidecar.work.clone());
    let slow = tokio::spawn(async move { client.prompt_async("slow", &Prompt::text("x")).await });
    eventually("the prompt is in flight", || work.snapshot().in_flight == 1).await;
    let address = pod.sidecar.address;
    pod.sidecar.stop().await;
    assert_eq!(slow.await.unwrap(), Ok(()));
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens");
}

#[tokio::test]
async fn a_server_that_is_gone_is_unknown_and_never_idle() {
    let server = Echo::start().await;
    let pod = Pod::in_front_of(server.port).await;
    pod.known().await;
    let work = pod.sidecar.work.clone();
    assert!(work.hold(Duration::from_secs(5)).await.1);
    drop(server);
    eventually("it is not followed any more", || !work.snapshot().known).await;
    let (snapshot, idle) = work.hold(Duration::from_secs(5)).await;
    assert!(!idle && !snapshot.without_work());
    assert!(matches!(pod.client().health().await, Err(Error::Refused { status: 502, .. })));
}

/// A server of few words: answers with the request's head, keeps event streams open, upgrades to an echo in capitals.
pub(super) struct Echo {
    pub(super) port: u16,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Echo {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let mut streams = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                streams.spawn(echo(stream));
            }
        });
        Self { port, task }
    }
}

pub(super) async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { break };
        head.push(byte);
    }
    String::from_utf8(head).unwrap()
}

async fn echo(mut stream: TcpStream) {
    let head = read_head(&mut stream).await;
    let path = head.split(' ').nth(1).unwrap_or_default();
    let body = match path {
        "/pty/1/connect" => return shout(stream).await,
        "/global/event" => {
            let begin = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
            stream.write_all(begin.as_bytes()).await.unwrap();
            return std::future::pending().await;
        }
        "/session/hang/prompt_async" => return std::future::pending().await,
        "/session/slow/prompt_async" => {
            tokio::time::sleep(Duration::from_millis(500)).await;
            String::new()
        }
        "/session/status" => "{}".to_owned(),
        path if path.starts_with("/session/") => r#"{"id":"ses_1"}"#.to_owned(),
        _ => head.clone(),
    };
    let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let _ = stream.write_all(answer.as_bytes()).await;
    // Closing with the request's body unread would reset the connection under the answer.
    let _ = stream.shutdown().await;
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
}

async fn shout(mut stream: TcpStream) {
    let begin = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    stream.write_all(begin.as_bytes()).await.unwrap();
    let mut buffer = [0; 64];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        stream.write_all(&buffer[..n].to_ascii_uppercase()).await.unwrap();
    }
}
