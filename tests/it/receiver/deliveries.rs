//! What the receiver answers.

use std::time::{Duration, Instant};

use pilothouse::api::Forge;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    forges::{self, Delivery},
    world::{Signed, TOKEN, World},
};

const FORGES: [(&str, Forge); 6] = [
    ("github", Forge::GitHub),
    ("gitlab", Forge::GitLab),
    ("gitea", Forge::Gitea),
    ("forgejo", Forge::Forgejo),
    ("bitbucket", Forge::Bitbucket),
    ("generic", Forge::Generic),
];

fn commit(n: u8) -> String {
    format!("{n:02x}").repeat(20)
}

#[tokio::test]
async fn deliveries_of_every_forge_signed_and_missigned() {
    let world = World::new().await;
    world.server.repository("r.git").commit("main", &[("a", "1")]);
    world.secret("hook", TOKEN).await;
    for (name, forge) in FORGES {
        let kind = serde_json::to_value(forge).unwrap();
        world.repository(name, kind.as_str().unwrap(), json!({"branch": "main"})).await;
    }
    for (name, forge) in FORGES {
        let path = world.path(name, None).await;
        let push = forges::push(forge, "main", &commit(1));
        let signed = push.signed(TOKEN);
        assert_eq!(world.deliver(&path, &push.signed("another token, which is wrong")).await.0, 404, "{name}");
        let changed = Signed { body: signed.body.replace("01", "02"), ..signed.clone() };
        if forge != Forge::GitLab {
            assert_eq!(world.deliver(&path, &changed).await.0, 404, "{name}: a body that was changed");
        }
        let bare = Signed { headers: vec![], ..signed.clone() };
        assert_eq!(world.deliver(&path, &bare).await.0, 404, "{name}: unsigned");
        assert_eq!(world.deliver(&path, &signed).await.0, 202, "{name}");
        assert_eq!(world.deliver(&path, &signed).await, (200, "seen before".into()), "{name}: replayed");
        if forge != Forge::Generic {
            let other = forges::push(forge, "feature", &commit(2)).signed(TOKEN);
            assert_eq!(world.deliver(&path, &other).await, (200, "another reference".into()), "{name}");
        }
        if matches!(forge, Forge::GitHub | Forge::Bitbucket) {
            assert_eq!(world.deliver(&path, &forges::ping(forge).signed(TOKEN)).await, (200, "pong".into()), "{name}");
        }
        if matches!(forge, Forge::GitHub | Forge::GitLab) {
            let tag = forges::tag(forge, "v1", &commit(3)).signed(TOKEN);
            assert_eq!(world.deliver(&path, &tag).await, (200, "another reference".into()), "{name}");
        }
        // The path of one forge is no good for another's way to sign.
        let (_, wrong) =
            FORGES.iter().find(|(_, other)| *other == Forge::GitHub && *other != forge).unwrap_or(&FORGES[1]);
        assert_eq!(
            world.deliver(&path, &forges::push(*wrong, "main", &commit(4)).signed(TOKEN)).await.0,
            404,
            "{name}"
        );
    }
    let path = world.path("bitbucket", None).await;
    let center = forges::bitbucket_center("main", &commit(5)).signed(TOKEN);
    assert_eq!(world.deliver(&path, &center).await.0, 202);
    let late = jiff::Timestamp::now().as_second() - 301;
    let path = world.path("generic", None).await;
    let stale = forges::push(Forge::Generic, "main", &commit(6)).standard(TOKEN.as_bytes(), "late", late);
    assert_eq!(world.deliver(&path, &stale).await.0, 404);

    let metrics = world.metrics().await;
    for part in ["pilothouse_webhooks 6", "result=\"asked\"", "result=\"bad_signature\"", "result=\"stale\""] {
        assert!(metrics.contains(part), "{part} is not in {metrics}");
    }
    let log = world.receiver.log();
    assert!(log.contains("the signature is wrong") && !log.contains(TOKEN) && !log.contains(&path), "{log}");
}

