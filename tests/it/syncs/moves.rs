//! Manifests that move from one Sync to another: what they describe is handed over, never deleted and created again.

use super::*;

/// One at a time and in the order of their names: of two Syncs of a Repository `a` comes first.
async fn world(prefix: &str) -> World {
    let cluster = control_plane();
    let namespace = cluster.namespace(prefix).await;
    World::among(cluster, vec![namespace], &["--concurrency", "1"]).await
}

fn task(name: &str) -> String {
    format!(
        "apiVersion: pilothouse.dev/v1alpha1\nkind: Task\nmetadata:\n  name: {name}\n\
         spec:\n  agentRef: {{name: nobody}}\n  description: do it\n"
    )
}

fn child(name: &str) -> String {
    format!(
        "apiVersion: pilothouse.dev/v1alpha1\nkind: Sync\nmetadata: {{name: {name}}}\n\
         spec: {{repositoryRef: {{name: repo}}, path: {name}, wait: false}}\n"
    )
}

fn deleted(w: &World, log: &AuditLog) -> Vec<String> {
    w.writes(log).into_iter().filter(|write| write.starts_with("delete")).collect()
}

#[tokio::test]
async fn whoever_comes_first() {
    let w = world("move-order").await;
    let commit = async |n: u32, side: &str| {
        let (x, t, done) = (format!("{side}/x.yaml"), format!("{side}/t.yaml"), format!("{side}/done.yaml"));
        let moving = [(x.as_str(), map("x", side)), (t.as_str(), task("t")), (done.as_str(), task("done"))];
        let staying = [("a/a.yaml", map("a", "x")), ("b/b.yaml", map("b", "x"))];
        w.commit(n, &[&staying[..], &moving[..]].concat()).await
    };
    let first = commit(1, "a").await;
    for name in ["a", "b"] {
        w.sync(name, json!({"path": name, "wait": false})).await;
    }
    for name in ["a", "b"] {
        w.until_applied(name, &first).await;
    }
    w.tasks().delete("done", &DeleteParams::default()).await.unwrap();
    let finished = |s: &SyncStatus| entries(s).iter().any(|e| e.id.contains("_done_") && e.finished == Some(true));
    w.until("a", "told that a Task is gone", finished).await;

    let uids = async || (w.maps().get("x").await.unwrap().uid(), w.tasks().get("t").await.unwrap().uid());
    let before = uids().await;
    for (n, (side, other)) in (2..).zip([("b", "a"), ("a", "b"), ("b", "a"), ("a", "b")]) {
        let log = w.log();
        let revision = commit(n, side).await;
        let left = w.until_applied(other, &revision).await;
        let has = w.until_applied(side, &revision).await;
        assert_eq!((ids(&left).len(), ids(&has).len()), (1, 4), "{side}");
        assert_eq!(uids().await, before, "to {side}");
        assert_eq!(w.maps().get("x").await.unwrap().data.unwrap()["key"], side);
        assert_eq!(deleted(&w, &log), Vec::<String>::new(), "to {side}");
        assert!(w.tasks().get_opt("done").await.unwrap().is_none(), "it ran, and does not run again");
        assert!(finished(&has));
    }
    // The last owner deletes what nobody wants.
    let last = w.commit(9, &[("a/a.yaml", map("a", "x")), ("b/b.yaml", map("b", "x"))]).await;
    w.until_applied("a", &last).await;
    assert!(w.maps().get_opt("x").await.unwrap().is_none() && w.tasks().get_opt("t").await.unwrap().is_none());
}

#[tokio::test]
async fn two_that_want_what_the_other_has() {
    let w = world("move-swap").await;
    let commit = async |n: u32, x: &str, y: &str| {
        let (x, y) = (format!("{x}/x.yaml"), format!("{y}/y.yaml"));
        w.commit(n, &[(x.as_str(), map("left", "one")), (y.as_str(), map("right", "one"))]).await
    };
    let first = commit(1, "a", "b").await;
    for name in ["a", "b"] {
        w.sync(name, json!({"path": name})).await;
        w.until_applied(name, &first).await;
    }
    let uids = async || (w.maps().get("left").await.unwrap().uid(), w.maps().get("right").await.unwrap().uid());
    let before = uids().await;
    let second = commit(2, "b", "a").await;
    for (name, has) in [("a", "right"), ("b", "left")] {
        let status = w.until_applied(name, &second).await;
        assert_eq!(ids(&status), [format!("{}_{has}__ConfigMap", w.namespace)]);
    }
    assert_eq!(uids().await, before);
}

