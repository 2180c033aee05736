//! What a push costs, and how much a Sync may hold.

use pilothouse::plan::budget::MAX_INVENTORY;

use super::*;

/// Of many Syncs of a Repository a push changes the files of one: only its objects are asked about, and each Sync writes
/// its status once, for the revision.
#[tokio::test]
async fn a_push_that_changes_one_of_fifty_applies_one() {
    let w = World::new("scope-push").await;
    let names: Vec<String> = (0..50).map(|n| format!("s{n:02}")).collect();
    let files = |changed: &str| -> Vec<(String, String)> {
        let value = |name: &String| if name == changed { "two" } else { "one" };
        names.iter().map(|name| (format!("{name}/a.yaml"), map(name, value(name)))).collect()
    };
    let commit = async |n: u32, changed: &str| {
        let files = files(changed);
        let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.clone())).collect();
        w.commit(n, &files).await
    };
    let first = commit(1, "").await;
    for name in &names {
        w.sync(name, json!({"path": name})).await;
    }
    for name in &names {
        w.until_applied(name, &first).await;
    }
    let log = w.log();
    let second = commit(2, "s17").await;
    for name in &names {
        w.until_applied(name, &second).await;
    }
    // Dry runs and reads count here as well.
    let asked: Vec<_> = log.requests(&w.release.user()).into_iter().filter(|r| r.resource() == "configmaps").collect();
    let asked: Vec<_> = asked.iter().map(|r| format!("{} {}", r.verb, r.object())).collect();
    assert_eq!(asked, [format!("patch {}/configmaps/s17", w.namespace)]);
    let mut written = w.writes(&log);
    written.retain(|write| !write.ends_with("/configmaps/s17"));
    written.sort();
    let statuses: Vec<_> = names.iter().map(|name| format!("patch {}/syncs/{name}/status", w.namespace)).collect();
    assert_eq!(written, statuses);
}

/// So many objects that their list cannot be written are refused before anything is applied, with what to do.
#[tokio::test]
async fn a_list_of_objects_that_does_not_fit_is_refused() {
    let w = World::new("scope-large").await;
    let many = |count: usize| -> String {
        let long = "x".repeat(246);
        let one = |n: usize| format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m{n:05}-{long}}}\n");
        (0..count).map(one).collect()
    };
    let first = w.commit(1, &[("a.yaml", map("a", "one"))]).await;
    w.sync("app", json!({})).await;
    w.until_applied("app", &first).await;
    let log = w.log();
    w.commit(2, &[("a.yaml", map("a", "two")), ("many.yaml", many(4_000))]).await;
    let status = w.until_reason("app", "InventoryTooLarge").await;
    let text = message(&status);
    assert!(text.contains("the list of 4001 objects") && text.contains("split the Sync"), "{text}");
    assert!(status.conditions.iter().any(|c| c.type_ == "Stalled" && c.status == "True"), "{status:?}");
    assert_eq!(w.writes(&log), [format!("patch {}/syncs/app/status", w.namespace)]);
    assert_eq!((ids(&status).len(), status.last_applied_revision), (1, Some(first)));
    // It goes on by itself.
    let third = w.commit(3, &[("a.yaml", map("a", "three"))]).await;
    w.until_applied("app", &third).await;
    assert!(!w.controller.log().contains("StatusWriteFailed"), "a status was too large to be written");
}

/// The largest list that is not refused fits beside everything else that an object may have.
#[tokio::test]
async fn the_largest_list_of_objects_can_be_written() {
    let w = World::new("scope-largest").await;
    let values = json!({"text": "x".repeat(200 << 10)});
    w.sync("app", json!({"suspend": true, "values": values})).await;
    w.until_reason("app", "Suspended").await;
    let entry = |n: usize| json!({"id": format!("{}_{n:0253}__ConfigMap", w.namespace), "v": "v1"});
    let count = MAX_INVENTORY / (entry(0).to_string().len() + 1);
    let entries: Vec<Value> = (0..count).map(entry).collect();
    let message = "x".repeat(1_000);
    let condition = |kind: &str| {
        json!({"type": kind, "status": "True", "reason": "R", "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let history = json!({"revision": message, "digest": message, "appliedAt": "2026-01-01T00:00:00Z", "result": "R",
        "message": message});
    let conditions = ["A", "B", "C", "D"].map(condition);
    let status = json!({"inventory": {"entries": entries}, "history": vec![history; 5], "conditions": conditions});
    let apply = PatchParams::apply("test").force();
    let mut body = json!({"apiVersion": "pilothouse.dev/v1alpha1", "kind": "Sync", "metadata": {"name": "app"}});
    body["status"] = status;
    let written = w.syncs().patch_status("app", &apply, &Patch::Apply(body)).await.unwrap();
    assert_eq!(ids(&written.status.unwrap()).len(), count);
    assert!(count > 3_000, "{count}");
}