#[tokio::test]
async fn a_signing_token_of_gitlab_and_events_of_one_s_own() {
    let world = World::new().await;
    world.server.repository("r.git").commit("main", &[("a", "1")]);
    // 32 bytes, as GitLab makes them.
    let key = b"0123456789abcdef0123456789abcdef";
    let token = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    world.secret("hook", token).await;
    world.repository("r", "GitLab", Value::Null).await;
    world.patch("r", json!({"spec": {"webhook": {"events": ["Push Hook", "Pipeline Hook"]}}})).await;
    let path = world.status("r", "a path", |s| s.webhook_path).await;
    let now = jiff::Timestamp::now().as_second();
    let send = |event, body: &str, id: &str| {
        Delivery { forge: Forge::GitLab, event, body: body.into() }.standard(key, id, now)
    };
    crate::common::controller::eventually("the receiver knows the path", 30, || async {
        (world.deliver(&path, &send("Push Hook", "{}", "1")).await.0 == 202).then_some(())
    })
    .await;
    assert_eq!(world.deliver(&path, &send("Pipeline Hook", "{}", "2")).await.0, 202);
    assert_eq!(world.deliver(&path, &send("Tag Push Hook", "{}", "3")).await.0, 200);
    let shown = forges::push(Forge::GitLab, "main", &commit(1)).signed(token);
    assert_eq!(world.deliver(&path, &shown).await.0, 404, "the token alone is no signature");
}

/// Sends bytes as they are; the answer's first line, or "" where the connection just ends.
async fn raw(address: &str, pieces: &[&[u8]], pause: Duration, close: bool) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    for piece in pieces {
        let _ = stream.write_all(piece).await;
        tokio::time::sleep(pause).await;
    }
    if close {
        let _ = stream.shutdown().await;
    }
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

fn head(path: &str, length: usize, delivery: &Signed) -> String {
    let headers: Vec<_> = delivery.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let headers = headers.concat();
    format!("POST {path} HTTP/1.1\r\nhost: hooks\r\ncontent-length: {length}\r\n{headers}\r\n")
}

#[tokio::test]
async fn oversized_cut_and_slow_bodies_ask_for_nothing() {
    let world = World::new().await;
    let first = world.server.repository("r.git").commit("main", &[("a", "1")]);
    world.secret("hook", TOKEN).await;
    world.repository("r", "GitHub", Value::Null).await;
    world.fetched("r", &first).await;
    let path = world.path("r", None).await;
    let nobody = format!("/hooks/{}", "0".repeat(64));
    let audit = world.cluster.audit().later();
    let (address, push) = (&world.receiver.hooks, forges::push(Forge::GitHub, "main", &commit(1)));
    let signed = push.signed(TOKEN);
    let body = signed.body.as_bytes();
    let none = Duration::ZERO;
    for path in [&path, &nobody] {
        // Said to be too long: refused before a byte of it is read.
        let announced = head(path, (25 << 20) + 1, &signed);
        assert_eq!(raw(address, &[announced.as_bytes()], none, false).await, "HTTP/1.1 413 Payload Too Large");
        // Too long without saying so.
        let chunked = head(path, 0, &signed).replace("content-length: 0", "transfer-encoding: chunked");
        let chunk = [b"100000\r\n".as_slice(), &vec![b' '; 1 << 20], b"\r\n"].concat();
        let mut pieces = vec![chunked.as_bytes()];
        pieces.extend(std::iter::repeat_n(chunk.as_slice(), 26));
        let answer = raw(address, &pieces, none, false).await;
        assert!(answer.is_empty() || answer == "HTTP/1.1 413 Payload Too Large", "{answer}");
        // Cut, and then the connection ends.
        let announced = head(path, body.len(), &signed);
        let answer = raw(address, &[announced.as_bytes(), &body[..body.len() / 2]], none, true).await;
        assert!(answer.is_empty() || answer.contains("400"), "{answer}");
    }
    // Slow: a body that takes longer than 10 s, and a head that never ends.
    let announced = head(&path, body.len(), &signed);
    let pieces: Vec<&[u8]> = std::iter::once(announced.as_bytes()).chain(body.chunks(body.len() / 4 + 1)).collect();
    let start = Instant::now();
    let slow = raw(address, &pieces, Duration::from_secs(4), false);
    let headless = raw(address, &[b"POST /hooks/"], none, false);
    let (slow, headless) = tokio::join!(slow, headless);
    assert_eq!(slow, "HTTP/1.1 408 Request Timeout");
    assert!(headless.is_empty() || headless.contains("408"), "{headless}");
    assert!(start.elapsed() < Duration::from_secs(30));
    let writes = audit.writes(&world.receiver_user());
    assert!(writes.is_empty(), "{writes:?}");
    // The same delivery, whole and in time.
    assert_eq!(world.deliver(&path, &signed).await.0, 202);
    // A long one is taken too, and of a long one nothing is spared.
    let long = Delivery { body: format!("{}{}", " ".repeat(3 << 20), push.body), ..push };
    assert_eq!(world.deliver(&path, &long.signed(TOKEN)).await.0, 202);
}

