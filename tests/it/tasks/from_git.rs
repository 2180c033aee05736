//! A Task in Git runs once for each content, counted at the real server.

use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use pilothouse::{
    api::{Repository, Sync as SyncObject, TaskPhase},
    artifact::Store,
    tree::FileTree,
};
use serde_json::json;

use super::stage::Stage;
use crate::{
    common::{
        between::Stop,
        cluster::{Cluster, Shape},
        published,
        wait::eventually,
    },
    pod::Real,
};

fn manifest(run: u32) -> String {
    format!(
        "apiVersion: pilothouse.dev/v1alpha1\nkind: Task\nmetadata:\n  name: t\n  annotations: {{pilothouse.dev/run-id: '{run}'}}\n\
         spec:\n  agentRef: {{name: coder}}\n  description: say something\n"
    )
}

/// What the test pushes, and the Sync that applies it.
struct Git<'a> {
    stage: &'a Stage,
    store: Store,
}

impl Git<'_> {
    async fn push(&self, n: u32, text: &str) {
        let stored = self.store.put(&[("t.yaml", text)].into_iter().collect::<FileTree>()).unwrap();
        let repositories: Api<Repository> = Api::namespaced(self.stage.client(), &self.stage.namespace);
        let seal = published::seal(&self.stage.client(), &self.stage.release.namespace).await;
        let revision = format!("main@sha1:{n:040x}");
        published::publish(&repositories, &seal, "repo", &revision, &stored.digest.to_string()).await;
    }

    fn syncs(&self) -> Api<SyncObject> {
        Api::namespaced(self.stage.client(), &self.stage.namespace)
    }

    async fn sync(&self) {
        let sync = json!({
            "apiVersion": "pilothouse.dev/v1alpha1", "kind": "Sync", "metadata": {"name": "app"},
            "spec": {"repositoryRef": {"name": "repo"}, "wait": false},
        });
        self.syncs().create(&PostParams::default(), &serde_json::from_value(sync).unwrap()).await.unwrap();
    }

    /// One pass that was asked for.
    async fn pass(&self, token: &str) {
        let patch = json!({"metadata": {"annotations": {"pilothouse.dev/reconcile-at": token}}});
        self.syncs().patch("app", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        eventually("the pass is done", 60, || async {
            let status = self.syncs().get("app").await.unwrap().status?;
            (status.last_handled_reconcile_at.as_deref() == Some(token)).then_some(())
        })
        .await;
    }
}

/// Plays the kubelet: runs what every new pod of a Task asks for, against the real server.
async fn run_pods(stage: &Stage, real: &Real, seen: &mut Vec<String>) {
    for pod in stage.pods.list(&ListParams::default().labels("pilothouse.dev/task=t")).await.unwrap() {
        let uid = pod.uid().unwrap();
        if seen.contains(&uid) {
            continue;
        }
        seen.push(uid);
        let environment = pod.spec.unwrap().containers.remove(0).env.unwrap();
        let title =
            environment.into_iter().find(|e| e.name == "PILOTHOUSE_SESSION_TITLE").and_then(|e| e.value).unwrap();
        let (exit, words) = real.run_task(&title).await;
        stage.end_pod("t", exit, &words).await;
    }
}

/// Settings are the cluster's, so this one has a cluster of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_in_git_is_one_session() {
    let cluster = Cluster::start(Shape { no_scheduler: true, ..Shape::default() });
    let stage = Stage::on(&cluster, "once").await;
    stage.configure(json!({"cleanup": {"ttlSecondsAfterFinished": 1}})).await;
    stage.agent(json!({})).await;
    stage.serve().await;
    let real = Real::start().await;
    let git = Git { stage: &stage, store: stage.store().await };
    let mut seen = vec![];
    for run in 1..=2 {
        git.push(run, &manifest(run)).await;
        if run == 1 {
            git.sync().await;
        }
        eventually("the Task is there", 60, || async { stage.tasks.get_opt("t").await.unwrap() }).await;
        stage.phase("t", TaskPhase::Running).await;
        run_pods(&stage, &real, &mut seen).await;
        stage.gone("t").await;
        for pass in 0..10 {
            git.pass(&format!("{run}-{pass}")).await;
            run_pods(&stage, &real, &mut seen).await;
        }
        assert_eq!(stage.names().await, Vec::<String>::new());
        assert_eq!(real.sessions().await, usize::try_from(run).unwrap(), "one session for each run");
    }
}

/// The controller dies after it has made a Task from Git, which ends, and whose cleanup is due before the Sync can come to it
/// again.
#[tokio::test]
async fn a_task_that_its_sync_has_not_written_down_is_not_cleaned_up() {
    let cluster = Cluster::start(Shape { no_scheduler: true, ..Shape::default() });
    let mut stage = Stage::on(&cluster, "proof").await;
    stage.configure(json!({"cleanup": {"ttlSecondsAfterFinished": 1}})).await;
    stage.kill();
    let between = stage.release.between().await;
    stage.resume();
    let git = Git { stage: &stage, store: stage.store().await };
    between.stop_at(Stop { of: "/tasks", after: 0, carried_out: true });
    git.push(1, &manifest(1)).await;
    git.sync().await;
    eventually("the Task is made, and the controller is dead", 60, || async { between.stopped() }).await;
    let uid = eventually("it is there", 60, || async { stage.tasks.get_opt("t").await.unwrap() }).await.uid();
    let status = json!({"status": {"phase": "Completed", "completionTime": jiff::Timestamp::now()}});
    stage.tasks.patch_status("t", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    stage.kill();
    between.go_on();

    // The next one does not have the artifact, so the Sync waits.
    stage.resume();
    tokio::time::sleep(std::time::Duration::from_secs(10)).await;
    assert_eq!(stage.get("t").await.uid(), uid, "it is kept");
    let git = Git { stage: &stage, store: stage.store().await };
    git.push(1, &manifest(1)).await;
    stage.gone("t").await;
    git.pass("after").await;
    let sync = git.syncs().get("app").await.unwrap();
    let entry = sync.status.unwrap().inventory.unwrap().entries.remove(0);
    assert_eq!((entry.uid, entry.finished), (uid, Some(true)), "it has run, and does not run again");
    assert_eq!(stage.names().await, Vec::<String>::new());
}
