//! What a Sync says: in its conditions, and in events.

use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;

use super::*;

impl World {
    /// Type, note and count of the events of a reason, oldest first; without a reason of all warnings.
    pub(super) async fn told(&self, of: &str, reason: &str) -> Vec<(String, String, i32)> {
        let all: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut found = all.list(&ListParams::default()).await.unwrap().items;
        found.retain(|e| {
            let right = if reason.is_empty() {
                e.type_.as_deref() == Some("Warning")
            } else {
                e.reason.as_deref() == Some(reason)
            };
            right && e.regarding.as_ref().unwrap().name.as_deref() == Some(of)
        });
        found.sort_by_key(|e| e.event_time.as_ref().unwrap().0);
        let text = |text: Option<String>| text.unwrap_or_default();
        found.into_iter().map(|e| (text(e.type_), text(e.note), e.series.map_or(1, |s| s.count))).collect()
    }
}

#[tokio::test]
async fn each_note_is_an_event_of_its_own() {
    let w = World::new("words-events").await;
    let broken = async |n: u32, why: &str| w.commit(n, &[("a.yaml", why.to_owned())]).await;
    broken(1, "kind: ConfigMap\n").await;
    w.sync("app", json!({})).await;
    let first = message(&w.until_reason("app", "RenderFailed").await);
    broken(2, "a: [\n").await;
    let second = message(&w.until("app", "another one", |s| message(s) != first).await);
    broken(3, "kind: ConfigMap\n").await;
    w.until("app", "the first again", |s| message(s) == first).await;
    let told = eventually("three events", 30, || async {
        let told = w.told("app", "RenderFailed").await;
        (told.iter().map(|(.., count)| count).sum::<i32>() == 3).then_some(told)
    });
    let warning = |note: &String, count| ("Warning".to_owned(), note.clone(), count);
    assert_eq!(told.await, [warning(&first, 2), warning(&second, 1)]);
}

#[tokio::test]
async fn a_patch_that_fits_nothing_is_told() {
    let w = World::new("words-patch").await;
    w.may_edit(&w.namespace);
    let files = |kind: &str| {
        let patch = format!("[{{target: {{kind: {kind}}}, patch: '[{{op: add, path: /data/b, value: c}}]'}}]");
        [("kustomization.yaml", format!("resources: [a.yaml]\npatches: {patch}\n")), ("a.yaml", map("a", "one"))]
    };
    let first = w.commit(1, &files("ConfigMaq")).await;
    w.sync("app", json!({})).await;
    let status = w.until_applied("app", &first).await;
    let want = "applied 1 object; warning: kustomization.yaml:2: patches[0]: no object fits the target (kind: ConfigMaq), so \
                the patch does nothing; did you mean kind: ConfigMap?";
    assert_eq!(message(&status), want);
    let told = eventually("an event", 30, || async { w.told("app", "RenderWarning").await.pop() }).await;
    assert_eq!(told.1, want.split_once("warning: ").unwrap().1);
    w.reconcile("app", "again").await;
    let second = w.commit(2, &files("ConfigMap")).await;
    let status = w.until_applied("app", &second).await;
    assert_eq!(message(&status), "applied 1 object");
    assert_eq!(w.told("app", "RenderWarning").await.len(), 1);
}

#[tokio::test]
async fn agents_for_a_namespace_that_nobody_watches_are_refused() {
    let w = World::new("words-watched").await;
    let elsewhere = w.cluster.namespace("words-elsewhere").await;
    w.may_edit(&elsewhere);
    let template = "apiVersion: pilothouse.dev/v1alpha1\nkind: AgentTemplate\nmetadata: {name: t}\n\
                    spec: {workspaceDir: /w, serviceAccountName: default}\n";
    w.commit(1, &[("t/t.yaml", template.into()), ("m/m.yaml", map("m", "one"))]).await;
    w.sync("ours", json!({"targetNamespace": elsewhere, "path": "t"})).await;
    let status = w.until_reason("ours", "NamespaceNotWatched").await;
    let want = format!(
        "t/t.yaml:1: AgentTemplate/{elsewhere}/t: this controller does not watch namespace {elsewhere}: add it to \
         agentNamespaces of the chart (--watch-namespaces), or let spec.targetNamespace be one of {}",
        w.namespace
    );
    assert_eq!(message(&status), want);
    // What needs no controller of ours may go anywhere.
    w.sync("plain", json!({"targetNamespace": elsewhere, "path": "m"})).await;
    w.until_reason("plain", "Applied").await;
}