#[tokio::test]
async fn who_does_not_sign_learns_nothing() {
    let world = World::new().await;
    world.server.repository("r.git").commit("main", &[("a", "1")]);
    world.secret("hook", TOKEN).await;
    world.repository("r", "GitHub", Value::Null).await;
    let path = world.path("r", None).await;
    let signed = forges::push(Forge::GitHub, "main", &commit(1)).signed("a token that is wrong");
    let mut answers = vec![];
    for path in [&path, &format!("/hooks/{}", "0".repeat(64)), &path.replace(&path[7..10], "fff")] {
        let start = Instant::now();
        let answer = world.deliver(path, &signed).await;
        assert!(start.elapsed() >= Duration::from_millis(250), "answered after {:?}", start.elapsed());
        answers.push(answer);
    }
    assert_eq!(answers, vec![(404, "not found".to_owned()); 3]);
    for path in ["/", "/hooks", "/hooks/", "/hooks/short", "/metrics", "/healthz", &path.to_uppercase()] {
        assert_eq!(world.deliver(path, &signed).await, (404, "not found".into()), "{path}");
    }
}

/// One that sends slowly, from many connections, against one that sends as forges do.
#[tokio::test]
async fn slow_bodies_of_one_peer_are_in_nobody_else_s_way() {
    let world = World::new().await;
    world.server.repository("r.git").commit("main", &[("a", "1")]);
    world.secret("hook", TOKEN).await;
    world.repository("r", "GitHub", Value::Null).await;
    let path = world.path("r", None).await;
    let signed = forges::push(Forge::GitHub, "main", &commit(1)).signed(TOKEN);
    let head = head(&path, signed.body.len(), &signed);
    let mut slow = vec![];
    for _ in 0..200 {
        let mut stream = TcpStream::connect(&world.receiver.hooks).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let start = Instant::now();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut stream = socket.connect(world.receiver.hooks.parse().unwrap()).await.unwrap();
    stream.write_all(format!("{head}{}", signed.body).as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 202");
    assert!(start.elapsed() < Duration::from_secs(8), "it waited for {:?}", start.elapsed());
    drop(slow);
}

#[tokio::test]
async fn a_peer_has_a_rate_and_only_a_trusted_proxy_speaks_for_others() {
    let world = World::with(&["--peer-rate", "1"]).await;
    let nobody = format!("/hooks/{}", "0".repeat(64));
    let signed = forges::push(Forge::GitHub, "main", &commit(1)).signed(TOKEN);
    let claimed = (0..40).map(|n| {
        let own = [("x-forwarded-for", format!("203.0.113.{n}"))];
        Signed { headers: signed.headers.iter().cloned().chain(own).collect(), ..signed.clone() }
    });
    let claimed: Vec<Signed> = claimed.collect();
    let answers = futures::future::join_all(claimed.iter().map(|delivery| world.deliver(&nobody, delivery))).await;
    let statuses: Vec<u16> = answers.into_iter().map(|(status, _)| status).collect();
    let limited = statuses.iter().filter(|status| **status == 429).count();
    assert!(limited >= 20 && statuses.contains(&404), "{statuses:?}");
}
