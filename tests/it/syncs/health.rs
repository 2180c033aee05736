//! Waiting for health costs what changes, not what time passes.

use super::*;

fn reads(w: &World, log: &AuditLog, object: &str) -> usize {
    let object = format!("{}/{object}", w.namespace);
    log.requests(&w.release.user()).iter().filter(|r| r.verb == "get" && r.object() == object).count()
}

#[tokio::test]
async fn after_its_time_nothing_is_asked_again() {
    let w = World::new("health-late").await;
    w.may_edit(&w.namespace);
    w.commit(1, &[("d.yaml", deployment("never"))]).await;
    let log = w.log();
    w.sync("app", json!({"timeout": "3s"})).await;
    w.until_reason("app", "HealthCheckFailed").await;
    let rounds = reads(&w, &log, "deployments/never");
    assert!((1..20).contains(&rounds), "{rounds} looks within 3 s");
    let log = w.log();
    // Longer than the longest pause between two rounds.
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(reads(&w, &log, "deployments/never"), 0);
    assert_eq!(w.writes(&log), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_watched_wakes_its_sync_and_is_not_polled() {
    let w = World::new("health-watch").await;
    let leaf = "apiVersion: pilothouse.dev/v1alpha1\nkind: Sync\nmetadata: {name: leaf}\n\
                spec: {repositoryRef: {name: later}, path: leaf}\n";
    let first = w.commit(1, &[("app/leaf.yaml", leaf.into())]).await;
    w.sync("app", json!({"path": "app"})).await;
    w.until_reason("leaf", "RepositoryNotFound").await;
    w.until_reason("app", "HealthChecking").await;
    // What its status has woken is over.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let log = w.log();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(log.profile(&w.release.user()).into_iter().filter(|(what, _)| what.contains("syncs")).count(), 0);
    w.commit_to("later", 1, &[("leaf/a.yaml", map("a", "one"))]).await;
    w.until("leaf", "ready", |s| reason(s) == ("True", "Applied")).await;
    w.until_applied("app", &first).await;
}

/// A wait that would go on for ten minutes is over with the push, whoever waits at the same time.
#[tokio::test]
async fn a_push_ends_a_wait_that_would_go_on() {
    let cluster = control_plane();
    let namespace = cluster.namespace("health-push").await;
    let w = World::among(cluster, vec![namespace.clone()], &["--concurrency", "1"]).await;
    w.may_edit(&namespace);
    w.commit(1, &[("d.yaml", deployment("never"))]).await;
    w.sync("app", json!({"timeout": "10m"})).await;
    w.until_reason("app", "HealthChecking").await;
    // The next one waits as well, and what it brings is there.
    let second = w.commit(2, &[("d.yaml", deployment("nor-this")), ("a.yaml", map("a", "two"))]).await;
    let waits = |s: &SyncStatus| s.last_applied_revision.as_ref() == Some(&second) && reason(s).1 == "HealthChecking";
    let status = w.until("app", "waiting for what the second push brought", waits).await;
    assert!(message(&status).contains("nor-this") && !message(&status).contains("never"), "{}", message(&status));
    assert_eq!(w.maps().get("a").await.unwrap().data.unwrap()["key"], "two");
    let third = w.commit(3, &[("a.yaml", map("a", "three"))]).await;
    let status = w.until_applied("app", &third).await;
    assert_eq!(ids(&status), [format!("{namespace}_a__ConfigMap")]);
}

#[tokio::test]
async fn more_that_wait_than_workers_hold_up_nobody() {
    let cluster = control_plane();
    let namespace = cluster.namespace("health-many").await;
    let w = World::among(cluster, vec![namespace.clone()], &["--concurrency", "2"]).await;
    w.may_edit(&namespace);
    let ill = ["a", "b", "c", "d", "e"];
    let mut files: Vec<_> = ill.iter().map(|n| (format!("{n}/d.yaml"), deployment(n))).collect();
    files.push(("well/m.yaml".into(), map("well", "one")));
    let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.clone())).collect();
    let first = w.commit(1, &files).await;
    for name in ill {
        w.sync(name, json!({"path": name, "timeout": "10m"})).await;
    }
    for name in ill {
        w.until_reason(name, "HealthChecking").await;
    }
    w.sync("well", json!({"path": "well"})).await;
    w.until_applied("well", &first).await;
    for name in ill {
        w.until_reason(name, "HealthChecking").await;
    }
}
