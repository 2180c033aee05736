//! Those who only want to be in the way: at the door of a pod, and at the controller's.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::Method;
use pilothouse::{pod::opencode::Prompt, server::voice::Leadership};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use super::{
    PASSWORD, Pod,
    door::Echo,
    eventually,
    voice::{Replica, good_token, material, pod, token},
};

/// A connection from the attacker's address.
async fn attack(to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 2], 0)))?;
    tokio::time::timeout(Duration::from_secs(10), socket.connect(to)).await?
}

/// Connections that say nothing.
async fn idle(to: SocketAddr, n: usize) -> Vec<TcpStream> {
    let mut open = vec![];
    for _ in 0..n {
        open.extend(attack(to).await.ok());
    }
    open
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_keep_neither_the_kubelet_nor_a_prompt_out() {
    let server = Echo::start().await;
    let pod = Pod::in_front_of(server.port).await;
    pod.known().await;
    let client = pod.client();
    client.session("ses_1").await.unwrap();
    let flood = idle(pod.sidecar.address, 1000).await;
    assert_eq!(flood.len(), 1000);
    let begun = Instant::now();
    for (path, expected) in [("/healthz", 200), ("/startz", 200), ("/readyz", 503)] {
        let (status, answer) = pod.call(Method::GET, path, None).await;
        assert_eq!(status, expected, "{path}: {answer:?}");
    }
    assert_eq!(pod.call(Method::POST, "/session/ses_1/prompt_async", Some(PASSWORD)).await.0, 200);
    assert_eq!(client.prompt_async("ses_1", &Prompt::text("x")).await, Ok(()), "who is known stays");
    // Well below the time after which the flood would be gone by itself.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    drop(flood);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_takes_the_kubelet_s_place_when_the_pod_ends() {
    let server = Echo::start().await;
    let pod = Pod::in_front_of(server.port).await;
    pod.known().await;
    let work = pod.sidecar.work.clone();
    let hang = pod.client();
    let prompt = tokio::spawn(async move { hang.prompt_async("hang", &Prompt::text("x")).await });
    eventually("the prompt is in flight", || work.snapshot().in_flight == 1).await;
    work.drain();
    let mut others = vec![];
    let mut hook = TcpStream::connect(pod.sidecar.address).await.unwrap();
    hook.write_all(b"GET /drained HTTP/1.1\r\nhost: pod\r\n\r\n").await.unwrap();
    for _ in 0..200 {
        let Ok(mut other) = attack(pod.sidecar.address).await else { continue };
        let _ = other.write_all(b"GET /drained HTTP/1.1\r\nhost: pod\r\n\r\n").await;
        others.push(other);
    }
    let mut answer = String::new();
    let first = tokio::time::timeout(Duration::from_secs(10), others[0].read_to_string(&mut answer)).await;
    assert!(first.is_ok() && !answer.starts_with("HTTP/1.1 200"), "the oldest of the many went: {answer}");
    prompt.abort();
    drop(server);
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_mins(1), hook.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// The status line of the controller's answer to a token, or nothing.
async fn knock(to: SocketAddr, tls: &tokio_rustls::TlsConnector, token: &str) -> Option<String> {
    let stream = attack(to).await.ok()?;
    let mut stream = tls.connect(ServerName::try_from("localhost").unwrap(), stream).await.ok()?;
    let head = format!(
        "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.ok()?;
    String::from_utf8(answer).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_from_one_address_leaves_the_controller_to_the_others() {
    let (material, server) = (material(), Echo::start().await);
    let replica = Replica::start(&material, Leadership::Leader).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(material.authority_pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = tokio_rustls::TlsConnector::from(Arc::new(tls.with_root_certificates(roots).with_no_client_auth()));

    let begun = Instant::now();
    let (mut refused, mut stopped) = (0, 0);
    for n in 0..60 {
        match knock(replica.address, &tls, &token(&format!("garbage {n}"))).await.as_deref() {
            Some("HTTP/1.1 401") => refused += 1,
            Some("HTTP/1.1 429") => stopped += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(knock(replica.address, &tls, "no token").await.as_deref(), Some("HTTP/1.1 401"));
    let reviewed = replica.reviewed();
    assert!(refused == reviewed && stopped > 0, "{refused} {stopped} {reviewed}");
    let forgotten = begun.elapsed().as_secs() / 5;
    assert!(u64::from(reviewed) <= 16 + forgotten, "{reviewed} in {:?}", begun.elapsed());

    let address = replica.address;
    let flood = tokio::spawn(async move {
        let mut open = idle(address, 2000).await;
        loop {
            // Those that were closed come again.
            open.drain(..open.len().min(50));
            open.extend(idle(address, 50).await);
        }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let begun = Instant::now();
    let _honest = pod(&server, &material, replica.address, &good_token()).await;
    eventually("an honest sidecar is heard", || replica.hub.connected() == 1).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(replica.reviewed(), reviewed + 1);
    flood.abort();
}
