//! What replicas do for pods and for each other.

use pilothouse::api::Repository;

use super::*;
use crate::common::git_server::GitServer;

/// Ends the world in the order of a bad day: first the forge, then the leader, then its machine's disk.
#[tokio::test]
async fn a_follower_has_everything_when_leader_and_forge_are_gone() {
    let cluster = control_plane();
    let namespace = cluster.namespace("mirror").await;
    let fleet = Fleet::new(std::slice::from_ref(&namespace)).await;
    let forge = GitServer::http();
    let repository = forge.repository("r.git");
    repository.commit("main", &[("skills/a.md", "a"), ("run.sh", "b")]);

    let mut leader = fleet.replica("one", None, None);
    leader.leads().await;
    let follower = fleet.replica("two", Some(leader.port), None);
    follower.ready().await;
    let (agent, reader) = fleet.agent(&namespace, "coder").await;
    let body = json!({
        "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Repository", "metadata": {"name": "r"},
        "spec": {"url": forge.url("r.git"), "interval": "1h"},
    });
    fleet.create::<Repository>(&namespace, body).await;
    let repositories = fleet.api::<Repository>(&namespace);
    let artifact = eventually("an artifact", 30, || async {
        repositories.get("r").await.unwrap().status.and_then(|status| status.artifact)
    })
    .await;
    let of_status = Digest::parse(&artifact.digest).unwrap();
    // What a status names is copied, and what an annotation names, which the leader gets a moment later.
    let late = Stored { digest: Digest::of(b"not yet"), size: 0 };
    fleet.refer(&namespace, &agent, &[of_status, late.digest]).await;
    follower.metric("pilothouse_artifact_missing", |missing| missing == 1).await;
    follower.metric("pilothouse_artifact_failed_copies_total", |failed| failed >= 1).await;
    let of_map = leader.put(&[("context.md", "be kind")]);
    fleet.refer(&namespace, &agent, &[of_status, of_map.digest]).await;
    follower.metric("pilothouse_artifact_missing", |missing| missing == 0).await;
    follower.metric("pilothouse_artifact_lag_seconds", |lag| lag == 0).await;
    assert!(follower.metric("pilothouse_artifact_copies_total", |_| true).await >= 2);
    assert_eq!(*follower.store().open(&of_map.digest).unwrap(), files(&[("context.md", "be kind")]));

    // Both serve the same.
    let one = fleet.served(&leader, &reader.token, &of_status).await;
    assert_eq!(one, fleet.served(&follower, &reader.token, &of_status).await);
    assert_eq!(Digest::of(&one), of_status);

    drop(forge);
    leader.controller.kill();
    let fetcher = Fetcher::new(fleet.endpoint(follower.port, &reader.token).await);
    let to = fleet.files.path().join("content");
    let stored = Stored { digest: of_status, size: one.len() as u64 };
    fetch(&fetcher, &stored, &to).await.unwrap();
    assert_eq!(std::fs::read_to_string(to.join("skills/a.md")).unwrap(), "a");
    follower.leads().await;
    fleet.served(&follower, &reader.token, &of_map.digest).await;

    // The old one comes back without its disk, and copies from the new leader.
    let back = fleet.replica("one-again", Some(follower.port), None);
    back.metric("pilothouse_artifact_copies_total", |copies| copies >= 2).await;
    fleet.served(&back, &reader.token, &of_map.digest).await;
}

#[tokio::test]
async fn a_leader_that_lacks_something_asks_the_others() {
    let cluster = control_plane();
    let namespace = cluster.namespace("lacks").await;
    let fleet = Fleet::new(std::slice::from_ref(&namespace)).await;
    // Behind the Service is the one that follows.
    let (first, second) = (free_port(), free_port());
    let listen = |port: u16| format!("127.0.0.1:{port}");
    let start = |name: &str, port: u16, service: u16| {
        let (listen, service) = (listen(port), format!("localhost:{service}"));
        let (at, token) = ((listen.as_str(), service.as_str()), fleet.token_file());
        let data = Arc::new(tempfile::tempdir().unwrap());
        Replica { controller: fleet.release.start_among(name, data, at, &token, &[]), port }
    };
    let leader = start("lacks-one", first, second);
    leader.leads().await;
    let follower = start("lacks-two", second, first);
    follower.ready().await;
    let (agent, reader) = fleet.agent(&namespace, "coder").await;
    let stored = follower.put(&[("a", "1")]);
    fleet.refer(&namespace, &agent, &[stored.digest]).await;
    fleet.served(&leader, &reader.token, &stored.digest).await;
    leader.metric("pilothouse_artifact_missing", |missing| missing == 0).await;
}

#[tokio::test]
async fn sixty_four_at_once_and_damage_on_the_way() {
    let cluster = control_plane();
    let namespace = cluster.namespace("many").await;
    let fleet = Fleet::new(std::slice::from_ref(&namespace)).await;
    let leader = fleet.replica("many", None, None);
    leader.leads().await;
    let (agent, reader) = fleet.agent(&namespace, "coder").await;
    let text = "0123456789abcdef".repeat(64 << 10);
    let stored = leader.put(&[("big", &text), ("dir/small", "x")]);
    fleet.refer(&namespace, &agent, &[stored.digest]).await;
    fleet.served(&leader, &reader.token, &stored.digest).await;

    let fetcher = Fetcher::new(fleet.endpoint(leader.port, &reader.token).await);
    let readers = (0..64).map(|n| {
        let (fetcher, to) = (fetcher.clone(), fleet.files.path().join(format!("to-{n}")));
        async move { fetch(&fetcher, &stored, &to).await.map(|()| to) }
    });
    let before = leader.controller.resident();
    for result in futures::future::join_all(readers).await {
        let to = result.unwrap();
        assert_eq!(std::fs::read_to_string(to.join("big")).unwrap().len(), text.len());
        assert_eq!(std::fs::read_to_string(to.join("dir/small")).unwrap(), "x");
    }
    let grown = leader.controller.resident().saturating_sub(before) >> 20;
    eprintln!("64 fetches of 1 MiB: the controller grew by {grown} MiB");
    assert!(grown < 48, "{grown} MiB");
    let left: Vec<_> = std::fs::read_dir(fleet.files.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with('.')), "nothing half done stays: {left:?}");

    // The size of the manifest counts, and so does the digest.
    let to = fleet.files.path().join("wrong");
    let wrong = fetcher.fetch(&stored.digest, stored.size + 1, &to).await;
    assert!(matches!(wrong, Err(FetchError::Size { .. })), "{wrong:?}");
    assert!(!to.exists());

    // Somebody, or a disk, changes the file: nobody gets it, and it is gone.
    let file = leader.store().path(&stored.digest);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[600] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let (status, _) = fleet.get(&leader, &reader.token, &stored.digest).await;
    assert_eq!(status, 503);
    assert!(!file.exists());
    let (status, _) = fleet.get(&leader, &reader.token, &stored.digest).await;
    assert_eq!(status, 404);
    leader.metric("pilothouse_artifact_requests_total{result=\"damaged\"}", |n| n == 1).await;
    assert!(leader.metric("pilothouse_artifact_sent_bytes_total", |_| true).await >= 64 << 20);
    leader.put(&[("big", &text), ("dir/small", "x")]);
    fleet.served(&leader, &reader.token, &stored.digest).await;
}
