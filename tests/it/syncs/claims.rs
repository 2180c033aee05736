//! Who has an object: whoever may apply it, and of those the first.

use super::*;

/// A Sync whose account has no rights in a namespace names an object of it. The Sync to which the object belongs does not notice.
#[tokio::test]
async fn a_name_in_files_gives_no_claim() {
    let cluster = control_plane();
    let (ours, theirs) = (cluster.namespace("claim-ours").await, cluster.namespace("claim-theirs").await);
    let mut w = World::among(cluster, vec![theirs.clone(), ours.clone()], &[]).await;
    // It is there before the object is.
    w.commit(1, &[("a.yaml", map("a", "theirs")), ("b.yaml", map("b", "theirs"))]).await;
    w.sync("thief", json!({"targetNamespace": ours})).await;
    let status = w.until_reason("thief", "Forbidden").await;
    let text = message(&status);
    for part in [
        &format!("ServiceAccount default of namespace {theirs} may not patch configmaps in namespace {ours}"),
        "kubectl create rolebinding",
        &format!("--serviceaccount={theirs}:default -n {ours}"),
    ] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    assert!(ids(&status).is_empty(), "{:?}", ids(&status));
    // Failing again is no reason to write.
    let log = w.log();
    let status = w.reconcile("thief", "1").await;
    assert_eq!((reason(&status).1, ids(&status).len()), ("Forbidden", 0));
    assert_eq!(w.writes(&log), [format!("patch {theirs}/syncs/thief/status")]);

    w.namespace.clone_from(&ours);
    let first =
        w.commit(1, &[("a.yaml", map("a", "ours")), ("b.yaml", map("b", "ours")), ("c.yaml", map("c", "ours"))]).await;
    w.sync("owner", json!({})).await;
    let status = w.until_applied("owner", &first).await;
    assert!(status.history.iter().all(|h| h.result == "Applied"), "{:?}", status.history);

    // It wants it still, and is no heir for that: what leaves the files of the owner is deleted.
    w.namespace.clone_from(&theirs);
    assert_eq!(reason(&w.reconcile("thief", "2").await).1, "Forbidden");
    w.namespace.clone_from(&ours);
    assert_eq!(reason(&w.reconcile("owner", "1").await), ("True", "Applied"));
    let second = w.commit(2, &[("b.yaml", map("b", "ours")), ("c.yaml", map("c", "ours"))]).await;
    w.until_applied("owner", &second).await;
    assert!(w.maps().get_opt("a").await.unwrap().is_none());

    // Not even an inventory that lists it is a claim, which another version may have left.
    let entry = InventoryEntry { id: format!("{ours}_b__ConfigMap"), v: "v1".into(), ..InventoryEntry::default() };
    let listed = json!({"status": {"inventory": {"entries": [entry]}}}).to_string();
    let (kubectl, namespace) = (w.cluster, theirs.clone());
    w.restart(|| {
        let args = ["patch", "syncs", "thief", "-n", &namespace, "--subresource=status", "--type=merge", "-p", &listed];
        let patched = kubectl.kubectl(args);
        assert!(patched.status.success(), "{patched:?}");
    });
    let status = w.reconcile("owner", "2").await;
    assert_eq!(reason(&status), ("True", "Applied"), "{}", message(&status));
    let third = w.commit(3, &[("c.yaml", map("c", "ours"))]).await;
    let status = w.until_applied("owner", &third).await;
    assert!(status.history.iter().all(|h| h.result == "Applied"), "{:?}", status.history);
    assert!(w.maps().get_opt("b").await.unwrap().is_none());
}

/// Of two that may apply an object the first keeps it, also after a restart and while the other one is the older Sync.
#[tokio::test]
async fn the_first_to_apply_an_object_keeps_it() {
    let mut w = World::new("claim-first").await;
    let first = w.commit(1, &[("old/a.yaml", map("a", "old")), ("new/x.yaml", map("x", "new"))]).await;
    w.sync("old", json!({"path": "old"})).await;
    w.until_applied("old", &first).await;
    w.sync("new", json!({"path": "new"})).await;
    w.until_applied("new", &first).await;
    let both = [("old/a.yaml", map("a", "old")), ("old/x.yaml", map("x", "old")), ("new/x.yaml", map("x", "new"))];
    w.commit(2, &both).await;
    let name = format!("{}/new", w.namespace);
    let status = w.until_reason("old", "OwnedByAnotherSync").await;
    assert!(message(&status).contains(&name), "{}", message(&status));
    w.restart(|| {});
    let status = w.reconcile("old", "1").await;
    assert_eq!(reason(&status).1, "OwnedByAnotherSync");
    assert!(message(&status).contains(&name), "{}", message(&status));
    assert_eq!(ids(&status), [format!("{}_a__ConfigMap", w.namespace)]);
    assert_eq!(reason(&w.reconcile("new", "1").await), ("True", "Applied"));
    assert_eq!(w.maps().get("x").await.unwrap().data.unwrap()["key"], "new");
}

/// Whenever a Sync is deleted: either its finalizer is there, or nothing was applied.
#[tokio::test]
async fn nothing_is_applied_before_the_finalizer_is_there() {
    let w = World::new("sync-early").await;
    let names: Vec<String> = (0..12).map(|n| format!("s{n}")).collect();
    let paths: Vec<String> = names.iter().map(|name| format!("{name}/a.yaml")).collect();
    let files: Vec<_> = names.iter().zip(&paths).map(|(name, path)| (path.as_str(), map(name, "x"))).collect();
    w.commit(1, &files).await;
    let log = w.log();
    for (n, name) in (0u64..).zip(&names) {
        w.sync(name, json!({"path": name})).await;
        tokio::time::sleep(Duration::from_millis(n * 8)).await;
        w.syncs().delete(name, &DeleteParams::default()).await.unwrap();
    }
    for name in &names {
        eventually("the Sync is gone", 60, || async { w.syncs().get_opt(name).await.unwrap().is_none().then_some(()) })
            .await;
    }
    // One that stays: what was begun before it is done when it is.
    let last = w.commit(2, &[("stays/a.yaml", map("stays", "x"))]).await;
    w.sync("stays", json!({"path": "stays"})).await;
    w.until_applied("stays", &last).await;
    let writes = w.writes(&log);
    for name in names.iter().map(String::as_str).chain(["stays"]) {
        let at = |write: String| writes.iter().position(|w| *w == write);
        let applied = at(format!("patch {}/configmaps/{name}", w.namespace));
        let protected = at(format!("patch {}/syncs/{name}", w.namespace));
        assert!(applied.is_none() || protected < applied && protected.is_some(), "{name}: {writes:?}");
        let there = || async { w.maps().get_opt(name).await.unwrap().is_some() };
        eventually("what was applied is as it should be", 30, || async {
            (there().await == (name == "stays")).then_some(())
        })
        .await;
    }
}
