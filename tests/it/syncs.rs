//! Syncs against a real API server. The artifact is put into the controller's store by the test, so that each commit is
//! there at a known moment and no Git server is needed.

mod claims;
mod health;
mod kills;
mod late;
mod moves;
mod order;
mod rest;
mod scope;
mod words;

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use pilothouse::{
    api::{InventoryEntry, Repository, Sync as SyncObject, SyncStatus, Task},
    artifact::Store,
    tree::FileTree,
};
use serde_json::{Value, json};

use crate::common::{
    audit::AuditLog,
    between::Between,
    cluster::{Cluster, control_plane},
    controller::{Controller, Release},
    published,
    wait::eventually,
};

struct World {
    cluster: &'static Cluster,
    namespace: String,
    release: Release,
    controller: Controller,
    client: Client,
    store: Store,
}

fn map(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\ndata:\n  key: {value}\n")
}

fn deployment(name: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: {name}\nspec:\n  selector: {{matchLabels: {{a: {name}}}}}\n  \
         template:\n    metadata: {{labels: {{a: {name}}}}}\n    spec:\n      nodeSelector: {{no: where}}\n      \
         containers: [{{name: c, image: none}}]\n"
    )
}

impl World {
    async fn new(prefix: &str) -> Self {
        let cluster = control_plane();
        let namespace = cluster.namespace(prefix).await;
        Self::among(cluster, vec![namespace], &[]).await
    }

    /// In the first of `namespaces`, with a controller that works in all of them.
    async fn among(cluster: &'static Cluster, namespaces: Vec<String>, arguments: &[&str]) -> Self {
        let namespace = namespaces[0].clone();
        let release = Release::install(cluster, &namespaces).await;
        Self::of(cluster, namespace, release, arguments).await
    }

    /// In a new namespace, and what stands before the API server.
    async fn behind(prefix: &str, arguments: &[&str]) -> (Self, Between) {
        let cluster = control_plane();
        let namespace = cluster.namespace(prefix).await;
        let mut release = Release::install(cluster, std::slice::from_ref(&namespace)).await;
        let between = release.between().await;
        (Self::of(cluster, namespace, release, arguments).await, between)
    }

    async fn of(cluster: &'static Cluster, namespace: String, release: Release, arguments: &[&str]) -> Self {
        let controller = release.start(arguments);
        let artifacts = controller.data.path().join("artifacts");
        eventually("the store is open", 30, || async { artifacts.join("parts").exists().then_some(()) }).await;
        let store = Store::new(&artifacts, 0).unwrap();
        Self { client: cluster.client().await, cluster, namespace, release, controller, store }
    }

    /// Kills the controller; what it has in memory is lost.
    fn restart(&mut self, meanwhile: impl FnOnce()) {
        self.controller.kill();
        meanwhile();
        let arguments = ["--leader-elect", "false"];
        self.controller = self.release.start_on("again", self.controller.data.clone(), &arguments);
    }

    /// The Syncs' account may change what an editor may in `namespace`.
    fn may_edit(&self, namespace: &str) {
        let account = format!("--serviceaccount={}:default", self.namespace);
        let args = ["create", "rolebinding", "sync", "--clusterrole=edit", &account, "-n", namespace];
        let bound = self.cluster.kubectl(args);
        assert!(bound.status.success(), "{bound:?}");
    }

    fn repositories(&self) -> Api<Repository> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn syncs(&self) -> Api<SyncObject> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn tasks(&self) -> Api<Task> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Publishes commit `n` of Repository `repo`. It is suspended, so that its own reconciler leaves it alone.
    async fn commit(&self, n: u32, files: &[(&str, String)]) -> String {
        self.commit_to("repo", n, files).await
    }

    async fn commit_to(&self, name: &str, n: u32, files: &[(&str, String)]) -> String {
        let tree: FileTree = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
        let stored = self.store.put(&tree).unwrap();
        let revision = format!("main@sha1:{n:040x}");
        let seal = published::seal(&self.client, &self.release.namespace).await;
        published::publish(&self.repositories(), &seal, name, &revision, &stored.digest.to_string()).await;
        revision
    }

    async fn sync(&self, name: &str, spec: Value) {
        let mut all = json!({"repositoryRef": {"name": "repo"}});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let sync = json!({
            "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Sync",
            "metadata": {"name": name, "namespace": self.namespace}, "spec": all,
        });
        self.syncs().create(&PostParams::default(), &serde_json::from_value(sync).unwrap()).await.unwrap();
    }