/// The Sync that is to have the object comes with the same commit, and the one that had it goes with the next.
#[tokio::test]
async fn to_a_new_sync_and_from_one_that_goes() {
    let w = world("move-new").await;
    let (old, new) = (child("a"), child("c"));
    let (x, k) = (map("x", "one"), map("k", "one"));
    let first = w.commit(1, &[("root/a.yaml", old.clone()), ("a/x.yaml", x.clone()), ("a/k.yaml", k.clone())]).await;
    w.sync("root", json!({"path": "root"})).await;
    w.until_applied("a", &first).await;
    let uids = async || (w.maps().get("x").await.unwrap().uid(), w.maps().get("k").await.unwrap().uid());
    let before = uids().await;
    let files = [("root/a.yaml", old), ("root/c.yaml", new.clone()), ("a/k.yaml", k.clone()), ("c/x.yaml", x.clone())];
    let second = w.commit(2, &files).await;
    for name in ["root", "a"] {
        w.until_applied(name, &second).await;
    }
    eventually("the new Sync is there", 30, || async { w.syncs().get_opt("c").await.unwrap() }).await;
    w.until_applied("c", &second).await;
    assert_eq!(uids().await, before);

    let third = w.commit(3, &[("root/c.yaml", new), ("c/x.yaml", x), ("c/k.yaml", k)]).await;
    let status = w.until_applied("c", &third).await;
    assert_eq!(ids(&status).len(), 2);
    eventually("the old Sync is gone", 30, || async { w.syncs().get_opt("a").await.unwrap().is_none().then_some(()) })
        .await;
    assert_eq!(uids().await, before);
}

fn agent(name: &str) -> String {
    format!("apiVersion: pilothouse.dev/v1alpha1\nkind: Agent\nmetadata: {{name: {name}}}\nspec: {{}}\n")
}

const UNKNOWN: &str = "apiVersion: none.example/v1\nkind: Nope\nmetadata: {name: n}\n";

fn reconciling(status: &SyncStatus) -> String {
    status.conditions.iter().find(|c| c.type_ == "Reconciling").map(|c| c.message.clone()).unwrap_or_default()
}

/// To a path whose other files cannot be applied yet: nobody knows whether it is wanted there.
#[tokio::test]
async fn to_a_sync_that_cannot_tell_what_it_wants() {
    let w = world("move-broken").await;
    let (a, b) = (("a/a.yaml", map("a", "x")), ("b/b.yaml", map("b", "x")));
    let first = w.commit(1, &[a.clone(), b.clone(), ("a/x.yaml", map("x", "one")), ("a/g.yaml", agent("g"))]).await;
    for name in ["a", "b"] {
        w.sync(name, json!({"path": name, "wait": false})).await;
        w.until_applied(name, &first).await;
    }
    let agents = kube::Api::<pilothouse::api::Agent>::namespaced(w.client.clone(), &w.namespace);
    let uids = async || (w.maps().get("x").await.unwrap().uid(), agents.get("g").await.unwrap().uid());
    let before = uids().await;
    let log = w.log();
    let moved = [a, b, ("b/x.yaml", map("x", "one")), ("b/g.yaml", agent("g"))];
    w.commit(2, &[&moved[..], &[("b/n.yaml", UNKNOWN.into())]].concat()).await;
    let waits = format!("has not moved to Sync {}/b of", w.namespace);
    let status = w.until("a", "waiting", |s| reconciling(s).contains(&waits)).await;
    assert_eq!(status.last_applied_revision.as_ref(), Some(&first));
    let third = w.commit(3, &moved).await;
    for (name, has) in [("a", 1), ("b", 3)] {
        assert_eq!(ids(&w.until_applied(name, &third).await).len(), has, "{name}");
    }
    assert_eq!(uids().await, before);
    assert_eq!(deleted(&w, &log), Vec::<String>::new());

    // What wants nothing keeps nobody: a folder that is gone, and a Sync that is suspended.
    let fourth = w.commit(4, &[("b/b.yaml", map("b", "x")), ("b/x.yaml", map("x", "one"))]).await;
    w.until_reason("a", "PathNotFound").await;
    assert_eq!(ids(&w.until_applied("b", &fourth).await).len(), 2);
    w.commit(5, &[("b/b.yaml", map("b", "x")), ("a/n.yaml", UNKNOWN.into())]).await;
    w.until("b", "waiting", |s| reconciling(s).contains("has not moved")).await;
    let suspend = json!({"spec": {"suspend": true}});
    w.syncs().patch("a", &PatchParams::default(), &Patch::Merge(suspend)).await.unwrap();
    w.until("b", "done", |s| ids(s).len() == 1).await;
}

/// While a deletion waits for others the push is taken back: what was changed meanwhile is changed back.
#[tokio::test]
async fn a_push_that_is_taken_back_meanwhile() {
    let w = World::new("move-back").await;
    let one = [("a/x.yaml", map("x", "one")), ("a/z.yaml", map("z", "one")), ("b/b.yaml", map("b", "x"))];
    let first = w.commit(1, &one).await;
    for name in ["a", "b"] {
        w.sync(name, json!({"path": name, "wait": false})).await;
        w.until_applied(name, &first).await;
    }
    let two = [("a/x.yaml", map("x", "two")), ("b/b.yaml", map("b", "x")), ("b/n.yaml", UNKNOWN.into())];
    w.commit(2, &two).await;
    let value = async || w.maps().get("x").await.unwrap().data.unwrap()["key"].clone();
    eventually("x is written", 20, || async { (value().await == "two").then_some(()) }).await;
    assert!(w.maps().get_opt("z").await.unwrap().is_some(), "its deletion waits");
    let third = w.commit(3, &one).await;
    let status = w.until_applied("a", &third).await;
    assert_eq!(value().await, "one", "{status:?}");
}