/// What would be a hole or a surprise if it were left out: nothing is applied while it is there.
#[tokio::test]
async fn a_field_that_is_not_there_yet_is_refused_by_name() {
    let w = World::new("words-gaps").await;
    w.commit(1, &[("a.yaml", map("a", "one"))]).await;
    let table = [
        ("decryption", json!({"provider": "sops"})),
        ("dependsOn", json!([{"name": "other"}])),
        ("force", json!(true)),
        ("images", json!([{"name": "a", "newTag": "1"}])),
        ("patches", json!([{"patch": "a: b"}])),
        ("valuesFrom", json!([{"kind": "ConfigMap", "name": "v"}])),
    ];
    for (field, value) in &table {
        w.sync(&field.to_lowercase(), json!({*field: value})).await;
    }
    for (field, _) in &table {
        let status = w.until_reason(&field.to_lowercase(), "NotYetSupported").await;
        assert!(message(&status).contains(&format!("does not support spec.{field};")), "{}", message(&status));
        assert!(status.conditions.iter().any(|c| c.type_ == "Stalled" && c.status == "True"), "{field}");
        assert_eq!((status.last_applied_revision, status.inventory), (None, None), "{field}");
    }
    assert!(w.maps().get_opt("a").await.unwrap().is_none());
    // Without it the Sync goes on by itself.
    let patch = json!({"spec": {"dependsOn": null}});
    w.syncs().patch("dependson", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    w.until_reason("dependson", "Applied").await;
}

#[tokio::test]
async fn a_path_that_is_not_there_names_folders_that_are() {
    let w = World::new("words-path").await;
    let nothing = "resources: []\n".to_owned();
    w.commit(1, &[("overlays/dev/kustomization.yaml", nothing.clone()), ("base/kustomization.yaml", nothing)]).await;
    w.sync("app", json!({"path": "overlay/dev"})).await;
    let status = w.until_reason("app", "PathNotFound").await;
    let want = "spec.path: the repository has no folder overlay/dev at main@0000000; folders with a kustomization: base, overlays/dev";
    assert_eq!(message(&status), want);
}

/// A Git server that takes its time is no news: a Sync is quiet until its Repository has a verdict.
#[tokio::test]
async fn nothing_is_told_while_a_repository_is_fetched_for_the_first_time() {
    let w = World::new("words-first").await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let repository = json!({
        "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Repository", "metadata": {"name": "repo"},
        "spec": {"url": format!("http://{}/repo", silent.local_addr().unwrap()), "timeout": "1m"},
    });
    let log = w.log();
    w.repositories().patch("repo", &PatchParams::apply("test"), &Patch::Apply(repository)).await.unwrap();
    w.sync("app", json!({})).await;
    let asked = silent.accept().await.unwrap();
    eventually("the Sync was seen", 30, || async {
        (!w.syncs().get("app").await.unwrap().finalizers().is_empty()).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(w.syncs().get("app").await.unwrap().status.map(|s| s.conditions), None);
    assert_eq!(w.writes(&log).iter().filter(|w| w.contains("syncs") && w.contains("status")).count(), 0);
    assert_eq!(w.told("app", "RepositoryNotReady").await, []);
    drop((asked, silent));
    w.until_reason("app", "RepositoryNotReady").await;
    eventually("an event", 30, || async { w.told("app", "RepositoryNotReady").await.pop() }).await;
}