    /// Waits until `check` holds for the status of Sync `name`.
    async fn until(&self, name: &str, what: &str, check: impl Fn(&SyncStatus) -> bool) -> SyncStatus {
        let last = Arc::new(parking_lot::Mutex::new(String::new()));
        let found = tokio::time::timeout(Duration::from_mins(1), async {
            loop {
                let status = self.syncs().get_opt(name).await.unwrap().and_then(|s| s.status).unwrap_or_default();
                if check(&status) {
                    return status;
                }
                *last.lock() = serde_json::to_string_pretty(&status).unwrap();
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        });
        let Ok(status) = found.await else {
            panic!("{name}: not {what}; its status is {}", last.lock());
        };
        status
    }

    async fn until_applied(&self, name: &str, revision: &str) -> SyncStatus {
        self.until(name, "applied", |s| {
            s.last_applied_revision.as_deref() == Some(revision) && reason(s) == ("True", "Applied")
        })
        .await
    }

    async fn until_reason(&self, name: &str, want: &'static str) -> SyncStatus {
        self.until(name, want, |s| reason(s).1 == want).await
    }

    /// Asks for a reconcile and waits until it was done.
    async fn reconcile(&self, name: &str, token: &str) -> SyncStatus {
        let patch = json!({"metadata": {"annotations": {"pilothouse.dev/reconcile-at": token}}});
        self.syncs().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        self.until(name, "reconciled", |s| s.last_handled_reconcile_at.as_deref() == Some(token)).await
    }

    fn log(&self) -> AuditLog {
        self.cluster.audit().later()
    }

    /// Writes of the controller and of the accounts that it acts for, but Events.
    fn writes(&self, log: &AuditLog) -> Vec<String> {
        let writes = log.writes(&self.release.user());
        writes.iter().map(|w| format!("{} {}", w.verb, w.object())).filter(|w| !w.contains("/events/")).collect()
    }
}

fn reason(status: &SyncStatus) -> (&str, &str) {
    let ready = status.conditions.iter().find(|c| c.type_ == "Ready");
    ready.map_or(("", ""), |c| (c.status.as_str(), c.reason.as_str()))
}

fn message(status: &SyncStatus) -> String {
    status.conditions.iter().find(|c| c.type_ == "Ready").map(|c| c.message.clone()).unwrap_or_default()
}

fn entries(status: &SyncStatus) -> Vec<InventoryEntry> {
    status.inventory.clone().map(|i| i.entries).unwrap_or_default()
}

fn ids(status: &SyncStatus) -> Vec<String> {
    entries(status).into_iter().map(|e| e.id).collect()
}

/// One that would take all memory beside one that is fine, in one repository.
#[tokio::test]
async fn a_hostile_template_harms_its_own_sync_alone() {
    let w = World::new("sync-hostile").await;
    let grows = format!("{{% set x = '12345678' %}}{}", "{% set x = x ~ x %}".repeat(64));
    let fine = |value: &str| map("fine", value) + "  # {{ sync.name }}\n";
    let files = |value: &str| vec![("good/a.yaml.j2", fine(value)), ("bad/grows.yaml.j2", grows.clone())];
    let first = w.commit(1, &files("one")).await;
    w.sync("bad", json!({"path": "bad"})).await;
    w.sync("good", json!({"path": "good"})).await;
    w.until_applied("good", &first).await;
    let stalled = w.until_reason("bad", "RenderFailed").await;
    assert_eq!(
        message(&stalled),
        "bad/grows.yaml.j2: the template takes more than 96 MiB of memory, the limit for all templates of a Sync"
    );
    assert!(stalled.conditions.iter().any(|c| c.type_ == "Stalled" && c.status == "True"), "{stalled:?}");
    // The same controller goes on, and so does the other Sync.
    let second = w.commit(2, &files("two")).await;
    w.until_applied("good", &second).await;
    w.until("bad", "tried again", |s| s.last_attempted_revision.as_deref() == Some(&second)).await;
    assert_eq!(w.maps().get("fine").await.unwrap().data.unwrap()["key"], "two");
    assert_eq!(w.controller.log().matches("pilothouse controller starts").count(), 1);
    assert!(w.controller.resident() < 300 << 20, "{} bytes", w.controller.resident());
}

#[tokio::test]
async fn objects_come_change_and_go() {
    let w = World::new("sync-life").await;
    let ns = &w.namespace;
    let first = w.commit(1, &[("app/a.yaml", map("a", "one")), ("app/b.yaml", map("b", "one"))]).await;
    w.sync("app", json!({"path": "app"})).await;
    let status = w.until_applied("app", &first).await;
    assert_eq!(ids(&status), [format!("{ns}_a__ConfigMap"), format!("{ns}_b__ConfigMap")]);
    let a = w.maps().get("a").await.unwrap();
    assert_eq!(a.labels()["pilothouse.dev/sync-name"], "app");
    assert_eq!(a.metadata.managed_fields.unwrap()[0].manager.as_deref(), Some("pilothouse"));

    // A commit that does not touch the path costs one write: the status.
    let log = w.log();
    let readme = ("README.md", "hello".to_owned());
    let second = w.commit(2, &[("app/a.yaml", map("a", "one")), ("app/b.yaml", map("b", "one")), readme.clone()]).await;
    let status = w.until_applied("app", &second).await;
    assert_eq!(w.writes(&log), [format!("patch {ns}/syncs/app/status")]);
    assert_eq!(status.history.len(), 2);

    // A look finds nothing: one write, for the annotation's echo. Again with nothing remembered.
    let log = w.log();
    w.reconcile("app", "1").await;
    assert_eq!(w.writes(&log), [format!("patch {ns}/syncs/app/status")]);

    // One object changes, one goes.
    let log = w.log();
    let third = w.commit(3, &[("app/a.yaml", map("a", "two")), readme.clone()]).await;
    let status = w.until_applied("app", &third).await;
    assert_eq!(
        w.writes(&log),
        [
            format!("patch {ns}/configmaps/a"),
            format!("delete {ns}/configmaps/b"),
            format!("patch {ns}/syncs/app/status"),
        ]
    );
    assert_eq!(ids(&status), [format!("{ns}_a__ConfigMap")]);
    assert!(w.maps().get_opt("b").await.unwrap().is_none());

    // A change by hand is undone at the next look; what others added stays.
    let patch = json!({"data": {"key": "by hand", "other": "theirs"}});
    w.maps().patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    w.reconcile("app", "2").await;
    let data = w.maps().get("a").await.unwrap().data.unwrap();
    assert_eq!((data["key"].as_str(), data["other"].as_str()), ("two", "theirs"));

    // Nothing left to render: refused, and everything stays.
    w.commit(4, &[("app/notes.txt", "x".into())]).await;
    let status = w.until_reason("app", "EmptyRender").await;
    assert_eq!(ids(&status), [format!("{ns}_a__ConfigMap")]);
    assert!(status.conditions.iter().any(|c| c.type_ == "Stalled" && c.status == "True"));
    assert!(w.maps().get_opt("a").await.unwrap().is_some());

    // A mistake is named by file and line, and an unknown field too.
    w.commit(5, &[("app/a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {\n".into())]).await;
    let text = message(&w.until_reason("app", "RenderFailed").await);
    assert!(text.contains("app/a.yaml:"), "{text}");
    w.commit(6, &[("app/a.yaml", format!("{}dta: {{}}\n", map("a", "three")))]).await;
    let text = message(&w.until_reason("app", "ApplyFailed").await);
    assert!(text.contains("app/a.yaml:1") && text.contains("dta"), "{text}");
    let last = w.commit(7, &[("app/a.yaml", map("a", "four"))]).await;
    w.until_applied("app", &last).await;
}

#[tokio::test]
async fn a_restart_writes_nothing() {
    let mut w = World::new("sync-restart").await;
    w.may_edit(&w.namespace);
    let first = w.commit(1, &[("a.yaml", map("a", "one")), ("d.yaml", deployment("d"))]).await;
    w.sync("app", json!({"wait": false})).await;
    w.until_applied("app", &first).await;
    let cluster = w.cluster;
    let mut log = w.log();
    w.restart(|| log = cluster.audit().later());
    // What this Sync does is done after everything that was there before.
    w.sync("other", json!({"path": "nowhere"})).await;
    w.until_reason("other", "PathNotFound").await;
    let writes = w.writes(&log);
    assert!(writes.iter().all(|write| !write.contains("/app") && !write.contains("configmaps")), "{writes:?}");
    // A look after a restart compares by a dry run, and writes nothing.
    let log = w.log();
    w.reconcile("app", "1").await;
    assert_eq!(w.writes(&log), [format!("patch {}/syncs/app/status", w.namespace)]);
}

#[tokio::test]
async fn a_task_runs_once_for_each_content() {
    let w = World::new("sync-task").await;
    let task = |text: &str, run: &str| {
        format!(
            "apiVersion: pilothouse.dev/v1alpha1\nkind: Task\nmetadata:\n  name: t\n  annotations: {{pilothouse.dev/run-id: '{run}'}}\n\
             spec:\n  agentRef: {{name: nobody}}\n  description: {text}\n"
        )
    };
    let created =
        |log: &AuditLog| w.writes(log).iter().filter(|x| x.starts_with("create") && x.contains("/tasks")).count();
    let first = w.commit(1, &[("t.yaml", task("do it", "1"))]).await;
    let log = w.log();
    w.sync("app", json!({"wait": false})).await;
    let status = w.until_applied("app", &first).await;
    let uid = w.tasks().get("t").await.unwrap().uid();
    assert_eq!(entries(&status)[0].uid, uid);
    w.reconcile("app", "0").await;
    assert_eq!(created(&log), 1);

    // Cleanup, or a person, deletes it: ten passes later it is still not back.
    w.tasks().delete("t", &DeleteParams::default()).await.unwrap();
    w.until("app", "told that the Task is gone", |s| entries(s)[0].finished == Some(true)).await;
    for pass in 1..=10 {
        w.reconcile("app", &pass.to_string()).await;
    }
    let second = w.commit(2, &[("t.yaml", task("do it", "1")), ("README.md", "x".into())]).await;
    w.until_applied("app", &second).await;
    assert!(w.tasks().get_opt("t").await.unwrap().is_none());
    assert_eq!(created(&log), 1);

    // Another run id, and another text, are other work.
    for (n, (text, run)) in [("do it", "2"), ("do more", "2")].into_iter().enumerate() {
        let revision = w.commit(3 + u32::try_from(n).unwrap(), &[("t.yaml", task(text, run))]).await;
        w.until_applied("app", &revision).await;
        assert_eq!(created(&log), 2 + n);
    }
    let status = w.until("app", "listing the last run", |s| entries(s)[0].finished.is_none()).await;
    assert_eq!(entries(&status)[0].uid, w.tasks().get("t").await.unwrap().uid());
}

#[tokio::test]
async fn an_object_has_one_owner_and_moves_unharmed() {
    let w = World::new("sync-owner").await;
    let first = w
        .commit(1, &[("a/x.yaml", map("moved", "a")), ("a/y.yaml", map("stays", "a")), ("b/z.yaml", map("other", "b"))])
        .await;
    w.sync("a", json!({"path": "a"})).await;
    w.until_applied("a", &first).await;
    w.sync("b", json!({"path": "b"})).await;
    w.until_applied("b", &first).await;

    let uid = w.maps().get("moved").await.unwrap().uid();
    let b = [("b/z.yaml", map("other", "b")), ("b/x.yaml", map("moved", "b"))];
    w.commit(2, &[&[("a/x.yaml", map("moved", "a")), ("a/y.yaml", map("stays", "a"))], &b[..]].concat()).await;
    let text = message(&w.until_reason("b", "OwnedByAnotherSync").await);
    assert!(
        text.contains("b/x.yaml:1") && text.contains("ConfigMap") && text.contains(&format!("{}/a", w.namespace)),
        "{text}"
    );
    assert_eq!(w.maps().get("moved").await.unwrap().data.unwrap()["key"], "a");

    // Taken out of the first, the object is handed over, not deleted.
    let third = w.commit(3, &[&[("a/y.yaml", map("stays", "a"))], &b[..]].concat()).await;
    w.until_applied("a", &third).await;
    let status = w.until_applied("b", &third).await;
    assert_eq!(ids(&status).len(), 2);
    let x = w.maps().get("moved").await.unwrap();
    assert_eq!((x.uid(), x.data.unwrap()["key"].as_str()), (uid, "b"));
}

#[tokio::test]
async fn a_missing_right_is_named_with_the_binding_to_write() {
    let w = World::new("sync-rights").await;
    w.commit(1, &[("a.yaml", map("a", "one"))]).await;
    w.sync("app", json!({"serviceAccountName": "weak"})).await;
    let text = message(&w.until_reason("app", "Forbidden").await);
    for part in ["a.yaml:1", "ServiceAccount weak", "kubectl create rolebinding", &w.namespace] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    // The first pass writes at once, later ones look first: the account may do neither.
    assert!(["may not patch configmaps", "may not get configmaps"].iter().any(|verb| text.contains(verb)), "{text}");
    assert!(w.maps().get_opt("a").await.unwrap().is_none());

    // Whoever does what the message says is done.
    let (_, command) = text.split_once("for example: kubectl ").unwrap();
    let mut kubectl = std::process::Command::new(w.cluster.ready.bin.join("kubectl"));
    kubectl.env("KUBECONFIG", &w.cluster.ready.kubeconfig).args(command.split(';').next().unwrap().split_whitespace());
    let out = kubectl.output().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    w.reconcile("app", "now").await;
    w.until_reason("app", "Applied").await;
}

#[tokio::test]
async fn a_suspended_sync_leaves_everything_as_it_is() {
    let w = World::new("sync-suspend").await;
    let first = w.commit(1, &[("a.yaml", map("a", "one"))]).await;
    w.sync("app", json!({})).await;
    w.until_applied("app", &first).await;
    let suspend = |on: bool| Patch::Merge(json!({"spec": {"suspend": on}}));
    w.syncs().patch("app", &PatchParams::default(), &suspend(true)).await.unwrap();
    w.until_reason("app", "Suspended").await;
    let second = w.commit(2, &[("a.yaml", map("a", "two"))]).await;
    w.reconcile("app", "1").await;
    assert_eq!(w.maps().get("a").await.unwrap().data.unwrap()["key"], "one");
    w.syncs().patch("app", &PatchParams::default(), &suspend(false)).await.unwrap();
    w.until_applied("app", &second).await;
    assert_eq!(w.maps().get("a").await.unwrap().data.unwrap()["key"], "two");
}

#[tokio::test]
async fn deleting_a_sync_does_what_its_policy_says() {
    let w = World::new("sync-delete").await;
    let files = [("keep/a.yaml", map("a", "one")), ("drop/b.yaml", map("b", "one")), ("fixed/c.yaml", map("c", "one"))];
    let files = [&files[..], &[("all/d.yaml", map("d", "one"))]].concat();
    let first = w.commit(1, &files).await;
    w.sync("keep", json!({"path": "keep", "deletionPolicy": "Orphan"})).await;
    w.sync("drop", json!({"path": "drop"})).await;
    w.sync("fixed", json!({"path": "fixed", "prune": false})).await;
    w.sync("all", json!({"path": "all", "prune": false, "deletionPolicy": "Delete"})).await;
    for name in ["keep", "drop", "fixed", "all"] {
        w.until_applied(name, &first).await;
        let finalizers = w.syncs().get(name).await.unwrap().finalizers().to_vec();
        assert_eq!(
            !finalizers.is_empty(),
            ["drop", "all"].contains(&name),
            "a finalizer only where a deletion has something to do"
        );
        w.syncs().delete(name, &DeleteParams::default()).await.unwrap();
    }
    for name in ["keep", "drop", "fixed", "all"] {
        eventually("the Sync is gone", 20, || async { w.syncs().get_opt(name).await.unwrap().is_none().then_some(()) })
            .await;
    }
    let mut there = vec![];
    for name in ["a", "b", "c", "d"] {
        there.push(w.maps().get_opt(name).await.unwrap().is_some());
    }
    assert_eq!(there, [true, false, true, false]);
}

#[tokio::test]
async fn a_newer_revision_ends_the_wait_for_an_older_one() {
    let w = World::new("sync-wait").await;
    w.may_edit(&w.namespace);
    w.commit(1, &[("d.yaml", deployment("never"))]).await;
    w.sync("app", json!({"timeout": "2s"})).await;
    let status = w.until_reason("app", "HealthChecking").await;
    assert!(message(&status).contains("Deployment"), "{}", message(&status));
    assert!(status.last_applied_revision.is_some(), "everything is applied");
    let text = message(&w.until_reason("app", "HealthCheckFailed").await);
    assert!(text.contains("not healthy within 2s"), "{text}");
    // Twenty commits: the last one counts, and it is healthy.
    for n in 2..21 {
        w.commit(n, &[("d.yaml", deployment(&format!("never-{n}")))]).await;
    }
    let last = w.commit(21, &[("a.yaml", map("a", "one"))]).await;
    let status = w.until_applied("app", &last).await;
    assert_eq!(ids(&status), [format!("{}_a__ConfigMap", w.namespace)]);
}

#[tokio::test]
async fn every_object_goes_to_the_target_namespace() {
    let w = World::new("sync-target").await;
    let target = w.cluster.namespace("sync-elsewhere").await;
    w.may_edit(&target);
    let stray = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b, namespace: kube-system}\n";
    let first = w.commit(1, &[("a.yaml", map("a", "one")), ("b.yaml", stray.into())]).await;
    w.sync("app", json!({"targetNamespace": target})).await;
    let status = w.until_applied("app", &first).await;
    assert_eq!(ids(&status), [format!("{target}_a__ConfigMap"), format!("{target}_b__ConfigMap")]);
}
